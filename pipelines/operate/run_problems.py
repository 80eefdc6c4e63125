"""What Dagster's newest runs say is wrong: failed steps and failed checks, without asking Lean."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import JobBucket

from lean_resources.errors import AuthError, NetworkError, UnavailableError
from lean_resources.streams import STREAMS
from pipelines.lake.digests import DamageError
from pipelines.operate.problems import Problem, problem

_FIRST_MADE = "history/runs.db"
"""Database of runs, where Dagster keeps it in SQLite."""
_RUNS = 20
"""Newest runs that are looked at, of each job and of all."""
JOBS = (
    "nightly_sync", "balances_sync", "weekly_reconciliation", "gap_repair", "doorbell",
    "__ASSET_JOB", "__ephemeral_asset_job__",
)  # fmt: skip
"""Jobs of this project and those that Dagster makes of a choice of assets."""
_FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
_LOOKED_AT = [*_FINISHED, dg.DagsterRunStatus.STARTED]
_ENDS = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SUCCESS}
_RESULTS = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
_MOST_NAMES = 5
_RULE_OF = {
    AuthError.remedy: ("credentials_refused", "lean"),
    UnavailableError.remedy: ("lean_down", "lean"),
    NetworkError.remedy: ("lean_down", "lean"),
    DamageError.remedy: ("damage", "lake"),
}
"""Rule and subject of a failed step, by the remedy of its error, which is one for each class."""
_READ_LOG = "Read the run's page in Dagster."
_CHECKS = {
    ("integrity", "holds_what_was_written"): (
        "damage", "lake", "{count} files are damaged, missing or foreign", DamageError.remedy
    ),
    ("reconciliation", "agrees_with_lean"): (
        "lean_differs", "transactions", "months read again differ from the lake",
        "Read the check's metadata in Dagster. If it happens again, give Lean the months.",
    ),
    ("missed_events", "nothing_was_missed"): (
        "events_missed", "receiver", "{repaired} webhooks that Lean sent did not arrive",
        "They are read now. Check the receiver, its proxy and the webhook URL at Lean.",
    ),
}  # fmt: skip
"""Rule, subject, message and remedy of a check that fails; names in the message are metadata."""
_DRIFT_REMEDY = (
    "Read Lean's changelog and add the column, see CONTRIBUTING.md. Nothing is lost: answers are"
    " kept as received, and leanhouse replay fills the column."
)


class _Failure(NamedTuple):
    """Why steps failed, the same for all that one cause stopped."""

    rule: str
    subject: str | None
    reason: str
    remedy: str
    code: str | None
    tables: int | None = None


@contextlib.contextmanager
def recorded_runs(home: Path) -> Iterator[dg.DagsterInstance | None]:
    """The Dagster instance that keeps its runs in a folder; None before the first run.

    Opening an instance makes its databases where they are missing; this makes nothing.
    """
    storage = InstanceRef.from_dir(str(home)).storage_data if home.is_dir() else None
    folder = storage.config_dict.get("base_dir") if storage is not None else None
    if storage is None or (folder and not (Path(folder) / _FIRST_MADE).is_file()):
        yield None
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run_problems(instance: dg.DagsterInstance) -> list[Problem]:
    """Problems that the newest run of each job, and the newest result of each check, show.

    A step of an older run counts only while no newer run has had the same step. It reads a
    bounded number of runs, whatever the instance keeps.

    Args:
        instance: Where the runs are recorded. It may be that of a run that is under way.
    """
    return [*_of_runs(instance), *_of_streams(instance), *_of_checks(instance)]


def _of_runs(instance: dg.DagsterInstance) -> Iterator[Problem]:
    known: set[str] = set()
    jobs: set[str] = set()
    failures: dict[_Failure, list[dg.EventLogEntry]] = {}
    for record in _newest(instance):
        run = record.dagster_run
        ended = {str(one.step_key): one for one in instance.all_logs(run.run_id, of_type=_ENDS)}
        for step in ended.keys() - known:
            if ended[step].dagster_event_type == dg.DagsterEventType.STEP_FAILURE and (
                failure := _failure_of(ended[step])
            ):
                failures.setdefault(failure, []).append(ended[step])
        if run.status == dg.DagsterRunStatus.FAILURE and not ended and run.job_name not in jobs:
            at = record.end_time or record.update_timestamp.timestamp()
            message = f"{run.job_name} ended before any of its steps had ended"
            yield problem("run_failed", run.job_name, message, _READ_LOG, since=_instant(at))
        known |= ended.keys()
        jobs.add(run.job_name)
    for failure, entries in failures.items():
        steps = [str(one.step_key) for one in entries]
        yield _problem_of(failure, steps, _instant(entries[0].timestamp))


def _newest(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    """Newest runs first: of each job and choice of assets the last that ended, and one under way.

    Runs of webhooks are many, so that they must not hide the others. A run under way says what
    became of its steps so far.
    """
    wanted = dg.RunsFilter(statuses=_LOOKED_AT)
    of_jobs = instance.get_run_records(wanted, bucket_by=JobBucket(list(JOBS), _RUNS))
    records = [*of_jobs, *instance.get_run_records(wanted, limit=_RUNS)]
    newest: dict[tuple[object, ...], dg.RunRecord] = {}
    for record in sorted(records, key=lambda one: one.storage_id):
        run = record.dagster_run
        steps = tuple(run.step_keys_to_execute or ())
        # Dagster gives a run that it takes up again a set that cannot be a key.
        assets = frozenset(run.asset_selection or ())
        newest[run.job_name, assets, steps, run.status in _FINISHED] = record
    return sorted(newest.values(), key=lambda one: one.storage_id, reverse=True)


def _failure_of(entry: dg.EventLogEntry) -> _Failure | None:
    """Why a step failed; of an error that nobody expected only its class.

    The text of such an error may quote values. None if the checks of streams say it.
    """
    data = entry.get_dagster_event().step_failure_data
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    known = data.user_failure_data
    metadata = values_of(known.metadata) if known is not None else {}
    reason = (known and known.description) or f"{error.cls_name if error else 'an error'} in a step"
    remedy = str(metadata.get("remedy", _READ_LOG))
    if tables := metadata.get("stay as they were"):
        explain = f"leanhouse build --explain {tables[0]} shows why; then leanhouse build."
        return _Failure("tables_failed", None, reason, explain, None, len(tables))
    if "failed" in metadata:
        return None
    rule, subject = _RULE_OF.get(remedy, ("run_failed", None))
    return _Failure(rule, subject, reason, remedy, metadata.get("code"))


def _of_streams(instance: dg.DagsterInstance) -> Iterator[Problem]:
    """Streams, and the refresh, whose last read failed; those that failed alike are one problem."""
    failed: dict[_Failure, dict[str, dt.datetime]] = {}
    for name in (*STREAMS, "refresh"):
        found = _failed_check(instance, name, "is_complete")
        if found is not None and "problem" in found[0]:
            metadata, since = found
            remedy = str(metadata["remedy"]) or _READ_LOG
            rule, subject = _RULE_OF.get(remedy, ("run_failed", None))
            failure = _Failure(rule, subject, metadata["reason"], remedy, metadata["code"])
            failed.setdefault(failure, {})[name] = since
    for failure, names in failed.items():
        yield _problem_of(failure, names, min(names.values()))


def _problem_of(failure: _Failure, names: Iterable[str], since: dt.datetime) -> Problem:
    return problem(
        failure.rule, failure.subject or min(names), f"{_listed(names)}: {failure.reason}",
        failure.remedy, code=failure.code, count=failure.tables, since=since,
    )  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    """The first names, and how many there are more."""
    shown = sorted(names)
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more


def _of_checks(instance: dg.DagsterInstance) -> Iterator[Problem]:
    for (asset, check), (rule, subject, message, remedy) in _CHECKS.items():
        found = _failed_check(instance, asset, check)
        if found is not None:
            metadata, since = found
            yield problem(rule, subject, message.format_map(metadata), remedy, since=since)
    for name in STREAMS:
        found = _failed_check(instance, name, "is_known")
        if found is not None:
            paths, since = dict(found[0]["paths"]), found[1]
            yield problem(
                "schema_drift", name,
                f"records of {name} have unknown fields: {_listed(paths)}",
                _DRIFT_REMEDY, count=len(paths), since=since,
            )  # fmt: skip


def _failed_check(
    instance: dg.DagsterInstance, asset: str, check: str
) -> tuple[dict[str, Any], dt.datetime] | None:
    """Metadata and instant of a check's newest result, if that is a failure.

    A run that is under way has planned its checks already; what counts is the result before.
    """
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(asset), check), limit=1, status=_RESULTS
    )
    for record in history:
        event = record.event.dagster_event if record.event else None
        if event is not None and not (found := event.asset_check_evaluation_data).passed:
            return values_of(found.metadata), _instant(record.create_timestamp)
    return None


def values_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What Dagster's metadata holds, by name."""
    return {name: found.value for name, found in metadata.items()}


def _instant(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
