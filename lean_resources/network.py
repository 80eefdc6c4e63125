"""Errors of requests without an answer from Lean, with their remedy."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from http import HTTPStatus

import aiohttp
import httpx

from lean_resources.errors import (
    ConfigError,
    LeanError,
    NetworkError,
    UnavailableError,
    causes,
)

__all__ = ["is_web_page", "redirected", "unanswered", "web_page"]

_NUMBERS = (
    (
        {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENONET},
        "NO_ROUTE",
        "this machine cannot reach {host}: check its network, VPN and firewall",
    ),
    (
        {errno.EMFILE, errno.ENFILE},
        "OPEN_FILES",
        (
            "this process has too many open files: raise its limit (ulimit -n), or lower "
            "LEAN_MAX_CONCURRENCY"
        ),
    ),
    (
        {errno.EADDRNOTAVAIL},
        "NO_PORTS",
        (
            "this machine has no local port left for a connection: close other connections, or "
            "widen net.ipv4.ip_local_port_range"
        ),
    ),
    (
        {errno.ENOMEM, errno.ENOBUFS},
        "OUT_OF_MEMORY",
        (
            "this machine has no memory left for a connection: give it more, or lower "
            "LEAN_MAX_CONCURRENCY"
        ),
    ),
    (
        {errno.EACCES, errno.EPERM},
        "NOT_PERMITTED",
        (
            "this machine does not allow a connection to {host}: check its firewall and the "
            "rights of this process"
        ),
    ),
    (
        {errno.ECONNREFUSED},
        "CONNECTION",
        (
            "nothing accepts connections at {host}: check LEAN_API_URL, LEAN_TOKEN_URL and the "
            "firewalls between"
        ),
    ),
)
"""Error numbers of the operating system, with code and message."""


def is_web_page(status_code: int, body: bytes) -> bool:
    """Whether an answer is a page of a proxy or a login. Lean itself answers in JSON.

    The edge of Lean's own servers sends pages too while they cannot answer; those do not count.
    """
    passes = 500 <= status_code != HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED
    is_redirect = 300 <= status_code < 400
    return not passes and not is_redirect and body.lstrip()[:1] == b"<"


def web_page(error: LeanError) -> NetworkError:
    """The error of a web page in place of an answer, from a proxy or a login before Lean."""
    return NetworkError(
        f"HTTP {error.status_code} with a web page instead of JSON: check LEAN_API_URL, and the "
        "proxies and login pages between here and Lean",
        code=error.code,
        stream=error.stream,
        status_code=error.status_code,
        correlation_id=error.correlation_id,
        trace_id=error.trace_id,
    )


def redirected(
    request: httpx.Request, response: httpx.Response, stream: str | None, correlation_id: str
) -> ConfigError:
    """The error of a redirect: Lean's API has none, and credentials go to no other host."""
    where = ""
    if location := response.headers.get("location"):
        with suppress(httpx.InvalidURL, ValueError):
            # The rest of the address may contain secrets.
            url = request.url.join(location)
            where = f" to {url.scheme}://{url.netloc.decode('ascii')}"
    return ConfigError(
        f"the answer is a redirect{where} (HTTP {response.status_code}), which is not followed: "
        "check LEAN_API_URL, and the proxies or login pages between here and Lean",
        code="REDIRECTED",
        stream=stream,
        status_code=response.status_code,
        correlation_id=correlation_id,
        trace_id=response.headers.get("lean-trace-id"),
    )


def unanswered(error: httpx.RequestError, url: httpx.URL) -> LeanError:
    """The error of a request without an answer.

    Args:
        error: The error of the transport.
        url: Address of the request; the message names its host.

    Returns:
        A `ConfigError` where another try cannot help. A `NetworkError` where this machine or its
        network is the cause. Else an `UnavailableError`.
    """
    host = url.host
    for cause in causes(error):
        if isinstance(cause, aiohttp.ClientHttpProxyError):
            return _refused_by_proxy(cause.status, host)
        if isinstance(cause, aiohttp.ClientProxyConnectionError):
            return NetworkError(
                "the proxy that the environment names does not answer: check HTTPS_PROXY and "
                "ALL_PROXY, or name the host in NO_PROXY",
                code="PROXY",
            )
    for cause in causes(error):
        # aiohttp's own error of a host that is not found has no number of the resolver's.
        if isinstance(cause, socket.gaierror | aiohttp.ClientConnectorDNSError):
            return NetworkError(
                f"the host {host} cannot be resolved: check how LEAN_API_URL and LEAN_TOKEN_URL "
                "are spelt, and this machine's DNS and network",
                code="UNRESOLVED",
            )
        if isinstance(cause, OSError) and (known := _of_number(cause.errno, host)) is not None:
            return known
    # Over aiohttp a refused connection is a ConnectTimeout too, so that is not slowness.
    is_slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout)
    return UnavailableError(
        "no answer in time" if is_slow else f"the connection failed: {type(error).__name__}",
        code="TIMEOUT" if is_slow else "CONNECTION",
    )


def _refused_by_proxy(status_code: int, host: str) -> LeanError:
    if status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return ConfigError(
            "the proxy wants other credentials (HTTP 407): write them into HTTPS_PROXY as "
            "http://user:password@host:port, special characters percent-encoded",
            code="PROXY",
        )
    if status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConfigError(
            f"the proxy refuses to connect to {host} (HTTP {status_code}): allow the host there, "
            "or name it in NO_PROXY",
            code="PROXY",
        )
    return NetworkError(
        f"the proxy cannot connect to {host} (HTTP {status_code}): check the proxy's own network",
        code="PROXY",
    )


def _of_number(number: int | None, host: str) -> NetworkError | None:
    """What an error number of the operating system means for a connection."""
    for numbers, code, message in _NUMBERS:
        if number in numbers:
            return NetworkError(message.format(host=host), code=code)
    return None
