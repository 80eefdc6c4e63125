"""What assets are given besides Lean and the policy: the lake, and somebody to tell of progress."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
from pydantic import Field

from pipelines.lake import Lake

__all__ = ["LakeResource", "Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Told the stream, how many series of requests are done, and of how many."""


def silent(_stream: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake of one environment."""

    root: str = Field(description="Folder that holds one lake per environment.")
    environment: str = Field(description="sandbox or production; part of every path.")

    def lake(self) -> Lake:
        """The lake."""
        return Lake(Path(self.root), self.environment)
