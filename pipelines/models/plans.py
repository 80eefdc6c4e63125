"""Plans of builds in buckets: files of the lake by which any process builds a bucket, or ends it.

A plan is written once, and so is the result of each of its buckets. Whoever starts again finds what
was built. Both are deleted when the build counts, or by a vacuum a day after the last of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from pipelines.lake.digests import sealed, unsealed
from pipelines.lake.folders import PLANS
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models.manifest import Part, bucket_name

_Value = TypeVar("_Value")


class Plan(msgspec.Struct, frozen=True):
    """A build of a lake at one instant, as each bucket and its end have to know it.

    Args:
        name: Whom it is for. A later plan of a name takes the place of the earlier ones.
        attempt: Its number among those of its name, from 1.
        base: Key of the manifest from before the build, or None.
        seen: Files of the ledger to read.
        count: In how many buckets components are divided.
        giants: Components with so many rows that each has a bucket of its own, after the others.
        rows_at_once: Rows of the lake that months of a model read together, at most.
        recipe: Hash of what rows depend on, besides the ledger.
        version: Of leanhouse.
    """

    name: str
    attempt: int
    base: str | None
    seen: list[str]
    count: int
    giants: int
    rows_at_once: int
    recipe: str
    version: str

    @property
    def numbers(self) -> range:
        """Numbers of its buckets."""
        return range(self.count + self.giants)

    @property
    def key(self) -> Key:
        """Of the file that it is kept in."""
        return PLANS / self.name / f"{self.attempt:04}.json"

    @property
    def ids(self) -> Key:
        """Of the file with the bucket of each id."""
        return self.key.with_suffix(".parquet")

    def end(self, number: int) -> str:
        """The end of a part's name that tells its bucket."""
        return bucket_name(number, self.count)

    def result(self, number: int) -> Key:
        """Of the file with what was built of a bucket."""
        return self.key.with_name(f"{self.attempt:04}-{number:03}.json")


class BucketBuilt(msgspec.Struct, frozen=True):
    """What a build did to the models of a bucket.

    Args:
        parts: Their parts, by model and by name, which does not end with the bucket.
        written: How many parts were rebuilt, by model.
        problems: Why models could not be built.
        files: Files that were written.
    """

    parts: dict[str, dict[str, Part]]
    written: dict[str, int]
    problems: dict[str, str]
    files: list[str]


def newest_plan(lake: Lake, name: str) -> Plan | None:
    """The plan of a name, as it was made last; None if there is none, or it is damaged."""
    found = [file.key for file in lake.storage.list(f"{PLANS}/{name}/*.json")]
    plans = [key for key in found if "-" not in key.stem]
    return _read(lake, max(plans), Plan) if plans else None


def result_of(lake: Lake, key: Key) -> BucketBuilt | None:
    """What was built of a bucket, by the key of its result; None if it was not, or is damaged."""
    return _read(lake, key, BucketBuilt)


def results(lake: Lake, name: str) -> Iterator[tuple[Key, BucketBuilt]]:
    """All that was built for plans of a name."""
    for file in lake.storage.list(f"{PLANS}/{name}/*-*.json"):
        if (result := result_of(lake, file.key)) is not None:
            yield file.key, result


def create(lake: Lake, key: Key, value: Plan | BucketBuilt, writer_id: str) -> bool:
    """Write a plan or a result; False if there is one already."""
    content = sealed(msgspec.json.encode(value).decode()).encode()
    return lake.storage.create(key, content, writer_id)


def end_plans(lake: Lake, name: str, named: set[Key]) -> None:
    """Delete the plans of a name, and what was built for them and does not count.

    Args:
        named: Files that count.
    """
    for key, result in results(lake, name):
        # First, because it must not name what is gone.
        lake.storage.delete(key)
        for file in map(Key, result.files):
            if file not in named:
                lake.storage.delete(file)
    for left in list(lake.storage.list(f"{PLANS}/{name}/*")):
        lake.storage.delete(left.key, with_folder=True)


def _read(lake: Lake, key: Key, kind: type[_Value]) -> _Value | None:
    try:
        return msgspec.json.decode(unsealed(lake.storage.read(key)), type=kind)
    except (FileNotFoundError, ValueError, msgspec.DecodeError):
        return None
