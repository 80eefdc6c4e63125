"""How each bank stands, from the lake alone: counts and instants, and no personal value."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        remedy: What to do about it.
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
        count: Records.
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
        days_p95: The same of 95 in 100.
        days_p99: The same of 99 in 100.
        days_most: The same of all.
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
        streams: Pulls of each stream.
        ahead: How far this machine's clock was ahead of Lean's at the last good reads.
        committed_at: When the newest pull ended, by this machine's clock.
        is_built: Whether tables were ever built.
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
        policy: How old data may be, and how much may be spent.
        now: This machine's clock.
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
        found = _Found(
            reads=records(connection, "health_reads", midnight=midnight(now)),
            failures=records(connection, "health_failures"),
            entities=records(
                connection,
                "health_entities",
                now=lean_now,
                lean_midnight=midnight(lean_now),
                streams=list(policy.fresh_hours),
                hours=list(policy.fresh_hours.values()),
                per_day=policy.refreshes_per_day,
                consent_days=consent_days,
            ),
            off=dict(connection.execute("from paused_banks").fetchall()),
            unfit=records(connection, "health_quarantine") if has_quarantine else [],
            months=_months_unknown(connection, lake, manifest),
            lateness=_lateness(connection, lake, manifest, policy),
        )
    return LakeFacts(
        banks=found.banks(policy, now),
        streams=found.streams(),
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


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows of the queries, by bank where they have one."""

    reads: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    entities: list[dict[str, Any]]
    off: Mapping[str, dt.datetime]
    unfit: list[dict[str, Any]]
    months: Mapping[str, int] | None
    lateness: Mapping[str, Lateness]

    def banks(self, policy: Policy, now: dt.datetime) -> list[BankHealth]:
        names = {one["bank_identifier"] or "" for one in (*self.reads, *self.entities)}
        return [self._bank(name, policy, now) for name in sorted(names)]

    def _bank(self, name: str, policy: Policy, now: dt.datetime) -> BankHealth:
        reads, failures = _of(self.reads, name), _of(self.failures, name)
        of_entities = next(iter(_of(self.entities, name)), {"entities": 0})
        entities = of_entities["entities"]
        targets = {one["stream"]: one["targets"] for one in reads} | {"refresh": entities}
        return BankHealth(
            **of_entities | {"bank_identifier": name},
            last_good_at=_newest(reads, "last_good_at"),
            refreshed_at=_newest(reads, "refreshed_at"),
            failures=[
                BankFailure(
                    **_apart(one), of_count=max(targets.get(one["stream"], 0), one["count"])
                )
                for one in failures
            ],
            paused_until=_paused_until(reads, policy, now),
            off_since=self.off.get(name),
            quarantine=[UnfitRecords(**_apart(one)) for one in _of(self.unfit, name)],
            refreshes_allowed=entities * policy.refreshes_per_day,
            requests_today=sum(one["requests_today"] or 0 for one in reads),
            months_unknown=None if self.months is None else self.months.get(name, 0),
            lateness=self.lateness.get(name),
        )

    def streams(self) -> list[StreamHealth]:
        unfit: Counter[str] = Counter()
        for one in self.unfit:
            unfit[one["stream"]] += one["count"]
        found: dict[str, list[dict[str, Any]]] = {}
        for one in self.reads:
            found.setdefault(one["stream"], []).append(one)
        return [
            StreamHealth(
                stream=stream,
                **{name: sum(one[name] or 0 for one in reads) for name in _SUMMED},
                unfit=unfit[stream],
                last_pull_at=max(one["last_pull_at"] for one in reads),
            )
            for stream, reads in sorted(found.items())
        ]


_SUMMED = ("committed", "unchanged", "skipped", "failed", "rows")


def _of(rows: Sequence[dict[str, Any]], bank: str) -> list[dict[str, Any]]:
    return [one for one in rows if (one["bank_identifier"] or "") == bank]


def _apart(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its bank."""
    return {name: value for name, value in row.items() if name != "bank_identifier"}


def _newest(rows: Sequence[dict[str, Any]], column: str) -> dt.datetime | None:
    return max((one[column] for one in rows if one[column] is not None), default=None)


def _paused_until(
    reads: Sequence[dict[str, Any]], policy: Policy, now: dt.datetime
) -> dt.datetime | None:
    """Until when the run of the newest failures leaves the bank alone; None where that is over."""
    left_alone, good, failed = (
        _newest(reads, name) for name in ("left_alone_at", "last_good_at", "last_failure_at")
    )
    if left_alone is None or failed is None or (good is not None and good > left_alone):
        return None
    until = failed + dt.timedelta(seconds=policy.bank_cooldown_seconds)
    return until if until > now else None
