"""Who writes to an object store now: a sign per writer, which a thread renews.

Nobody can lock an object. So a writer is said to live if its sign was renewed within ten minutes by
the store's own clock, which is the age of an object that the asker has just written. A process that
did not run for long may be taken for killed while its files wait for a commit, so it must not write
any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from lean_resources.errors import ConfigError, MachineError
from pipelines.lake.folders import WRITERS
from pipelines.lake.ids import new_id
from pipelines.lake.objects import Objects, UnansweredError
from pipelines.lake.writers import Writer, Writers

DEAD_SECONDS = 600.0
"""Age of a sign from which its writer counts as killed."""
_RENEW_SECONDS = 60.0
_CLOCK = WRITERS / "clock"
_log = logging.getLogger(__name__)


def awake() -> float:
    """Seconds on a clock that also runs while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SignedWriters(Writers):
    """Writers to one object store.

    Args:
        objects: The store.
        settled: Makes a request until it is answered.
        renew_seconds: Time between renewals of a sign.
        clock: Seconds, also of the time in which this machine sleeps.
    """

    def __init__(
        self,
        objects: Objects,
        settled: Callable[[Callable[[], object]], object],
        *,
        renew_seconds: float = _RENEW_SECONDS,
        clock: Callable[[], float] = awake,
    ) -> None:
        self._objects, self._settled = objects, settled
        self._renew_seconds, self._clock = renew_seconds, clock
        self._running: set[_SignedWriter] = set()

    def start(self) -> Writer:
        """Begin to write, with a new id."""
        writer = _SignedWriter(self)
        self._settled(lambda: self.renew(writer.id))
        self._running.add(writer)
        writer.keep(self._renew_seconds, self._clock)
        return writer

    def known(self) -> tuple[set[str], set[str]]:
        """Ids of the writers that are running, and of those that were killed."""
        found: list[tuple[str, float]] = []

        def look() -> None:
            self.renew(_CLOCK.name)
            now = self._objects.head(str(_CLOCK))[0].written_at
            signs = self._objects.list(str(WRITERS), is_deep=False)
            found[:] = [(one.key.name, now - one.written_at) for one in signs]

        self._settled(look)
        ages = [(name, age) for name, age in found if name != _CLOCK.name]
        living = {name for name, age in ages if age <= DEAD_SECONDS}
        return living, {name for name, _ in ages} - living

    def forget(self, killed: Iterable[str]) -> None:
        """Delete the signs of killed writers, after what they left."""
        names = [str(WRITERS / name) for name in killed]
        if names:
            self._settled(lambda: self._objects.delete(names))

    def check(self) -> None:
        """Check that nobody may take a writer of this process for killed.

        Raises:
            MachineError: One did not renew its sign for too long.
        """
        if any(writer.is_late() for writer in tuple(self._running)):
            raise MachineError(
                "this process did not run, or had no answer from the object store, for more than"
                f" {DEAD_SECONDS / 120:.0f} minutes: others may have deleted what it has not"
                " committed",
                code="WRITER_PAUSED",
                remedy="Run again: what was committed is kept.",
            )

    def renew(self, writer_id: str) -> None:
        """Write a sign anew."""
        self._objects.put(str(WRITERS / writer_id), b"", is_new=False, about={})

    def stop(self, writer: _SignedWriter) -> None:
        """Take a writer for one that is not running."""
        self._running.discard(writer)


class _SignedWriter(Writer):
    def __init__(self, writers: SignedWriters) -> None:
        self.id = new_id()
        self._writers = writers
        self._is_over = threading.Event()
        self._is_late = False

    def keep(self, renew_seconds: float, clock: Callable[[], float]) -> None:
        """Renew the sign from now on."""
        self._clock, self._renewed_at = clock, clock()
        renew = threading.Thread(target=self._renew, args=(renew_seconds,), daemon=True)
        renew.start()

    def is_late(self) -> bool:
        """Whether the sign was not renewed for so long that it may soon, or did, look dead."""
        # For ever: others may have acted meanwhile.
        self._is_late |= self._clock() - self._renewed_at > DEAD_SECONDS / 2
        return self._is_late

    def end(self) -> None:
        self.leave()
        try:
            self._writers.forget([self.id])
        except MachineError as error:
            # Its files count by now, so a sign that stays does no harm.
            _log.warning("the sign of a writer stays: %s", error.message)

    def leave(self) -> None:
        self._is_over.set()
        self._writers.stop(self)

    def _renew(self, seconds: float) -> None:
        while not self._is_over.wait(seconds) and not self.is_late():
            began = self._clock()
            try:
                self._writers.renew(self.id)
            except (UnansweredError, ConfigError):
                continue
            self._renewed_at = began
