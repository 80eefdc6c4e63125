"""Lean's webhooks: received, kept, and acted on."""
