"""The demo: a whole sync against an offline Lean, and what it brought."""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import SecretStr
from rich.console import Console

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings, WebhookSettings
from lean_resources.streams import STREAMS
from pipelines.cli.console import lines_table, progress_bars, say, show
from pipelines.dagster_defs.in_process import instance_at, read_events, sync_all
from pipelines.dagster_defs.resources import InboxResource, LakeResource
from pipelines.lake.ledger import Outcome
from pipelines.lake.queries import QUERIES
from pipelines.publish.warehouse import connect
from pipelines.webhooks.receiver import PATH, receiving

__all__ = ["demo"]

_SAMPLES = ("demo_cash_flow", "demo_reconciliation", "demo_affordability")
"""Queries that are shown with what they answer; their first lines are titles."""


def demo(
    home: Path,
    *,
    customers: int,
    months: int,
    seed: int,
    mtls: bool,
    certificate_fault: str | None,
    console: Console,
) -> None:
    """Start the sandbox, sync everything through Dagster, and show what it brought.

    Args:
        home: Folder for the demo's lake and runs.
        customers: Customers of the offline application.
        months: Months of history.
        seed: Of the world.
        mtls: Whether the sandbox asks for a client certificate.
        certificate_fault: What to get wrong on purpose under mTLS, or None.
        console: Where to write.

    Raises:
        SyncFailedError: A step failed.
    """
    started = time.monotonic()
    sandbox = Sandbox(
        customers=customers, months=months, seed=seed, today=dt.datetime.now(dt.UTC).date()
    )
    with serve(sandbox, port=0, mtls=mtls) as server:
        say(f"Offline Lean with {customers} customers at {server.url}")
        values = {
            "region": "sa",
            "environment": "sandbox",
            "api_url": server.url,
            "token_url": server.token_url,
            "client_id": sandbox.client_id,
            "client_secret": sandbox.client_secret,
            "requests_per_second": "2000",
        }
        if mtls:
            values |= _certificates(server.certificates, certificate_fault)
        lean = LeanResource(LeanSettings.model_validate(values))
        lake = LakeResource(root=str(home / "lake"), environment="sandbox")
        with (
            progress_bars(console) as progress,
            instance_at(home / "dagster", say) as instance,
        ):
            lines = sync_all(lean, lake, progress, instance=instance)
        console.print(lines_table(lines))
        with instance_at(home / "dagster", say) as instance:
            _one_more(sandbox, lean, lake, instance)
    with connect(lake.lake()) as connection:
        for name in _SAMPLES:
            title, query = QUERIES[name].split("\n", 1)
            say(f"\n{title.removeprefix('-- ')}", style="bold")
            say(query.strip(), style="dim")
            show(connection.execute(query), console)
        held = connection.execute("select count(*) from transactions").fetchone()
    skipped = sum(line.pulls.get(Outcome.SKIPPED, 0) for line in lines)
    say(
        "\nNext:\n"
        f'  .venv/bin/leanhouse query --home {_short(home)} "select * from accounts limit 5"\n'
        "  make demo    again: nothing new is asked for, no row comes twice\n"
        "  make dev     Dagster's UI, with the offline Lean behind it\n"
        "  README.md    connecting a real application at Lean\n"
        f"\n{len(STREAMS)} streams, {held[0] if held else 0:,} transactions in the warehouse,"
        f" {skipped} pulls skipped, {time.monotonic() - started:.0f} s.",
    )


def _one_more(
    sandbox: Sandbox,
    lean: Any,
    lake: LakeResource,
    instance: dg.DagsterInstance,
) -> None:
    """One more customer connects, and its rows arrive by webhook."""
    say("\nOne more customer connects a bank; nobody asks for it", style="bold")
    with tempfile.TemporaryDirectory(prefix="leanhouse-inbox-") as folder:
        inbox = InboxResource(f"sqlite:///{folder}/inbox.db")
        box = inbox.inbox()
        assert box is not None  # noqa: S101 - it has a URL
        settings = WebhookSettings(secret=SecretStr(sandbox.webhook_secret), port=0)
        with (
            receiving(settings, box) as port,
            sandbox.deliver(f"http://127.0.0.1:{port}{PATH}") as webhooks,
        ):
            made = sandbox.connect(app_user_id="one-more")
            # The bank takes ten seconds to answer, by the sandbox's clock.
            sandbox.clock.advance(dt.timedelta(seconds=11))
            webhooks.flush()
            finished = time.monotonic()
            for attempt in webhooks.attempts:
                say(f"  webhook  {attempt.type:<28} {attempt.status_code}")
            events = read_events(lean, lake, inbox, instance=instance)
        box.close()
    seconds = time.monotonic() - finished
    with connect(lake.lake()) as connection:
        rows = {
            name: connection.execute(
                f"select count(*) from {name} where entity_id = $1", [made["entity_id"]]
            ).fetchone()
            for name in ("accounts", "transactions")
        }
    told = ", ".join(f"{row[0] if row else 0} {name}" for name, row in rows.items())
    say(f"  {len(events)} events asked for work: {told} in the warehouse, {seconds:.1f} s")


def _certificates(issued: Any, fault: str | None) -> dict[str, str]:
    """Settings of the client certificate and the trust root, with one of them wrong if asked."""
    right = {
        "trust_root": str(issued.authority),
        "client_cert": str(issued.client_cert),
        "client_key": str(issued.client_key),
    }
    match fault:
        case None:
            return right
        case "no-client-certificate":
            return {"trust_root": right["trust_root"]}
        case "expired-client-certificate":
            wrong = issued.expired()
        case "foreign-client-certificate":
            wrong = issued.foreign()
        case _:
            # Another authority's chain as the trust root makes the server a stranger.
            issued.foreign()
            return {**right, "trust_root": str(issued.stranger)}
    return {**right, "client_cert": str(wrong.cert), "client_key": str(wrong.key)}


def _short(path: Path) -> Path:
    """The path relative to the working folder, where it lies inside."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path
