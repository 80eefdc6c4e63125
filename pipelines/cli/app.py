"""What all commands share: how they fail, and the home that they work on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from pipelines import logs
from pipelines.cli.console import plain_console, visible
from pipelines.cli.signals import received
from pipelines.environment import settings

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake

Home = Annotated[
    Path | None, typer.Option(help="Home folder; LEANHOUSE_HOME when left out, or else var.")
]
LOG = logging.getLogger("leanhouse")


class _FlagsWithoutValue:
    """Lists flags without a type in --help: `<bool>` looks like a value to give."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, of which flags show nothing beside their name."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Command(_FlagsWithoutValue, TyperCommand):
    """A command."""


class Group(_FlagsWithoutValue, TyperGroup):
    """All commands."""


homes: list[Path] = []
"""Homes that this process has opened; the last is named where an error names no file."""


def fail(message: str, error: BaseException | None = None) -> typer.Exit:
    """Print an error, or nothing after a signal; the exception that ends the command.

    Args:
        error: Its cause, of which a log in JSON has the class.
    """
    if (number := received()) is not None:
        return typer.Exit(128 + number)
    if logs.are_json():
        of_error = {"error_class": type(error).__name__} if error is not None else {}
        LOG.error("%s", message, extra=of_error)
        return typer.Exit(1)
    text = Text.assemble(("error", "red"), " ", visible(message, keeps="\n"))
    plain_console(stderr=True).print(text, soft_wrap=True)
    return typer.Exit(1)


def not_listening(host: str, port: int, error: OSError) -> typer.Exit:
    """As `fail`, for a server whose port is taken or not allowed."""
    reason = error.strerror or error
    return fail(f"cannot listen on {host}:{port}: {reason}; choose another port")


def lake_of(home: Path | None, *, is_written: bool = False) -> Lake:
    """The lake of a home.

    Args:
        home: The home; None means the one of the settings.
        is_written: Whether the command is going to write to it.

    Raises:
        MachineError: It cannot be read or, if `is_written`, not be written to.
    """
    from pipelines.lake.lake import Lake
    from pipelines.lake.permissions import check_readable, open_home

    of_home = settings().at(home)
    homes.append(of_home.home)
    for folder in of_home.folders:
        open_home(folder, settings().house.file_group)
    lake = Lake(of_home.lake, of_home.environment)
    check_readable(lake.folder)
    if is_written:
        lake.check_writable()
    return lake
