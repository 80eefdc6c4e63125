"""Which process executes a run of Dagster, so that what a dead process held is freed at once.

A process that executes runs holds a lock on its own file in Dagster's home. Its runs carry a tag
that names the file, the process and its machine. The kernel releases the lock when the process
ends, however it ends, also in a container. A run is dead if its lock is free. Its age proves
nothing, and another process may have its number by now.
"""

import datetime as dt
import functools
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

import dagster as dg
from dagster._core.definitions.executor_definition import IN_PROC_CONFIG, MULTI_PROC_CONFIG
from dagster._core.executor.in_process import InProcessExecutor

from pipelines.lake.writers import LockedWriters, Writer

LEAN_POOL = "lean_api"
"""Pool of the steps that read Lean."""
PROCESS_TAG = "leanhouse/process"
"""Tag of a run with the process that executes it."""

Tell = Callable[[str], object]

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_TELL_SECONDS = 30.0
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that executes runs.

    Args:
        lock: Name of the file that it holds a lock on.
        since: When it first executed a run, UTC.
    """

    lock: str
    pid: int
    host: str
    since: str

    @classmethod
    def current(cls, instance: dg.DagsterInstance) -> Self:
        """This process, its lock taken."""
        lock = _held(_folder(instance), os.getpid()).id
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return cls(lock, os.getpid(), socket.gethostname(), now)

    @classmethod
    def of(cls, run: dg.DagsterRun) -> Self | None:
        """The process of a run; None if no process has recorded itself in this form."""
        try:
            found = json.loads(run.tags.get(PROCESS_TAG, ""))
            run_id = found.pop("run_id")
            process = cls(**found)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        # Dagster copies the tags of a run to its retries.
        is_own = run_id == run.run_id if run_id is not None else run.parent_run_id is None
        return process if is_own else None

    def tags(self, run_id: str | None = None) -> dict[str, str]:
        """Tags of a run that this process executes.

        Args:
            run_id: The run; None for a run that this process is about to make.
        """
        return {PROCESS_TAG: json.dumps({**asdict(self), "run_id": run_id})}

    def is_gone(self, instance: dg.DagsterInstance) -> bool:
        """Whether the process has ended; False if this home has never seen its lock."""
        _, killed = LockedWriters(_folder(instance)).known()
        return self.lock in killed


def _folder(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "processes"


@functools.cache
def _held(folder: Path, _pid: int) -> Writer:
    """A lock that this process holds until it ends, however it ends; a fork takes another."""
    return LockedWriters(folder).start()


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as ended, free their slots, and say so in sentences."""
    _, killed = LockedWriters(_folder(instance)).known()
    if not killed:
        return []
    storage = instance.event_log_storage
    holding = storage.get_concurrency_run_ids()
    sentences = []
    runs = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))}
    if finished := sorted(holding - runs.keys()):
        runs |= {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=finished))}
    for run in runs.values():
        process = Process.of(run)
        if process is None or process.lock not in killed:
            continue
        # Slots first: if this process is killed in between, the run is ended once more later.
        storage.free_concurrency_slots_for_run(run.run_id)
        if run.is_finished:
            continue
        reason = f"its process ({process.pid} on {process.host}) is gone"
        is_cancelled = run.status is dg.DagsterRunStatus.CANCELING
        report = instance.report_run_canceled if is_cancelled else instance.report_run_failed
        report(run, message=f"The run is over: {reason}.")
        sentences.append(
            f"run {run.run_id} is marked as failed: {reason}; what it committed is kept"
        )
    # Last, because a run whose lock file is gone is never ended.
    LockedWriters(_folder(instance)).forget(killed)
    return sentences


def end_with_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """End this process as soon as the process of its run ends, if it executes a step for it."""
    parent = multiprocessing.parent_process()
    run = instance.get_run_by_id(run_id)
    process = Process.of(run) if run is not None else None
    if parent is None or process is None or process.pid != os.getppid():
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="run", daemon=True).start()


def wait_aloud(instance: dg.DagsterInstance, tell: Tell) -> None:
    """Let steps of this process say what they wait for while they wait for a slot of a pool.

    Dagster's own wait keeps a core busy, says nothing, and does not end by a signal.

    Args:
        instance: Dagster, with its pools; its steps have to be executed one by one.
        tell: Called twice a minute with the run that a step waits for, and how to end that run.
    """
    storage = instance.event_log_storage
    claim = storage.claim_concurrency_slot
    said_at = -_TELL_SECONDS

    def claim_patiently(
        concurrency_key: str, run_id: str, step_key: str, priority: int | None = None
    ) -> Any:
        nonlocal said_at
        while not (status := claim(concurrency_key, run_id, step_key, priority)).is_claimed:
            ended = end_dead_runs(instance)
            for sentence in ended:
                tell(sentence)
            if ended:
                continue
            if time.monotonic() - said_at >= _TELL_SECONDS:
                said_at = time.monotonic()
                tell(f"{step_key} waits for {_holders(instance, concurrency_key, run_id)}")
            with dg.raise_execution_interrupts():
                time.sleep(_LOOK_SECONDS)
        return status

    storage.claim_concurrency_slot = claim_patiently  # type: ignore[method-assign]


def _holders(instance: dg.DagsterInstance, pool: str, waiting: str) -> str:
    """The runs that a step waits for, and how to end them."""
    info = instance.event_log_storage.get_concurrency_info(pool)
    others = sorted((info.active_run_ids | info.assigned_run_ids) - {waiting})
    return "; ".join(_holder(instance, run_id) for run_id in others) or f"its turn in {pool}"


def _holder(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    process = Process.of(run) if run is not None else None
    forget = f"DAGSTER_HOME={instance.root_directory} dagster run delete --force {run_id}"
    if process is None:
        return f"run {run_id}, whose process is not known; if it is gone: {forget}"
    words = f"run {run_id} (process {process.pid} on {process.host}, since {process.since})"
    if process.host == socket.gethostname():
        return f"{words}; to end it: kill {process.pid}"
    return f"{words}; to end it, end that process there; if that machine is gone: {forget}"


IN_ONE_PROCESS = dg.Field(
    dg.Selector({"in_process": IN_PROC_CONFIG, "multiprocess": MULTI_PROC_CONFIG}),  # type: ignore[no-untyped-call]
    default_value={"in_process": {}},
)
"""Configuration of Dagster's default executor, with the steps of a run in its process unless a run
asks for a process per step."""


def allow_readers(instance: dg.DagsterInstance, count: int) -> None:
    """Let so many steps read Lean at once, in all runs of an instance.

    It is the default limit of pools until there are shards, and again when there are none.
    """
    storage = instance.event_log_storage
    limits = {one.name: one.limit for one in storage.get_pool_limits()}
    if limits.get(LEAN_POOL, 1) != count:
        storage.set_concurrency_slots(LEAN_POOL, count)


def recorded(
    definition: dg.ExecutorDefinition, config_schema: dg.Field | None = None, readers: int = 1
) -> dg.ExecutorDefinition:
    """An executor whose runs record which process executes them, before they take a slot.

    Args:
        config_schema: Its configuration; None for the definition's own.
        readers: Steps that may read Lean at once, in all runs.
    """
    creation = definition.executor_creation_fn
    assert creation is not None  # noqa: S101 - every executor that can run has it

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        executor = creation(context)
        execute = executor.execute

        def execute_recorded(plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
            instance: dg.DagsterInstance = plan_context.instance
            run_id = plan_context.run_id
            instance.add_run_tags(run_id, Process.current(instance).tags(run_id))
            for sentence in end_dead_runs(instance):
                _LOG.warning("%s", sentence)
            allow_readers(instance, readers)
            if isinstance(executor, InProcessExecutor):
                wait_aloud(instance, _LOG.warning)
            yield from execute(plan_context, execution_plan)

        executor.execute = execute_recorded  # type: ignore[method-assign]
        return executor

    return dg.ExecutorDefinition(
        name=definition.name,
        config_schema=cast("Any", config_schema or definition.config_schema),
        requirements=definition.get_requirements,
        executor_creation_fn=create,
    )
