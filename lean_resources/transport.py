"""The transport over the network: aiohttp behind httpx's interface.

It is httpx-aiohttp, but reads a body and builds a session differently. That library passes a body
on in pieces of 16 kB through two generators, keeps cookies and parses addresses twice. This costs
as much CPU as aiohttp itself.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from functools import cache
from urllib.request import getproxies_environment

import aiohttp
import httpx
import yarl
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import map_aiohttp_exceptions

from lean_resources.certificates import ssl_context
from lean_resources.proxies import proxy_of
from lean_resources.settings import LeanSettings

_READ_BYTES = 1024 * 1024
"""Bytes that are buffered before the socket is no longer read; pages are smaller."""


class Transport(AiohttpTransport):
    """Sends requests over aiohttp, through the proxies that the environment names."""

    def __init__(self, verify: ssl.SSLContext | bool, limits: httpx.Limits) -> None:
        super().__init__(verify=verify, limits=limits, trust_env=False)
        # aiohttp would also read passwords from ~/.netrc if it read the environment itself.
        self._given = getproxies_environment()
        self._proxies: dict[bytes, yarl.URL | None] = {}

    def get_client(self) -> aiohttp.ClientSession:
        """A session without cookies, which Lean does not use."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.limits.max_connections or 0,
                keepalive_timeout=self.limits.keepalive_expiry,
                ssl=self.ssl_context,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BYTES,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its answer's body is read as it is iterated over."""
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        proxy = self._proxy(request.url) if self._given else None
        with map_aiohttp_exceptions():
            response = await self.client.request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=request.headers,
                data=request.content or None,
                allow_redirects=False,
                proxy=proxy,
                timeout=_timeout(**request.extensions.get("timeout", {})),
            )
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_Body(response), request=request
        )

    def _proxy(self, url: httpx.URL) -> yarl.URL | None:
        """The proxy to a host, looked up once for each."""
        if url.netloc not in self._proxies:
            self._proxies[url.netloc] = proxy_of(str(url), self._given)
        return self._proxies[url.netloc]


def network_transport(settings: LeanSettings) -> httpx.AsyncBaseTransport:
    """The network, through aiohttp: a quarter of the CPU of httpx's own transport."""
    verify: ssl.SSLContext | bool = True
    if settings.api_url.startswith("https") or settings.token_url.startswith("https"):
        verify = ssl_context(settings)
    limits = httpx.Limits(
        max_connections=settings.max_concurrency + 1,
        max_keepalive_connections=settings.max_concurrency + 1,
        keepalive_expiry=30.0,
    )
    return Transport(verify, limits)


@cache
def _timeout(
    connect: float | None = None,
    read: float | None = None,
    write: float | None = None,  # noqa: ARG001 - a request of ours fits into the socket's buffer
    pool: float | None = None,
) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(connect=pool, sock_connect=connect, sock_read=read)


class _Body(httpx.AsyncByteStream):
    """A body in as few pieces as it came."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with map_aiohttp_exceptions():
            while chunk := await self._response.content.readany():
                yield chunk

    async def aclose(self) -> None:
        with map_aiohttp_exceptions():
            await self._response.__aexit__(None, None, None)
