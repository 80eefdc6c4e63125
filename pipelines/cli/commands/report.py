"""The command that writes the daily report."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.app import Home, fail, lake_of
from pipelines.cli.console import say
from pipelines.environment import settings


def report(
    lang: Annotated[str, typer.Option(metavar="en|ar", help="English or Arabic.")] = "en",
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it here; in the home's reports when left out."),
    ] = None,
    day: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM-DD", help="A past day; the last 24 hours when left out."),
    ] = None,
    home: Home = None,
) -> None:
    """Write the daily report: what came, what it cost, and what is wrong, as one HTML file."""
    from pipelines.lake.folder import Folder
    from pipelines.lake.storage import Key
    from pipelines.operate.page import page
    from pipelines.operate.report import Language, keep
    from pipelines.operate.report import report as made_of
    from pipelines.operate.run_problems import recorded_runs
    from pipelines.sync.policy import load

    if lang not in list(Language):
        raise fail(f"there is no report in {lang}: choose from {', '.join(Language)}")
    if output is not None and output.is_dir():
        raise fail(f"{output} is a folder: name a file")
    lake = lake_of(home)
    configured = settings().at(home)
    policy, *_ = load(configured.home / "policy.toml")
    with recorded_runs(configured.dagster_home) as instance:
        found = made_of(lake, policy, day=_past(day), settings=configured, instance=instance)
    html = page(found, Language(lang))
    if output is not None:
        Folder(output.parent).put(Key(output.name), html.encode())
    else:
        storage = Folder(configured.home)
        [key] = keep(storage, lake.environment, found.day, {Language(lang): html})
        output = storage.local(key)
    say(f"{output}: {len(found.health.problems)} open problems")


def _past(day: str | None) -> dt.date | None:
    """A day that is over or today, as it was written."""
    from lean_resources.instants import BEFORE_LEAN
    from pipelines.operate.bank_health import midnight

    today = midnight(dt.datetime.now(dt.UTC)).date()
    try:
        found = dt.date.fromisoformat(day) if day else today
    except ValueError:
        raise fail("--day is not a date: write it as YYYY-MM-DD") from None
    if not BEFORE_LEAN <= found <= today:
        raise fail(f"--day is not between {BEFORE_LEAN} and {today}: choose such a day")
    return found
