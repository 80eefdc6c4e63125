"""Commands that look after the lake: compaction, fsck, vacuum and replay."""

from typing import Annotated

import typer

from lean_resources.errors import LeanError
from pipelines.cli.app import Home, fail, lake_of
from pipelines.cli.commands.tables import build_tables
from pipelines.cli.console import say
from pipelines.environment import settings


def compact(home: Home = None) -> None:
    """Merge small files of months that were read again; stored answers stay as they are."""
    from pipelines.lake.compaction import compact as merge
    from pipelines.models.loader import load
    from pipelines.publish.publications import published_warehouse
    from pipelines.publish.warehouse import publish

    lake = lake_of(home, is_written=True)
    done = merge(lake)
    if published_warehouse(lake.storage) is not None:
        publish(lake, load(), pii=settings().house.pii)
    say(
        f"{done.months} months and {done.pulls:,} pulls merged: {done.rows:,} rows and"
        f" {done.superseded:,} earlier versions. The next vacuum leaves {done.files_after:,}"
        f" of {done.files_before:,} files. {done.ledger_files:,} files of the ledger merged"
    )


def fsck(
    home: Home = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Repair from copies and from stored answers. What cannot be repaired is given up,"
            " so that the next sync reads it again.",
        ),
    ] = False,
) -> None:
    """Read every file of the lake, and list those that are damaged, missing or foreign."""
    from pipelines.operate.fsck import check
    from pipelines.operate.fsck import repair as mend

    lake = lake_of(home)
    report = check(lake)
    for finding in report.findings:
        say(str(finding))
    if repair and report.findings:
        for line in mend(lake):
            say(line)
        report = check(lake)
    say(
        f"{report.verified:,} files match their checksums. {report.unverified:,} more can be read,"
        " but have no checksum: they are logs, or an earlier format wrote them"
    )
    if report.findings:
        left = "are left" if repair else "were found: leanhouse fsck --repair repairs what it can"
        raise fail(f"{len(report.findings):,} damaged, missing or foreign files {left}")
    if repair:
        say("Run leanhouse sync: it reads what was lost again, and builds the tables.")


def vacuum(
    home: Home = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")
    ] = False,
    yes_delete: Annotated[
        int | None,
        typer.Option(
            min=1, help="Delete this number of unreferenced files; a refusal names the number."
        ),
    ] = None,
) -> None:
    """Delete leftovers of killed processes, and files merged or replaced over a day ago."""
    from pipelines.operate.vacuum import plan_vacuum
    from pipelines.operate.vacuum import vacuum as delete

    lake = lake_of(home)
    done = (
        plan_vacuum(lake, yes_delete=yes_delete) if dry_run else delete(lake, yes_delete=yes_delete)
    )
    for (place, reason), (files, size) in sorted(done.summary().items()):
        say(f"{place:<14} {files:>7,} files, {size:>15,} bytes  {reason}")
    say(f"{len(done.deletions):,} files {'would be ' if dry_run else ''}deleted")
    if done.refusal is not None:
        say(f"warning    vacuum would refuse: {done.refusal}")


def replay(
    stream: Annotated[
        list[str] | None, typer.Argument(help="Streams to decode again; all when left out.")
    ] = None,
    home: Home = None,
) -> None:
    """Decode the stored answers of Lean again, without asking Lean, and build the tables."""
    from lean_resources.streams import STREAMS
    from pipelines.lake.ids import new_id
    from pipelines.sync.policy import load
    from pipelines.sync.replay import replay as replay_stream

    unknown = sorted(set(stream or ()) - set(STREAMS))
    if unknown:
        raise fail(f"there is no stream {', '.join(unknown)}: choose from {', '.join(STREAMS)}")
    lake, run_id = lake_of(home, is_written=True), f"replay-{new_id()}"
    policy = load(settings().at(home).home / "policy.toml").policy
    for name in stream or STREAMS:
        try:
            done = replay_stream(STREAMS[name], lake, policy=policy, run_id=run_id)
        except LeanError as error:
            raise fail(f"{name}: {error.message}. {error.remedy}") from None
        without = f", {done.without_answers:,} without answers" if done.without_answers else ""
        say(f"{name:<20} {done.pulls:,} pulls, {done.rows:,} rows{without}")
    build_tables(lake)
