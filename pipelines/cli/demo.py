"""The demo: a whole sync from the offline Lean, one more customer by webhook, and some queries."""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import SecretStr

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, Server, serve
from lean_resources.settings import LeanSettings, WebhookSettings
from lean_resources.streams import STREAMS
from pipelines.cli.console import plain_console, progress_bars, say, show, summary_table
from pipelines.dagster_defs.in_process import instance_at, read_events, sync_all
from pipelines.dagster_defs.resources import InboxResource, LakeResource
from pipelines.environment import settings
from pipelines.lake.folder import Folder
from pipelines.lake.ledger import Outcome
from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key
from pipelines.publish.warehouse import connect
from pipelines.webhooks.receiver import PATH, receiving

_SAMPLES = ("demo_cash_flow", "demo_reconciliation", "demo_affordability")
"""Queries that are printed with their results; the first line of each is its title."""

_POLICY = Key("policy.toml")


def accept_clock(home: Path) -> None:
    """Write a policy for an offline Lean, whose day begins at 07:15 UTC; an own one stays."""
    if Folder(home).head(_POLICY) is None:
        Folder(home).put(_POLICY, b'accepted_problems = ["clock_skew"]\n')


def demo(home: Path, sandbox: Sandbox, *, mtls: bool, certificate_fault: str | None) -> None:
    """Serve the sandbox, sync everything through Dagster, and print the result.

    Args:
        certificate_fault: Which certificate is wrong on purpose, with `mtls`; None means none.

    Raises:
        SyncFailedError: A step failed.
    """
    started, console = time.monotonic(), plain_console()
    accept_clock(home)
    with serve(sandbox, port=0, mtls=mtls) as server:
        say(f"Offline Lean with {sandbox.world.customers} customers at {server.url}")
        values = settings_of(sandbox, server, requests_per_second=2000)
        if mtls:
            values |= _certificates(server.certificates, certificate_fault)
        lean = LeanResource(LeanSettings.model_validate(values))
        # Made-up data stays apart from a lake of a real application.
        store = settings().house.lake
        root = f"{store}/demo" if store else str(home / "lake")
        lake = LakeResource(root, "sandbox", home=home)
        with progress_bars(console) as progress, instance_at(home / "dagster", say) as instance:
            summaries = sync_all(lean, lake, progress, instance=instance)
        console.print(summary_table(summaries))
        with instance_at(home / "dagster", say) as instance:
            _one_more(sandbox, lean, lake, instance)
    with connect(lake.lake()) as connection:
        for name in _SAMPLES:
            title, query = QUERIES[name].split("\n", 1)
            say(f"\n{title.removeprefix('-- ')}", style="bold")
            say(query.strip(), style="dim")
            show(connection.execute(query), console)
        held = connection.execute("select count(*) from raw.transactions").fetchone()
    command = _short(Path(sys.argv[0]).absolute())
    of_demo = f"LEANHOUSE_LAKE={root} {command}" if store else command
    skipped = sum(summary.pulls.get(Outcome.SKIPPED, 0) for summary in summaries)
    say(
        "\nNext:\n"
        f'  {of_demo} query --home {_short(home)} "from dim_accounts limit 5"\n'
        f"  {of_demo} status --home {_short(home)}    what is wrong at which bank, and what to do\n"
        f"  {command} demo    the same again: it reads only what is new\n"
        f"  {command} dev     Dagster's UI over the offline Lean\n"
        "  README.md    how to connect a real application at Lean\n"
        f"\n{len(STREAMS)} streams, {held[0] if held else 0:,} transactions in the warehouse,"
        f" {skipped} pulls skipped, {time.monotonic() - started:.0f} s."
    )


def settings_of(sandbox: Sandbox, server: Server, *, requests_per_second: int) -> dict[str, str]:
    """Settings, by field, of a client of the offline Lean."""
    return {
        "region": "sa",
        "environment": "sandbox",
        "api_url": server.url,
        "token_url": server.token_url,
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "requests_per_second": str(requests_per_second),
    }


def _one_more(
    sandbox: Sandbox, lean: LeanResource, lake: LakeResource, instance: dg.DagsterInstance
) -> None:
    """Connect one more customer, and wait for the rows that webhooks announce."""
    say("\nOne more customer connects a bank, and the rows arrive by webhook", style="bold")
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
                f"select count(*) from raw.{name} where entity_id = $1", [made["entity_id"]]
            ).fetchone()
            for name in ("accounts", "transactions")
        }
    brought = " and ".join(f"{row[0] if row else 0} {name}" for name, row in rows.items())
    say(f"  {len(events)} events brought {brought} into the warehouse in {seconds:.1f} s")


def _certificates(issued: Any, fault: str | None) -> dict[str, str]:
    """Settings of the client certificate and the trust root, one of them wrong for a fault."""
    right = {
        "trust_root": str(issued.authority),
        "client_cert": str(issued.client_cert),
        "client_key": str(issued.client_key),
    }
    if fault is None:
        return right
    if fault == "no-client-certificate":
        return {"trust_root": right["trust_root"]}
    wrong = issued.expired() if fault == "expired-client-certificate" else issued.foreign()
    if fault == "foreign-server-certificate":
        # With another authority as the trust root, the server's certificate is not trusted.
        return {**right, "trust_root": str(issued.stranger)}
    return {**right, "client_cert": str(wrong.cert), "client_key": str(wrong.key)}


def _short(path: Path) -> Path:
    """The path, relative to the working folder if it is below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
