"""Certificates for mutual TLS, created when they are needed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Paths of a certificate with its chain, and of its key."""

    cert: Path
    key: Path


class Certificates:
    """A made-up chain of Lean, with a server and a client certificate, as files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA(organization_name="Lean sandbox")
        self.authority = folder / "lean_public_cert_chain.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))
        server = self._authority.issue_cert("localhost", "127.0.0.1")
        self.server_cert, self.server_key = self._write("server", server)
        self.client_cert, self.client_key = self._write(
            "application", self._authority.issue_cert(common_name="sandbox-application")
        )

    def expired(self) -> ClientCertificate:
        """An expired client certificate of the right chain."""
        now = dt.datetime.now(tz=dt.UTC)
        leaf = self._authority.issue_cert(
            common_name="sandbox-application",
            not_before=now - dt.timedelta(days=30),
            not_after=now - dt.timedelta(days=1),
        )
        return ClientCertificate(*self._write("expired", leaf))

    def foreign(self) -> ClientCertificate:
        """A client certificate of an unknown chain, which is in `stranger`."""
        other = trustme.CA(organization_name="Somebody else")
        other.cert_pem.write_to_path(str(self.stranger))
        leaf = other.issue_cert(common_name="sandbox-application")
        return ClientCertificate(*self._write("foreign", leaf, self.stranger))

    @property
    def stranger(self) -> Path:
        """Where `foreign` writes the certificate of its authority."""
        return self._folder / "stranger_cert_chain.pem"

    def _write(
        self, name: str, leaf: trustme.LeafCert, issuer: Path | None = None
    ) -> tuple[Path, Path]:
        cert, key = self._folder / f"{name}_cert.pem", self._folder / f"{name}_key.pem"
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        cert.write_bytes(chain + (issuer or self.authority).read_bytes())
        key.touch(mode=0o600)
        key.write_bytes(leaf.private_key_pem.bytes())
        return cert, key
