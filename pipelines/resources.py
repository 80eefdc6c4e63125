"""What assets are given besides Lean: the lake, the policy, and somebody to tell of progress."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
from pydantic import Field

from pipelines.lake import Lake
from pipelines.policy import Policy

__all__ = ["LakeResource", "Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Told the stream, how many series of requests are done, and of how many."""


def silent(_stream: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake of one environment, and how eagerly it is filled."""

    root: str = Field(description="Folder that holds one lake per environment.")
    environment: str = Field(description="sandbox or production; part of every path.")
    lookback_days: int = Field(
        default=30, description="Days after its end until which a month is read again."
    )
    longest_series_months: int = Field(
        default=12, description="Most months that one series of requests spans."
    )
    failure_threshold: float = Field(
        default=0.2, description="Share of failed pulls above which a run fails, from 0 to 1."
    )

    def lake(self) -> Lake:
        """The lake."""
        return Lake(Path(self.root), self.environment)

    def policy(self) -> Policy:
        """How eagerly to pull."""
        return Policy(
            lookback_days=self.lookback_days,
            longest_series_months=self.longest_series_months,
            failure_threshold=self.failure_threshold,
        )
