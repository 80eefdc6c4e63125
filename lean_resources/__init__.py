"""Lean without Dagster: the catalogue, the client, the gate and an offline Lean."""
