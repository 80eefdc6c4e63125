"""OAuth2 client credentials: tokens like Lean's, which expire by the sandbox's clock."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import orjson

from lean_resources.sandbox.clock import SECOND, Clock
from lean_resources.sandbox.ids import Codec, Kind, mix, opaque_uuid

_LIFE = 3600
_API_SCOPES = (
    "customer.read", "customer.write", "destination.read", "destination.write", "report.read",
    "report.write", "bank.read", "webhook.read", "payment.read", "intent.write", "payout.read",
    "payout.write", "deposit.read", "data.read", "reconciliation.read", "file.read",
)  # fmt: skip
_CUSTOMER_SCOPES = (
    "customer.read", "beneficiary.write", "payment.read", "payment.write", "destination.read",
    "connect.read", "connect.write", "application.read", "bank.read", "key.read",
)  # fmt: skip


class OAuthError(Exception):
    """A refusal of the token endpoint, in the words of RFC 6749."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Grant(NamedTuple):
    """The rights and the end of a token."""

    expires: int
    scopes: frozenset[str]


class Issuer:
    """Issues and reads tokens, which expire by the clock."""

    def __init__(self, codec: Codec, clock: Clock) -> None:
        seed = codec.seed
        self.clock = clock
        self.codec = codec
        self.client_id = codec.encode(Kind.APPLICATION, 0)
        self.app_token = codec.encode(Kind.APPLICATION, 1)
        self.client_secret = "".join(f"{mix(seed, 2, part):016x}" for part in range(4))
        self._grants: dict[str, Grant] = {}
        self._issued = 0

    def token(self, form: Mapping[str, str], authorization: str | None) -> dict[str, Any]:
        """Answer a token request, or raise an `OAuthError`."""
        client_id, client_secret = form.get("client_id"), form.get("client_secret")
        if authorization and authorization.lower().startswith("basic "):
            client_id, client_secret = _basic(authorization[6:])
        grant_type = form.get("grant_type")
        if not grant_type:
            raise OAuthError(400, "invalid_request")
        if client_id != self.client_id or not hmac.compare_digest(
            (client_secret or "").encode(), self.client_secret.encode()
        ):
            raise OAuthError(401, "invalid_client")
        if grant_type != "client_credentials":
            raise OAuthError(400, "unsupported_grant_type")
        scope = form.get("scope") or "api"
        customer_id = scope.removeprefix("customer.") if scope.startswith("customer.") else None
        is_known = customer_id and self.codec.decode(Kind.CUSTOMER, customer_id)
        if not is_known and scope != "api":
            raise OAuthError(400, "invalid_scope")
        return {
            "access_token": self._write(customer_id),
            "scope": scope,
            "token_type": "Bearer",
            "expires_in": _LIFE - 1,
        }

    def read(self, token: str) -> Grant | None:
        """The rights of a token; None if it is unknown or expired."""
        grant = self._grants.get(token)
        return grant if grant and grant.expires > self.clock.nanos else None

    def _write(self, customer_id: str | None) -> str:
        now = self.clock.nanos // SECOND
        self._issued += 1
        high = mix(self.codec.seed, 3, now, self._issued)
        link = "link." if customer_id else ""
        claims: dict[str, Any] = {
            "sub": self.client_id,
            "aud": f"https://{link}sandbox.sa.leantech.me",
            "nbf": now,
            "scope": _CUSTOMER_SCOPES if customer_id else _API_SCOPES,
            "iss": "https://auth.sandbox.sa.leantech.me",
            "exp": now + _LIFE,
            "iat": now,
            "jti": opaque_uuid(high, mix(high)),
            "applications": [{"id": self.client_id}],
        }
        if customer_id:
            claims["customers"] = [{"id": customer_id}]
        header = {"kid": opaque_uuid(mix(self.codec.seed, 4), 0), "alg": "RS256"}
        # Of the size of Lean's; the signature is made up, since only `read` looks at it.
        signature = b"".join(mix(high, part).to_bytes(8) for part in range(32))
        parts = (orjson.dumps(header), orjson.dumps(claims), signature)
        token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        self._grants[token] = Grant((now + _LIFE) * SECOND, frozenset(claims["scope"]))
        return token


def _basic(encoded: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise OAuthError(401, "invalid_client") from None
    user, _, password = text.partition(":")
    return unquote_plus(user), unquote_plus(password)
