"""Commands that talk to Lean: sync, the receiver of webhooks, and doctor."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lean_resources.errors import LeanError
from pipelines.cli.app import fail, lake_of, not_listening
from pipelines.cli.console import plain_console, say

if TYPE_CHECKING:
    from lean_resources.client import LeanClient

_MOST_SKEW_SECONDS = 60


def sync(
    entity: Annotated[
        list[str] | None, typer.Option(help="Sync this entity only; can be repeated.")
    ] = None,
) -> None:
    """Read what is new at Lean, bring all tables up to date, and publish the warehouse."""
    from pipelines.cli.console import progress_bars, summary_table
    from pipelines.dagster_defs.in_process import SyncFailedError, instance_at, sync_all
    from pipelines.definitions import inbox, lake, lean, policy
    from pipelines.environment import settings

    console = plain_console()
    lake_of(None, is_written=True)
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
        raise fail(str(error)) from None
    console.print(summary_table(summaries))
    for summary in summaries:
        for reason, count in summary.unfit.items():
            say(f"warning    {count:,} records of {summary.stream} do not fit: {reason}")
    if any(summary.unfit for summary in summaries):
        say("           Their days count as unknown. The view quarantine lists them.")


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
    ahead = (dt.datetime.now(dt.UTC) - server_time).total_seconds()
    say(f"Lean       answers: {banks} banks; its clock differs from ours by {abs(ahead):.0f} s")
    if abs(ahead) > _MOST_SKEW_SECONDS:
        say(
            f"warning    this machine's clock is {abs(ahead):,.0f} s"
            f" {'ahead of' if ahead > 0 else 'behind'} Lean's: set it by NTP."
            " Data is ordered by Lean's clock, so nothing is lost"
        )
    lake = lake_of(None, is_written=True)
    say(f"lake       can be written: {lake.folder}")
    if (dagster_home := settings().home / "dagster").exists():
        from pipelines.dagster_defs.in_process import instance_at

        with instance_at(dagster_home, say):
            say(f"runs       no run of a dead process is left: {dagster_home}")


async def _ask(client: "LeanClient") -> tuple[int, dt.datetime]:
    """The number of banks that Lean lists, and Lean's time."""
    async with client:
        read = await client.read("banks", {"account_type": "PERSONAL"})
        return read.answers[0].envelope.records, await client.server_time()
