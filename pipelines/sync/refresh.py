"""The refresh step: Lean asks banks again for old data, within the budget."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lean_resources.client import LeanClient
from lean_resources.errors import AuthError, ConsentError, LeanError
from lean_resources.webhooks import FINISHED
from pipelines.lake.folders import REFRESH_RESULTS
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import REFRESH_RESULTS_SCHEMA
from pipelines.shard import Shard
from pipelines.sync.policy import Policy
from pipelines.sync.refresh_budget import SLICES, Budget, slice_of
from pipelines.webhooks.event_waiter import EventWaiter

_GROUP = 50
"""Entities that are reserved together: a crash wastes at most this many refreshes."""
AT_ONCE = 200
"""Refreshes that the step waits for at once; waiting costs little."""
_LONGEST_POLL_SECONDS = 60.0

Progress = Callable[[int, int], None]
Sleep = Callable[[float], Awaitable[None]]
_Entity = tuple[str, str | None]
"""An entity's id and its bank."""


@dataclass(slots=True)
class RefreshReport:
    """The result of a refresh step.

    Args:
        stale: Number of entities with old data.
        over_budget: Number of these that had no refresh left; a later step refreshes them.
        outcomes: Results of the requested refreshes: `FINISHED`, `OVERDUE`, or the failure's code.
        requests: Number of requests made.
        seconds: Wall time.
    """

    stale: int = 0
    over_budget: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A refresh that is over, or for which the step no longer waits."""

    outcome: str
    refresh_id: str | None = None
    data_status: Any = None
    error: LeanError | None = None


async def refresh(
    client: LeanClient,
    lake: Lake,
    *,
    policy: Policy,
    entity_ids: Collection[str] | None = None,
    shard: Shard | None = None,
    run_id: str | None = None,
    progress: Progress = lambda _done, _total: None,
    sleep: Sleep = asyncio.sleep,
    waiter: EventWaiter | None = None,
) -> RefreshReport:
    """Refresh entities with old data, and wait until their banks have answered.

    A refresh is reserved in the budget before it is requested, and its result is recorded after.
    The failure of an entity does not stop the rest. The step does not wait for a refresh that takes
    too long; the next sync reads its data.

    Args:
        client: An open client.
        lake: The lake with the ledger, the budget and the results.
        policy: The greatest age of data, and the budget.
        entity_ids: Only these entities; None for all.
        shard: Only entities of this shard; None for all.
        run_id: The run, for the records.
        progress: Called with the number of refreshes that are over, and of all.
        sleep: Waits for the given number of seconds.
        waiter: Wakes when a webhook announces the end of a refresh. While webhooks arrive, the step
            asks Lean after a webhook, and only rarely without.

    Raises:
        AuthError: Lean refuses the application.
        UnavailableError: Lean cannot be reached at all.
    """
    started = time.monotonic()
    before = client.requests
    now = await client.server_time()
    stale, unread = await asyncio.to_thread(stale_entities, lake, policy, now, entity_ids, shard)
    stale += await _old_at_first_sight(client, unread, policy, now)
    stale = _by_slice(stale)
    step = _Step(client, lake, policy, run_id, waiter or EventWaiter(None, sleep))
    report = RefreshReport(stale=len(stale))
    progress(0, len(stale))
    for start in range(0, len(stale), AT_ONCE):
        wave = stale[start : start + AT_ONCE]
        rows = await step.wave(wave, report)
        await asyncio.to_thread(_keep, lake, rows)
        progress(min(start + AT_ONCE, len(stale)), len(stale))
    report.requests = client.requests - before
    report.seconds = time.monotonic() - started
    return report


def stale_entities(
    lake: Lake,
    policy: Policy,
    now: dt.datetime,
    entity_ids: Collection[str] | None,
    shard: Shard | None = None,
) -> tuple[list[_Entity], list[_Entity]]:
    """Entities with old data, the oldest first, and entities that no pull has read yet."""
    with lake.planning(("unread_entities", "stale_entities"), shard=shard) as connection:
        unread = connection.execute("from unread_entities($now)", {"now": now}).fetchall()
        found = connection.execute(
            "from stale_entities(map($streams, $hours), $now)",
            {
                "streams": list(policy.fresh_hours),
                "hours": list(policy.fresh_hours.values()),
                "now": now,
            },
        ).fetchall()
    stale, new = (
        [row for row in rows if entity_ids is None or row[0] in entity_ids]
        for rows in (found, unread)
    )
    return stale, new


def _by_slice(stale: Sequence[_Entity]) -> list[_Entity]:
    """Old data first, but entities of a slice of the budget's log together: it takes few files."""
    found: list[_Entity] = []
    for start in range(0, len(stale), SLICES * _GROUP):
        found += sorted(stale[start : start + SLICES * _GROUP], key=lambda it: slice_of(it[0]))
    return found


async def _old_at_first_sight(
    client: LeanClient, unread: Sequence[_Entity], policy: Policy, now: dt.datetime
) -> list[_Entity]:
    """New entities whose bank data copy is already too old.

    Lean asks the bank when a customer connects, which may be long ago. If Lean does not answer
    here, the pull of the accounts reports why.

    Raises:
        AuthError: Lean refuses the application.
    """
    if not unread or not policy.fresh_hours:
        return []
    oldest = now - dt.timedelta(hours=min(policy.fresh_hours.values()))

    async def is_old(entity: _Entity) -> bool:
        try:
            read = await client.read("accounts", {"entity_id": entity[0]})
        except AuthError:
            raise
        except LeanError:
            return False
        return read.refreshed_at is not None and read.refreshed_at < oldest

    old: list[_Entity] = []
    for start in range(0, len(unread), AT_ONCE):
        wave = unread[start : start + AT_ONCE]
        answers = await asyncio.gather(*map(is_old, wave))
        old += [entity for entity, is_it in zip(wave, answers, strict=True) if is_it]
    return old


class _Step:
    """A running refresh step."""

    def __init__(
        self,
        client: LeanClient,
        lake: Lake,
        policy: Policy,
        run_id: str | None,
        waiter: EventWaiter,
    ) -> None:
        self._client = client
        self._policy = policy
        self._run_id = run_id
        self._waiter = waiter
        self._budget = Budget(lake, policy.refreshes_per_day)

    async def wave(
        self, wave: Sequence[tuple[str, str | None]], report: RefreshReport
    ) -> list[dict[str, Any]]:
        """Refresh entities at the same time; returns a row per requested refresh."""
        rows: list[dict[str, Any]] = []
        is_live = await self._waiter.is_live()

        async def attempt(entity_id: str, bank: str | None) -> None:
            row = await self._attempt(entity_id, bank, is_live=is_live)
            report.outcomes[row["outcome"]] += 1
            rows.append(row)

        try:
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(wave), _GROUP):
                    banks = dict(wave[start : start + _GROUP])
                    now = await self._client.server_time()
                    granted = await asyncio.to_thread(
                        self._budget.reserve, banks, now, self._run_id
                    )
                    report.over_budget += len(banks) - len(granted)
                    for entity_id in sorted(granted):
                        group.create_task(attempt(entity_id, banks[entity_id]))
        except ExceptionGroup as ended:
            await self._waiter.end(_refresh_ids(rows), is_over=False)
            raise ended.exceptions[0] from None
        # The pulls of this run read the data of finished refreshes. The sensor gets the events of
        # the rest.
        is_over = [row for row in rows if row["outcome"] == "FINISHED"]
        await self._waiter.end(_refresh_ids(is_over), is_over=True)
        await self._waiter.end(_refresh_ids(rows), is_over=False)
        return rows

    async def _attempt(self, entity_id: str, bank: str | None, *, is_live: bool) -> dict[str, Any]:
        """Request a refresh and wait for it; returns its row in the log of results."""
        asked_at = await self._client.server_time()
        ended = await self._refreshed(entity_id, is_live=is_live)
        error = ended.error
        return {
            "attempt_id": new_id(),
            "entity_id": entity_id,
            "bank_identifier": bank,
            "refresh_id": ended.refresh_id,
            "outcome": ended.outcome,
            "code": error.code if error else None,
            "remedy": error.remedy if error else None,
            "data_status": json.dumps(ended.data_status) if ended.data_status else None,
            "asked_at": asked_at,
            "finished_at": await self._client.server_time(),
            "correlation_id": error.correlation_id if error else None,
            "trace_id": error.trace_id if error else None,
            "run_id": self._run_id,
        }

    async def _refreshed(self, entity_id: str, *, is_live: bool) -> _Ended:
        refresh_id = None
        try:
            refresh_id = await self._client.refresh(entity_id)
            if refresh_id is None:
                refresh_id = await self._running(entity_id)
            if refresh_id is None:
                return _Ended("FINISHED")
            await self._waiter.expect(refresh_id, 2 * self._policy.refresh_alarm_seconds)
            return await self._wait(refresh_id, is_live=is_live)
        except AuthError:
            raise
        except ConsentError as error:
            is_known = error.code in {"RECONNECT_REQUIRED", "CONSENT_EXPIRED"}
            return _Ended(error.code if is_known else "FAILED", refresh_id, error=error)
        except LeanError as error:
            return _Ended("FAILED", refresh_id, error=error)

    async def _running(self, entity_id: str) -> str | None:
        """The refresh that is running according to Lean; None if it has ended since."""
        table = await self._client.table("refreshes", entity_id=entity_id)
        running = [row for row in table.to_pylist() if row["status"] not in FINISHED]
        newest = max(running, key=lambda row: row["created_at"], default=None)
        return newest["refresh_id"] if newest is not None else None

    async def _wait(self, refresh_id: str, *, is_live: bool) -> _Ended:
        """Ask Lean for a refresh's state until it is over or overdue, less often each time.

        While webhooks arrive, the first request waits for a webhook, and further requests are rare.
        """
        pause = _LONGEST_POLL_SECONDS if is_live else self._policy.refresh_poll_seconds
        waited = 0.0
        while True:
            left = self._policy.refresh_alarm_seconds - waited
            self._client.log_wait("Lean asks banks again", left)
            # Wait before the first request too, because no bank answers at once.
            waited += await self._waiter.refresh(refresh_id, pause)
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)
            state = await self._client.refresh_state(refresh_id)
            if state.get("status") in FINISHED:
                return _Ended("FINISHED", refresh_id, state.get("data_status"))
            if waited >= self._policy.refresh_alarm_seconds:
                return _Ended("OVERDUE", refresh_id, state.get("data_status"))


def _refresh_ids(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["refresh_id"] for row in rows if row["refresh_id"] is not None]


def _keep(lake: Lake, rows: Sequence[dict[str, Any]]) -> None:
    """Write the results of refreshes."""
    if not rows:
        return
    lake.format.carry_forward()
    table = pa.Table.from_pylist(list(rows), schema=REFRESH_RESULTS_SCHEMA)
    folder = REFRESH_RESULTS / f"attempted_on={dt.datetime.now(dt.UTC):%Y-%m-%d}"
    lake.add(folder, table)
