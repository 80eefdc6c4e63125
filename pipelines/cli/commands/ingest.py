"""Commands that talk to Lean: sync, the receiver of webhooks, and doctor."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lean_resources.errors import LeanError
from pipelines.cli.app import fail, lake_of, not_listening
from pipelines.cli.commands.watch import look
from pipelines.cli.console import plain_console, say

if TYPE_CHECKING:
    from lean_resources.client import LeanClient


def sync(
    entity: Annotated[
        list[str] | None, typer.Option(help="Sync this entity only; can be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be asked; ask and write nothing.")
    ] = False,
) -> None:
    """Read what is new at Lean, bring all tables up to date, and publish the warehouse."""
    if dry_run:
        _show_estimate(entity)
        return
    from pipelines.cli.console import progress_bars, summary_table
    from pipelines.dagster_defs.in_process import SyncFailedError, instance_at, sync_all
    from pipelines.definitions import inbox, lake, lean, policy
    from pipelines.environment import settings

    console = plain_console()
    lake_of(None, is_written=True)
    failure: SyncFailedError | None = None
    try:
        with (
            progress_bars(console) as progress,
            instance_at(settings().home / "dagster", say) as instance,
        ):
            summaries = sync_all(
                lean,
                lake,
                progress,
                instance=instance,
                policy=policy,
                inbox=inbox,
                entity_ids=entity or (),
            )
    except SyncFailedError as error:
        failure, summaries = error, list(error.summaries)
    if summaries:
        console.print(summary_table(summaries))
    _show_problems()
    if failure is not None:
        raise fail(str(failure))


def _show_estimate(entity_ids: list[str] | None) -> None:
    """Print what a sync would ask, by stream and bank."""
    from pipelines.cli.console import visible
    from pipelines.cli.health_view import plain_table
    from pipelines.environment import settings
    from pipelines.sync.estimate import REFRESH, estimate
    from pipelines.sync.policy import load

    lake, policy = lake_of(None), load(settings().home / "policy.toml").policy
    found = estimate(lake, policy, dt.datetime.now(dt.UTC), entity_ids)
    table = plain_table(("stream", "bank", "reads", "requests", "minutes"))
    for one in found:
        minutes = f"{one.seconds / 60:.1f}"
        counts = (f"{one.reads:,}", f"{one.requests:,}", minutes)
        table.add_row(one.stream, visible(one.bank_identifier or "-"), *counts)
    plain_console().print(table)
    refreshes = sum(one.reads for one in found if one.stream == REFRESH)
    say(
        f"\n{sum(one.requests for one in found):,} requests, {refreshes:,} refreshes,"
        f" {sum(one.seconds for one in found) / 60:.1f} minutes.\n"
        "The sync plans these reads from the lists that it read last: what customers\n"
        "have connected since is not in it, nor is building tables. Requests of a read\n"
        "and minutes are means of the last 14 days; without any, a read is 1 request.\n"
        "Nothing was asked or written."
    )


def _show_problems() -> None:
    """Print what is wrong after a sync, with its runs; a sync that succeeded still has."""
    from pipelines.cli.health_view import show_problems
    from pipelines.environment import settings

    show_problems(look(settings().home, settings().home / "dagster").problems)


def webhooks() -> None:
    """Receive Lean's webhooks until interrupted, as the LEAN_WEBHOOK_ variables say."""
    from lean_resources.errors import ConfigError
    from pipelines.environment import settings
    from pipelines.webhooks.inbox import Inbox
    from pipelines.webhooks.receiver import PATH, listener, run_server, server

    configured = settings().webhooks.complete()
    if not configured.secrets:
        raise ConfigError(
            "no webhook secret: set LEAN_WEBHOOK_SECRET from Lean's dashboard, Integration"
        )
    inbox = Inbox(settings().inbox_url, settings().environment)
    inbox.create()
    receiver = server(configured, inbox)
    scheme = "https" if configured.tls_cert else "http"
    where = f"{configured.host}:{configured.port}"
    try:
        listening = listener(configured)
    except OSError as error:
        raise not_listening(configured.host, configured.port, error) from None
    say(f"Webhooks of {settings().environment} at {scheme}://{where}{PATH}")
    with listening:
        run_server(receiver, [listening])
    if not receiver.started:
        raise fail(f"the receiver at {where} did not start; the lines above say why")


def doctor() -> None:
    """Check settings, certificates and the connection to Lean, without touching data."""
    from lean_resources.certificates import ignored_roots
    from lean_resources.client import LeanClient
    from lean_resources.proxies import proxy_of, shown
    from pipelines.env_file import problems_of
    from pipelines.environment import settings
    from pipelines.keys import checked_key

    if (file := Path(".env")).is_file() and (problems := problems_of(file)):
        raise fail("; ".join(problems))
    try:
        checked_key(settings().hash_key, settings().environment)
        client = LeanClient(settings().lean.complete())
        for reason in ignored_roots(client.settings):
            say(f"warning    {reason}; it is ignored")
        proxy = proxy_of(client.settings.api_url)
        way = f", through the proxy {shown(proxy)}" if proxy is not None else ""
        say(f"settings   valid, {client.settings.api_url}{way}")
        banks, server_time = asyncio.run(_ask(client))
    except LeanError as error:
        raise fail(f"{error.code}: {error.message}\n      {error.remedy}") from None
    ahead = dt.datetime.now(dt.UTC) - server_time
    seconds = abs(ahead.total_seconds())
    say(f"Lean       answers: {banks} banks; its clock differs from ours by {seconds:.0f} s")
    lake = lake_of(None, is_written=True)
    say(f"lake       can be written: {lake.folder}")
    if (dagster_home := settings().home / "dagster").exists():
        from pipelines.dagster_defs.in_process import instance_at

        with instance_at(dagster_home, say):
            say(f"runs       no run of a dead process is left: {dagster_home}")
    _show_warnings(ahead)


async def _ask(client: "LeanClient") -> tuple[int, dt.datetime]:
    """The number of banks that Lean lists, and Lean's time."""
    async with client:
        read = await client.read("banks", {"account_type": "PERSONAL"})
        return read.answers[0].envelope.records, await client.server_time()


_DOCTORS = {
    *("certificate_ending", "consent_ending", "consent_expired", "bank_off", "disk_nearly_full"),
}
"""Rules that doctor shows; others are of syncs, or it has looked by itself."""
_CONSENT_DAYS = 30


def _show_warnings(ahead: dt.timedelta) -> None:
    """Print problems of this machine, of banks and of consents; Lean's clock was asked now."""
    from pipelines.cli.health_view import show_problems
    from pipelines.environment import settings
    from pipelines.operate.bank_health import MOST_SKEW
    from pipelines.operate.health import clock_skew

    found = look(settings().home, settings().home / "dagster", consent_days=_CONSENT_DAYS)
    skew = [clock_skew(ahead)] if abs(ahead) > MOST_SKEW else []
    show_problems([*skew, *(one for one in found.problems if one.rule in _DOCTORS)])
