"""Manifests: which files of models count, and what the checks found.

Files of models are only added. A build names those that count in a new manifest, which it creates
last and only if its number is free. Readers therefore see the result of one whole build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from pipelines.lake.digests import DamageError, sealed, unsealed
from pipelines.lake.folders import MANIFESTS
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models.model import Models

_DIGITS = 10
"""Of a manifest's number. Names from before format 3 of the lake are longer."""

_Value = TypeVar("_Value")

PART_FORM = 2
"""The form of the files of parts that builds write: plain Parquet that every engine reads."""


class Part(msgspec.Struct, frozen=True):
    """Rows of a model that are kept in one file: all of them, or those of one month.

    Args:
        file: Path of the file below the lake's folder; empty where there are no rows.
        fingerprint: Hash of the SQL and of what it read.
        content_id: Identifies the rows, in any order. A part that is rebuilt with the same rows
            keeps it, so that models that read the part are not rebuilt.
        rows: Number of rows.
        bytes: Size of the file; 0 without a file, or where a format before 3 wrote it.
        crc32: Checksum of the file.
        form: Form of the file; 1 before format 4 of the lake. A build replaces other forms.
    """

    file: str
    fingerprint: str = msgspec.field(name="print")
    content_id: str = msgspec.field(name="content")
    rows: int
    bytes: int = 0
    crc32: int = 0
    form: int = 1


class Delta(msgspec.Struct, frozen=True):
    """All rows of accounts that changed after the last whole build; no earlier ones count.

    Args:
        ids: File of the ids of these accounts and of all that belongs together with them.
        parts: All their rows, by model; other models are not concerned.
        told_by: The column with an id that tells whose a row is, by model.
        accounts: How many accounts these are.
        as_of: The lake's clock when they were built, in seconds since 1970.
    """

    ids: Part
    parts: dict[str, Part]
    told_by: dict[str, str]
    accounts: int
    as_of: float | None


class CheckResult(msgspec.Struct, frozen=True):
    """What a check found.

    Args:
        fingerprint: Hash of the SQL and of what it read.
        offenders: Number of rows that break the claim.
        shown: The first few of them, as text by column.
        months: The result of each month (YYYY-MM), for a check that runs month by month.
    """

    fingerprint: str = msgspec.field(name="print")
    offenders: int
    shown: list[dict[str, str]]
    months: dict[str, CheckResult] = {}


class Manifest(msgspec.Struct):
    """Files that count and results of checks.

    Args:
        number: One more than that of the manifest before; 0 before format 3 of the lake.
        commits: The most commits that a build ever found in the ledger. Fewer mean a loss.
        parts: Parts by model and by name: the month, which is empty for a model that is not kept by
            month, and the bucket.
        checks: Results by model and by name of the check.
        restores: Number of the build that a rollback let count again; 0 for a build.
        deltas: Rows of accounts that changed after the parts were built, the latest last.
        seen: Files of the ledger whose commits parts and deltas know; empty if not all parts know
            the same.
        recipe: Hash of what all parts were made by, besides rows; empty if not all were built.
        as_of: The lake's clock when the parts were built, in seconds since 1970.
        buckets: Number of buckets of accounts in which models that come apart are kept. Where there
            are several, names of their parts end with the bucket (`2026-03/005-of-016`).
    """

    number: int = 0
    commits: int = 0
    parts: dict[str, dict[str, Part]] = {}
    checks: dict[str, dict[str, CheckResult]] = {}
    restores: int = 0
    deltas: list[Delta] = []
    seen: list[str] = []
    recipe: str = ""
    as_of: float | None = None
    buckets: int = 1

    def files(self) -> Iterator[tuple[str, Part]]:
        """All files that count, each with its model; `changed_ids` for those of ids."""
        for name, parts in self.parts.items():
            yield from ((name, part) for part in parts.values() if part.file)
        for delta in self.deltas:
            yield "changed_ids", delta.ids
            yield from ((name, part) for name, part in delta.parts.items() if part.file)

    def bucket(self, number: int, count: int) -> dict[str, dict[str, Part]]:
        """Parts of one of so many buckets, without the bucket in their names."""
        end = bucket_name(number, count)
        return {
            model: {name.removesuffix(end): one for name, one in parts.items() if end in name}
            for model, parts in self.parts.items()
        }

    def contents(self, model: str) -> list[tuple[str, str]]:
        """What identifies a model's rows: equal where these are the same files."""
        found = [(name, part.content_id) for name, part in self.parts.get(model, {}).items()]
        return found + [
            (delta.ids.content_id, delta.parts[model].content_id)
            for delta in self.deltas
            if model in delta.parts
        ]


def bucket_name(number: int, count: int) -> str:
    """The end of a part's name that tells its bucket."""
    return f"/{number:03}-of-{count:03}"


def month_of(name: str) -> str:
    """The month (YYYY-MM) of a part by its name; empty for a model that is not kept by month."""
    return name.partition("/")[0]


def newest_manifest(lake: Lake) -> Key | None:
    """The key of the manifest that counts, or None before the first build."""
    return open_newest(lake)[0]


def current_manifest(lake: Lake) -> Manifest:
    """The manifest that counts; an empty one before the first build."""
    return open_newest(lake)[1]


def open_newest(lake: Lake) -> tuple[Key | None, Manifest]:
    """The manifest with the highest number, and its key.

    Names from before format 3 of the lake, which came from this machine's clock, are older than
    any number. A damaged manifest is passed over, so that the next build repairs it.
    """
    keys = [file.key for file in lake.storage.list(f"{MANIFESTS}/*.json")]
    for key in sorted(keys, key=lambda key: (is_numbered(key), key.stem), reverse=True):
        with contextlib.suppress(DamageError):
            return key, read_manifest(lake, key)
    return None, Manifest()


def read_manifest(lake: Lake, key: Key) -> Manifest:
    """The manifest in a file.

    Raises:
        DamageError: The file is damaged.
    """
    try:
        return msgspec.json.decode(unsealed(lake.storage.read(key)), type=Manifest)
    except (ValueError, msgspec.DecodeError):
        raise DamageError(f"{key} cannot be read") from None


def named_now(manifest: Manifest, models: Models) -> Manifest:
    """A manifest without models that are gone, and with the names that models have now."""
    known = {*manifest.parts, *manifest.checks}
    then = {
        model.name: model.formerly
        if model.formerly in known and model.name not in known
        else model.name
        for model in models
    }

    def renamed(found: Mapping[str, _Value]) -> dict[str, _Value]:
        return {now: found[old] for now, old in then.items() if old in found}

    return msgspec.structs.replace(
        manifest,
        parts=renamed(manifest.parts),
        checks=renamed(manifest.checks),
        deltas=[
            msgspec.structs.replace(one, parts=renamed(one.parts), told_by=renamed(one.told_by))
            for one in manifest.deltas
        ],
    )


def keep_newer(lake: Lake, manifest: Manifest, base: Key | None, writer_id: str) -> bool:
    """Write a build's manifest under a new number; False if another was published after `base`.

    Args:
        base: Key of the manifest that the build started from.
        writer_id: Id of the process that writes.
    """
    manifest.number, manifest.restores = next_number(lake), 0
    if newest_manifest(lake) != base:
        return False
    try:
        keep_manifest(lake, manifest, writer_id)
    except FileExistsError:
        return False
    return True


def next_number(lake: Lake) -> int:
    """A number higher than that of any manifest, damaged manifests included."""
    keys = (file.key for file in lake.storage.list(f"{MANIFESTS}/*.json"))
    return max((int(key.stem) for key in keys if is_numbered(key)), default=0) + 1


def is_numbered(key: Key) -> bool:
    """Whether a manifest has a number: those from before format 3 have none."""
    return len(key.stem) == _DIGITS


def key_of(number: int) -> Key:
    """The key of the manifest with a number."""
    return MANIFESTS / f"{number:0{_DIGITS}}.json"


def keep_manifest(lake: Lake, manifest: Manifest, writer_id: str) -> None:
    """Write a manifest. From then on the files that it names count, and no others.

    Raises:
        FileExistsError: Another process has written a manifest with this number.
    """
    lake.format.carry_forward()
    key = key_of(manifest.number)
    content = sealed(msgspec.json.encode(manifest).decode()).encode()
    if not lake.storage.create(key, content, writer_id):
        raise FileExistsError(str(key))
