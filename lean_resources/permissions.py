"""Permissions: what a customer can let an application read.

They stand in a module of their own, since the offline Lean imports no Arrow.
"""

__all__ = ["PERMISSIONS"]

PERMISSIONS = (
    "identity",
    "accounts",
    "balance",
    "transactions",
    "identities",
    "scheduled_payments",
    "standing_orders",
    "direct_debits",
    "beneficiaries",
)
"""What a consent can cover, in Lean's words; note the singular `balance`."""
