"""What assets use besides Lean and the policy: the lake, the inbox, and a report of progress."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import _loggers

from lean_resources.errors import UnavailableError
from lean_resources.resource import LeanResource
from pipelines import logs
from pipelines.dagster_defs.processes import end_with_run
from pipelines.keys import SANDBOX_KEY, checked_key
from pipelines.lake.lake import Lake
from pipelines.webhooks.event_waiter import EventWaiter

if TYPE_CHECKING:
    from pipelines.webhooks.inbox import Inbox

_LOG_SECONDS = 30.0

Progress = Callable[[str, int, int], None]
"""Called with the stream, the number of paged reads that are done, and the number of all."""


def log_runs_as_json() -> None:
    """Let all runs of this process log lines of JSON on standard error.

    A logger of the definitions would not do: a run uses it only if its configuration names it.
    """
    _loggers.create_console_logger = _json_console  # type: ignore[attr-defined]


def _json_console(name: str, level: str | int) -> logging.Logger:
    # As Dagster does it: of this run alone, and nothing reaches the loggers above it.
    logger = logging.Logger(name, level)  # noqa: LOG001
    handler = logging.StreamHandler()
    handler.setFormatter(logs.JsonLines())
    logger.addHandler(handler)
    return logger


def silent(_stream: str, _done: int, _total: int) -> None:
    """Report no progress."""


def logged(log: logging.Logger, what: str, progress: Progress) -> Callable[[int, int], None]:
    """Progress of a step that also goes to the log of its run, at most twice a minute."""
    started = said = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal said
        progress(what, done, total)
        now = time.monotonic()
        if now - said >= _LOG_SECONDS and 0 < done < total:
            said = now
            rate = done / (now - started)
            log.info(
                "%s: %d of %d reads, %.1f a second, %.0f s left",
                *(what, done, total, rate, (total - done) / rate),
            )

    return report


class LakeResource:
    """The lake of one environment.

    Args:
        root: Folder, or URL in an object store, that holds one lake per environment.
        environment: `sandbox` or `production`; part of every path.
        home: Folder of everything else that is kept; that around the lakes when left out.
    """

    def __init__(
        self,
        root: Path | str,
        environment: str,
        *,
        home: Path | None = None,
        hash_key: str = SANDBOX_KEY,
        pii: bool = False,
    ) -> None:
        self._lake = Lake(root, environment)
        self.home = home or Path(root).parent
        self._hash_key = hash_key
        self.pii = pii

    def hash_key(self) -> str:
        """The key of hashed account numbers.

        Raises:
            ConfigError: In production, the key is the sandbox's, which everybody knows, or weak.
        """
        return checked_key(self._hash_key, self._lake.environment)

    def lake(self) -> Lake:
        """The lake."""
        return self._lake


class InboxResource:
    """The inbox of webhooks of one environment.

    Args:
        url: Where it lies, as an SQLAlchemy URL; empty where webhooks are not set up.
    """

    def __init__(self, url: str = "", environment: str = "sandbox") -> None:
        self._url = url
        self._environment = environment

    def inbox(self) -> "Inbox | None":
        """The inbox, its tables created where they are missing; None without webhooks.

        Raises:
            ConfigError: The URL is not that of a supported database.
            UnavailableError: The database does not answer.
        """
        return _opened(self._url, self._environment) if self._url else None

    def waiter(self) -> EventWaiter:
        """Wakes whoever waits for an event; without an inbox, waiting ends by the clock.

        Raises:
            ConfigError: As `inbox`.
        """
        try:
            return EventWaiter(self.inbox())
        except UnavailableError:
            return EventWaiter(None)


def bound(**resources: Any) -> dict[str, dg.ResourceDefinition]:
    """Objects as Dagster's resources, by name, without a field of configuration.

    Dagster shows nothing of them, and refuses a run that brings configuration for a resource.
    """
    return {name: _bound(resource) for name, resource in resources.items()}


def _bound(resource: Any) -> dg.ResourceDefinition:
    # Dagster enters this once per run, or once per step where each step has its own process. It
    # also does so in the process that only starts steps, so nothing is opened here.
    @contextlib.contextmanager
    def held(context: dg.InitResourceContext) -> Iterator[Any]:
        if isinstance(resource, LeanResource):
            if context.run is not None and context.instance is not None:
                end_with_run(context.instance, context.run.run_id)
            with resource.for_run() as of_run:
                yield of_run
        else:
            yield resource

    return dg.ResourceDefinition(held, config_schema={})


@functools.cache
def _opened(url: str, environment: str) -> "Inbox":
    from pipelines.webhooks.inbox import Inbox  # noqa: PLC0415 - slow, and not needed without webhooks

    inbox = Inbox(url, environment)
    inbox.create()
    return inbox
