"""Rollback: the build before the one that counts counts again, under a number of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from lean_resources.errors import ConfigError
from pipelines.lake.digests import DamageError
from pipelines.lake.folders import MANIFESTS
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key, Stored
from pipelines.models.manifest import (
    Manifest,
    current_manifest,
    is_numbered,
    keep_manifest,
    next_number,
    read_manifest,
)


class RollbackError(ConfigError):
    """There is no build to go back to; nothing was changed."""

    remedy = "The tables stay as they are. leanhouse build builds them from the lake."


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did.

    Args:
        number: Number of the build that counts again.
        written_at: When that build ended, in seconds since 1970, by the storage's clock.
        rows: Rows before and after of each model whose rows are others now; 0 where it is not
            built.
    """

    number: int
    written_at: float
    rows: Mapping[str, tuple[int, int]]


def roll_back(lake: Lake) -> RolledBack:
    """Let the newest earlier build with other rows count again, as a new manifest.

    A rollback after a rollback goes further back, and a rollback of a later build goes back to what
    counted before it. The next build rebuilds whatever does not fit the lake and the models.

    Raises:
        RollbackError: There is no such build, its files were deleted, or another build ended
            meanwhile.
        DamageError: A file that it names has another size.
    """
    lake.format.check()
    with lake.storage.writers.start() as writer:
        number = next_number(lake)
        newest = current_manifest(lake)
        builds = _earlier(lake, newest.restores or newest.number)
        found = next((one for one in builds if _other_rows(newest, one[1])), None)
        if found is None:
            raise RollbackError("there is no earlier build with other rows")
        file, earlier = found
        back_to = earlier.restores or earlier.number
        _check_files(lake, earlier)
        # What the ledger had must not be forgotten: fewer commits mean a loss.
        restored = msgspec.structs.replace(
            earlier, number=number, commits=newest.commits, restores=back_to
        )
        try:
            keep_manifest(lake, restored, writer.id)
        except FileExistsError:
            raise RollbackError("another build ended meanwhile") from None
    return RolledBack(back_to, file.written_at, _other_rows(newest, earlier))


def _earlier(lake: Lake, number: int) -> Iterator[tuple[Stored, Manifest]]:
    """Manifests before a number that can be read, the newest first."""
    files = [one for one in lake.storage.list(f"{MANIFESTS}/*.json") if is_numbered(one.key)]
    for file in reversed(files):
        if int(file.key.stem) < number:
            with contextlib.suppress(DamageError):
                yield file, read_manifest(lake, file.key)


def _other_rows(now: Manifest, then: Manifest) -> dict[str, tuple[int, int]]:
    """Rows now and then of each model that does not hold the same rows in both."""
    found = {}
    for name in sorted({*now.parts, *then.parts}):
        if sorted(now.contents(name)) != sorted(then.contents(name)):
            parts = [one.parts.get(name, {}) for one in (now, then)]
            before, after = (sum(part.rows for part in one.values()) for one in parts)
            found[name] = before, after
    return found


def _check_files(lake: Lake, manifest: Manifest) -> None:
    """Return if all files of a build are there with their sizes."""
    for _, part in manifest.files():
        file = lake.storage.head(Key(part.file))
        if file is None:
            raise RollbackError(f"files of build {manifest.number} were deleted by a vacuum")
        if part.bytes and file.bytes != part.bytes:
            raise DamageError(f"{part.file} has {file.bytes:,} bytes and had {part.bytes:,}")
