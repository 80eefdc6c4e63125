"""Authentication: a shared OAuth2 token or the application token, never both.

Lean answers 400 to a request that carries a bearer token and `lean-app-token` at once, so each
flow removes the other's header.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Never

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
_SIGNS = ("authorization", _APP_TOKEN_HEADER)
_RENEW_SECONDS = 60.0
_RENEW_FRACTION = 0.2
_ASSUMED_LIFE_SECONDS = 300.0
_LARGEST_BODY = 64 * 1024
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]*)?")
# Headers of the request that needs the token, which the token request repeats.
_SHARED_HEADERS = ("user-agent", "lean-correlation-id")
# RFC 6749, 4.1.2.1: the two codes after which the same credentials can succeed later.
_PASSING_CODES = {"server_error", "temporarily_unavailable"}


def auth_for(
    settings: LeanSettings, clock: Callable[[], float] = time.monotonic
) -> AppToken | OAuth2:
    """The flow for the credentials in the settings.

    Args:
        settings: Valid settings, so with exactly one kind of credentials.
        clock: Seconds that never go back.

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


Headers = dict[str, str]


class Lent(httpx.Auth):
    """Sends the headers that another process lends, which has the credentials.

    A request that Lean answers with 401 is sent once more with headers that are asked for anew.

    Args:
        ask: Asks for headers, with those that Lean refused, if any; returns them, and when they
            have to be asked for again, by this machine's monotonic clock.

    Raises:
        LeanError: As the other process's own flow.
    """

    def __init__(self, ask: Callable[[Headers | None], Awaitable[tuple[Headers, float]]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._headers: Headers = {}
        self._renew_at = -math.inf

    def __repr__(self) -> str:
        return "Lent()"

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request with lent headers, and once more if Lean answers 401."""
        refused: Headers | None = None
        for is_last in (False, True):
            async with self._lock:
                if self._headers == refused or time.monotonic() >= self._renew_at:
                    self._headers, self._renew_at = await self._ask(refused)
            refused = self._headers
            request.headers.update(refused)
            response = yield request
            if response.status_code != httpx.codes.UNAUTHORIZED or is_last:
                return
            await _body(response)


async def lend(
    auth: AppToken | OAuth2,
    refused: Headers | None,
    signed: httpx.Request,
    send: Callable[[httpx.Request], Awaitable[httpx.Response]],
) -> tuple[Headers, float]:
    """Headers of a flow, as `Lent` asks for them.

    Args:
        auth: The flow, whose own requests share the token.
        refused: Headers that Lean refused; None if none were.
        signed: A request that is not sent; a request for a token is made like it.
        send: Sends a request for a token.
    """
    flow = auth.async_auth_flow(signed)
    headers: Headers = {}
    try:
        following = await anext(flow)
        while True:
            if following is not signed:
                response = await send(following)
            else:
                headers = {name: signed.headers[name] for name in _SIGNS if name in signed.headers}
                if headers != refused:
                    break
                response = httpx.Response(httpx.codes.UNAUTHORIZED)
            following = await flow.asend(response)
            await response.aclose()
    except StopAsyncIteration:
        pass  # another try gave the headers that were refused
    finally:
        await flow.aclose()
    return headers, auth.renew_at


class AppToken(httpx.Auth):
    """Sends the application token, as the legacy production host requires it.

    Args:
        token: The application token.
    """

    renew_at = math.inf

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def __repr__(self) -> str:
        return "AppToken()"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request with the application token."""
        request.headers.pop("authorization", None)
        request.headers[_APP_TOKEN_HEADER] = self._token.get_secret_value()
        yield request


class OAuth2(httpx.Auth):
    """Bearer tokens by client credentials, one token shared by all requests.

    The request for a token uses the client's transport, and so its client certificate. A token is
    renewed 60 seconds before its end, or a fifth of its life before if that is less. A request that
    Lean answers with 401 is sent once more with a new token. However many requests wait for a
    token, one call is made. If it fails, all of them fail with it. A connection error or timeout of
    that call reaches its own request as httpx's `TransportError`, the others as `UnavailableError`.

    One object serves one event loop.

    Args:
        token_url: The token endpoint.
        client_id: Application id at Lean.
        client_secret: Its secret.
        scope: `api`, or `customer.<customer_id>` for Lean's SDK.
        clock: Seconds that never go back.

    Raises:
        AuthError: Lean refuses the credentials; `code` is the OAuth2 error.
        UnavailableError: The token endpoint cannot answer now.
        ConfigError: `token_url` is not a token endpoint.
        SchemaError: The answer has no usable token.

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
        self._token: SecretStr | None = None
        self.renew_at = -math.inf
        self._failure: LeanError | None = None
        self._failure_count = 0

    def __repr__(self) -> str:
        return f"OAuth2(token_url={self._token_url!r}, scope={self._scope!r})"

    def sync_auth_flow(self, request: httpx.Request) -> Never:  # noqa: ARG002
        """Refuse, because an asyncio lock guards the token.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("OAuth2 works with httpx.AsyncClient only")

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request with a token, and once more with a new token if Lean answers 401."""
        request.headers.pop(_APP_TOKEN_HEADER, None)
        for is_last in (False, True):
            token = self._current()
            if token is None:
                failure_count = self._failure_count
                async with self._lock:
                    token = self._current()
                    if token is None:
                        if self._failure and self._failure_count > failure_count:
                            raise copy.copy(self._failure)
                        asked_at = self._clock()
                        try:
                            response = yield self._token_request(request)
                            token = self._accept(response, await _body(response), asked_at)
                        except BaseException as error:
                            self._note(error)
                            raise
            request.headers["authorization"] = f"Bearer {token.get_secret_value()}"
            response = yield request
            if response.status_code != httpx.codes.UNAUTHORIZED or is_last:
                return
            if self._token is token:
                self._token = None
            await _body(response)

    def _current(self) -> SecretStr | None:
        return self._token if self._clock() < self.renew_at else None

    def _note(self, error: BaseException) -> None:
        """Keep the failure of a call for the requests that wait; a cancellation is not one."""
        if isinstance(error, LeanError):
            self._failure = copy.copy(error)
        else:
            # The client closes the flow when the transport has failed, but also when the task is
            # cancelled. After a cancellation another request has to make the call.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) or (task and task.cancelling()):
                return
            self._failure = UnavailableError("the token endpoint did not answer")
        self._failure_count += 1

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
            # A request of a flow has no timeout of its own.
            extensions={
                name: value for name, value in request.extensions.items() if name == "timeout"
            },
        )

    def _accept(self, response: httpx.Response, body: bytes, asked_at: float) -> SecretStr:
        answer = _json_object(body)
        status_code = response.status_code
        if is_web_page(status_code, body):
            raise NetworkError(
                f"the token endpoint answers HTTP {status_code} with a web page: check "
                "LEAN_TOKEN_URL, and proxies and login pages on the way to Lean",
                status_code=status_code,
                retry_after=retry_after(response.headers),
            )
        if not response.is_success:
            self._refuse(response, answer)
        if answer is None:
            raise UnavailableError(
                "the answer of the token endpoint is not JSON",
                status_code=status_code,
                retry_after=retry_after(response.headers),
            )
        token, life_seconds = _token(answer, status_code)
        margin = min(_RENEW_SECONDS, life_seconds * _RENEW_FRACTION)
        self._token, self.renew_at = token, asked_at + life_seconds - margin
        return token

    def _refuse(self, response: httpx.Response, answer: dict[str, Any] | None) -> Never:
        status_code = response.status_code
        code = self._code(answer)
        if status_code in {408, 425, 429} or status_code >= 500 or code in _PASSING_CODES:
            raise UnavailableError(
                f"the token endpoint answers HTTP {status_code}",
                status_code=status_code,
                code=code,
                retry_after=retry_after(response.headers),
            )
        if status_code in {400, 401, 403}:
            reason = f" ({code})" if code else ""
            raise AuthError(
                f"the token endpoint refuses the credentials{reason}",
                status_code=status_code,
                code=code,
            )
        raise ConfigError(
            f"LEAN_TOKEN_URL answers HTTP {status_code}, so it is not a token endpoint: correct "
            "it, or LEAN_REGION and LEAN_ENVIRONMENT",
            status_code=status_code,
        )

    def _code(self, answer: dict[str, Any] | None) -> str | None:
        """The error code; None where it could repeat a credential that was sent."""
        code = (answer or {}).get("error") or (answer or {}).get("status")
        if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z_]{1,64}", code):
            return None
        is_echo = self._client_secret.get_secret_value() in code or self._client_id in code
        return None if is_echo else code


async def _body(response: httpx.Response) -> bytes:
    """The whole body; httpx's own client then finds it read."""
    try:
        body = await body_of(response, _LARGEST_BODY)
    except (SchemaError, httpx.DecodingError) as error:
        raise UnavailableError(
            f"the answer of the token endpoint cannot be read: {error}",
            status_code=response.status_code,
        ) from None
    response.headers.pop("content-encoding", None)
    response.stream = httpx.ByteStream(body)
    return body


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _token(answer: dict[str, Any], status_code: int) -> tuple[SecretStr, float]:
    def unusable(field: str) -> SchemaError:
        return SchemaError(
            f"the token endpoint's answer has no usable {field}", status_code=status_code
        )

    token = answer.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise unusable("access_token")
    if str(answer.get("token_type", "")).lower() != "bearer":
        raise unusable("token_type")
    life_seconds = _life_seconds(answer.get("expires_in"))
    if life_seconds is None:
        raise unusable("expires_in, which has to be a number of seconds")
    if life_seconds <= 0:
        raise unusable("expires_in: the token has expired already")
    return SecretStr(token), life_seconds


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
