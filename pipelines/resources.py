"""What assets are given besides Lean and the policy: the lake, and somebody to tell of progress."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from lean_resources.errors import UnavailableError
from pipelines.bell import Bell
from pipelines.keys import SANDBOX_KEY, checked_key
from pipelines.lake import Lake

if TYPE_CHECKING:
    from lean_resources.inbox import Inbox

__all__ = ["InboxResource", "LakeResource", "Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Told the stream, how many series of requests are done, and of how many."""


def silent(_stream: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake of one environment."""

    root: str = Field(description="Folder that holds one lake per environment.")
    environment: str = Field(description="sandbox or production; part of every path.")
    hash_key: str = Field(
        default=SANDBOX_KEY, repr=False, description="Key of hashed account numbers."
    )
    pii: bool = Field(
        default=False, description="Whether the warehouse has a schema with personal columns."
    )

    def key(self) -> str:
        """The key of hashed account numbers.

        Raises:
            ConfigError: It is the one that everybody knows, or too weak, in production.
        """
        return checked_key(self.hash_key, self.environment)

    def lake(self) -> Lake:
        """The lake."""
        return Lake(Path(self.root), self.environment)


class InboxResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The inbox of webhooks of one environment."""

    # repr=False: the URL of a database holds its password.
    url: str = Field(
        default="",
        description="Where it lies, as an SQLAlchemy URL; empty where webhooks are not set up.",
        repr=False,
    )
    environment: str = Field(
        default="sandbox", description="sandbox or production; part of its tables' names."
    )

    def inbox(self) -> "Inbox | None":
        """The inbox, its tables created where they are missing; None without webhooks.

        Raises:
            ConfigError: The URL is none of a database that is supported.
            UnavailableError: The database does not answer.
        """
        return _opened(self.url, self.environment) if self.url else None

    def bell(self) -> Bell:
        """Wakes whoever waits for an event; without an inbox to look into, time does.

        Raises:
            ConfigError: As `inbox`.
        """
        try:
            return Bell(self.inbox())
        except UnavailableError:
            return Bell(None)


@functools.cache
def _opened(url: str, environment: str) -> "Inbox":
    """The inbox of a URL, opened once per process."""
    from lean_resources.inbox import Inbox  # noqa: PLC0415 - whoever has none need not wait for it

    inbox = Inbox(url, environment)
    inbox.create()
    return inbox
