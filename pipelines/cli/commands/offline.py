"""Commands that need no credentials: the demo, the offline Lean, and Dagster's UI over it."""

import contextlib
import datetime as dt
import importlib.util
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli.app import fail, homes, not_listening
from pipelines.cli.children import child
from pipelines.cli.console import say
from pipelines.environment import child_of, state_folder
from pipelines.shipped import DEFAULT_HOME

if TYPE_CHECKING:
    from lean_resources.sandbox import Sandbox, Server

Customers = Annotated[int, typer.Option(min=1, help="Customers of the offline Lean.")]
Months = Annotated[int, typer.Option(min=1, max=60, help="Months of history.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same data.")]


CertificateFault = Literal[
    "no-client-certificate", "expired-client-certificate",
    "foreign-client-certificate", "foreign-server-certificate",
]  # fmt: skip


def _sandbox(customers: int, months: int, seed: int, today: dt.date | None = None) -> "Sandbox":
    from lean_resources.sandbox import Sandbox

    today = today or dt.datetime.now(dt.UTC).date()
    return Sandbox(customers=customers, months=months, seed=seed, today=today)


def demo(
    customers: Customers = 20,
    months: Months = 12,
    seed: Seed = 7,
    home: Annotated[Path, typer.Option(help="Home folder of the demo.")] = DEFAULT_HOME / "demo",
    mtls: Annotated[bool, typer.Option(help="Require a client certificate.")] = False,
    certificate_fault: Annotated[
        CertificateFault | None,
        typer.Option(help="Use a wrong certificate and see the error; implies --mtls."),
    ] = None,
) -> None:
    """Sync made-up data from the offline Lean through Dagster, and show the result."""
    from pipelines.cli.demo import demo as run_demo
    from pipelines.dagster_defs.in_process import SyncFailedError

    folder = state_folder(home, "--home")
    homes.append(folder)
    world, has_mtls = _sandbox(customers, months, seed), mtls or certificate_fault is not None
    try:
        run_demo(folder, world, mtls=has_mtls, certificate_fault=certificate_fault)
    except SyncFailedError as error:
        raise fail(str(error)) from None


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8600,
    host: Annotated[
        str, typer.Option(help="Address to listen on; there is no reason to open it to a network.")
    ] = "127.0.0.1",
    customers: Customers = 20,
    months: Months = 12,
    seed: Seed = 7,
    today: Annotated[
        str | None, typer.Option(help="Date that it takes for today, YYYY-MM-DD.")
    ] = None,
    mtls: Annotated[bool, typer.Option(help="Require a client certificate.")] = False,
    webhook_url: Annotated[
        str | None, typer.Option(help="Send webhooks to this URL, and let time pass.")
    ] = None,
) -> None:
    """Serve the offline Lean, Lean's API with made-up data, until interrupted."""
    from lean_resources.sandbox import run as run_sandbox

    try:
        day = dt.date.fromisoformat(today) if today else None
    except ValueError:
        raise fail("--today is not a date: write it as YYYY-MM-DD") from None
    world = _sandbox(customers, months, seed, day)

    def announce(server: "Server") -> None:
        say(
            f"Offline Lean at {server.url}\n"
            f"LEAN_API_URL={server.url}\n"
            f"LEAN_TOKEN_URL={server.token_url}\n"
            f"LEAN_CLIENT_ID={world.client_id}\n"
            f"LEAN_CLIENT_SECRET={world.client_secret}  (made up)"
        )
        if server.certificates is not None:
            say(
                f"LEAN_TRUST_ROOT={server.certificates.authority}\n"
                f"LEAN_CLIENT_CERT={server.certificates.client_cert}\n"
                f"LEAN_CLIENT_KEY={server.certificates.client_key}"
            )
        if webhook_url is not None:
            say(f"LEAN_WEBHOOK_SECRET={world.webhook_secret}  (made up)")

    try:
        with contextlib.ExitStack() as stack:
            if webhook_url is not None:
                stack.enter_context(world.deliver(webhook_url))
                stack.enter_context(world.passing_time())
            run_sandbox(world, host=host, port=port, mtls=mtls, announce=announce)
    except OSError as error:
        raise not_listening(host, port, error) from None


def dev(
    customers: Customers = 20,
    months: Months = 12,
    seed: Seed = 7,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Dagster's UI.")] = 3000,
) -> None:
    """Open Dagster's UI over the offline Lean, webhooks included, until interrupted."""
    from pydantic import SecretStr

    from lean_resources.sandbox import serve
    from lean_resources.settings import WebhookSettings
    from pipelines.cli.demo import accept_clock, settings_of
    from pipelines.dagster_defs.in_process import instance_at
    from pipelines.dagster_defs.resources import InboxResource
    from pipelines.webhooks.receiver import PATH, receiving

    if importlib.util.find_spec("dagster_webserver") is None:
        raise fail("Dagster's UI is not installed: pip install 'leanhouse[webserver]'")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise not_listening("127.0.0.1", port, error) from None
    home = DEFAULT_HOME / "dev"
    world = _sandbox(customers, months, seed)
    inbox = InboxResource(f"sqlite:///{home / 'inbox' / 'sandbox.db'}").inbox()
    assert inbox is not None  # noqa: S101 - it has a URL
    receiver = WebhookSettings(secret=SecretStr(world.webhook_secret), port=0)
    with (
        serve(world, port=0, mtls=False) as server,
        receiving(receiver, inbox) as webhook_port,
        world.deliver(f"http://127.0.0.1:{webhook_port}{PATH}"),
        world.passing_time(),
    ):
        instance_at(home / "dagster", say).dispose()
        accept_clock(home)
        values = settings_of(world, server, requests_per_second=500)
        environment = child_of(values | {"webhook_secret": world.webhook_secret}, home)
        say(
            f"Offline Lean at {server.url}, Dagster at http://127.0.0.1:{port}\n"
            f"To connect one more customer: curl -X POST {server.url}/_sandbox/connect"
        )
        command = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions"]
        command += ["-p", str(port)]
        # Not in the checkout: its .env would win over the offline Lean's settings.
        with child(command, cwd=home, env=environment) as process:
            raise typer.Exit(process.wait())
