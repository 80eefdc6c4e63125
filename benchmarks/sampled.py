"""Where the time of a pull goes: stacks of all threads, looked at a few hundred times a second.

A sample counts for the innermost function of this project that is on the stack, with the call of
another library it waits for, so that work outside Python's lock shows under who asked for it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import pull_leanhouse

_OWN = tuple(
    str(Path(__file__).resolve().parent.parent / name) + "/"
    for name in ("lean_resources", "pipelines")
)
_INTERVAL_SECONDS = 0.003
_IDLE = {"select", "wait", "_worker", "poll"}


class _Sampler(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.counts: dict[str, Counter[str]] = {"event loop": Counter(), "writer": Counter()}
        self.samples = 0
        self.ended = False

    def run(self) -> None:
        main = threading.main_thread().ident
        while not self.ended:
            time.sleep(_INTERVAL_SECONDS)
            self.samples += 1
            for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the one way there is
                if ident != self.ident:
                    where = _where(frame)
                    if where is not None:
                        self.counts["event loop" if ident == main else "writer"][where] += 1


def _where(frame: FrameType) -> str | None:
    """The innermost function of this project, and what it called; None for an idle thread."""
    called = ""
    one: FrameType | None = frame
    while one is not None:
        code = one.f_code
        if code.co_filename.startswith(_OWN):
            return f"{Path(code.co_filename).stem}.{code.co_qualname}{called}"
        if not called:
            if code.co_name in _IDLE:
                return None
            called = f" → {code.co_name}"
        one = one.f_back
    return f"other{called}"


def main() -> None:
    """Pull once under the sampler and print the shares of each thread."""
    sampler = _Sampler()
    sampler.start()
    pull_leanhouse.main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    sampler.ended = True
    sampler.join()
    for thread, counts in sampler.counts.items():
        print(f"\n{thread}: busy {counts.total() / sampler.samples:.0%} of the samples")
        for where, count in counts.most_common(25):
            print(f"{count / sampler.samples:6.1%}  {where}")


if __name__ == "__main__":
    main()
