"""Authentication: a shared OAuth2 token or the application token, never both.

Lean answers 400 to a request that carries a bearer token and `lean-app-token` at once.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx
from pydantic import SecretStr

from lean_resources.bodies import ENCODING, body_of
from lean_resources.errors import (
    AuthError,
    ConfigError,
    LeanError,
    NetworkError,
    SchemaError,
    UnavailableError,
)
from lean_resources.limits import retry_after
from lean_resources.network import is_web_page
from lean_resources.settings import LeanSettings

_APP_TOKEN_HEADER = "lean-app-token"  # noqa: S105  # the name of a header
_BEARER_HEADER = "authorization"
_RENEW_SECONDS = 60.0
_RENEW_FRACTION = 0.2
_ASSUMED_LIFE_SECONDS = 300.0
_LARGEST_BODY = 64 * 1024
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]*)?")
# Headers of the request that needs the token, which the token request repeats.
_SHARED_HEADERS = ("user-agent", "lean-correlation-id")
# RFC 6749, 4.1.2.1: the two codes after which the same credentials can succeed later.
_PASSING_CODES = {"server_error", "temporarily_unavailable"}


class Credential(NamedTuple):
    """A header that admits a request."""

    name: str
    value: SecretStr


Send = Callable[[httpx.Request], Awaitable[httpx.Response]]


async def exchange(
    auth: AppToken | OAuth2 | Lent, request: httpx.Request, send: Send
) -> httpx.Response:
    """Send a request with a credential, and once more with another one if Lean answers 401.

    Args:
        auth: Gives the credentials.
        request: The request; it gets the credential.
        send: Sends a request, also one for a token.

    Raises:
        LeanError: There is no credential now.
    """
    credential = await auth.credential(request, None, send)
    response = await send(_signed(request, credential))
    if response.status_code == httpx.codes.UNAUTHORIZED:
        await _body(response)
        renewed = await auth.credential(request, credential, send)
        if renewed != credential:
            return await send(_signed(request, renewed))
    return response


def _signed(request: httpx.Request, credential: Credential) -> httpx.Request:
    for name in (_APP_TOKEN_HEADER, _BEARER_HEADER):
        request.headers.pop(name, None)
    request.headers[credential.name] = credential.value.get_secret_value()
    return request


def auth_for(
    settings: LeanSettings, clock: Callable[[], float] = time.monotonic
) -> AppToken | OAuth2:
    """What gives the credentials in the settings.

    Raises:
        ConfigError: There are no credentials.
    """
    if settings.app_token:
        return AppToken(settings.app_token)
    if settings.client_id and settings.client_secret:
        return OAuth2(
            token_url=settings.token_url,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            clock=clock,
        )
    raise ConfigError("no credentials: set LEAN_CLIENT_ID and LEAN_CLIENT_SECRET")


class Lent:
    """Gives the credentials that another process lends.

    Args:
        ask: Asks for a credential, with the one that Lean refused, if any; returns it, and when it
            has to be asked for again, by this machine's monotonic clock.
    """

    def __init__(
        self, ask: Callable[[Credential | None], Awaitable[tuple[Credential, float]]]
    ) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._credential: Credential | None = None
        self._renew_at = -math.inf

    async def credential(
        self,
        request: httpx.Request,  # noqa: ARG002 - as `OAuth2`
        refused: Credential | None,
        send: Send,  # noqa: ARG002 - as `OAuth2`
    ) -> Credential:
        """What was lent, or is lent now.

        Raises:
            LeanError: As raised in the other process.
        """
        async with self._lock:
            known = self._credential
            if known is None or known == refused or time.monotonic() >= self._renew_at:
                known, self._renew_at = await self._ask(refused)
                self._credential = known
            return known


class AppToken:
    """Gives the application token, as the legacy production host requires it."""

    renew_at = math.inf

    def __init__(self, token: SecretStr) -> None:
        self._credential = Credential(_APP_TOKEN_HEADER, token)

    async def credential(self, *_: object) -> Credential:
        """The application token."""
        return self._credential


class OAuth2:
    """Gives bearer tokens by client credentials, one token shared by all requests.

    The request for a token uses the client's transport, and so its client certificate. A token is
    renewed 60 seconds before its end, or a fifth of its life before if that is less, and when Lean
    refused it. However many requests wait for a token, one call is made. If it fails, all of them
    fail with it. A connection error or timeout of that call reaches its own request as httpx's
    `TransportError`, the others as `UnavailableError`.

    One object serves one event loop.

    Args:
        scope: `api`, or `customer.<customer_id>` for Lean's SDK.
        clock: Seconds that never go back.

    Source: RFC 6749, 4.4 and 5; fields and life from a recorded answer of Lean's sandbox.
    """

    def __init__(
        self,
        *,
        token_url: str,
        client_id: str,
        client_secret: SecretStr,
        scope: str = "api",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token_url = token_url
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._clock = clock
        self._lock = asyncio.Lock()
        self._credential: Credential | None = None
        self.renew_at = -math.inf
        self._failure: LeanError | None = None
        self._failure_count = 0

    async def credential(
        self, request: httpx.Request, refused: Credential | None, send: Send
    ) -> Credential:
        """The token, renewed where that is due or it was refused.

        Args:
            request: The request that needs it, whose timeout a request for a token has too.
            refused: The credential that Lean refused; None if none was.
            send: Sends a request for a token.

        Raises:
            AuthError: Lean refuses the credentials; `code` is the OAuth2 error.
            UnavailableError: The token endpoint cannot answer now.
            ConfigError: `token_url` is not a token endpoint.
            SchemaError: The answer has no usable token.
        """
        if refused is not None and refused == self._credential:
            self.renew_at = -math.inf
        failure_count = self._failure_count
        if (known := self._current()) is not None:
            return known
        async with self._lock:
            if (known := self._current()) is not None:
                return known
            if self._failure and self._failure_count > failure_count:
                raise copy.copy(self._failure)
            asked_at = self._clock()
            try:
                response = await send(self._token_request(request))
                found, life_seconds = self._accepted(response, await _body(response))
            except Exception as error:
                # For the requests that wait; after a cancellation one of them makes the call.
                self._failure = UnavailableError("the token endpoint did not answer")
                if isinstance(error, LeanError):
                    self._failure = copy.copy(error)
                self._failure_count += 1
                raise
            margin = min(_RENEW_SECONDS, life_seconds * _RENEW_FRACTION)
            self._credential, self.renew_at = found, asked_at + life_seconds - margin
            return found

    def _current(self) -> Credential | None:
        return self._credential if self._clock() < self.renew_at else None

    def _token_request(self, request: httpx.Request) -> httpx.Request:
        headers = {
            name: request.headers[name] for name in _SHARED_HEADERS if name in request.headers
        }
        return httpx.Request(
            "POST",
            self._token_url,
            headers={"accept": "application/json", "accept-encoding": ENCODING, **headers},
            data={
                "grant_type": "client_credentials",
                "client_id": self._client_id,
                "client_secret": self._client_secret.get_secret_value(),
                "scope": self._scope,
            },
            extensions=request.extensions,
        )

    def _accepted(self, response: httpx.Response, body: bytes) -> tuple[Credential, float]:
        """The token of an answer, and how many seconds it lives."""
        try:
            return self._token(response.status_code, body)
        except LeanError as error:
            error.status_code = response.status_code
            if isinstance(error, UnavailableError):
                error.retry_after = retry_after(response.headers)
            raise

    def _token(self, status_code: int, body: bytes) -> tuple[Credential, float]:
        answer = _json_object(body)
        if is_web_page(status_code, body):
            raise NetworkError(
                f"the token endpoint answers HTTP {status_code} with a web page: check "
                "LEAN_TOKEN_URL, and proxies and login pages on the way to Lean"
            )
        if 200 <= status_code < 300:
            if answer is None:
                raise UnavailableError("the answer of the token endpoint is not JSON")
            return _token(answer)
        code = self._code(answer)
        if status_code in {408, 425, 429} or status_code >= 500 or code in _PASSING_CODES:
            raise UnavailableError(f"the token endpoint answers HTTP {status_code}", code=code)
        if status_code in {400, 401, 403}:
            reason = f" ({code})" if code else ""
            raise AuthError(f"the token endpoint refuses the credentials{reason}", code=code)
        raise ConfigError(
            f"LEAN_TOKEN_URL answers HTTP {status_code}, so it is not a token endpoint: correct "
            "it, or LEAN_REGION and LEAN_ENVIRONMENT"
        )

    def _code(self, answer: dict[str, Any] | None) -> str | None:
        """The error code; None where it could repeat a credential that was sent."""
        code = (answer or {}).get("error") or (answer or {}).get("status")
        if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z_]{1,64}", code):
            return None
        is_echo = self._client_secret.get_secret_value() in code or self._client_id in code
        return None if is_echo else code


async def _body(response: httpx.Response) -> bytes:
    """The whole body, which can be read again."""
    try:
        body = await body_of(response, _LARGEST_BODY)
    except (SchemaError, httpx.DecodingError) as error:
        raise UnavailableError(
            f"the answer of the token endpoint cannot be read: {error}",
            status_code=response.status_code,
        ) from None
    finally:
        await response.aclose()
    response.headers.pop("content-encoding", None)
    response.stream = httpx.ByteStream(body)
    return body


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _token(answer: dict[str, Any]) -> tuple[Credential, float]:
    token = answer.get("access_token")
    life_seconds = _life_seconds(answer.get("expires_in"))
    problem = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        problem = "access_token"
    elif str(answer.get("token_type", "")).lower() != "bearer":
        problem = "token_type"
    elif life_seconds is None:
        problem = "expires_in, which has to be a number of seconds"
    elif life_seconds > 0:
        return Credential(_BEARER_HEADER, SecretStr(f"Bearer {token}")), life_seconds
    problem = problem or "expires_in: the token has expired already"
    raise SchemaError(f"the token endpoint's answer has no usable {problem}")


def _life_seconds(value: object) -> float | None:
    """Seconds that a token lives: assumed where the answer is silent, None where not a number."""
    if value is None or value == "":
        return _ASSUMED_LIFE_SECONDS
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
