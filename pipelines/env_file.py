"""A .env file as a shell and as Dagster read it; where they differ, one of them is wrong."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from dotenv import dotenv_values

from lean_resources.errors import ConfigError
from pipelines.environment import KNOWN, Settings

_SECONDS = 10
_SCRIPT = 'set -a; . "$1"; env -0'


def problems_of(file: Path) -> list[str]:
    """What is wrong with a file of variables, one sentence each, without any value.

    The shell runs the file, as it does before each command; nothing of this process's environment
    is handed to it.
    """
    try:
        # As Dagster does it.
        by_dagster = {name: value or "" for name, value in dotenv_values(file).items()}
    except (OSError, ValueError) as error:
        return [f"{file.name} cannot be read: {type(error).__name__}"]
    by_shell, line = _by_shell(file)
    problems = [*_differences(file.name, by_dagster, by_shell)]
    if line is not None:
        problems.append(
            f"a shell cannot read line {line} of {file.name}: write NAME=value there, without"
            " spaces around the equals sign, and odd values between single quotes"
        )
    readings = {"Dagster": by_dagster, "a shell": by_shell}
    for reader, reading in readings.items():
        try:
            Settings.load({name: reading[name] for name in reading if _is_ours(name)})
        except ConfigError as error:
            problems.append(f"{file.name} as {reader} reads it: {error.message}")
            break
    return problems


def _differences(
    name: str, by_dagster: Mapping[str, str], by_shell: Mapping[str, str]
) -> Iterator[str]:
    for variable in sorted(filter(_is_ours, by_dagster.keys() | by_shell.keys())):
        read = by_dagster.get(variable, "").strip(), by_shell.get(variable, "").strip()
        if read[0] != read[1]:
            yield (
                f"{variable} in {name} is another value for a shell than for Dagster: put the"
                " value between single quotes, without a single quote, ${ or a doubled backslash"
                " inside"
            )


def _is_ours(name: str) -> bool:
    return name in KNOWN or name.upper().startswith("LEAN")


def _by_shell(file: Path) -> tuple[dict[str, str], str | None]:
    """What a shell reads, and the first line that it cannot read."""
    ended = subprocess.run(  # noqa: S603 - the file that the operator runs before each command
        ["/bin/sh", "-c", _SCRIPT, "sh", str(file.resolve())],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=_SECONDS,
        env={"PATH": os.defpath, "HOME": str(Path.home()), "LC_ALL": "C"},
    )
    pairs = (entry.partition("=") for entry in os.fsdecode(ended.stdout).split("\0") if entry)
    # Only the number: what else a shell says may quote a value.
    complaint = re.search(r": (?:line )?(\d+): ", os.fsdecode(ended.stderr))
    line = complaint[1] if complaint else "one" if ended.returncode else None
    return {name: value for name, _, value in pairs}, line
