import asyncio
import contextlib
import os
import ssl
import traceback
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trustme
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from test_auth import Signing

from lean_resources.auth import OAuth2
from lean_resources.certificates import (
    client_certificate_expires_at,
    ignored_roots,
    ssl_context,
    untrusted_server,
)
from lean_resources.errors import ConfigError
from lean_resources.settings import LeanSettings

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
PASSWORD = "hush-45c48cce"


@pytest.fixture(scope="module")
def lean():
    """Lean's certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="module")
def issuer(lean):
    """The intermediate authority that issues to applications."""
    return lean.create_child_ca()


@pytest.fixture(scope="module")
def application(issuer):
    """The certificate of an application, with its chain."""
    return issuer.issue_cert("application.lean.test")


@pytest.fixture
def write(tmp_path):
    """Write PEM parts to a file and return its path."""

    def write(name, *parts):
        path = tmp_path / name
        path.write_bytes(
            b"".join(part if isinstance(part, bytes) else _pem(part) for part in parts)
        )
        return path

    return write


@pytest.fixture
def settings(write, lean, issuer, application):
    """Valid settings of an application with certificate, key and trust root, to be varied."""

    def settings(**changes):
        return LeanSettings(
            **{
                "app_token": SecretStr("token"),
                "client_cert": write(
                    "application.pem", *application.cert_chain_pems, lean.cert_pem
                ),
                "client_key": write("application-key.pem", application.private_key_pem),
                "trust_root": write("chain.pem", issuer.cert_pem, lean.cert_pem),
            }
            | changes
        )

    return settings


def _pem(part):
    return part.bytes()


def _encrypted(pair, password=PASSWORD, style=PrivateFormat.PKCS8):
    key = load_pem_private_key(_pem(pair.private_key_pem), None)
    return key.private_bytes(Encoding.PEM, style, BestAvailableEncryption(password.encode()))


@contextlib.contextmanager
def _without_root():
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def _self_signed(name, key):
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _problem(settings, **options):
    with pytest.raises(ConfigError) as caught:
        ssl_context(settings, **options)
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@contextlib.asynccontextmanager
async def _server(pair, *, client_ca=None):
    """Serve over TLS on a free loopback port; with a client authority, only to its clients."""

    async def banks(request):
        return JSONResponse({"status": "OK"})

    async def token(request):
        return JSONResponse({"access_token": "t", "token_type": "Bearer", "expires_in": 3599})

    config = uvicorn.Config(
        Starlette(routes=[Route("/banks/v1", banks), Route("/token", token, methods=["POST"])]),
        port=0,
        log_level="critical",
        ssl_context_factory=lambda *_: _server_context(pair, client_ca),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(5):
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
        yield f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}/banks/v1"
    finally:
        server.should_exit = True
        await serving


def _server_context(pair, client_ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair.configure_cert(context)
    if client_ca:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _transport(name, context):
    if name == "aiohttp":
        return AiohttpTransport(verify=context)
    return httpx.AsyncHTTPTransport(verify=context)


def _ask(context, pair, *, client_ca=None, transport="httpx"):
    async def ask():
        async with (
            _server(pair, client_ca=client_ca) as url,
            httpx.AsyncClient(transport=_transport(transport, context), timeout=5) as client,
        ):
            return await client.get(url)

    return asyncio.run(ask())


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_client_and_server_know_each_other(lean, settings, transport):
    """With its certificate, the client is let in by a server that asks for one."""
    context = ssl_context(settings())

    answer = _ask(context, lean.issue_cert("localhost"), client_ca=lean, transport=transport)

    assert answer.json() == {"status": "OK"}


def test_the_token_is_asked_for_with_the_certificate(lean, settings):
    """The token call goes through the same transport, so a token endpoint may ask for it too."""
    context = ssl_context(settings())

    async def ask():
        async with (
            _server(lean.issue_cert("localhost"), client_ca=lean) as url,
            httpx.AsyncClient(
                transport=Signing(
                    OAuth2(
                        token_url=url.replace("/banks/v1", "/token"),
                        client_id="application",
                        client_secret=SecretStr("secret"),
                    ),
                    AiohttpTransport(verify=context),
                ),
                timeout=5,
            ) as client,
        ):
            return await client.get(url)

    answer = asyncio.run(ask())

    assert answer.status_code == 200
    assert answer.request.headers["authorization"] == "Bearer t"


def test_a_client_without_certificate_is_turned_away(lean, settings):
    """The server of the other tests does ask for a certificate."""
    context = ssl_context(settings(client_cert=None, client_key=None))

    with pytest.raises(httpx.TransportError):
        _ask(context, lean.issue_cert("localhost"), client_ca=lean)


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_server_of_another_authority_is_refused(settings, transport):
    """The trust root is the only one: a server that it does not vouch for gets no request."""
    context = ssl_context(settings())

    with pytest.raises(httpx.TransportError) as caught:
        _ask(context, trustme.CA().issue_cert("localhost"), transport=transport)

    assert "LEAN_TRUST_ROOT" in str(untrusted_server(caught.value))


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_server_of_another_name_is_refused(lean, settings, transport):
    """A valid certificate of another host is refused."""
    context = ssl_context(settings())

    with pytest.raises(httpx.TransportError) as caught:
        _ask(context, lean.issue_cert("lean.test"), transport=transport)

    assert "Hostname mismatch" in str(untrusted_server(caught.value))


def test_other_failures_are_no_matter_of_trust():
    """A timeout, and a chain of causes that bites its tail, say nothing about certificates."""
    tail, head = ValueError(), httpx.ConnectError("refused")
    head.__cause__, tail.__cause__ = tail, head

    assert untrusted_server(httpx.ConnectTimeout("late")) is None
    assert untrusted_server(head) is None


def test_a_private_authority_is_unknown_by_default(lean, settings):
    """Without a trust root the public authorities are trusted, and no private one."""
    context = ssl_context(settings(trust_root=None))

    with pytest.raises(httpx.ConnectError) as caught:
        _ask(context, lean.issue_cert("localhost"))

    assert isinstance(untrusted_server(caught.value), ConfigError)


def test_the_authorities_of_the_machine_are_trusted(lean, settings, monkeypatch, tmp_path):
    """Without a trust root, what the machine's administrator trusts is trusted."""
    lean.cert_pem.write_to_path(tmp_path / "machine.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "machine.pem"))
    context = ssl_context(settings(trust_root=None))

    assert _ask(context, lean.issue_cert("localhost")).status_code == 200


def test_a_machine_without_authorities_trusts_the_public_ones(settings, monkeypatch, tmp_path):
    """A container without a certificate store still verifies servers."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))

    assert len(ssl_context(settings(trust_root=None)).get_ca_certs()) > 50


def test_an_intermediate_can_be_the_trust_root(write, issuer, settings):
    """A chain file that ends below the root still is a trust root."""
    context = ssl_context(settings(trust_root=write("part.pem", issuer.cert_pem)))

    assert _ask(context, issuer.issue_cert("localhost")).status_code == 200


@pytest.mark.parametrize("changes", [{}, {"trust_root": None}], ids=["trust root", "system"])
def test_verification_is_always_on(settings, changes):
    """Certificate and host name are verified over TLS 1.2 or later, by some authority."""
    context = ssl_context(settings(**changes))

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.keylog_filename is None


def test_no_certificate_is_needed(write, lean):
    """OAuth2 settings without certificates give a context that trusts the public authorities."""
    context = ssl_context(LeanSettings(client_id="a", client_secret=SecretStr("b")))

    assert context.get_ca_certs() or ssl.get_default_verify_paths().capath


def test_a_leaf_alone_is_accepted(write, application, settings):
    """A certificate file without issuers is not complained about."""
    ssl_context(settings(client_cert=write("leaf.pem", application.cert_chain_pems[0])))


@pytest.mark.parametrize(
    "style", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL], ids=["pkcs8", "openssl"]
)
def test_an_encrypted_key_is_opened(write, lean, application, settings, style):
    """The right password opens the key, in both forms in which keys are encrypted."""
    key = write("locked.pem", _encrypted(application, style=style))

    context = ssl_context(settings(client_key=key, client_key_password=SecretStr(PASSWORD)))

    assert _ask(context, lean.issue_cert("localhost"), client_ca=lean).status_code == 200


def test_a_password_of_a_plain_key_does_no_harm(settings):
    """A key that is not encrypted needs no password and minds none."""
    ssl_context(settings(client_key_password=SecretStr(PASSWORD)))


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_missing_or_wrong_password_is_named(write, application, settings, password):
    """Without the right password the message asks for it, and nothing asks at a terminal."""
    key = write("locked.pem", _encrypted(application))

    message = _problem(
        settings(client_key=key, client_key_password=password and SecretStr(password))
    )

    assert "LEAN_CLIENT_KEY_PASSWORD" in message
    assert message.startswith("LEAN_CLIENT_KEY is encrypted") is (password is None)


def test_an_expired_certificate_is_named_with_its_date(write, issuer, settings):
    """The day after its end a certificate stops the start, and the remedy is told."""
    ends_at = NOW.replace(microsecond=0) + DAY
    pair = issuer.issue_cert("application.lean.test", not_before=NOW - DAY, not_after=ends_at)
    valid = settings(
        client_cert=write("cert.pem", *pair.cert_chain_pems),
        client_key=write("key.pem", pair.private_key_pem),
    )

    ssl_context(valid, now=ends_at)
    message = _problem(valid, now=ends_at + timedelta(seconds=1))

    assert "LEAN_CLIENT_CERT" in message
    assert f"{ends_at:%Y-%m-%dT%H:%M:%SZ}" in message
    assert "dashboard" in message


def test_the_present_is_the_default_instant(write, lean, settings):
    """Without an instant, a certificate that is out of date today is refused."""
    pair = lean.issue_cert("a.test", not_before=NOW - 2 * DAY, not_after=NOW - DAY)

    message = _problem(
        settings(
            client_cert=write("cert.pem", *pair.cert_chain_pems),
            client_key=write("key.pem", pair.private_key_pem),
        )
    )

    assert "LEAN_CLIENT_CERT" in message
    assert "expired" in message


def test_a_certificate_of_the_future_is_named(write, lean, settings):
    """A certificate that is not valid yet says from when it is, and suspects the clock."""
    pair = lean.issue_cert("a.test", not_before=NOW + DAY, not_after=NOW + 2 * DAY)

    message = _problem(
        settings(
            client_cert=write("cert.pem", *pair.cert_chain_pems),
            client_key=write("key.pem", pair.private_key_pem),
        )
    )

    assert "LEAN_CLIENT_CERT" in message
    assert f"not valid before {NOW + DAY:%Y-%m-%d}" in message
    assert "clock" in message


def test_the_key_of_another_certificate_is_named(write, lean, settings):
    """A key that is not the certificate's is found before the handshake."""
    other = lean.issue_cert("a.test")

    message = _problem(settings(client_key=write("other.pem", other.private_key_pem)))

    assert "LEAN_CLIENT_KEY is not the key" in message


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1), (0, 2)], ids=str)
def test_a_chain_in_the_wrong_order_is_named(write, lean, application, settings, order):
    """Each certificate has to be followed by its issuer."""
    parts = [*application.cert_chain_pems, lean.cert_pem]

    message = _problem(settings(client_cert=write("mixed.pem", *(parts[at] for at in order))))

    assert "LEAN_CLIENT_CERT is in the wrong order" in message
    assert "leaf first" in message


def test_a_namesake_is_no_issuer(write, application, settings):
    """An authority of the right name but another key did not issue the leaf."""
    leaf = x509.load_pem_x509_certificate(_pem(application.cert_chain_pems[0]))
    key = ec.generate_private_key(ec.SECP256R1())
    namesake = _self_signed(leaf.issuer, key)
    chain = write(
        "chain2.pem", leaf.public_bytes(Encoding.PEM), namesake.public_bytes(Encoding.PEM)
    )

    assert "did not issue" in _problem(settings(client_cert=chain))


def test_an_expired_trust_root_is_named(settings):
    """A chain of Lean's that is out of date says so, with the date."""
    message = _problem(settings(), now=datetime(3000, 1, 2, tzinfo=UTC))

    assert message.startswith("LEAN_TRUST_ROOT")
    assert "expired at" in message


def _authority(begins_at, ends_at):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "another authority")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins_at)
        .not_valid_after(ends_at)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("begins_at", "ends_at", "reason"),
    [(NOW - 2 * DAY, NOW - DAY, "expired at"), (NOW + DAY, NOW + 2 * DAY, "is not valid before")],
    ids=["expired", "future"],
)
def test_authorities_out_of_date_are_left_out_and_told(
    write, lean, settings, begins_at, ends_at, reason, is_first
):
    """The rest of the trust root counts, and doctor can say which certificate does not."""
    other = _authority(begins_at, ends_at)
    parts = [other, lean.cert_pem] if is_first else [lean.cert_pem, other]
    mixed = settings(trust_root=write("mixed.pem", *parts))

    assert _ask(ssl_context(mixed), lean.issue_cert("localhost")).status_code == 200
    assert len(ssl_context(mixed).get_ca_certs()) == 1
    (told,) = ignored_roots(mixed)
    assert f"LEAN_TRUST_ROOT: certificate {1 if is_first else 2} of 2 {reason}" in told
    assert ignored_roots(settings()) == []
    assert ignored_roots(settings(trust_root=None)) == []


def test_an_authority_out_of_date_is_not_trusted(write, lean, issuer, settings):
    """What is left out of the trust root vouches for nobody, and alone it is refused."""
    other = _authority(NOW - 2 * DAY, NOW - DAY)

    message = _problem(settings(trust_root=write("old.pem", other, other)))

    assert message.startswith("LEAN_TRUST_ROOT holds no certificate that is valid now")
    assert "certificate 1 of 2 expired at" in message


def test_a_trust_root_has_to_be_an_authority(write, lean, application, settings):
    """A leaf among the authorities is refused, since it would be trusted as one."""
    mixed = write("mixed.pem", lean.cert_pem, application.cert_chain_pems[0])

    message = _problem(settings(trust_root=mixed))

    assert "LEAN_TRUST_ROOT: certificate 2 of 2" in message


@pytest.mark.parametrize("field", ["client_cert", "client_key", "trust_root"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist"),
        ("directory", "directory"),
        (b"", "PEM"),
        (b"not a certificate", "PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "PEM"),
        (bytes(range(256)), "PEM"),
        ("name", "cannot be read"),
    ],
    ids=[
        "missing",
        "directory",
        "empty",
        "text",
        "broken certificate",
        "broken key",
        "binary",
        "name",
    ],
)
def test_an_unusable_file_is_named(write, settings, field, content, told):
    """A file that is missing, a directory or not PEM ends as an error that names its setting."""
    if content is None:
        path = write("present.pem").with_name("absent.pem")
    elif content == "directory":
        path = write("present.pem").parent
    elif content == "name":
        path = write("present.pem").with_name("x" * 5000)
    else:
        path = write("bad.pem", content)

    message = _problem(settings(**{field: path}))

    assert message.startswith(f"LEAN_{field.upper()} ")
    assert told in message


def test_a_file_without_the_right_to_read_is_named(write, settings):
    """A file of another user asks for the right to read it."""
    path = write("locked.pem", b"x")
    path.chmod(0)
    locked = settings(client_cert=path, trust_root=None)

    with _without_root():
        message = _problem(locked)

    assert "LEAN_CLIENT_CERT names a file that this process may not read" in message


def test_a_key_in_the_place_of_a_certificate_is_named(write, application, settings):
    """Two paths that were swapped are found."""
    message = _problem(
        settings(
            client_cert=write("a.pem", application.private_key_pem),
            client_key=write("b.pem", application.cert_chain_pems[0]),
        )
    )

    assert message.startswith("LEAN_CLIENT_CERT ")


def test_a_weak_key_is_named(write, settings):
    """What OpenSSL refuses is told as a setting, not as an OpenSSL error."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak.test")])
    weak = _self_signed(name, key)

    message = _problem(
        settings(
            client_cert=write("weak.pem", weak.public_bytes(Encoding.PEM)),
            client_key=write(
                "weak-key.pem",
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ),
        )
    )

    assert "LEAN_CLIENT_CERT" in message


def test_the_end_of_the_certificate_is_known_ahead(write, lean, settings):
    """The instant until which the certificate file is valid is that of its first to end."""
    ends_at = NOW.replace(microsecond=0) + 30 * DAY
    pair = lean.issue_cert("a.test", not_before=NOW - DAY, not_after=ends_at)
    valid = settings(
        client_cert=write("cert.pem", *pair.cert_chain_pems, lean.cert_pem),
        client_key=write("key.pem", pair.private_key_pem),
    )

    assert client_certificate_expires_at(valid) == ends_at
    assert client_certificate_expires_at(settings(client_cert=None, client_key=None)) is None


def test_the_legacy_host_requires_certificate_and_application_token(settings):
    """Settings for the legacy host do not come about without both."""
    legacy = {"legacy_host": True, "environment": "production"}

    ssl_context(settings(**legacy))
    with pytest.raises(ConfigError, match="LEAN_CLIENT_CERT"):
        settings(**legacy, client_cert=None, client_key=None)
    with pytest.raises(ConfigError, match="LEAN_APP_TOKEN"):
        settings(**legacy, app_token=None)
