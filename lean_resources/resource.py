"""LeanResource: an application at Lean, as a resource of Dagster."""

import copy
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from lean_resources.client import LeanClient
from lean_resources.paging import Announced
from lean_resources.session import Session
from lean_resources.settings import LeanSettings

Done = TypeVar("Done")


class LeanResource:
    """One application at Lean.

    A plain object, since Dagster shows every field of a configurable resource and lets a run's
    configuration replace it. This has no field that a page could show or a run could replace.

    Args:
        settings: The settings; credentials may be missing until a client is asked for.
        readers: Steps that may read at once, as for `LeanClient`.
    """

    def __init__(self, settings: LeanSettings, readers: int = 1) -> None:
        self._settings = settings
        self._readers = readers
        self._session: Session | None = None

    def settings(self) -> LeanSettings:
        """The settings, with everything that a request to Lean needs.

        Raises:
            ConfigError: Credentials or a required certificate are missing.
        """
        return self._settings.complete()

    def client(self, announced: Announced | None = None) -> LeanClient:
        """A client, to be opened with `async with`; the errors are those of `settings`."""
        return LeanClient(self.settings(), announced=announced, readers=self._readers)

    @contextmanager
    def for_run(self) -> Iterator[Self]:
        """The resource of one run: its steps share a client, which is closed with the run.

        Nothing is opened before a step asks Lean.
        """
        of_run = copy.copy(self)
        with Session(self.client) as of_run._session:  # noqa: SLF001 - of the same class
            yield of_run

    def run(
        self,
        work: Callable[[LeanClient], Coroutine[Any, Any, Done]],
        announced: Announced | None = None,
    ) -> Done:
        """Run work with the client of the run, or outside a run with a client of its own.

        Raises:
            ConfigError: As `settings`.
            LeanError: The work raised it.
        """
        if self._session is not None:
            return self._session.run(work, announced)
        with Session(self.client) as session:
            return session.run(work, announced)
