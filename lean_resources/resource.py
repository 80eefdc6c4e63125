"""LeanResource: one application at Lean, as steps of Dagster are given it."""

from lean_resources.client import Announced, LeanClient
from lean_resources.settings import LeanSettings

__all__ = ["LeanResource"]


class LeanResource:
    """One application at Lean.

    A plain object: Dagster shows every field of a configurable resource, and lets a run's
    configuration replace it. There is no field here that a page could show or a run could move.

    Args:
        settings: The settings; credentials may be missing until a client is asked for.
    """

    def __init__(self, settings: LeanSettings) -> None:
        self._settings = settings

    def settings(self) -> LeanSettings:
        """The settings, with everything that a request to Lean needs.

        Raises:
            ConfigError: Credentials or a required certificate are missing.
        """
        return self._settings.complete()

    def client(self, announced: Announced | None = None) -> LeanClient:
        """A client, to be opened with `async with`.

        Args:
            announced: Waits for results that Lean promised, as `LeanClient` takes it.

        Raises:
            ConfigError: As `settings`.
        """
        return LeanClient(self.settings(), announced=announced)
