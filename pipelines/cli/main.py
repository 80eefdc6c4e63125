"""The command line: which commands there are, and what becomes of an error that none expects."""

import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lean_resources.errors import LeanError, MachineError
from lean_resources.machine import machine_error
from pipelines import logs
from pipelines.cli.app import LOG, Command, Group, fail, homes
from pipelines.cli.commands.alert import alert
from pipelines.cli.commands.doctor import doctor
from pipelines.cli.commands.export import export
from pipelines.cli.commands.ingest import sync, webhooks
from pipelines.cli.commands.offline import demo, dev, sandbox
from pipelines.cli.commands.report import report
from pipelines.cli.commands.status import status
from pipelines.cli.commands.support_bundle import support_bundle
from pipelines.cli.commands.tables import (
    SqlCommand,
    build,
    dictionary,
    publish,
    query,
    warehouse,
)
from pipelines.cli.commands.upkeep import compact, fsck, replay, vacuum
from pipelines.cli.console import plain_console, say
from pipelines.cli.examples import EXAMPLES
from pipelines.cli.signals import end_on_signals, received
from pipelines.environment import log_format, settings

app = typer.Typer(cls=Group, no_args_is_help=True, pretty_exceptions_enable=False)
_GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Without credentials": (demo, sandbox, dev),
    "Lean": (sync, webhooks, doctor),
    "Tables": (build, publish, export, warehouse, query, dictionary),
    "On duty": (status, alert, report, support_bundle),
    "The lake": (compact, fsck, vacuum, replay),
}
for group, commands in _GROUPS.items():
    for command in commands:
        app.command(
            cls=SqlCommand if command is query else Command,
            rich_help_panel=group,
            # A line of its own each: Typer joins lines that follow each other.
            epilog="\n\n".join(("Examples:", *EXAMPLES[command.__name__.replace("_", "-")])),
        )(command)


def _say_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        say(f"leanhouse {version('leanhouse')}")
        raise typer.Exit


@app.callback()
def _open_home(
    version: Annotated[  # noqa: ARG001 - its callback ends the command
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Bank data from Lean in a warehouse that people trust.

    Without an account at Lean, start with demo. With credentials, start with
    doctor, then sync. Then status says what is wrong, and query reads tables.
    """
    from pipelines.lake.permissions import open_home

    logs.start(log_format())
    if "--help" not in sys.argv:
        homes.append(settings().home)
        for folder in settings().folders:
            open_home(folder, settings().house.file_group)


def main() -> None:
    """Run the command line; an error that has a remedy is one sentence and the remedy."""
    end_on_signals()
    try:
        app()
    except BaseException as error:
        if (number := received()) is not None:
            name = signal.Signals(number).name
            end = f"ended by {name}; what was committed is kept"
            LOG.warning(end) if logs.are_json() else plain_console(stderr=True).print(end)
            sys.exit(128 + number)
        if not isinstance(error, Exception):
            raise
        problem: LeanError | MachineError | None = error if isinstance(error, LeanError) else None
        if problem is None:
            from pipelines.lake.digests import damage_error

            home = str(homes[-1]) if homes else None
            problem = machine_error(error, home) or damage_error(error)
        if problem is None:
            if not logs.are_json():
                raise
            LOG.critical("ended by an unexpected error", exc_info=True)
            sys.exit(1)
        fail(f"{problem.message}\n      {problem.remedy}", problem)
        sys.exit(1)
