"""Errors of requests that Lean did not answer, with their remedies."""

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
        ("{host} refuses connections: check LEAN_API_URL, LEAN_TOKEN_URL and firewalls on the way"),
    ),
)
"""Error numbers of the operating system, with their code and message."""


def is_web_page(status_code: int, body: bytes) -> bool:
    """Whether an answer is a web page of a proxy or login, because Lean answers in JSON.

    Lean's own edge servers also send web pages while Lean is down; these do not count.
    """
    passes = 500 <= status_code != HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED
    is_redirect = 300 <= status_code < 400
    return not passes and not is_redirect and body.lstrip()[:1] == b"<"


def web_page(error: LeanError) -> NetworkError:
    """The error for a web page of a proxy or login instead of an answer."""
    return NetworkError(
        f"HTTP {error.status_code} with a web page instead of JSON: check LEAN_API_URL, and "
        "proxies and login pages on the way to Lean",
        code=error.code,
        status_code=error.status_code,
        trace_id=error.trace_id,
    )


def redirected(request: httpx.Request, response: httpx.Response) -> ConfigError:
    """The error for a redirect: Lean's API sends none, and credentials only go to Lean's host."""
    where = ""
    if location := response.headers.get("location"):
        with suppress(httpx.InvalidURL, ValueError):
            # The rest of the address may contain secrets.
            url = request.url.join(location)
            where = f" to {url.scheme}://{url.netloc.decode('ascii')}"
    return ConfigError(
        f"the answer is a redirect{where} (HTTP {response.status_code}), which is not followed: "
        "check LEAN_API_URL, and proxies or login pages on the way to Lean",
        code="REDIRECTED",
        status_code=response.status_code,
        trace_id=response.headers.get("lean-trace-id"),
    )


def unanswered(error: httpx.RequestError, url: httpx.URL) -> LeanError:
    """The error for a request without an answer, by the transport's error; it names the host.

    Returns:
        A `ConfigError` if a retry cannot help. A `NetworkError` if this machine or its network is
        the cause. Otherwise an `UnavailableError`.
    """
    host = url.host
    for cause in causes(error):
        if isinstance(cause, aiohttp.ClientHttpProxyError):
            return _refused_by_proxy(cause.status, host)
        if isinstance(cause, aiohttp.ClientProxyConnectionError):
            return NetworkError(
                "the proxy from the environment does not answer: check HTTPS_PROXY and ALL_PROXY, "
                "or add the host to NO_PROXY",
                code="PROXY",
            )
    for cause in causes(error):
        # aiohttp's error for an unknown host has no error number of the resolver.
        if isinstance(cause, socket.gaierror | aiohttp.ClientConnectorDNSError):
            return NetworkError(
                f"the host {host} cannot be resolved: check the spelling of LEAN_API_URL and "
                "LEAN_TOKEN_URL, and this machine's DNS and network",
                code="UNRESOLVED",
            )
        if isinstance(cause, OSError) and (known := _of_number(cause.errno, host)) is not None:
            return known
    # With aiohttp a refused connection is also a ConnectTimeout, so this class is not a timeout.
    is_slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout)
    return UnavailableError(
        "no answer in time" if is_slow else f"the connection failed: {type(error).__name__}",
        code="TIMEOUT" if is_slow else "CONNECTION",
    )


def _refused_by_proxy(status_code: int, host: str) -> LeanError:
    if status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return ConfigError(
            "the proxy refuses the credentials (HTTP 407): correct HTTPS_PROXY in the form "
            "http://user:password@host:port, with special characters percent-encoded",
            code="PROXY",
        )
    if status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConfigError(
            f"the proxy refuses to connect to {host} (HTTP {status_code}): allow the host at the "
            "proxy, or add it to NO_PROXY",
            code="PROXY",
        )
    return NetworkError(
        f"the proxy cannot connect to {host} (HTTP {status_code}): check the proxy's own network",
        code="PROXY",
    )


def _of_number(number: int | None, host: str) -> NetworkError | None:
    """The error for an error number of the operating system; None if it is unknown."""
    for numbers, code, message in _NUMBERS:
        if number in numbers:
            return NetworkError(message.format(host=host), code=code)
    return None
