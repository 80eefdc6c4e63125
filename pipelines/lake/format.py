"""The format number of a lake: which code may read and write it.

A lake of an older format opens, and the next write carries it forward. A lake of a newer format is
refused, because this code would not see what the newer code wrote.

The number is the name of a marker file, created only if it is absent; the highest one counts. A
lake without a marker has format 1. docs/formats.md says what each format changed.
"""

from __future__ import annotations

from pathlib import Path

from lean_resources.errors import ConfigError

__all__ = ["FORMAT", "LakeFormat"]

FORMAT = 3
"""The format that this code writes."""

_SUFFIX = ".format"


class LakeFormat:
    """The format of one lake.

    Args:
        folder: The lake's folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_present = False

    @property
    def number(self) -> int:
        """The format of the lake as it lies there."""
        names = [file.stem for file in self._folder.glob(f"*{_SUFFIX}")]
        return max((int(name) for name in names if name.isdecimal()), default=1)

    def check(self) -> None:
        """Let this code read the lake.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
        """
        number = self.number
        if number > FORMAT:
            raise ConfigError(
                f"the lake has format {number} and this version of leanhouse reads formats up to"
                f" {FORMAT}: install the version that wrote the lake, or a later one"
            )

    def carry_forward(self) -> None:
        """Mark the lake as one of this code's format, before the first file of that format counts.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
        """
        if self._is_present:
            return
        self.check()
        self._folder.mkdir(parents=True, exist_ok=True)
        # An empty file needs no second name: it is whole as soon as it exists.
        (self._folder / f"{FORMAT}{_SUFFIX}").touch()
        self._is_present = True
