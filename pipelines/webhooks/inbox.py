"""The inbox: a database that keeps each event once until the pipeline has read its data.

The default is SQLite beside the lake; a URL selects PostgreSQL. The receiver adds events. The
pipeline leases events in batches and acknowledges a batch when its run has ended. A batch whose run
disappeared is given back. While an event is kept, a repeated webhook with its id has no effect.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError, SQLAlchemyError

from lean_resources.errors import ConfigError, UnavailableError
from lean_resources.machine import machine_error
from lean_resources.webhooks import LISTED_DAYS, Event

MOST_LEASES = 5
"""An event fails after this many leases; gap repair or the next sync then reads its data."""

_RECEIVED, _LEASED, _DONE, _FAILED = "received", "claimed", "done", "failed"
_FIELDS = tuple(Event.__dataclass_fields__)
_LISTED, _PRUNED = 1, 2
"""Rows of the cursor table: until when Lean's list was compared, and until when was pruned."""
_SEEN_DAYS = 730
"""How long the ids of events without a timestamp are kept."""
_AGAIN_SECONDS = 60
"""Wait after an event's first failure; it doubles with each further failure."""
_BUSY_SECONDS = 15


class _Instant(sa.types.TypeDecorator[dt.datetime]):
    """An instant in UTC, stored the same way in both databases."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, _: sa.Dialect) -> dt.datetime | None:
        return value and value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, _: sa.Dialect) -> dt.datetime | None:
        return value and value.replace(tzinfo=dt.UTC)


class Inbox:
    """The events of one environment; sandbox and production never share an inbox.

    Each method is one transaction and may be called from any thread or process. It raises
    UnavailableError, and changes nothing, if the database does not answer.

    Args:
        url: An SQLAlchemy URL: `sqlite:///file` or `postgresql://user:password@host/database`.
        environment: `sandbox` or `production`; part of the tables' names.

    Raises:
        ConfigError: The URL is not that of a supported database.
    """

    def __init__(
        self,
        url: str,
        environment: str,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self.environment = environment
        self._now = now
        self._engine = _engine(url)
        self._insert = _INSERTS[self._engine.dialect.name]
        self._meta = sa.MetaData()
        self._events = sa.Table(
            f"webhook_events_{environment}",
            self._meta,
            sa.Column("id", _NUMBER, primary_key=True, autoincrement=True),
            sa.Column("event_id", sa.String(128), nullable=False, unique=True),
            sa.Column("type", sa.String(100), nullable=False),
            *(
                sa.Column(name, sa.String(128))
                for name in _FIELDS
                if name not in {"event_id", "type", "sent_at"}
            ),
            sa.Column("sent_at", _Instant),
            sa.Column("source", sa.String(16), nullable=False),
            sa.Column("state", sa.String(8), nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
            sa.Column("claim_id", sa.String(64)),
            sa.Column("received_at", _Instant, nullable=False),
            sa.Column("claimed_at", _Instant),
            sa.Column("settled_at", _Instant),
            sa.Column("not_before", _Instant),
        )
        self._awaited = sa.Table(
            f"awaited_refreshes_{environment}",
            self._meta,
            sa.Column("refresh_id", sa.String(128), primary_key=True),
            sa.Column("until", _Instant, nullable=False),
        )
        self._cursor = sa.Table(
            f"webhook_cursor_{environment}",
            self._meta,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("read_to", _Instant, nullable=False),
        )
        self._seen = sa.Table(
            f"webhook_seen_{environment}",
            self._meta,
            sa.Column("event_id", sa.String(128), primary_key=True),
            sa.Column("seen_at", _Instant, nullable=False),
        )
        columns = self._events.c
        # Partial indexes: most events are acknowledged, and these need no entry.
        for name, column, where in (
            ("open", columns.state, columns.state.in_([_RECEIVED, _LEASED])),
            ("refresh", columns.refresh_id, columns.refresh_id.is_not(None)),
            ("results", columns.results_id, columns.results_id.is_not(None)),
        ):
            only: Any = {f"{dialect}_where": where for dialect in _INSERTS}
            sa.Index(f"webhook_events_{environment}_{name}", column, **only)

    def __repr__(self) -> str:
        return f"Inbox({self._engine.dialect.name!r}, {self.environment!r})"

    def create(self) -> None:
        """Create missing tables, and the folder of a SQLite file."""
        file = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and file is not None:
            with self._explained():
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                # Do not open an existing file: closing it would drop SQLite's locks.
                if not Path(file).exists():
                    Path(file).touch()
        with self._transaction() as connection:
            if self._engine.dialect.name == "postgresql":
                # Without a lock, two processes could create the same tables at once.
                connection.exec_driver_sql("select pg_advisory_xact_lock(7326)")
            self._meta.create_all(connection)

    def check(self) -> None:
        """Raise UnavailableError if the database is gone, is read-only or has no tables."""
        awaited = self._awaited
        with self._transaction() as connection:
            connection.execute(sa.delete(awaited).where(awaited.c.refresh_id == ""))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def add(self, events: Sequence[Event], *, source: str = "webhook") -> int:
        """Store events, and return how many of them are new; known events change nothing.

        After this returns, the events survive a crash of the process or the machine. Events that
        ask for no work are done at once.

        Args:
            events: Each is stored once, even if it comes again. If its webhook is repeated after
                pruning, the inbox recognises it by its timestamp, or by its id if it has none.
            source: Where they came from: `webhook`, `events` or `listing`.
        """
        now = self._now()
        rows = [
            {
                **{name: getattr(event, name) for name in _FIELDS},
                "source": source,
                "state": _RECEIVED if event.asks_for_work else _DONE,
                "received_at": now,
                "settled_at": None if event.asks_for_work else now,
            }
            for event in {event.event_id: event for event in events}.values()
        ]
        statement = self._insert(self._events).on_conflict_do_nothing(index_elements=["event_id"])
        statement = statement.execution_options(preserve_rowcount=True)
        with self._transaction() as connection:
            if source == "webhook":
                rows = self._without_pruned(connection, rows)
            return connection.execute(statement, rows).rowcount if rows else 0

    def _without_pruned(
        self, connection: sa.Connection, rows: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Leave out rows that are not newer than the pruned events, or that were pruned by id."""
        pruned_to = connection.scalar(self._read_to(_PRUNED))
        timeless = [row["event_id"] for row in rows if row["sent_at"] is None]
        query = sa.select(self._seen.c.event_id).where(self._seen.c.event_id.in_(timeless))
        seen = set(connection.scalars(query)) if timeless else set()
        return [
            row
            for row in rows
            if row["event_id"] not in seen
            and (pruned_to is None or row["sent_at"] is None or row["sent_at"] > pruned_to)
        ]

    def lease(self, batch_id: str, limit: int) -> list[Event]:
        """Take the oldest events that ask for work and belong to no batch.

        If a sync waits for a refresh, the events of that refresh are left to the sync.
        """
        events, awaited = self._events, self._awaited
        is_awaited = sa.exists().where(
            awaited.c.refresh_id == events.c.refresh_id, awaited.c.until > self._now()
        )
        is_early = events.c.not_before > self._now()
        chosen = (
            sa.select(events.c.id)
            .where(events.c.state == _RECEIVED, sa.func.coalesce(~is_early, sa.true()), ~is_awaited)
            .order_by(events.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=events)
        )
        with self._transaction() as connection:
            ids = connection.scalars(chosen).all()
            rows = connection.execute(
                sa.update(events)
                .where(events.c.id.in_(ids))
                .values(state=_LEASED, claim_id=batch_id, claimed_at=self._now())
                .returning(events.c.id, *(events.c[name] for name in _FIELDS))
            ).all()
        return [Event(**dict(zip(_FIELDS, row[1:], strict=True))) for row in sorted(rows)]

    def has_work(self) -> bool:
        """Whether the inbox may have an event to lease."""
        query = sa.select(sa.exists().where(self._events.c.state == _RECEIVED))
        with self._reading() as connection:
            return bool(connection.scalar(query))

    def leases(self) -> dict[str, dt.datetime]:
        """Leased batches that are not acknowledged, with the UTC instant of each lease."""
        events = self._events
        with self._reading() as connection:
            found = connection.execute(
                sa.select(events.c.claim_id, sa.func.min(events.c.claimed_at, type_=_Instant))
                .where(events.c.state == _LEASED)
                .group_by(events.c.claim_id)
            )
            return {str(batch_id): leased_at for batch_id, leased_at in found}

    def acknowledge(
        self, batch_id: str, *, is_done: bool, failed_entities: Collection[str] = ()
    ) -> None:
        """Record how a batch ended.

        Args:
            is_done: Whether the run read the data that the events asked for. If not, the events
                may be leased again after a wait; after `MOST_LEASES` leases they fail.
            failed_entities: Entities whose events are given back although the batch is done.
        """
        events = self._events
        is_failed: sa.ColumnElement[bool] = sa.false() if is_done else sa.true()
        if is_done and failed_entities:
            is_failed = sa.func.coalesce(events.c.entity_id, "").in_(sorted(failed_entities))
        leases = events.c.attempts + 1
        back = sa.case((leases < MOST_LEASES, _RECEIVED), else_=_FAILED)
        now = self._now()
        # One case per number of leases, because the databases write intervals differently.
        waits = [
            (events.c.attempts == before, now + dt.timedelta(seconds=_AGAIN_SECONDS * 2**before))
            for before in range(MOST_LEASES)
        ]
        not_before = sa.case(*waits, else_=sa.literal(None, _Instant))
        with self._transaction() as connection:
            connection.execute(
                sa.update(events)
                .where(events.c.claim_id == batch_id, events.c.state == _LEASED)
                .values(
                    state=sa.case((is_failed, back), else_=_DONE),
                    attempts=leases,
                    claim_id=None,
                    settled_at=now,
                    not_before=not_before,
                )
            )

    def await_refresh(self, refresh_id: str, until: dt.datetime) -> None:
        """Reserve the events of a refresh for the sync that waits for it, until a UTC instant."""
        with self._transaction() as connection:
            self._put(connection, self._awaited, {"refresh_id": refresh_id}, {"until": until})

    def end_refreshes(self, refresh_ids: Collection[str], *, is_over: bool) -> None:
        """Stop waiting for refreshes; if they are over, mark their events as done."""
        events, awaited = self._events, self._awaited
        with self._transaction() as connection:
            if is_over:
                connection.execute(
                    sa.update(events)
                    .where(events.c.refresh_id.in_(refresh_ids), events.c.state == _RECEIVED)
                    .values(state=_DONE, settled_at=self._now())
                )
            connection.execute(sa.delete(awaited).where(awaited.c.refresh_id.in_(refresh_ids)))

    def known(self, event_ids: Collection[str]) -> set[str]:
        """Those of these event ids that the inbox has."""
        return self._known(self._events.c.event_id, event_ids, sa.true())

    def finished(self, refresh_ids: Collection[str], statuses: Collection[str]) -> set[str]:
        """Those of these refreshes that have an event with any of these statuses."""
        events = self._events
        return self._known(events.c.refresh_id, refresh_ids, events.c.status.in_(sorted(statuses)))

    def ready(self, results_ids: Collection[str]) -> set[str]:
        """Those of these results that an event has announced."""
        return self._known(self._events.c.results_id, results_ids, sa.true())

    def _known(
        self, column: sa.Column[Any], values: Collection[str], where: sa.ColumnElement[bool]
    ) -> set[str]:
        if not values:
            return set()
        query = sa.select(column).where(column.in_(sorted(values)), where).distinct()
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def first_received_at(self) -> dt.datetime | None:
        """UTC instant at which the oldest kept event arrived; None without an event."""
        events = self._events.c
        return self._instant(sa.select(events.received_at).order_by(events.id))

    def last_received_at(self) -> dt.datetime | None:
        """UTC instant at which the last webhook arrived; None if there was none."""
        events = self._events.c
        of_webhooks = sa.select(events.received_at).where(events.source == "webhook")
        return self._instant(of_webhooks.order_by(events.id.desc()))

    def read_to(self) -> dt.datetime | None:
        """UTC instant until which Lean's list of events was compared; None if it never was."""
        return self._instant(self._read_to(_LISTED))

    def _instant(self, query: sa.Select[Any]) -> dt.datetime | None:
        with self._reading() as connection:
            found: dt.datetime | None = connection.scalar(query.limit(1))
        return found

    def was_read_to(self, at: dt.datetime) -> None:
        """Record the UTC instant until which Lean's list of events was compared."""
        with self._transaction() as connection:
            self._put(connection, self._cursor, {"id": _LISTED}, {"read_to": at})

    def _read_to(self, row: int) -> sa.Select[Any]:
        return sa.select(self._cursor.c.read_to).where(self._cursor.c.id == row)

    def _put(
        self,
        connection: sa.Connection,
        table: sa.Table,
        key: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> None:
        statement = self._insert(table).values({**key, **values})
        connection.execute(
            statement.on_conflict_do_update(index_elements=list(key), set_=dict(values))
        )

    def counts(self) -> dict[str, int]:
        """The number of events in each state."""
        events = self._events
        query = sa.select(events.c.state, sa.func.count()).group_by(events.c.state)
        with self._reading() as connection:
            found = {str(state): int(count) for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in (_RECEIVED, _LEASED, _DONE, _FAILED)}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every event with its state, in the order of arrival."""
        query = sa.select(self._events).order_by(self._events.c.id)
        with self._reading() as connection:
            for row in connection.execute(query).mappings():
                yield dict(row)

    def prune(self) -> int:
        """Delete acknowledged events that Lean does not list any more; how many they were."""
        events, seen = self._events, self._seen
        limit = self._now() - dt.timedelta(days=LISTED_DAYS)
        # A later timestamp would not identify the event as pruned if it came again.
        is_over = sa.and_(
            events.c.received_at < limit,
            events.c.state.in_([_DONE, _FAILED]),
            sa.func.coalesce(events.c.sent_at <= limit, sa.true()),
        )
        timeless = sa.select(events.c.event_id, events.c.received_at).where(
            is_over, events.c.sent_at.is_(None)
        )
        forgotten = self._now() - dt.timedelta(days=_SEEN_DAYS)
        with self._transaction() as connection:
            connection.execute(sa.delete(self._awaited).where(self._awaited.c.until < limit))
            connection.execute(sa.delete(seen).where(seen.c.seen_at < forgotten))
            connection.execute(
                self._insert(seen)
                .from_select(["event_id", "seen_at"], timeless)
                .on_conflict_do_nothing()
            )
            newest = sa.select(sa.func.max(events.c.sent_at, type_=_Instant)).where(is_over)
            known = (connection.scalar(self._read_to(_PRUNED)), connection.scalar(newest))
            if instants := [at for at in known if at is not None]:
                self._put(connection, self._cursor, {"id": _PRUNED}, {"read_to": max(instants)})
            return connection.execute(sa.delete(events).where(is_over)).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._explained():
            with self._engine.begin() as connection:
                yield connection
                opened = connection.info.get(_OPENED)
            # A process may have removed the file during the commit.
            if opened is not None and opened != _files_of(self._engine):
                raise UnavailableError(_GONE, code="INBOX")

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        options = {"is_reading": True}
        with self._explained(), self._engine.connect().execution_options(**options) as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replace database errors, which may quote values, by our own error."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            is_file = self._engine.dialect.name == "sqlite"
            trouble = machine_error(error, self._engine.url.database) if is_file else None
            reason = type(error).__name__ if trouble is None else trouble.message
            unreachable = UnavailableError(f"the inbox cannot be reached: {reason}", code="INBOX")
            if trouble is not None:
                unreachable.remedy = trouble.remedy
            raise unreachable from None


_OPENED = "opened"
_GONE = (
    "the inbox's file was removed or replaced: restore it, or restart the receiver to create a "
    "new file"
)


def _files_of(engine: sa.Engine) -> list[tuple[int, int] | None]:
    """Device and inode of SQLite's file, its log and its shared index; None for a missing file.

    SQLite keeps writing to removed files, and no other process sees those commits.
    """
    found: list[tuple[int, int] | None] = [None, None, None]
    for number, end in enumerate(("", "-wal", "-shm")):
        with suppress(FileNotFoundError):
            file = Path(f"{engine.url.database}{end}").stat()
            found[number] = file.st_dev, file.st_ino
    return found


_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _engine(url: str) -> sa.Engine:
    """The database of a URL, set up so that commits are on disk."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            return sa.create_engine(
                parsed, pool_pre_ping=True, connect_args={"connect_timeout": _BUSY_SECONDS}
            )
        if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
            raise ConfigError("the inbox is neither a SQLite file nor a PostgreSQL database")
        opening = partial(_open, Path(parsed.database or "").absolute())
        engine = sa.create_engine(parsed, creator=opening, poolclass=sa.pool.QueuePool)
    except ImportError:
        raise ConfigError(
            "an inbox in PostgreSQL needs psycopg: pip install 'leanhouse[postgres]'"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigError(
            "the inbox's URL must look like sqlite:////var/inbox.db or postgresql://host/database"
        ) from None

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"pragma {pragma}")
        # The first read creates the log.
        connection.execute("select count(*) from sqlite_master").fetchall()
        record.info[_OPENED] = _files_of(engine)

    @sa.event.listens_for(engine, "checkout")
    def look(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info[_OPENED] != _files_of(engine):
            raise DisconnectionError(_GONE)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        is_reading = connection.get_execution_options().get("is_reading", False)
        connection.exec_driver_sql("begin" if is_reading else "begin immediate")

    return engine


def _open(file: Path) -> sqlite3.Connection:
    """Open an existing file, so that no inbox is created in a folder that is not mounted."""
    if not file.exists():
        raise UnavailableError(_GONE, code="INBOX")
    # With isolation_level=None the driver begins no transactions itself; those do not wait for a
    # lock.
    return sqlite3.connect(
        f"file:{quote(str(file))}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
