"""A whole sync in this process, through Dagster: the same assets that schedules use."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from filelock import FileLock, Timeout

from lean_resources.errors import UnavailableError
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS
from lean_resources.webhooks import Event
from pipelines.dagster_defs.failures import OUTCOME, grouped
from pipelines.dagster_defs.model_assets import model_assets
from pipelines.dagster_defs.processes import Process, allow_readers, end_dead_runs, wait_aloud
from pipelines.dagster_defs.resources import InboxResource, LakeResource, Progress, bound, silent
from pipelines.dagster_defs.stream_assets import refresh, stream_assets, sync_outcome
from pipelines.dagster_defs.webhook_job import PULLS, TABLES, webhook_job
from pipelines.dagster_defs.webhook_sensor import acknowledge, batch, request_of
from pipelines.environment import settings
from pipelines.lake.folder import Folder
from pipelines.lake.ids import new_id
from pipelines.lake.storage import Key
from pipelines.models.loader import load
from pipelines.operate.run_problems import values_of
from pipelines.shipped import DAGSTER_YAML
from pipelines.sync.policy import Policy

_LOG = logging.getLogger(__name__)
_CREATION_SECONDS = 60
"""How long a command waits for another command that makes the home."""
_STORAGE = {"history": ("runs.db", "runs/index.db"), "schedules": ("schedules.db",)}
"""Databases that Dagster keeps in a home, by folder."""
_LOG_CONFIG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class SyncFailedError(Exception):
    """A step of the sync failed; the message is its reason, without personal values.

    Args:
        summaries: What the sync did for streams that did not fail.
    """

    def __init__(self, message: str, summaries: Sequence[StreamSummary] = ()) -> None:
        super().__init__(message)
        self.summaries = summaries


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """What a sync did for one stream.

    Args:
        pulls: Pulls by outcome.
        rows: Rows committed.
        seconds: Wall time.
    """

    stream: str
    read_targets: int
    pulls: Mapping[str, int]
    rows: int
    requests: int
    seconds: float


def sync_all(
    lean: LeanResource,
    lake: LakeResource,
    progress: Progress,
    *,
    instance: dg.DagsterInstance,
    policy: Policy | None = None,
    inbox: InboxResource | None = None,
    entity_ids: Sequence[str] = (),
) -> list[StreamSummary]:
    """Bring every stream and every model up to date, and publish the warehouse.

    Args:
        progress: Called for every stream, and for the models.
        inbox: Where webhooks arrive that may wake it; None without webhooks.
        entity_ids: Only these entities; all if empty.

    Returns:
        A summary per stream, in the order of the catalogue.

    Raises:
        SyncFailedError: A step failed.
    """
    ops: dict[str, Any] = {
        asset.node_def.name: {"config": {"entity_ids": list(entity_ids)}}
        for asset in (*stream_assets, refresh)
    }
    ops["pull_transactions"]["config"]["only_missing"] = True
    allow_readers(instance, settings().readers)
    result = dg.materialize(
        [*stream_assets, refresh, *model_assets(load()), sync_outcome],
        instance=instance,
        resources=bound(
            lean=lean,
            lake=lake,
            inbox=inbox or InboxResource(),
            policy=policy or Policy(),
            progress=progress,
        ),
        run_config={**_LOG_CONFIG, "ops": ops},
        tags=Process.current(instance).tags(),
        raise_on_error=False,
    )
    instance.event_log_storage.free_concurrency_slots_for_run(result.dagster_run.run_id)
    summaries = _summaries(result)
    if not result.success:
        raise SyncFailedError(_reasons(result), summaries)
    return summaries


def read_events(
    lean: LeanResource,
    lake: LakeResource,
    inbox: InboxResource,
    *,
    instance: dg.DagsterInstance,
    has_tables: bool = True,
) -> list[Event]:
    """Read what the next batch of webhooks announces, in this process.

    Args:
        has_tables: Whether models and the warehouse follow what was read.

    Returns:
        The events of the batch; empty if no event came within a few seconds.

    Raises:
        SyncFailedError: A step failed; the events are given back.
    """
    box = inbox.inbox()
    if box is None:
        return []
    batch_id = new_id()
    events = list(batch(instance, box, lake.lake(), batch_id))
    if not events:
        return []
    request = request_of(events, batch_id, lake.lake())
    result = webhook_job(load()).execute_in_process(
        instance=instance,
        resources=bound(lean=lean, lake=lake, inbox=inbox, policy=Policy(), progress=silent),
        run_config={**_LOG_CONFIG, **request.run_config},
        tags={**request.tags, **Process.current(instance).tags()},
        op_selection=None if has_tables else [PULLS],
        raise_on_error=False,
    )
    instance.event_log_storage.free_concurrency_slots_for_run(result.dagster_run.run_id)
    acknowledge(instance, box, lake.lake())
    if not result.success:
        raise SyncFailedError(_reasons(result))
    return events


def _reasons(result: dg.ExecuteInProcessResult) -> str:
    """Why steps failed: a line for each reason, with the steps that it stopped."""
    steps: dict[str, str] = {}
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        described = data.user_failure_data.description if data.user_failure_data else None
        reason = described or (error.message.strip() if error is not None else "unknown reason")
        steps[str(event.step_key)] = reason
    # The closing step repeats what the others have reported by themselves.
    closing = [steps.pop(name) for name in (OUTCOME, TABLES) if name in steps]
    return "\n".join([*grouped(steps), *closing]) or "the run did not start"


def _summaries(result: dg.ExecuteInProcessResult) -> list[StreamSummary]:
    """Of each stream that was materialised, in the order of the catalogue."""
    found = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.partition is None
    }
    fields = [one.name for one in dataclasses.fields(StreamSummary) if one.name != "stream"]
    return [
        StreamSummary(name, **{one: metadata[one] for one in fields})
        for name in STREAMS
        if name in found
        for metadata in [values_of(found[name])]
    ]


def prepare_home(home: Path) -> None:
    """Make a folder a Dagster home with this project's settings, unless it has its own.

    Dagster's databases are made in another folder and renamed into place, by a command at a time.
    Two commands at once would stamp them twice, and a killed command would leave half a database.

    Raises:
        UnavailableError: Another process makes the home and does not finish.
    """
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "creation.lock", timeout=_CREATION_SECONDS):
            _make_whole(home)
    except Timeout:
        raise UnavailableError(
            f"another process has been making {home} for {_CREATION_SECONDS} s: end it"
        ) from None


def _make_whole(home: Path) -> None:
    """Put settings and databases into a home that lacks them; a half-made database goes aside."""
    settings = home / "dagster.yaml"
    if not settings.exists():
        Folder(home).put(Key(settings.name), DAGSTER_YAML.read_bytes())
    lacking = [
        home / name
        for name, databases in _STORAGE.items()
        if not all(_is_whole(home / name / database) for database in databases)
    ]
    if not lacking or not _is_sqlite(home):
        return
    beside = home / "creation"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    shutil.copy(settings, beside)
    dg.DagsterInstance.from_config(str(beside)).dispose()
    for folder in lacking:
        if folder.exists():
            folder.rename(f"{folder}.damaged-{new_id()}")
        (beside / folder.name).rename(folder)
    shutil.rmtree(beside)


def _is_whole(database: Path) -> bool:
    """Whether a database of Dagster was made to its end: only then it has exactly one version."""
    if not database.exists():
        return False
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        try:
            found = connection.execute("select * from alembic_version").fetchall()
        except sqlite3.DatabaseError:
            return False
    return len(found) == 1


def _is_sqlite(home: Path) -> bool:
    """Whether Dagster keeps its databases in the home, which is its default."""
    storage = InstanceRef.from_dir(str(home)).storage_data
    return (
        storage is not None
        and storage.class_name == "DagsterSqliteStorage"
        and Path(storage.config_dict["base_dir"]) == home
    )


def instance_at(home: Path, tell: Callable[[str], object] = _LOG.warning) -> dg.DagsterInstance:
    """The Dagster instance that keeps its runs in a folder, made when it does not exist.

    Runs of dead processes are ended, and a step that waits for a slot of a pool says so.

    Args:
        tell: Called with a sentence for each.

    Raises:
        UnavailableError: As `prepare_home`.
    """
    prepare_home(home)
    instance = dg.DagsterInstance.from_config(str(home))
    for sentence in end_dead_runs(instance):
        tell(sentence)
    wait_aloud(instance, tell)
    return instance
