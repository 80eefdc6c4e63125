"""How each bank stands, from the lake alone: counts and instants, and no personal value."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from lean_resources.streams import STREAMS
from pipelines.lake.folders import LEDGER, quarantine_of
from pipelines.lake.queries import QUERIES, records
from pipelines.lake.storage import Key
from pipelines.models.manifest import current_manifest

if TYPE_CHECKING:
    import duckdb

    from pipelines.lake.lake import Lake
    from pipelines.models.manifest import Manifest
    from pipelines.sync.policy import Policy

CONSENT_DAYS = 14
"""For how many days before and after its end a consent is usually shown."""
MOST_SKEW = dt.timedelta(seconds=60)
"""How far this machine's clock may be from Lean's."""
RIYADH = ZoneInfo("Asia/Riyadh")
_Row = dict[str, Any]
_SUMMED = ("committed", "unchanged", "skipped", "failed", "rows")
_DIRECTORY = ("banks", "entities", "consents")
_QUARANTINE_TARGETS = (
    " or (stream, parent_id) in (select (one.stream, one.parent_id) from all_pulls as one"
    " where one.quarantined > 0 or one.code = 'RECORDS_UNFIT')"
)


@dataclass(frozen=True, slots=True)
class BankFailure:
    """Reads of a stream that fail now, by the code of their newest failure.

    Args:
        stream: The stream; `refresh` for refreshes.
        code: Lean's code or this project's.
        count: Read targets that fail: accounts, entities or the like.
        of_count: Read targets of the bank and stream that were ever tried.
        since: The first failure after the last good read, UTC, by Lean's clock.
    """

    stream: str
    code: str
    remedy: str
    count: int
    of_count: int
    since: dt.datetime


@dataclass(frozen=True, slots=True)
class UnfitRecords:
    """Records of a stream that are left out, by reason.

    Args:
        column_name: The column that could not be read.
        reason: Why, without the value.
        since: When a read first found one, UTC, by Lean's clock.
    """

    stream: str
    column_name: str
    reason: str
    count: int
    since: dt.datetime


@dataclass(frozen=True, slots=True)
class Lateness:
    """How many days after its own day a movement of a bank is first seen, by our own reads.

    Args:
        movements: Movements that were measured.
        days_p50: Days within which half of them were seen.
        later_share: Share of them that came later than the bank's `nightly_days`, from 0 to 1.
    """

    movements: int
    days_p50: int
    days_p95: int
    days_p99: int
    days_most: int
    later_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BankHealth:
    """How a bank stands. Instants are UTC.

    Args:
        bank_identifier: The bank; an empty text for what is not read from a bank.
        entities: Entities that may be read.
        last_good_at: When the last good pull ended, by this machine's clock.
        refreshed_at: Newest state of the bank's data that was read, by Lean's clock.
        oldest_refreshed_at: State of the entity that is furthest behind among late entities.
        late_entities: Entities of which a stream is older than twice the policy's `fresh_hours`.
        late_streams: Those streams.
        failures: What fails now.
        paused_until: Until when a run leaves the bank alone, because it failed time and again, by
            this machine's clock; None where it does not. A new run asks it at once.
        off_since: When the lake learnt that the bank is switched off, by Lean's clock; None where
            it is on.
        consents_ending: Consents that end within 14 days, or as many as were asked for.
        next_consent_end_at: When the next of all its consents ends.
        consents_expired: Entities whose consent ended by its own end in as many days before.
        consents_expired_since: The first of these ends.
        quarantine: Records that are left out.
        refreshes_used: Refreshes of the last 24 hours, by Lean's clock.
        refreshes_allowed: Most refreshes of its entities within 24 hours.
        entities_without_refresh: Entities that have none left.
        late_without_refresh: Late entities among these.
        next_refresh_at: When the first of these may be refreshed again; None where all may.
        requests_today: Requests of the Riyadh day so far, by this machine's clock.
        refreshes_today: Refreshes of the Riyadh day so far, by Lean's clock.
        months_unknown: Months of accounts that are permitted and not known, when tables were built
            last; None before the first build.
        lateness: How late it shows movements, when tables were built last; None if no movement was
            measured.
    """

    bank_identifier: str
    entities: int = 0
    last_good_at: dt.datetime | None = None
    refreshed_at: dt.datetime | None = None
    oldest_refreshed_at: dt.datetime | None = None
    late_entities: int = 0
    late_streams: Sequence[str] = ()
    failures: Sequence[BankFailure] = ()
    paused_until: dt.datetime | None = None
    off_since: dt.datetime | None = None
    consents_ending: int = 0
    next_consent_end_at: dt.datetime | None = None
    consents_expired: int = 0
    consents_expired_since: dt.datetime | None = None
    quarantine: Sequence[UnfitRecords] = ()
    refreshes_used: int = 0
    refreshes_allowed: int = 0
    entities_without_refresh: int = 0
    late_without_refresh: int = 0
    next_refresh_at: dt.datetime | None = None
    requests_today: int = 0
    refreshes_today: int = 0
    months_unknown: int | None = None
    lateness: Lateness | None = None


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """Pulls of a stream so far.

    Args:
        committed: Pulls that brought something.
        unchanged: Pulls that found nothing new.
        skipped: Pulls that were not permitted.
        failed: Pulls that failed.
        rows: Rows that were committed, superseded ones included.
        unfit: Records that are left out now.
        last_pull_at: When the last pull ended, UTC, by this machine's clock.
    """

    stream: str
    committed: int
    unchanged: int
    skipped: int
    failed: int
    rows: int
    unfit: int
    last_pull_at: dt.datetime


@dataclass(frozen=True, slots=True)
class LakeFacts:
    """What the lake says of itself.

    Args:
        banks: How each bank stands; first what is not read from a bank.
        ahead: How far this machine's clock was ahead of Lean's at the last good reads.
        committed_at: When the newest pull ended, by this machine's clock.
        is_behind: Whether something was committed after the last build began.
    """

    banks: list[BankHealth]
    streams: list[StreamHealth]
    ahead: dt.timedelta
    committed_at: dt.datetime
    is_built: bool
    is_behind: bool


def midnight(now: dt.datetime) -> dt.datetime:
    """The beginning of the Riyadh day."""
    return now.astimezone(RIYADH).replace(hour=0, minute=0, second=0, microsecond=0)


def lake_facts(lake: Lake, policy: Policy, now: dt.datetime, consent_days: int) -> LakeFacts | None:
    """How each bank stands; None before the first pull.

    Args:
        consent_days: For how many days before and after its end a consent is counted.

    Raises:
        ConfigError: The lake has a newer format than this code knows.
        duckdb.Error: A file of the ledger or of a list cannot be read.
    """
    if not any(lake.storage.list(f"{LEDGER}/*/*.parquet")):
        return None
    has_quarantine = any(
        any(lake.storage.list(f"{quarantine_of(stream)}/*/*.parquet"))
        for stream in STREAMS.values()
    )
    known = ", ".join(f"'{name}'" for name in _DIRECTORY)
    kept = f"stream in ({known}) or code in ('DISABLED_BY_LEAN', 'DISABLED_BY_CLIENT')"
    names = ["readable_entities", "paused_banks"]
    if has_quarantine:
        kept += _QUARANTINE_TARGETS
        names.append("quarantine")
    with lake.overview(names, kept, now - dt.timedelta(days=2)) as connection:
        [ledger] = records(connection, "health_ledger")
        ahead = dt.timedelta(microseconds=ledger["ahead_us"] or 0)
        # A difference below the limit is as likely the time that answers took.
        lean_now = now - ahead if abs(ahead) > MOST_SKEW else now
        manifest = current_manifest(lake)
        reads = _by_bank(records(connection, "health_reads", midnight=midnight(now)))
        failures = _by_bank(records(connection, "health_failures"))
        entities = _by_bank(
            records(
                connection,
                "health_entities",
                now=lean_now,
                lean_midnight=midnight(lean_now),
                streams=list(policy.fresh_hours),
                hours=list(policy.fresh_hours.values()),
                per_day=policy.refreshes_per_day,
                consent_days=consent_days,
            )
        )
        off = dict(connection.execute("from paused_banks").fetchall())
        unfit = _by_bank(records(connection, "health_quarantine") if has_quarantine else [])
        months = _months_unknown(connection, lake, manifest)
        lateness = _lateness(connection, lake, manifest, policy)
    return LakeFacts(
        banks=[
            _bank(
                reads[name],
                failures[name],
                next(iter(entities[name]), {"entities": 0}),
                policy,
                now,
                bank_identifier=name,
                off_since=off.get(name),
                quarantine=[UnfitRecords(**one) for one in unfit[name]],
                months_unknown=None if months is None else months.get(name, 0),
                lateness=lateness.get(name),
            )
            for name in sorted({*reads, *entities})
        ],
        streams=_streams(chain(*reads.values()), chain(*unfit.values())),
        ahead=ahead,
        committed_at=ledger["committed_at"],
        is_built=bool(manifest.parts),
        is_behind=ledger["commits"] > manifest.commits,
    )


def _months_unknown(
    connection: duckdb.DuckDBPyConnection, lake: Lake, manifest: Manifest
) -> dict[str, int] | None:
    """Months that are not known by bank, from the tables as they were built last."""
    names = {"coverage_intervals": "mart_coverage", "known_accounts": "dim_accounts"}
    for view, model in names.items():
        if not _shows(connection, lake, manifest, view, model):
            return None
    return dict(connection.execute(QUERIES["health_unknown_months"]).fetchall())


def _lateness(
    connection: duckdb.DuckDBPyConnection, lake: Lake, manifest: Manifest, policy: Policy
) -> dict[str, Lateness]:
    """How late each bank shows movements, from the tables as they were built last."""
    if not _shows(connection, lake, manifest, "lateness", "mart_bank_lateness"):
        return {}
    rows = connection.execute(
        QUERIES["health_lateness"],
        {
            "banks": list(policy.nightly_days_by_bank),
            "days": list(policy.nightly_days_by_bank.values()),
            "usual": policy.nightly_days,
        },
    ).fetchall()
    return {bank: Lateness(*figures) for bank, *figures in rows}


def _shows(
    connection: duckdb.DuckDBPyConnection, lake: Lake, manifest: Manifest, view: str, model: str
) -> bool:
    """Create a view of a table as it was built last; returns whether it has a file."""
    files = [Key(part.file) for part in manifest.parts.get(model, {}).values() if part.file]
    if files:
        connection.execute(f"create view {view} as from read_parquet({lake.listed(files)})")
    return bool(files)


def _by_bank(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    """Rows without their bank, by bank; an empty text stands for what is not read from a bank."""
    found: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        found[row.pop("bank_identifier") or ""].append(row)
    return found


def _bank(
    reads: Sequence[_Row],
    failures: Iterable[_Row],
    of_entities: _Row,
    policy: Policy,
    now: dt.datetime,
    **more: Any,
) -> BankHealth:
    entities = of_entities["entities"]
    targets = {one["stream"]: one["targets"] for one in reads} | {"refresh": entities}
    return BankHealth(
        **of_entities,
        **more,
        last_good_at=_newest(reads, "last_good_at"),
        refreshed_at=_newest(reads, "refreshed_at"),
        failures=[
            BankFailure(**one, of_count=max(targets.get(one["stream"], 0), one["count"]))
            for one in failures
        ],
        paused_until=_paused_until(reads, policy, now),
        refreshes_allowed=entities * policy.refreshes_per_day,
        requests_today=sum(one["requests_today"] or 0 for one in reads),
    )


def _streams(reads: Iterable[_Row], unfit: Iterable[_Row]) -> list[StreamHealth]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, dt.datetime] = {}
    for one in reads:
        stream = one["stream"]
        found[stream].update({name: one[name] or 0 for name in _SUMMED})
        last[stream] = max(one["last_pull_at"], last.get(stream, one["last_pull_at"]))
    left_out: Counter[str] = Counter()
    for one in unfit:
        left_out[one["stream"]] += one["count"]
    return [
        StreamHealth(name, **sums, unfit=left_out[name], last_pull_at=last[name])
        for name, sums in sorted(found.items())
    ]


def _newest(rows: Sequence[_Row], column: str) -> dt.datetime | None:
    return max((one[column] for one in rows if one[column] is not None), default=None)


def _paused_until(reads: Sequence[_Row], policy: Policy, now: dt.datetime) -> dt.datetime | None:
    """Until when the run of the newest failures leaves the bank alone; None where that is over."""
    left_alone, good, failed = (
        _newest(reads, name) for name in ("left_alone_at", "last_good_at", "last_failure_at")
    )
    if left_alone is None or failed is None or (good is not None and good > left_alone):
        return None
    until = failed + dt.timedelta(seconds=policy.bank_cooldown_seconds)
    return until if until > now else None
