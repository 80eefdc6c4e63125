"""What is wrong around the lake: the disk, the client's certificates, the receiver of webhooks."""

from __future__ import annotations

import datetime as dt
import http.client
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

from lean_resources.errors import ConfigError
from lean_resources.settings import WebhookSettings
from pipelines.environment import Settings
from pipelines.operate.problems import Problem, problem

_CERTIFICATE_DAYS = 30
_LEAST_SHARE = 0.05
_LEAST_BYTES = 20 << 30
"""Room that suffices on a disk of any size."""
_RECEIVER_SECONDS = 2.0


def machine_problems(settings: Settings, folder: Path, now: dt.datetime) -> list[Problem]:
    """Problems of the machine that the settings describe.

    Args:
        folder: Where the state lies; it need not exist yet.
        now: The instant at which certificates are judged.
    """
    return [
        *_disk_problems(folder),
        *_certificate_problems(settings, now),
        *_receiver_problems(settings),
    ]


def _disk_problems(folder: Path) -> Iterator[Problem]:
    """Whether the disk of the state is nearly full: below 5 % of it, and below 20 GiB."""
    while not folder.is_dir():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    if usage.free < min(usage.total * _LEAST_SHARE, _LEAST_BYTES):
        yield problem(
            "disk_nearly_full", "machine",
            f"{usage.free / usage.total:.1%} of the disk of {folder} is left:"
            f" {usage.free / 2**20:,.0f} MiB",
            "Free space or enlarge the disk; leanhouse vacuum deletes what nothing needs.",
            code="DISK_FULL",
        )  # fmt: skip


def _certificate_problems(settings: Settings, now: dt.datetime) -> Iterator[Problem]:
    """Whether the client's certificate or its chain ends within 30 days, or has ended."""
    if not settings.lean.client_cert:
        return
    from lean_resources.certificates import (  # noqa: PLC0415 - slow, and seldom needed
        client_certificate_expires_at,
    )

    try:
        ends_at = client_certificate_expires_at(settings.lean)
    except ConfigError as error:
        yield problem(
            "certificate_ending", "machine", error.message, error.remedy,
            code=error.code, severity="error",
        )  # fmt: skip
        return
    if ends_at is not None and ends_at <= now + dt.timedelta(days=_CERTIFICATE_DAYS):
        yield problem(
            "certificate_ending", "machine",
            f"LEAN_CLIENT_CERT {'has ended' if ends_at <= now else 'ends'} on {ends_at:%Y-%m-%d}",
            "Generate a certificate in Lean's dashboard, Integration, Certificates, and set"
            " LEAN_CLIENT_CERT and LEAN_CLIENT_KEY to it.",
            severity="error" if ends_at <= now + dt.timedelta(days=7) else "warning",
        )  # fmt: skip


def _receiver_problems(settings: Settings) -> Iterator[Problem]:
    webhooks = settings.webhooks
    is_on = webhooks.secret is not None and webhooks.port != 0
    if is_on and (reason := _not_ready(webhooks)) is not None:
        yield problem(
            "receiver_down", "receiver",
            f"the receiver at {webhooks.host}:{webhooks.port} {reason}",
            "Start it: leanhouse webhooks. What Lean sends meanwhile is found again hourly.",
        )  # fmt: skip


def _not_ready(webhooks: WebhookSettings) -> str | None:
    """Why the receiver takes no webhook, or None."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(webhooks.host, webhooks.host)  # noqa: S104
    connection: http.client.HTTPConnection
    if webhooks.tls_cert is None:
        connection = http.client.HTTPConnection(host, webhooks.port, timeout=_RECEIVER_SECONDS)
    else:
        # It is our own, by an address that its certificate need not name.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, webhooks.port, timeout=_RECEIVER_SECONDS, context=context
        )
    try:
        connection.connect()
        if webhooks.tls_client_authority is not None:
            return None  # it listens, and answers only who has a certificate
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except ssl.SSLError:
        return "does not speak TLS"
    except (OSError, http.client.HTTPException):
        return "does not answer"
    finally:
        connection.close()
    return None if status == 200 else "cannot store what arrives"
