"""Vacuum: deletes files that are no longer needed, each with a reason.

Evidence exists for files of a killed process, and for replaced files that no published warehouse
reads. A file without any reference may be the last data after a loss: vacuum deletes few of these,
and never answers as received.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lean_resources.errors import ConfigError
from pipelines.lake import present
from pipelines.lake.digests import DamageError
from pipelines.lake.folders import MANIFESTS, PLANS, SPILL
from pipelines.lake.lake import Lake
from pipelines.lake.places import Found, walk
from pipelines.lake.storage import Key
from pipelines.models.manifest import key_of, newest_manifest, read_manifest
from pipelines.models.plans import results
from pipelines.publish.publications import Publications, published_warehouse

_DAY_SECONDS = 86_400
_MOST_SHARE = 10
"""One file in this many may be deleted without evidence."""
_ID = re.compile(r"[0-9a-f]{32}")
_TYPED = {"rows", "superseded", "quarantine"}
_IN_FOLDERS = {"spill", "warehouse", "plans"}
"""Places whose leftovers have their own folder, which is deleted too."""
_LAST = ("manifests", "publications")
"""Deleted after the files that they name, so that a killed vacuum leaves its evidence."""


class Reason(StrEnum):
    """Why a file is deleted."""

    LEFT = "left unfinished by a process that ended"
    KILLED = "written by a process that was killed before it counted"
    MERGED = "merged into another file"
    REPLACED = "replaced by a later file"
    UNKNOWN = "not named by any ledger row or manifest"


class VacuumRefusedError(ConfigError):
    """Too many files would be deleted, or the ledger lacks commits; nothing was deleted."""

    remedy = (
        "Check that all folders of the lake exist: mount them, or restore them from a backup."
        " `leanhouse vacuum --dry-run` shows which files would be deleted."
    )


@dataclass(frozen=True, slots=True)
class Deletion:
    """A file to delete.

    Args:
        place: Its place in the registry.
    """

    key: Key
    place: str
    reason: Reason
    bytes: int


@dataclass(frozen=True, slots=True)
class VacuumPlan:
    """The files that a vacuum deletes.

    Args:
        killed: Ids of killed writers.
        refusal: Why the vacuum may not run; None if it may.
    """

    deletions: Sequence[Deletion]
    killed: frozenset[str]
    refusal: str | None

    def summary(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Number of deleted files and bytes, by place and reason."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for one in self.deletions:
            files, size = found.get((one.place, one.reason), (0, 0))
            found[one.place, str(one.reason)] = files + 1, size + one.bytes
        return found


def vacuum(
    lake: Lake, *, older_than_seconds: float = _DAY_SECONDS, yes_delete: int | None = None
) -> VacuumPlan:
    """Delete files that are no longer needed.

    Args:
        yes_delete: Number of files without evidence that may be deleted, as the refusal states it;
            None allows only a small share of the lake.

    Raises:
        ConfigError: The lake has a newer format than this code knows.
        VacuumRefusedError: The ledger lacks commits, or too many files would be deleted.
    """
    plan = plan_vacuum(lake, older_than_seconds=older_than_seconds, yes_delete=yes_delete)
    if plan.refusal is not None:
        raise VacuumRefusedError(plan.refusal)
    # Plans first, because they must not name what is gone.
    for one in sorted(plan.deletions, key=lambda one: (one.place != "plans", one.place in _LAST)):
        lake.storage.delete(one.key, with_folder=one.place in _IN_FOLDERS)
    for killed in plan.killed:
        with contextlib.suppress(OSError):
            lake.storage.sweep(SPILL / killed)
    lake.storage.writers.forget(plan.killed)
    return plan


def plan_vacuum(
    lake: Lake, *, older_than_seconds: float = _DAY_SECONDS, yes_delete: int | None = None
) -> VacuumPlan:
    """Find files that are no longer needed.

    Args:
        older_than_seconds: Merged and replaced files stay this long for their readers, and so do
            files of an unknown writer. Files of a killed process are deleted at once.

    Raises:
        ConfigError: The lake has a newer format than this code knows.
    """
    lake.format.check()
    # The order matters: a writer that ended has committed before the ledger is read, or never does.
    found = list(walk(lake.storage, f"lake/{lake.environment}/"))
    living, killed = lake.storage.writers.known()
    try:
        batches = lake.ledger.batches()
    except DamageError as error:
        return VacuumPlan((), frozenset(), error.message)
    look = _Look(lake, older_than_seconds, living, killed, batches)
    deletions = [*look.deletions(found), *look.merged()]
    refusal = look.loss(found) or _excess(found, deletions, yes_delete)
    return VacuumPlan(deletions, frozenset(killed), refusal)


def _excess(
    found: Sequence[Found], deletions: Sequence[Deletion], yes_delete: int | None
) -> str | None:
    """Why too many files would be deleted without evidence, or None."""
    unknown = [one for one in deletions if one.reason is Reason.UNKNOWN]
    committed = [one for one in found if one.place is not None and not one.is_leftover]
    share = max(
        len(unknown) / max(1, len(committed)),
        sum(one.bytes for one in unknown) / max(1, sum(one.bytes for one in committed)),
    )
    if share * _MOST_SHARE <= 1 or len(unknown) == yes_delete:
        return None
    return (
        f"{len(unknown):,} files, {share:.0%} of the lake, are {Reason.UNKNOWN}: to delete them,"
        f" add --yes-delete {len(unknown)}"
    )


class _Look:
    def __init__(
        self,
        lake: Lake,
        seconds: float,
        living: set[str],
        killed: set[str],
        batches: dict[str, float],
    ) -> None:
        self._lake = lake
        self._limit = time.time() - seconds
        self._living, self._killed, self._batches = living, killed, batches
        self._publications, over = Publications(lake).kept(seconds)
        self._is_on_record = bool(self._publications) or published_warehouse(lake.storage) is None
        files = {one.key: one for one in lake.storage.list(f"{MANIFESTS}/*.json")}
        manifests = {key: read_manifest(lake, key) for key in files}
        self._mark = max((one.commits for one in manifests.values()), default=0)
        published = {one.manifest for one in self._publications}
        published |= {key_of(one).name for one in Publications(lake).builds_of_iceberg()}
        newest = newest_manifest(lake)
        replaced = {
            key
            for key, file in files.items()
            if key != newest
            and key.name not in published
            and self._is_on_record
            and file.written_at < self._limit
        }
        # Whether a file that a manifest or publication names is still needed.
        self._named = dict.fromkeys((*replaced, *over), False)
        for key, manifest in manifests.items():
            for _, part in manifest.files():
                named = Key(part.file)
                self._named[named] = self._named.get(named, False) or key not in replaced
        plans = list(lake.storage.list(f"{PLANS}/*/*"))
        self._fresh = {
            folder
            for one in plans
            if (folder := one.key.parent).name in living
            or (one.written_at >= self._limit and folder.name not in killed)
        }
        self._planned = {
            Key(file): key.parent in self._fresh
            for folder in {one.key.parent for one in plans}
            for key, result in results(lake, folder.name)
            for file in result.files
        }
        """Whether what was built for a plan may still be needed."""

    def loss(self, found: Sequence[Found]) -> str | None:
        """Why the ledger cannot be complete, or None."""
        # Commits that fsck gave up are no longer missing.
        is_given_up = any(name and "/" not in name for name in self._lake.lost_files())
        if len(self._batches) < self._mark and not is_given_up:
            return (
                f"the ledger has {len(self._batches):,} commits, but had {self._mark:,} before:"
                " nothing is deleted"
            )
        rests = [
            one.key
            for one in found
            if one.place is not None
            and one.place.name in _TYPED | {"raw"}
            and not one.is_leftover
            and one.key.stem not in self._living | self._killed
        ]
        if rests and not self._batches:
            return f"the ledger is empty, but {len(rests):,} files exist: nothing is deleted"
        return None

    def deletions(self, found: Sequence[Found]) -> Iterator[Deletion]:
        """Files that were never committed, and files that were replaced."""
        for one in found:
            if one.place is not None and (reason := self._reason(one)) is not None:
                yield Deletion(one.key, one.place.name, reason, one.bytes)

    def _reason(self, one: Found) -> Reason | None:
        ids = set(_ID.findall(str(one.key)))
        place = one.place.name if one.place is not None else ""
        if ids & self._living:
            return None
        is_killed = bool(ids & self._killed)
        is_old = one.written_at < self._limit
        if one.is_leftover:
            return Reason.LEFT if is_killed or is_old else None
        if one.key in self._named:
            return None if self._named[one.key] else Reason.REPLACED
        if one.key in self._planned or place == "plans":
            is_needed = self._planned.get(one.key, one.key.parent in self._fresh)
            return None if is_needed else Reason.LEFT
        if place == "marts" or (place in _TYPED and one.key.stem not in self._batches):
            return Reason.KILLED if is_killed else Reason.UNKNOWN if is_old else None
        return None

    def merged(self) -> Iterator[Deletion]:
        """Merged files that no published warehouse reads, and old files of present pulls."""
        if self._is_on_record:
            for file, since, successors in self._lake.merged_files():
                is_read = any(not successors <= one.merges for one in self._publications)
                if since < self._limit and not is_read:
                    place = "superseded" if file.key.parts[0] == "superseded" else "rows"
                    yield Deletion(file.key, place, Reason.MERGED, file.bytes)
        for file, since in self._lake.ledger.merged_files():
            if since < self._limit:
                yield Deletion(file.key, "ledger", Reason.MERGED, file.bytes)
        for file in present.replaced(self._lake.storage):
            if file.written_at < self._limit:
                yield Deletion(file.key, "present", Reason.REPLACED, file.bytes)
