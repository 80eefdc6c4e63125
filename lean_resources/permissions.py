"""Permissions: what a customer can let an application read.

They stand in a module of their own, since the offline Lean imports no Arrow.
"""

PERMISSION_OF = {
    "identity": "identity",
    "accounts": "accounts",
    "balances": "balance",
    "transactions": "transactions",
    "identities": "identities",
    "scheduled_payments": "scheduled_payments",
    "standing_orders": "standing_orders",
    "direct_debits": "direct_debits",
    "beneficiaries": "beneficiaries",
}
"""The permission that opens each stream, in Lean's words; note the singular `balance`."""

PERMISSIONS = tuple(dict.fromkeys(PERMISSION_OF.values()))
"""What a consent can cover."""

ACCOUNT_STREAMS = tuple(name for name in PERMISSION_OF if name not in {"accounts", "identity"})
"""Streams that are read per account."""
