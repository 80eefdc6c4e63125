"""Webhooks: verifies that Lean signed a message, and reads what it announces.

A webhook only says what to read; its body never becomes data. So an `Event` holds ids, a type and a
status, and no bank data.

Source: reference of Lean's webhooks, https://docs.leantech.me/docs/webhooks
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lean_resources.errors import SchemaError, SignatureError
from lean_resources.instants import parse_instant

DEEPEST = 32
"""Levels of objects and lists that a message may nest; Lean's nest five."""

FINISHED = frozenset({"FINISHED", "OK"})
"""Lean's statuses of a finished refresh: the first in Saudi Arabia, the second in the Emirates."""

LISTED_DAYS = 90
"""Number of days for which Lean lists an event."""

_SCHEME = "sha512="
_MAC = re.compile(r"[0-9a-fA-F]{128}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def sign(body: bytes, secret: str) -> str:
    """The value of `lean-signature` for a body: HMAC-SHA512 in lowercase hex."""
    return _SCHEME + hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()


def verify(body: bytes, header: str | None, secrets: Sequence[str]) -> None:
    """Verify that a message was signed with an active secret.

    All secrets are always tried, and the time of a comparison does not depend on the signatures.

    Args:
        body: The received bytes.
        header: The value of `lean-signature`; its hex may be in upper or lower case.
        secrets: The active secrets: a single secret, or two while the secret is being changed.

    Raises:
        SignatureError: The header is missing, is malformed, or matches no secret.
    """
    scheme, mac = (header or "")[: len(_SCHEME)], (header or "")[len(_SCHEME) :]
    if scheme.lower() != _SCHEME or _MAC.fullmatch(mac) is None:
        raise SignatureError("the signature is missing, or is not sha512= with 128 hex digits")
    given = bytes.fromhex(mac)
    is_signed = False
    for secret in secrets:
        wanted = hmac.digest(secret.encode(), body, "sha512")
        is_signed |= hmac.compare_digest(given, wanted)
    if not is_signed:
        raise SignatureError("the signature does not match any active secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a webhook announces.

    Args:
        event_id: Lean's id; if it is missing, `hash:` and a hash of type and payload.
        type: For example `entity.created`; unknown types are allowed.
        status: The refresh's status, in capitals.
        sent_at: The message's timestamp, UTC: the time of the event, or of the first attempt to
            deliver it.
    """

    event_id: str
    type: str
    entity_id: str | None = None
    customer_id: str | None = None
    refresh_id: str | None = None
    results_id: str | None = None
    bank_identifier: str | None = None
    status: str | None = None
    sent_at: dt.datetime | None = None

    @property
    def is_about_entity(self) -> bool:
        """Whether an entity or its consent changed, so that it must be listed again."""
        return self.type.startswith("entity.") and not self.type.startswith("entity.data.")

    @property
    def is_refreshed(self) -> bool:
        """Whether Lean has a new bank data copy of an entity."""
        return self.type == "entity.data.refresh.updated" and self.status in FINISHED

    @property
    def is_about_bank(self) -> bool:
        """Whether a bank's availability changed."""
        return self.type in {"bank.availability.updated", "banks.availability.updated"}

    @property
    def asks_for_work(self) -> bool:
        """Whether the event requires a read."""
        if self.is_about_bank:
            return True
        return self.entity_id is not None and (self.is_about_entity or self.is_refreshed)


def read_event(body: bytes) -> Event:
    """Read a message after its signature was verified.

    Raises:
        SchemaError: It is not a JSON object with a type, or is nested too deeply.
    """
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SchemaError("the message is not JSON") from None
    return event_of(found)


def event_of(found: Any) -> Event:
    """The event of a decoded message; webhooks and the list of events have the same form.

    Raises:
        SchemaError: As `read_event`.
    """
    if not isinstance(found, dict) or not _is_shallow(found):
        raise SchemaError(f"the message is not an object of at most {DEEPEST} levels")
    kind = found.get("type")
    if not isinstance(kind, str) or _TYPE.fullmatch(kind) is None:
        raise SchemaError("the message has no type")
    payload = found.get("payload")
    inner: dict[str, Any] = payload if isinstance(payload, dict) else {}
    own = _id(inner.get("id"))
    is_entity = kind.startswith("entity.")
    status = inner.get("status")
    return Event(
        event_id=_id(found.get("event_id")) or _fingerprint(kind, payload),
        type=kind,
        entity_id=_id(inner.get("entity_id")) or (own if is_entity else None),
        customer_id=_id(inner.get("customer_id")),
        refresh_id=_id(inner.get("refresh_id")),
        results_id=own if kind == "results.ready" else None,
        bank_identifier=_id(inner.get("identifier")),
        status=status.upper() if isinstance(status, str) and _TYPE.fullmatch(status) else None,
        sent_at=_instant(found.get("timestamp")),
    )


def _id(value: Any) -> str | None:
    """An id of a message; None if it has unexpected characters or length."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _instant(value: Any) -> dt.datetime | None:
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def _fingerprint(kind: str, payload: Any) -> str:
    """A replacement for a missing id: equal for equal type and payload."""
    # Python's own library writes all that msgspec reads, also integers of any length.
    text = json.dumps([kind, payload], sort_keys=True)
    return f"hash:{hashlib.sha256(text.encode()).hexdigest()}"


def _is_shallow(value: Any) -> bool:
    """Whether objects and lists are not nested deeper than allowed."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False
