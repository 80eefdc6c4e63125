"""The command that packs what a report of a fault needs."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.app import Home
from pipelines.cli.commands.status import look
from pipelines.cli.console import say
from pipelines.environment import settings


def support_bundle(
    file: Annotated[Path, typer.Argument(help="The zip file to write; it must not exist yet.")],
    home: Home = None,
) -> None:
    """Pack versions, settings, health and counts for a report of a fault.

    The file holds no personal value and no secret: it is searched for them before it is written.
    docs/operate.md lists its parts. Lean is not asked.
    """
    import msgspec

    from pipelines.operate.bundle import write_bundle

    configured = settings().at(home)
    parts = write_bundle(file, configured, lambda: msgspec.to_builtins(look(configured)))
    say(f"{file}: {', '.join(parts)}. No personal value and no secret was found in it")
