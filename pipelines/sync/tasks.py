"""What a sync has to read: one task per paged read, decided from the lake alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from lean_resources.errors import LeanError
from lean_resources.paging import PagedRead
from lean_resources.streams import Stream, Window
from pipelines.lake.lake import Lake
from pipelines.sync.planner import PlannedMonth, plan
from pipelines.sync.policy import Policy
from pipelines.sync.read_targets import ClaimsInOrder, Parent, Resumed, parents_of, window_of

__all__ = ["Done", "Selection", "Task", "tasks_of"]

_FIRST_DAY = "2015-01-01"  # before Lean existed


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run is narrowed to.

    Args:
        entity_ids: Only these entities; None for all.
        account_ids: Only these accounts; None for all.
        months: Months as YYYY-MM to read whatever is there already; None for what is missing.
        insights: Whether to ask Lean for its categories of transactions.
    """

    entity_ids: Collection[str] | None = None
    account_ids: Collection[str] | None = None
    months: Collection[str] | None = None
    insights: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether it leaves no entity and no account out."""
        return self.entity_ids is None and self.account_ids is None


@dataclass(frozen=True, slots=True)
class Task:
    """A paged read to make.

    Args:
        parent: What it is of.
        request: Parameters of the requests.
        months: The pulls it commits, for a stream with months.
        unless_refreshed_at: When the store still is of this instant, nothing is new.
        spent: Requests that earlier reads of it took, in which a record came twice.
        doubled: Keys that came on two pages of the read before.
    """

    parent: Parent
    request: dict[str, str]
    months: tuple[PlannedMonth, ...] = ()
    unless_refreshed_at: dt.datetime | None = None
    spent: int = 0
    doubled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Done:
    """A task that was tried.

    Args:
        known_at: Lean's clock when it began.
        latest_at: Lean's clock when it ended.
    """

    task: Task
    result: PagedRead | LeanError
    requests: int
    asked_at: dt.datetime
    known_at: dt.datetime | None
    latest_at: dt.datetime | None
    finished_at: dt.datetime
    attempt: int

    @property
    def size(self) -> int:
        """Bytes of the bodies that came."""
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
) -> Iterator[Task | Parent | None]:
    """What to read now, and the parents that may not be read, in the order of the parents' ids.

    None stands for a parent of which enough is known.

    One by one, in memory that does not grow with the accounts or the ledger.

    Args:
        stream: The stream.
        lake: The lake, which alone says what there is.
        now: Lean's clock.
        policy: How eagerly to pull.
        selection: What the run is narrowed to.
        resumes: Attempts of the same run, by id, whose reads are not repeated.
    """
    resumed = None
    if resumes:
        resumed = Resumed(resumes, now - dt.timedelta(hours=policy.resume_hours))
    also = stream.name if stream.window is Window.SNAPSHOT else "offered_now"
    read = ("readable_accounts", "readable_entities", "read_already", also)
    with lake.planning(read) as connection:
        parents = parents_of(
            stream, connection, now, selection.entity_ids, selection.account_ids, resumed
        )
        if stream.window is Window.SNAPSHOT:
            yield from _snapshots(stream, parents, now, policy, selection)
            return
        claims = ClaimsInOrder(stream, connection.cursor(), policy.longest_lookback)
        for parent in parents:
            window = window_of(parent)
            if window is None:
                if parent.skip_code is not None:
                    yield parent
                continue
            for planned in plan(window, claims, now.date(), policy, selection.months):
                if parent.read_months and all(
                    month.month in parent.read_months for month in planned.months
                ):
                    yield None
                    continue
                request = {
                    **parent.request,
                    "start_date": planned.from_date.isoformat(),
                    "end_date": planned.to_date.isoformat(),
                }
                if selection.insights:
                    request["insights"] = "true"
                yield Task(parent, request, planned.months, planned.unless_refreshed_at)


def _snapshots(
    stream: Stream,
    parents: Iterable[Parent],
    now: dt.datetime,
    policy: Policy,
    selection: Selection,
) -> Iterator[Task | Parent | None]:
    """Reads of a stream without months; None for a parent that is not due."""
    days = {"start_date": _FIRST_DAY, "end_date": f"{now:%Y-%m-%d}"}
    extra = {name: days[name] for name in stream.query if name in days}
    hours = policy.reread_hours.get(stream.name) if selection.is_whole else None
    reread = dt.timedelta(hours=hours) if hours is not None else None
    for parent in parents:
        if parent.skip_code is not None:
            yield parent
        elif not parent.read_months and parent.is_due(now, reread):
            yield Task(parent, {**parent.request, **extra}, unless_refreshed_at=parent.refreshed_at)
        else:
            yield None
