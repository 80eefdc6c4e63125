"""The format number of a lake: which code may read and write it.

A lake of an older format opens, and the next write carries it forward. A lake of a newer format is
refused, because this code would not see what the newer code wrote.

The number is the name of a marker file, created only if it is absent; the highest one counts. A
lake without a marker has format 1. docs/formats.md says what each format changed.
"""

from __future__ import annotations

from lean_resources.errors import ConfigError
from pipelines.lake.storage import Key, Storage

FORMAT = 6
"""The format that this code writes."""

_SUFFIX = ".format"


class LakeFormat:
    """The format of one lake.

    Args:
        storage: Where the lake lies, which need not exist.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._is_present = False

    @property
    def number(self) -> int:
        """The format of the lake as it lies there."""
        names = [file.key.stem for file in self._storage.list(f"*{_SUFFIX}")]
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
        self._storage.mark(Key(f"{FORMAT}{_SUFFIX}"))
        self._is_present = True
