"""The tasks of a sync: a task per paged read, decided only from the lake."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import duckdb

from lean_resources.errors import LeanError
from lean_resources.instants import BEFORE_LEAN
from lean_resources.paging import PagedRead
from lean_resources.streams import Stream, Window
from pipelines.lake.lake import Lake
from pipelines.shard import Shard
from pipelines.sync.planner import PlannedMonth, PlannedRead, phase_of, plan
from pipelines.sync.policy import Policy
from pipelines.sync.read_targets import (
    ReadTarget,
    Resumed,
    allowed_days_of,
    read_targets_of,
    relations_read,
)
from pipelines.sync.shapes import Shape, instant, shaped_targets_of

_PLANS = 20_000
"""Plans to keep at most, which bounds memory."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The entities, accounts and months of a run.

    Args:
        entity_ids: Only these entities; None for all.
        account_ids: Only these accounts; None for all.
        months: Months as YYYY-MM to read even if they are covered; None for missing and open days.
        insights: Whether to request Lean's categories of transactions.
        shard: Only entities of this shard, with their accounts; None for all.
    """

    entity_ids: Collection[str] | None = None
    account_ids: Collection[str] | None = None
    months: Collection[str] | None = None
    insights: bool = True
    shard: Shard | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it names no entities and accounts; those of a shard are not named."""
        return self.entity_ids is None and self.account_ids is None


@dataclass(frozen=True, slots=True)
class Task:
    """A paged read to make.

    Args:
        target: The read target.
        request: Parameters of the requests.
        months: The pulls that it commits, for a stream with months.
        unless_refreshed_at: If the bank data copy still has this instant, nothing is new.
        spent: Number of requests of earlier attempts, in which a record came twice.
        doubled: Keys that came on two pages of the previous attempt.
    """

    target: ReadTarget
    request: dict[str, str]
    months: tuple[PlannedMonth, ...] = ()
    unless_refreshed_at: dt.datetime | None = None
    spent: int = 0
    doubled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Done:
    """A finished task.

    Args:
        result: The paged read, or the error.
        requests: Number of requests, including earlier attempts.
        asked_at: When its first page was requested, by this machine's clock.
        known_at: Lean's clock when it began.
        latest_at: Lean's clock when it ended.
        finished_at: When it ended, by this machine's clock.
        rereads: Number of earlier attempts, in which a record came twice.
    """

    task: Task
    result: PagedRead | LeanError
    requests: int
    asked_at: dt.datetime
    known_at: dt.datetime | None
    latest_at: dt.datetime | None
    finished_at: dt.datetime
    rereads: int

    @property
    def size(self) -> int:
        """Bytes of the received bodies."""
        if isinstance(self.result, LeanError):
            return 0
        return sum(len(answer.page.body) for answer in self.result.answers)


def tasks_of(
    stream: Stream,
    lake: Lake,
    now: dt.datetime,
    policy: Policy,
    selection: Selection,
    resumes: Collection[str] = (),
) -> Iterator[Task | ReadTarget | None]:
    """The tasks of a sync, and the read targets that may not be read, in the order of their ids.

    None stands for a read target that needs no read. Tasks are yielded one at a time; memory does
    not grow with the accounts or the ledger. The plan is that of each account alone.

    Args:
        lake: The lake, the only source of read targets.
        now: Lean's clock.
        policy: How eagerly to pull.
        selection: The entities, accounts and months of the run.
        resumes: Ids of runs that this run continues; their reads are not repeated.
    """
    resumed = None
    if resumes:
        resumed = Resumed(resumes, now - dt.timedelta(hours=policy.resume_hours))
    since = resumed.since if resumed else None
    with lake.planning(
        relations_read(stream, resumed),
        runs_since=since,
        entity_ids=selection.entity_ids,
        shard=selection.shard,
    ) as connection:
        if stream.window is Window.SNAPSHOT:
            targets = read_targets_of(
                stream, connection, now, selection.entity_ids, selection.account_ids, resumed
            )
            yield from _snapshots(stream, targets, now, policy, selection)
        else:
            yield from _of_months(stream, connection, now, policy, selection, resumed)


def _of_months(
    stream: Stream,
    connection: duckdb.DuckDBPyConnection,
    now: dt.datetime,
    policy: Policy,
    selection: Selection,
    resumed: Resumed | None,
) -> Iterator[Task | ReadTarget | None]:
    """Reads of a stream with months, planned once for all accounts that share what decides it."""
    settled_days = policy.longest_open_days
    plans: dict[tuple[str, int, str | None], list[PlannedRead]] = {}
    own = {*policy.lookback_days_by_bank, *policy.nightly_days_by_bank}
    extra = {"insights": "true"} if selection.insights else {}
    for target, shape, instants in shaped_targets_of(
        stream,
        connection,
        now,
        settled_days,
        selection.months is None,
        selection.entity_ids,
        selection.account_ids,
        resumed,
    ):
        if target.skip_code is not None:
            yield target
            continue
        bank = target.bank_identifier if target.bank_identifier in own else None
        key = (shape, phase_of(target.target_id, policy), bank)
        if (reads := plans.get(key)) is None:
            if len(plans) >= _PLANS:
                plans.clear()
            reads = plans[key] = []
            found = Shape.of(shape, settled_days)
            if (allowed := allowed_days_of(target, *found.days)) is not None:
                coverage = {target.target_id: found.coverage}
                reads += plan(allowed, coverage, now.date(), policy, selection.months)
        for read in reads:
            if target.read_months and all(
                month.month in target.read_months for month in read.months
            ):
                yield None
                continue
            request = {
                **target.request,
                "start_date": read.from_date.isoformat(),
                "end_date": read.to_date.isoformat(),
                **extra,
            }
            yield Task(target, request, read.months, instant(read.unless_refreshed_at, instants))


def _snapshots(
    stream: Stream,
    targets: Iterable[ReadTarget],
    now: dt.datetime,
    policy: Policy,
    selection: Selection,
) -> Iterator[Task | ReadTarget | None]:
    """Reads of a stream without months; None for a read target that is not due."""
    days = {"start_date": f"{BEFORE_LEAN}", "end_date": f"{now:%Y-%m-%d}"}
    extra = {name: days[name] for name in stream.query if name in days}
    hours = policy.reread_hours.get(stream.name) if selection.is_whole else None
    reread = dt.timedelta(hours=hours) if hours is not None else None
    for target in targets:
        if target.skip_code is not None:
            yield target
        elif not target.read_months and target.is_due(now, reread):
            yield Task(target, {**target.request, **extra}, unless_refreshed_at=target.refreshed_at)
        else:
            yield None
