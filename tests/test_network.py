"""The way to Lean: proxies are honoured, and what is in the way is named with its remedy."""

import asyncio
import base64
import contextlib
import errno
import os
import socket
import ssl
import traceback

import aiohttp
import httpx
import pytest
import trustme
import uvicorn
from conftest import Slept, settings_of

from lean_resources import LeanClient
from lean_resources.errors import ConfigError, LeanError, NetworkError, UnavailableError
from lean_resources.network import unanswered
from lean_resources.proxies import proxy_of, shown
from lean_resources.sandbox import Sandbox, serve
from lean_resources.transport import Transport

RETAIL = {"account_type": "PERSONAL"}
PASSWORD = "hush/45c48cce"
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority():
    """Who signs the certificate of `api.lean.test`."""
    return trustme.CA()


@pytest.fixture(scope="module")
def world():
    """A tiny offline Lean."""
    return Sandbox(customers=1, months=1, seed=7, today="2026-03-15")


class Proxy:
    """A proxy that speaks CONNECT and takes every host for one port of this machine.

    Args:
        target: The port behind it.
        credentials: What it asks for, as `user:password`; nothing when left.
        refusal: A status line instead of a connection.
    """

    def __init__(self, target, credentials=None, refusal=None):
        self.asked = []
        self._target = target
        self._expected = credentials and base64.b64encode(credentials.encode()).decode()
        self._refusal = refusal

    @contextlib.asynccontextmanager
    async def serving(self):
        """Serve on a free port of loopback, which is yielded."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split("\r\n")[0])
        refusal = self._refusal
        if self._expected and f"Basic {self._expected}" not in head:
            refusal = "407 Proxy Authentication Required"
        if refusal:
            writer.write(f"HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()
            return
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, outer), _copy(inner, writer))


async def _copy(reader, writer):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def _lean(world, authority):
    """The offline Lean over TLS, as `api.lean.test`; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.lean.test").configure_cert(context)
    config = uvicorn.Config(
        world.app, port=0, log_level="critical", ssl_context_factory=lambda *_: context
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


def _through(world, authority, tmp_path, monkeypatch, proxy=None, variable="HTTPS_PROXY", **given):
    """Read banks of `api.lean.test` through a proxy; what came, and what the proxy was asked."""
    authority.cert_pem.write_to_path(str(tmp_path / "root.pem"))
    user = f"{given.pop('user')}@" if "user" in given else ""

    async def main():
        async with _lean(world, authority) as port:
            between = Proxy(port, **given) if proxy is None else proxy
            async with between.serving() as proxy_port:
                monkeypatch.setenv(variable, f"http://{user}127.0.0.1:{proxy_port}")
                client = LeanClient(
                    settings_of(
                        world,
                        "https://api.lean.test",
                        trust_root=tmp_path / "root.pem",
                        attempts=2,
                    ),
                    sleep=Slept(),
                )
                async with client:
                    try:
                        return await client.read("banks", RETAIL), between.asked
                    except LeanError as error:
                        return error, between.asked

    return asyncio.run(main())


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_lean_is_reached_through_the_proxy_of_the_environment(
    world, authority, tmp_path, monkeypatch, variable
):
    """API and token endpoint by CONNECT, so that the proxy sees a host and no content."""
    read, asked = _through(world, authority, tmp_path, monkeypatch, variable=variable)

    assert read.answers[0].envelope.records > 0
    assert set(asked) == {"CONNECT api.lean.test:443 HTTP/1.1"}


def test_a_proxy_gets_its_credentials_and_nobody_else_does(
    world, authority, tmp_path, monkeypatch, caplog
):
    """They are percent-encoded in the variable, and in no log."""
    caplog.set_level("DEBUG")
    read, _ = _through(
        world,
        authority,
        tmp_path,
        monkeypatch,
        user="us%40er:hush%2F45c48cce",
        credentials=f"us@er:{PASSWORD}",
    )

    assert read.answers[0].envelope.records > 0
    assert "45c48cce" not in caplog.text


@pytest.mark.parametrize("user", [{}, {"user": "us%40er:hush%2F45c48cce-wrong"}], ids=str)
def test_a_proxy_that_wants_other_credentials_is_named(
    world, authority, tmp_path, monkeypatch, user
):
    """At once, without the ones that were tried."""
    error, asked = _through(
        world, authority, tmp_path, monkeypatch, credentials=f"us@er:{PASSWORD}", **user
    )

    assert isinstance(error, ConfigError)
    assert error.code == "PROXY"
    assert "HTTPS_PROXY" in error.message
    assert "45c48cce" not in "".join(traceback.format_exception(error))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("refusal", "kind", "times"),
    [
        ("403 Forbidden", ConfigError, 1),
        ("405 Method Not Allowed", ConfigError, 1),
        ("502 Bad Gateway", NetworkError, 2),
        ("504 Gateway Timeout", NetworkError, 2),
    ],
)
def test_a_proxy_that_does_not_connect_is_named(
    world, authority, tmp_path, monkeypatch, refusal, kind, times
):
    """A refusal is final; what may pass is tried again, and neither is blamed on Lean."""
    error, asked = _through(world, authority, tmp_path, monkeypatch, refusal=refusal)

    assert type(error) is kind
    assert error.code == "PROXY"
    assert "proxy" in error.message
    assert "api.lean.test" in error.message
    assert len(asked) == times


def test_a_proxy_that_intercepts_is_refused(world, tmp_path, monkeypatch):
    """A server that somebody else vouches for gets no credentials, and the remedy says proxies."""
    authority, other = trustme.CA(), trustme.CA()

    async def main():
        async with _lean(world, other) as port:
            between = Proxy(port)
            authority.cert_pem.write_to_path(str(tmp_path / "root.pem"))
            async with between.serving() as proxy_port:
                monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy_port}")
                settings = settings_of(
                    world, "https://api.lean.test", trust_root=tmp_path / "root.pem"
                )
                async with LeanClient(settings, sleep=Slept()) as client:
                    await client.read("banks", RETAIL)

    before = world.calls["POST /oauth2/token"]
    with pytest.raises(ConfigError, match="proxies on the way"):
        asyncio.run(main())
    assert world.calls["POST /oauth2/token"] == before


def test_loopback_is_reached_directly(world, monkeypatch):
    """Whatever the environment says."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main(url):
        async with LeanClient(settings_of(world, url)) as client:
            return await client.read("banks", RETAIL)

    with serve(world, port=0, mtls=False) as server:
        assert asyncio.run(main(server.url)).answers


def test_a_proxy_that_does_not_answer_is_named(world, monkeypatch):
    """It is not Lean that is down."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://u:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{port}")

    error = _failure(world, "https://api.lean.test")

    assert isinstance(error, NetworkError)
    assert (error.code, "HTTPS_PROXY" in error.message) == ("PROXY", True)
    assert "45c48cce" not in "".join(traceback.format_exception(error))


URL = "https://api.lean.test/banks/v1"


@pytest.mark.parametrize(
    ("given", "proxy"),
    [
        ({}, None),
        ({"https": ""}, None),
        ({"http": "http://p:1"}, None),
        ({"https": "http://p:1"}, "http://p:1"),
        ({"https": " p:1 "}, "http://p:1"),
        ({"https": "https://p:1/"}, "https://p:1/"),
        ({"all": "http://p:1"}, "http://p:1"),
        ({"all": "http://a:1", "https": "http://p:1"}, "http://p:1"),
        ({"https": "http://[2001:db8::1]:3128"}, "http://[2001:db8::1]:3128"),
        ({"https": "http://p:1", "no": "*"}, None),
        ({"https": "http://p:1", "no": "api.lean.test"}, None),
        ({"https": "http://p:1", "no": "API.Lean.Test"}, None),
        ({"https": "http://p:1", "no": "other, .lean.test"}, None),
        ({"https": "http://p:1", "no": "lean.test"}, None),
        ({"https": "http://p:1", "no": "*.lean.test"}, None),
        ({"https": "http://p:1", "no": "lean.test:443"}, None),
        ({"https": "http://p:1", "no": "lean.test:8443"}, "http://p:1"),
        ({"https": "http://p:1", "no": "an.test"}, "http://p:1"),
        ({"https": "http://p:1", "no": "10.0.0.0/8, ,"}, "http://p:1"),
        ({"https": "http://p:1", "no": ""}, "http://p:1"),
    ],
)
def test_the_variables_of_proxies_mean_what_they_mean_elsewhere(given, proxy):
    """By scheme before all, with the exceptions of NO_PROXY."""
    found = proxy_of(URL, given)

    assert (str(found).rstrip("/") if found else None) == (proxy and proxy.rstrip("/"))


def test_a_proxy_is_shown_without_its_credentials():
    """As doctor prints it."""
    proxy = proxy_of(URL, {"https": f"http://u:{PASSWORD.replace('/', '%2F')}@proxy.test:3128"})

    assert shown(proxy) == "http://proxy.test:3128"


def test_networks_and_loopback_need_no_proxy():
    """A network in NO_PROXY holds its addresses; loopback needs no entry."""
    given = {"https": "http://p:1", "no": "10.0.0.0/8, [2001:db8::1]:443"}

    assert proxy_of("https://10.1.2.3/", given) is None
    assert proxy_of("https://[2001:db8::1]/", given) is None
    assert proxy_of("https://11.1.2.3/", given) is not None
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]", "x.localhost"):
        assert proxy_of(f"https://{host}:8600/", given) is None


@pytest.mark.parametrize(
    "value", [f"socks5://u:{PASSWORD}@p:1", "http://", "http://p:port", f"ftp://{PASSWORD}", "://"]
)
def test_what_is_no_proxy_is_refused_by_name(value):
    """And its value, which may hold a password, is not shown."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        proxy_of(URL, {"https": value})

    assert "45c48cce" not in "".join(traceback.format_exception(caught.value))


def _failure(world, url, **changes):
    async def main():
        settings = settings_of(world, url, attempts=2, **changes)
        async with LeanClient(settings, sleep=Slept()) as client:
            with pytest.raises(LeanError) as caught:
                await client.read("banks", RETAIL)
            return caught.value

    return asyncio.run(main())


def test_a_host_that_cannot_be_resolved_is_named(world):
    """The spelling and the DNS are what to look at."""
    error = _failure(world, "https://api.lean.invalid")

    assert isinstance(error, NetworkError)
    assert error.code == "UNRESOLVED"
    assert "api.lean.invalid" in error.message
    assert "LEAN_API_URL" in error.message
    assert "changelog" not in error.remedy


def test_a_port_that_nobody_listens_on_is_named(world):
    """Also by the token endpoint, which is what is asked first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    error = _failure(world, f"http://127.0.0.1:{port}")

    assert isinstance(error, NetworkError)
    assert error.code == "CONNECTION"
    assert "127.0.0.1" in error.message


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENETUNREACH, "NO_ROUTE"),
        (errno.EHOSTUNREACH, "NO_ROUTE"),
        (errno.EMFILE, "OPEN_FILES"),
        (errno.ENFILE, "OPEN_FILES"),
        (errno.EADDRNOTAVAIL, "NO_PORTS"),
        (errno.ENOBUFS, "OUT_OF_MEMORY"),
        (errno.EPERM, "NOT_PERMITTED"),
        (errno.ECONNREFUSED, "CONNECTION"),
    ],
)
def test_what_this_machine_lacks_is_not_blamed_on_lean(world, monkeypatch, number, code):
    """Whatever the operating system refuses says what to look at, and is tried again."""

    async def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(aiohttp.connector.TCPConnector, "connect", refuse)
    error = _failure(world, "http://127.0.0.1:8600")

    assert isinstance(error, NetworkError)
    assert error.code == code
    assert "machine" in error.remedy


def test_a_reset_and_a_silence_are_still_lean_s(world):
    """They may be anybody's, and waiting helps."""
    request = httpx.URL("https://api.lean.test")
    for error in (
        httpx.ReadError("reset"),
        httpx.ReadTimeout("late"),
        httpx.RemoteProtocolError("cut"),
    ):
        found = unanswered(error, request)
        assert type(found) is UnavailableError


@pytest.mark.parametrize("status_code", [200, 403, 404, 511])
@pytest.mark.parametrize("path", ["/banks/v1", "/oauth2/token"])
def test_a_web_page_in_place_of_an_answer_is_not_lean_s(world, status_code, path):
    """A login page or a proxy's own says so, whichever status it has."""

    class Portal(httpx.AsyncBaseTransport):
        def __init__(self):
            self.inner = httpx.ASGITransport(world.app)

        async def handle_async_request(self, request):
            if request.url.path.startswith(path):
                return httpx.Response(status_code, content=b"\n<!doctype html><p>Log in</p>")
            return await self.inner.handle_async_request(request)

    async def main():
        client = LeanClient(settings_of(world), transport=Portal(), sleep=Slept())
        async with client:
            with pytest.raises(LeanError) as caught:
                await client.read("banks", RETAIL)
            return caught.value

    error = asyncio.run(main())
    assert isinstance(error, NetworkError)
    assert "proxies" in error.message
    assert "changelog" not in error.remedy


def test_the_transport_shows_no_credentials(monkeypatch):
    """Neither by its representation nor by that of its parts."""
    monkeypatch.setenv("HTTPS_PROXY", "http://u:45c48cce@p:1")

    assert "45c48cce" not in repr(Transport(verify=True, limits=httpx.Limits()))
