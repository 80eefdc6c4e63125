"""Places: the one registry of where bytes of a home can lie, and what lies there.

A home is the folder of the state (LEANHOUSE_HOME). Vacuum, fsck and the permission test use this
registry. A file that no place describes fails a test, so every new kind of file is added here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lean_resources.streams import STREAMS
from pipelines.lake.storage import Key, Storage

_LAKE = "lake/(sandbox|production)/"
_STREAM = f"({'|'.join(STREAMS)})"
_PART = r"(\w+_on|month)=[\d-]+"
_NAME = r"\w[\w-]*"
_NOTHING = r"(?!)"


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of file, and where files of it lie.

    Args:
        name: What it is called.
        doc: What it holds; `personal` where personal values can be in it.
        files: Pattern of paths, below the home, of files that were finished.
        leftovers: The same of files that are only of use while their writer runs.
    """

    name: str
    doc: str
    files: str = _NOTHING
    leftovers: str = _NOTHING


def _batch(name: str, doc: str, folder: str) -> Place:
    """A place to which batches add Parquet files, by day or month."""
    files = rf"{_LAKE}{folder}/{_PART}/{_NAME}\.parquet"
    return Place(name, doc, files, rf"{files}\.tmp")


PLACES = (
    _batch("rows", "Typed rows of the streams; personal.", _STREAM),
    _batch("raw", "Answers of Lean as received; personal.", f"raw/{_STREAM}"),
    _batch("quarantine", "Values that did not fit; personal.", f"quarantine/{_STREAM}"),
    _batch(
        "superseded",
        "Earlier versions of rows, moved out of the way by a merge; personal.",
        f"superseded/{_STREAM}",
    ),
    _batch("ledger", "One row per pull: ids, counts and codes.", "pulls"),
    Place(
        "checkpoints",
        "Copies of the ledger's files.",
        rf"{_LAKE}checkpoints/[\w=-]+\.parquet",
        rf"{_LAKE}checkpoints/{_NAME}\.parquet\.tmp",
    ),
    Place(
        "present",
        "The pulls of the ledger that can still matter, derived from it.",
        rf"{_LAKE}present/[\d-]+-[0-9a-f]{{8}}\.parquet",
        rf"{_LAKE}present/{_NAME}\.parquet\.tmp",
    ),
    _batch("lost", "Files and pulls that are known to be lost.", "lost"),
    Place(
        "set aside",
        "Files that fsck moved away, damaged or not of the lake; personal.",
        rf"{_LAKE}set_aside/.+",
    ),
    _batch("attempts", "What became of refreshes.", "attempts"),
    Place(
        "spends",
        "Refreshes that were reserved, in numbered files.",
        rf"{_LAKE}spends/(log|slice=\d\d)/\d{{10}}\.parquet",
        rf"{_LAKE}spends/(log|slice=\d\d)/{_NAME}\.tmp",
    ),
    Place(
        "marts",
        "Rows of models, one file per part.",
        rf"{_LAKE}marts/{_NAME}/(\w+=[\d-]+/)?{_NAME}\.parquet",
        rf"{_LAKE}marts/{_NAME}/(\w+=[\d-]+/)?{_NAME}\.parquet\.tmp",
    ),
    Place(
        "manifests",
        "Which files of models count, and what checks found.",
        rf"{_LAKE}manifests/{_NAME}\.json",
        rf"{_LAKE}manifests/{_NAME}(\.json)?\.tmp",
    ),
    Place(
        "plans",
        "Builds in buckets that are under way: ids with their buckets, and what was built.",
        rf"{_LAKE}plans/{_NAME}/\d{{4}}(-\d{{3,}})?\.(json|parquet)",
        rf"{_LAKE}plans/{_NAME}/{_NAME}(\.parquet)?\.tmp",
    ),
    Place(
        "warehouse",
        "The DuckDB file of analysts: views over the lake, and a copy of the ledger.",
        rf"{_LAKE}(leanhouse\.duckdb(\.wal.*)?|warehouse/\d{{10}}\.duckdb)",
        rf"{_LAKE}leanhouse\.{_NAME}\.tmp.*",
    ),
    Place(
        "publications",
        "Which files each published warehouse refers to.",
        rf"{_LAKE}published/(\d{{10}}\.json|{_NAME}\.begun|lock)",
        rf"{_LAKE}published/{_NAME}(\.begun)?\.tmp",
    ),
    Place(
        "iceberg",
        "Metadata of published Iceberg tables, with the least and greatest values of columns, the"
        " table of builds, and the catalogue where none is set.",
        rf"{_LAKE}iceberg/(catalogue\.db(-journal)?|kept\.json|lock|{_NAME}/(meta)?data/[\w.=-]+)",
        rf"{_LAKE}iceberg/kept\.json\.tmp",
    ),
    Place(
        "writers",
        "One empty file per process that writes, locked while it lives.",
        rf"{_LAKE}writers/{_NAME}",
    ),
    Place(
        "spill",
        "What DuckDB moves out of memory; personal.",
        leftovers=rf"{_LAKE}(marts/)?spill(-{_NAME})?/.+",
    ),
    Place(
        "format",
        "The format number of the lake.",
        rf"{_LAKE}\d+\.format",
        rf"{_LAKE}\.doctor(\.tmp|/.+)?",
    ),
    Place(
        "inbox",
        "Webhooks that arrived: ids and kinds of events.",
        rf"inbox/{_NAME}\.db(-wal|-shm|-journal)?",
    ),
    Place(
        "dagster",
        "Dagster's settings, runs, schedules, and logs of steps.",
        r"dagster/(\w+\.(yaml|lock)|(history|schedules|storage|logs|processes"
        rf"|\.logs_queue|\.telemetry)(\.damaged-{_NAME})?/.+)",
        r"dagster/(dagster\.yaml\.tmp|(creation|tmp\w+)/.+)",
    ),
    Place(
        "alerts",
        "Problems that were sent to people, until their end was sent.",
        rf"alerts/{_NAME}\.(json|lock)",
        rf"alerts/{_NAME}\.json\.tmp",
    ),
    Place("cache", "Local copies of an object store's files; personal.", r"cache/.+"),
    Place("policy", "The operator's policy.", r"policy\.toml"),
    Place(
        "reports",
        "Daily reports: counts, codes and instants.",
        rf"reports/(sandbox|production)/{_NAME}\.\w+\.html",
        rf"reports/(sandbox|production)/{_NAME}\.\w+\.html\.tmp",
    ),
)
"""Every place of a home; what lies elsewhere stands in docs/security.md."""

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
        key: Where it lies, below the folder that was walked.
        place: Its place; None if the registry knows none.
        is_leftover: Whether it is only of use while its writer runs.
        bytes: Its size.
        written_at: When it was written, in seconds since 1970, by this machine's clock.
    """

    key: Key
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


def walk(storage: Storage, at: str = "") -> Iterator[Found]:
    """Every file of a storage; what is deleted meanwhile is left out.

    Args:
        storage: A home, or a folder in it.
        at: Where the storage lies in its home, with a slash at its end; empty for the home.
    """
    for file in storage.walk():
        place, is_leftover = find(f"{at}{file.key}")
        yield Found(file.key, place, is_leftover, file.bytes, file.written_at)
