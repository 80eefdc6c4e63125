"""All streams, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from lean_resources.streams.accounts import ACCOUNTS, BALANCES
from lean_resources.streams.directory import BANKS, CONSENTS, CUSTOMERS, ENTITIES, REFRESHES
from lean_resources.streams.payments import (
    BENEFICIARIES,
    DIRECT_DEBITS,
    SCHEDULED_PAYMENTS,
    STANDING_ORDERS,
)
from lean_resources.streams.people import IDENTITIES, IDENTITY
from lean_resources.streams.schema import PERMISSIONS, Stream
from lean_resources.streams.transactions import TRANSACTIONS

_DECLARED = (
    BANKS,
    CUSTOMERS,
    ENTITIES,
    CONSENTS,
    REFRESHES,
    ACCOUNTS,
    BALANCES,
    TRANSACTIONS,
    IDENTITY,
    IDENTITIES,
    BENEFICIARIES,
    DIRECT_DEBITS,
    SCHEDULED_PAYMENTS,
    STANDING_ORDERS,
)

STREAMS: Mapping[str, Stream] = MappingProxyType({stream.name: stream for stream in _DECLARED})
"""Parents stand before their children."""

PERMISSION_OF: Mapping[str, str] = {
    stream.name: permission
    for permission in PERMISSIONS
    for stream in STREAMS.values()
    if stream.permission == permission
}
"""The permission that opens each stream that needs one, in the order of `PERMISSIONS`."""

ACCOUNT_STREAMS = tuple(name for name in PERMISSION_OF if STREAMS[name].parent == "accounts")
"""Streams that are read per account."""


def family(stream: Stream) -> tuple[Stream, ...]:
    """A stream and the streams that are exploded from it, in this order."""
    return (stream, *(one for one in STREAMS.values() if one.exploded_from == stream.name))
