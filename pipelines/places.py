"""Places: the one registry of where bytes of a home can lie, and what lies there.

A home is the folder of the state (LEANHOUSE_HOME). Vacuum, fsck and the permission test walk this
registry; a file of a home that no place describes fails a test. Whoever lets a new kind of file
into a home adds it here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lean_resources.streams import STREAMS

__all__ = ["PLACES", "Found", "Place", "find", "walk"]

_LAKE = "lake/(sandbox|production)/"
_STREAM = f"({'|'.join(STREAMS)})"
_PART = r"(\w+_on|month)=[\d-]+"
_NAME = r"\w[\w-]*"
_NOTHING = r"(?!)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A kind of file, and where files of it lie.

    Args:
        name: What it is called.
        doc: What it holds.
        is_personal: Whether personal values can be in it.
        files: Pattern of paths, below the home, of files that were finished.
        leftovers: The same of files that only count while their writer lives.
        outside: Where it lies, if that is not in a home.
    """

    name: str
    doc: str
    is_personal: bool
    files: str = _NOTHING
    leftovers: str = _NOTHING
    outside: str = ""


def _batch(name: str, doc: str, folder: str, *, is_personal: bool) -> Place:
    """A place to which batches add Parquet files, by day or month."""
    files = rf"{_LAKE}{folder}/{_PART}/{_NAME}\.parquet"
    return Place(
        name=name, doc=doc, is_personal=is_personal, files=files, leftovers=rf"{files}\.tmp"
    )


PLACES = (
    _batch("rows", "Typed rows of the streams.", _STREAM, is_personal=True),
    _batch("raw", "Answers of Lean as received.", f"raw/{_STREAM}", is_personal=True),
    _batch("quarantine", "Values that did not fit.", f"quarantine/{_STREAM}", is_personal=True),
    _batch(
        "superseded",
        "Earlier versions of rows, moved out of the way by a merge.",
        f"superseded/{_STREAM}",
        is_personal=True,
    ),
    _batch("ledger", "One row per pull: ids, counts and codes.", "pulls", is_personal=False),
    Place(
        name="checkpoints",
        doc="Copies of the ledger's files.",
        is_personal=False,
        files=rf"{_LAKE}checkpoints/[\w=-]+\.parquet",
        leftovers=rf"{_LAKE}checkpoints/{_NAME}\.parquet\.tmp",
    ),
    _batch("lost", "Files and pulls that are known to be lost.", "lost", is_personal=False),
    Place(
        name="set aside",
        doc="Files that fsck moved away, because they were damaged or not the lake's own.",
        is_personal=True,
        files=rf"{_LAKE}set_aside/.+",
    ),
    _batch("attempts", "What became of refreshes.", "attempts", is_personal=False),
    Place(
        name="spends",
        doc="Refreshes that were reserved, in numbered files.",
        is_personal=False,
        files=rf"{_LAKE}spends/log/\d{{10}}\.parquet",
        leftovers=rf"{_LAKE}spends/log/{_NAME}\.tmp",
    ),
    Place(
        name="marts",
        doc="Rows of models, one file per part.",
        is_personal=False,
        files=rf"{_LAKE}marts/{_NAME}/({_PART}/)?{_NAME}\.parquet",
        leftovers=rf"{_LAKE}marts/{_NAME}/({_PART}/)?{_NAME}\.parquet\.tmp",
    ),
    Place(
        name="manifests",
        doc="Which files of models count, and what checks found.",
        is_personal=False,
        files=rf"{_LAKE}manifests/{_NAME}\.json",
        leftovers=rf"{_LAKE}manifests/{_NAME}(\.json)?\.tmp",
    ),
    Place(
        name="warehouse",
        doc="The DuckDB file of analysts: views over the lake, and a copy of the ledger.",
        is_personal=False,
        files=rf"{_LAKE}leanhouse\.duckdb(\.wal.*)?",
        leftovers=rf"{_LAKE}leanhouse\.{_NAME}\.tmp.*",
    ),
    Place(
        name="publications",
        doc="Which files each published warehouse refers to.",
        is_personal=False,
        files=rf"{_LAKE}published/(\d{{10}}\.json|{_NAME}\.begun|lock)",
        leftovers=rf"{_LAKE}published/{_NAME}(\.begun)?\.tmp",
    ),
    Place(
        name="writers",
        doc="One empty file per process that writes, locked while it lives.",
        is_personal=False,
        files=rf"{_LAKE}writers/{_NAME}",
    ),
    Place(
        name="spill",
        doc="What DuckDB moves out of memory.",
        is_personal=True,
        leftovers=rf"{_LAKE}(marts/)?spill(-{_NAME})?/.+",
    ),
    Place(
        name="format",
        doc="The format number of the lake.",
        is_personal=False,
        files=rf"{_LAKE}\d+\.format",
        leftovers=rf"{_LAKE}\.doctor",
    ),
    Place(
        name="inbox",
        doc="Webhooks that arrived: ids and kinds of events.",
        is_personal=False,
        files=rf"inbox/{_NAME}\.db(-wal|-shm|-journal)?",
    ),
    Place(
        name="dagster",
        doc="Dagster's settings, runs, schedules, and logs of steps.",
        is_personal=False,
        files=r"dagster/(\w+\.(yaml|lock)|(history|schedules|storage|logs|processes"
        rf"|\.logs_queue|\.telemetry)(\.damaged-{_NAME})?/.+)",
        leftovers=r"dagster/(dagster\.yaml\.tmp|(creation|tmp\w+)/.+)",
    ),
    Place(
        name="policy",
        doc="The operator's policy.",
        is_personal=False,
        files=r"policy\.toml",
    ),
    Place(
        name="exports",
        doc="Results of queries.",
        is_personal=True,
        outside="the file that `leanhouse query --parquet` names",
    ),
    Place(
        name="analysts' copy",
        doc="A DuckDB file with the rows of marts, and its beginnings in leanhouse.duckdb.tmp.",
        is_personal=False,
        outside="the folder that `leanhouse publish --for analysts` names",
    ),
    Place(
        name="cache",
        doc="Models as they were parsed; no data.",
        is_personal=False,
        outside="sql/__pycache__ in the checkout",
    ),
    Place(
        name="explain",
        doc="Models that are built to explain an error, in a folder of their own.",
        is_personal=True,
        outside="the system's folder for temporary files",
    ),
    Place(
        name="demo",
        doc="The inbox of a demo, and its certificates; made-up data.",
        is_personal=False,
        outside="the system's folder for temporary files",
    ),
)
"""Every place. Those of a home are told apart by their patterns."""

_PATTERNS = [
    (re.compile(pattern), place, is_leftover)
    for place in PLACES
    for pattern, is_leftover in ((place.files, False), (place.leftovers, True))
]
_NESTED = re.compile(r"(demo|dev)/")
"""Homes of `leanhouse demo` and `leanhouse dev`, within the usual one."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a home.

    Args:
        path: Where it lies.
        place: Its place; None if the registry knows none.
        is_leftover: Whether it only counts while its writer lives.
        bytes: Its size.
        written_at: When it was written, in seconds since 1970, by this machine's clock.
    """

    path: Path
    place: Place | None
    is_leftover: bool
    bytes: int
    written_at: float


def find(path: str) -> tuple[Place | None, bool]:
    """The place of a path below a home, and whether a file there is a leftover of its writer."""
    path = _NESTED.sub("", path, count=1) if _NESTED.match(path) else path
    for pattern, place, is_leftover in _PATTERNS:
        if pattern.fullmatch(path):
            return place, is_leftover
    return None, False


def walk(folder: Path, at: str = "") -> Iterator[Found]:
    """Every file below a folder; what goes meanwhile is left out.

    Args:
        folder: A home, or a folder in it.
        at: Where the folder lies in its home, with a slash at its end; empty for the home.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                seen = file.lstat()
                place, is_leftover = find(f"{at}{file.relative_to(folder).as_posix()}")
                yield Found(file, place, is_leftover, seen.st_size, seen.st_mtime)
