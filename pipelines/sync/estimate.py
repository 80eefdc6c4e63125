"""What a sync would ask, from the lake alone: nothing is asked, spent or written."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import AT_ONCE, stale_entities
from pipelines.sync.refresh_budget import Budget
from pipelines.sync.tasks import Selection, Task, tasks_of

REFRESH = "refresh"
_HISTORY = dt.timedelta(days=14)
_REQUESTS_OF_REFRESH = 2
"""Of a refresh: it is asked for, and looked at once."""
_SECONDS_OF_REQUEST = 0.1
"""Of a stream that has no history."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sync would ask of a bank for a stream.

    Args:
        bank_identifier: The bank; an empty text for what is not read from a bank.
        stream: The stream; `refresh` for refreshes.
        reads: Paged reads that are planned, or refreshes.
        requests: Requests that these take, by the mean of the last 14 days; 1 each without any.
        seconds: Time that these take, at the pace of the runs of the last 14 days.
    """

    bank_identifier: str
    stream: str
    reads: int
    requests: int
    seconds: float


def estimate(
    lake: Lake, policy: Policy, now: dt.datetime, entity_ids: Collection[str] | None = None
) -> list[Estimate]:
    """What a sync would ask now, by stream in the order of reading, then by bank.

    The planner of the sync decides, from the lists that were read last: what a customer has
    connected since, and what a refresh brings to light, is not in it.

    Args:
        lake: The lake.
        policy: How eagerly to pull.
        now: The instant at which the sync would begin.
        entity_ids: Only these entities; None means all.
    """
    paces: dict[tuple[str, str], tuple[float, float]] = {}
    with lake.overview((), "false", now - _HISTORY) as connection:
        connection.execute(QUERIES["request_history"], {"since": now - _HISTORY})
        for bank, stream, requests, microseconds in connection.fetchall():
            paces[stream, bank] = (requests, microseconds / 1e6)
        took = connection.execute(
            "select median(epoch(finished_at) - epoch(asked_at)) from refresh_attempts"
        ).fetchone()
    found = []
    for stream in STREAMS.values():
        if stream.exploded_from is None:
            tasks = tasks_of(stream, lake, now, policy, Selection(entity_ids=entity_ids))
            reads = Counter(
                one.target.bank_identifier or "" for one in tasks if isinstance(one, Task)
            )
            for bank, count in sorted(reads.items()):
                per_read, pace = paces.get((stream.name, bank), (1, _SECONDS_OF_REQUEST))
                requests = math.ceil(count * per_read)
                found.append(Estimate(bank, stream.name, count, requests, requests * pace))
    seconds = took[0] if took and took[0] is not None else policy.refresh_poll_seconds
    return [*_refreshes(lake, policy, now, entity_ids, seconds), *found]


def _refreshes(
    lake: Lake,
    policy: Policy,
    now: dt.datetime,
    entity_ids: Collection[str] | None,
    seconds: float,
) -> list[Estimate]:
    """Refreshes of entities that are too old and have one left, many of them at once."""
    stale, _ = stale_entities(lake, policy, now, entity_ids)
    allowed = Budget(lake, policy.refreshes_per_day).allowed([one for one, _ in stale], now)
    banks = Counter(bank or "" for entity_id, bank in stale if entity_id in allowed)
    waves = math.ceil(len(allowed) / AT_ONCE)
    return [
        Estimate(
            bank,
            REFRESH,
            count,
            count * _REQUESTS_OF_REFRESH,
            # Banks are waited for together.
            waves * seconds * count / len(allowed),
        )
        for bank, count in sorted(banks.items())
    ]
