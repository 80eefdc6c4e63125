"""Certificates: the client's TLS context, checked before any request.

An expired certificate, a wrong key or a wrong order raises a `ConfigError` with the setting and the
remedy, before a handshake could fail.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import certifi
import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import SecretStr

from lean_resources.errors import AuthError, ConfigError
from lean_resources.proxies import proxy_of
from lean_resources.settings import LeanSettings

_CERTIFICATE = "LEAN_CLIENT_CERT"
_KEY = "LEAN_CLIENT_KEY"
_PASSWORD = "LEAN_CLIENT_KEY_PASSWORD"  # noqa: S105  # the name of a variable
_TRUST_ROOT = "LEAN_TRUST_ROOT"
_RENEW = "generate a certificate in Lean's dashboard, Integration, Certificates"
_ASK_AGAIN_SECONDS = 60.0
_UNREADABLE: dict[type[Exception], str] = {
    FileNotFoundError: "names a file that does not exist: correct the path",
    IsADirectoryError: "names a directory: name the PEM file",
    PermissionError: (
        "names a file that this process may not read: grant it the right to read the file"
    ),
}
_DOWNLOAD = "download Lean's certificate chain again from its dashboard"


def ssl_context(settings: LeanSettings, now: datetime | None = None) -> ssl.SSLContext:
    """Build the TLS context of the client.

    The client always verifies the server's certificate and host name, with TLS 1.2 or later. If the
    settings name Lean's chain, only that chain is trusted. Otherwise the system's store is trusted,
    or certifi's if the system has none. Expired and future certificates of the chain are left out.

    Args:
        now: The instant at which certificates must be valid; by default the present.

    Raises:
        ConfigError: A file is missing, unreadable, not PEM, in the wrong order or not valid now,
            the key is not the certificate's, or no certificate of the trust root is valid now.
    """
    now = now or datetime.now(UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.trust_root:
        _trust(context, settings.trust_root, now)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"]:
            context.load_verify_locations(certifi.where())
    if settings.client_cert and settings.client_key:
        password = settings.client_key_password
        _present(context, settings.client_cert, settings.client_key, password, now)
    return context


def client_certificate_expires_at(settings: LeanSettings) -> datetime | None:
    """UTC instant until which all certificates of the client certificate file are valid.

    Returns:
        None if the settings name no client certificate.

    Raises:
        ConfigError: The file is missing, unreadable or not PEM.
    """
    if not settings.client_cert:
        return None
    chain = _certificates(settings.client_cert, _CERTIFICATE)
    return min(certificate.not_valid_after_utc for certificate in chain)


def ignored_roots(settings: LeanSettings, now: datetime | None = None) -> list[str]:
    """Certificates of the trust root that `ssl_context` leaves out, each with its reason.

    Raises:
        ConfigError: The file is missing, unreadable or not PEM.
    """
    if not settings.trust_root:
        return []
    roots = _certificates(settings.trust_root, _TRUST_ROOT)
    reasons = _out_of_date(roots, now or datetime.now(UTC))
    return [f"{_TRUST_ROOT}: {reason}: {_DOWNLOAD}" for reason in reasons if reason is not None]


def untrusted_server(error: BaseException) -> ConfigError | None:
    """Find out if a request failed because the server's certificate is not trusted.

    A retry does not help then. But transports report it like any failed connection: as httpx's
    `ConnectError`, and over aiohttp as `ConnectTimeout`.

    Args:
        error: The transport's error.

    Returns:
        The error to raise instead, or None for a different failure.
    """
    reasons: list[str] = []
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        if isinstance(link, ssl.SSLCertVerificationError):
            # aiohttp's subclass lacks the reason; its cause has it.
            reasons.append(getattr(link, "verify_message", ""))
        seen.add(id(link))
        # httpx hides the cause by `raise … from None`, so `causes` does not find it.
        link = link.__cause__ or link.__context__
    if not reasons:
        return None
    return ConfigError(
        f"the server's certificate is not trusted ({max(reasons, key=len) or 'no reason given'}): "
        f"set {_TRUST_ROOT} to Lean's certificate chain, and check LEAN_API_URL, LEAN_TOKEN_URL "
        "and proxies on the way"
    )


def _trust(context: ssl.SSLContext, path: Path, now: datetime) -> None:
    roots = _certificates(path, _TRUST_ROOT)
    for position, certificate in enumerate(roots, start=1):
        if not _is_authority(certificate):
            raise ConfigError(
                f"{_TRUST_ROOT}: certificate {position} of {len(roots)} does not belong to a "
                f"certificate authority: {_DOWNLOAD}"
            )
    # A chain file may hold an expired certificate beside its replacement.
    reasons = _out_of_date(roots, now)
    valid = [root for root, reason in zip(roots, reasons, strict=True) if reason is None]
    if not valid:
        raise ConfigError(
            f"{_TRUST_ROOT} holds no certificate that is valid now ({reasons[0]}): {_DOWNLOAD}, "
            "and check this machine's clock"
        )
    try:
        context.load_verify_locations(
            cadata="".join(root.public_bytes(Encoding.PEM).decode() for root in valid)
        )
    except ssl.SSLError:
        raise ConfigError(f"OpenSSL refuses {_TRUST_ROOT}: {_DOWNLOAD}") from None
    # Lean's chain may end at an intermediate certificate, so all its certificates are trusted.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _present(
    context: ssl.SSLContext, cert: Path, key_path: Path, password: SecretStr | None, now: datetime
) -> None:
    chain = _certificates(cert, _CERTIFICATE)
    _check_dates(chain, now)
    key = _private_key(key_path, password)
    if _public_bytes(chain[0]) != _public_bytes(key):
        if any(_public_bytes(certificate) == _public_bytes(key) for certificate in chain[1:]):
            raise ConfigError(
                f"{_CERTIFICATE} is in the wrong order: put the leaf first, then its issuers"
            )
        raise ConfigError(
            f"{_KEY} is not the key of the first certificate in {_CERTIFICATE}: use the two files "
            "of the same download"
        )
    _check_order(chain)
    try:
        context.load_cert_chain(
            cert,
            key_path,
            # Never None, because OpenSSL would then ask at the terminal.
            password=password.get_secret_value() if password else "",
        )
    except (OSError, ValueError):
        raise ConfigError(
            f"OpenSSL refuses {_CERTIFICATE} or {_KEY}, e.g. as too weak: {_RENEW}"
        ) from None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        problem = _UNREADABLE.get(type(error), "names a file that cannot be read: correct the path")
    raise ConfigError(f"{name} {problem}")


def _certificates(path: Path, name: str) -> list[x509.Certificate]:
    data = _read(path, name)
    try:
        certificates = x509.load_pem_x509_certificates(data)
        for certificate in certificates:
            certificate.public_key()
            certificate.extensions  # noqa: B018  # parsed on access
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{name} holds no readable PEM certificate: name the unchanged file from Lean's "
            "dashboard"
        ) from None
    return certificates


def _private_key(path: Path, password: SecretStr | None) -> PrivateKeyTypes:
    data = _read(path, _KEY)
    is_encrypted = b"ENCRYPTED" in data
    if is_encrypted and not password:
        raise ConfigError(f"{_KEY} is encrypted: set {_PASSWORD}")
    try:
        return load_pem_private_key(
            data,
            password.get_secret_value().encode() if password and is_encrypted else None,
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problem = (
            f"{_PASSWORD} does not open {_KEY}: correct the password"
            if is_encrypted
            else f"{_KEY} holds no readable PEM private key: name the key file of {_CERTIFICATE}"
        )
        raise ConfigError(problem) from None


def _check_dates(certificates: list[x509.Certificate], now: datetime) -> None:
    for certificate, reason in zip(certificates, _out_of_date(certificates, now), strict=True):
        if reason is not None:
            is_early = now < certificate.not_valid_before_utc
            remedy = "wait, or correct this machine's clock" if is_early else _RENEW
            raise ConfigError(f"{_CERTIFICATE}: {reason}: {remedy}")


def _out_of_date(certificates: list[x509.Certificate], now: datetime) -> list[str | None]:
    """Why each certificate is not valid at an instant; None for valid certificates."""
    reasons: list[str | None] = []
    for position, certificate in enumerate(certificates, start=1):
        which = f"certificate {position} of {len(certificates)}"
        begins_at, ends_at = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > ends_at:
            reasons.append(f"{which} expired at {_instant(ends_at)}")
        elif now < begins_at:
            reasons.append(f"{which} is not valid before {_instant(begins_at)}")
        else:
            reasons.append(None)
    return reasons


def _check_order(chain: list[x509.Certificate]) -> None:
    for position, (issued, issuer) in enumerate(itertools.pairwise(chain), start=1):
        try:
            issued.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise ConfigError(
                f"{_CERTIFICATE} is in the wrong order: certificate {position + 1} did not issue "
                f"certificate {position}; put the leaf first, then its issuers"
            ) from None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _public_bytes(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _instant(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


class ClientRefusal:
    """Finds out if the server refuses the client certificate, at most once a minute."""

    def __init__(self, settings: LeanSettings) -> None:
        self._settings = settings
        self._asking = asyncio.Lock()
        self._asked_at = -math.inf
        self._error: AuthError | None = None

    async def error(self) -> AuthError | None:
        """The error to raise instead of a failed connection, or None."""
        async with self._asking:
            # `_refusal` connects directly, so behind a proxy it cannot reach the server.
            if proxy_of(self._settings.api_url) is not None:
                return None
            if time.monotonic() - self._asked_at >= _ASK_AGAIN_SECONDS:
                reason = await asyncio.to_thread(_refusal, self._settings)
                self._error = None if reason is None else self._refused(reason)
                self._asked_at = time.monotonic()
            return copy.copy(self._error)

    def _refused(self, reason: str) -> AuthError:
        what = "the server refuses the client certificate"
        remedy = (
            f"set {_CERTIFICATE} to the certificate that Lean issued for this application, "
            "followed by Lean's chain"
        )
        if self._settings.client_cert is None:
            what = "the server requires a client certificate, but the settings name no such file"
            remedy = f"set {_CERTIFICATE} and {_KEY} to the files of Lean's dashboard"
        return AuthError(f"{what} ({reason}): {remedy}", code="INVALID_CERTIFICATE")


def _refusal(settings: LeanSettings, timeout_seconds: float = 10.0) -> str | None:
    """How the API's host refuses the client certificate, or None if it does not.

    With TLS 1.3 a server refuses after the handshake, and asynchronous transports report that like
    any dropped connection. A blocking socket receives the server's alert.
    """
    url = httpx.URL(settings.api_url)
    if url.scheme != "https":
        return None
    context = ssl_context(settings)
    request = f"GET /banks/v1/ HTTP/1.1\r\nhost: {url.host}\r\nconnection: close\r\n\r\n"
    closed = "it closed the connection after the handshake"
    is_secured = False
    try:
        with (
            socket.create_connection((url.host, url.port or 443), timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=url.host) as secured,
        ):
            is_secured = True
            secured.sendall(request.encode())
            return None if secured.recv(1) else closed
    except ssl.SSLError as error:
        alert = (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower()
        return alert if "certificate" in alert or "unknown ca" in alert else None
    except TimeoutError:
        return None
    except OSError:
        # Some servers drop the connection without an alert. Before the handshake, that is no sign
        # of a refused certificate.
        return closed if is_secured else None
