"""Commands that bring data in: sync, and the receiver of webhooks."""

import datetime as dt
from typing import Annotated

import typer

from pipelines.cli.app import fail, lake_of, not_listening
from pipelines.cli.commands.status import look
from pipelines.cli.console import plain_console, say
from pipelines.environment import settings


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
    from pipelines.cli.health_view import show_problems
    from pipelines.dagster_defs.in_process import SyncFailedError, instance_at, sync_all
    from pipelines.definitions import inbox, lake, lean, policy

    console = plain_console()
    lake_of(None, is_written=True)
    failure: SyncFailedError | None = None
    try:
        with (
            progress_bars(console) as progress,
            instance_at(settings().dagster_home, say) as instance,
        ):
            summaries = sync_all(
                lean, lake, progress, instance=instance,
                policy=policy, inbox=inbox, entity_ids=entity or (),
            )  # fmt: skip
    except SyncFailedError as error:
        failure, summaries = error, list(error.summaries)
    if summaries:
        console.print(summary_table(summaries))
    # A sync that succeeded still has some, with its runs.
    show_problems(look(settings()).problems)
    if failure is not None:
        raise fail(str(failure))


def _show_estimate(entity_ids: list[str] | None) -> None:
    from pipelines.cli.console import visible
    from pipelines.cli.health_view import plain_table
    from pipelines.sync.estimate import REFRESH, estimate
    from pipelines.sync.policy import load

    lake, policy = lake_of(None), load(settings().home / "policy.toml").policy
    found = estimate(lake, policy, dt.datetime.now(dt.UTC), entity_ids)
    table = plain_table(("stream", "bank", "reads", "requests", "minutes"))
    for one in found:
        counts = (f"{one.reads:,}", f"{one.requests:,}", f"{one.seconds / 60:.1f}")
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


def webhooks() -> None:
    """Receive Lean's webhooks until interrupted, as the LEAN_WEBHOOK_ variables say."""
    from lean_resources.errors import ConfigError
    from pipelines.webhooks.inbox import Inbox
    from pipelines.webhooks.receiver import PATH, listener, running, server

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
    with listening, running(receiver, listening) as thread:
        thread.join()
    if not receiver.started:
        raise fail(f"the receiver at {where} did not start; the lines above say why")
