"""Limits that processes of several machines share: a row per application in PostgreSQL.

The row says from when on the next request may begin, by the clock of the database. A process takes
a block of turns ahead, and waits for them by itself, so that nobody holds the row while waiting.
Turns that are not used within a moment are lost. So in any `t` seconds at most
`requests_per_second * (t + LEASE_SECONDS)` requests begin and one block, whatever crashes.

The row also has the pauses that Lean demands, and the circuits of banks that are open. Each process
hears of them when it takes its next block. While the database does not answer, each process keeps
to its own part of the rate.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from lean_resources.errors import ConfigError
from lean_resources.limits import CIRCUITS, Circuit, leased_turn
from lean_resources.settings import LeanSettings
from lean_resources.shared import (
    CLOSED_UNTIL,
    ENDS_AT,
    FREE_AT,
    INTERVAL,
    LEFT,
    PAUSED_UNTIL,
    Shared,
)

_LOG = logging.getLogger(__name__)

LEASE_SECONDS = 0.25
"""How long turns can be used; a busy process takes a block as often."""
_BUSY_SECONDS = 2
_AGAIN_SECONDS = 10.0
"""Between two looks for a database that did not answer."""
_ALONE_SECONDS = 1.0
"""For which a process gives itself turns meanwhile."""
_LOCK = 7327

Banks = dict[str, tuple[float, int]]
"""Until when, in Unix seconds, the circuits of banks are open, and after how many failures."""
_BANKS = msgspec.json.Decoder(Banks)


class Row(NamedTuple):
    """What a row said when turns were taken; all instants are seconds of the database's clock.

    Args:
        clock: Now.
        begins_at: When the first of the turns may be used.
        paused_until: End of a pause.
        closed_until: End of a wait that is too long for a request.
        banks: The circuits that are open, as JSON.
    """

    clock: float
    begins_at: float
    paused_until: float
    closed_until: float
    banks: str


class LimitsTable:
    """A row in PostgreSQL.

    Args:
        url: The database; it may have a password, which no error shows.
        application: The row.

    Raises:
        ConfigError: The driver is missing, or it is not the URL of a PostgreSQL database.
    """

    def __init__(self, url: str, application: str) -> None:
        options = f"-c lock_timeout={_BUSY_SECONDS}s -c statement_timeout={_BUSY_SECONDS}s"
        try:
            self._engine = sa.create_engine(
                sa.make_url(url).set(drivername="postgresql+psycopg"),
                pool_size=1,
                pool_timeout=_BUSY_SECONDS,
                connect_args={
                    "connect_timeout": _BUSY_SECONDS,
                    "tcp_user_timeout": 1000 * _BUSY_SECONDS,
                    "options": options,
                },
            )
        except ImportError:
            raise ConfigError(
                "LEAN_SHARED_LIMITS needs psycopg: pip install 'leanhouse[postgres]'"
            ) from None
        except (ArgumentError, ValueError):
            raise ConfigError(
                "LEAN_SHARED_LIMITS must look like postgresql://user:password@host/database"
            ) from None
        self._application = application
        self._is_there = False
        self._meta = sa.MetaData()
        seconds = sa.Double
        self._rows = sa.Table(
            "lean_limits",
            self._meta,
            sa.Column("application", sa.String(64), primary_key=True),
            sa.Column("free_at", seconds, nullable=False, server_default="0"),
            sa.Column("paused_until", seconds, nullable=False, server_default="0"),
            sa.Column("closed_until", seconds, nullable=False, server_default="0"),
            sa.Column("banks", sa.Text, nullable=False, server_default="{}"),
        )

    async def take(self, seconds: float, paused: float, closed: float) -> Row:
        """Take turns that last so many seconds, and share pauses.

        Args:
            paused: Seconds that a pause of this process still lasts.
            closed: As `paused`, of a wait that is too long for a request.

        Raises:
            SQLAlchemyError: The database does not answer; nothing is taken.
            OSError: As above.
        """
        columns, later = self._rows.c, sa.func.greatest
        clock = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        # A row that another process changes meanwhile is read again, and so is the clock.
        taken = (
            sa.update(self._rows)
            .where(columns.application == self._application)
            .values(
                free_at=later(columns.free_at, columns.paused_until, clock + paused) + seconds,
                paused_until=later(columns.paused_until, clock + paused),
                closed_until=later(columns.closed_until, clock + closed),
            )
            .returning(
                clock,
                columns.free_at - seconds,
                columns.paused_until,
                columns.closed_until,
                columns.banks,
            )
        )

        def work() -> Row:
            self._create()
            with self._engine.begin() as connection:
                return Row._make(connection.execute(taken).one())

        return await asyncio.to_thread(work)

    async def share_banks(self, before: str, banks: str) -> bool:
        """Replace the circuits that are open; False if another process did so meanwhile.

        Raises:
            SQLAlchemyError: As `take`, and so is OSError.
        """
        columns = self._rows.c
        replaced = (
            sa.update(self._rows)
            .where(columns.application == self._application, columns.banks == before)
            .values(banks=banks)
        )

        def work() -> bool:
            with self._engine.begin() as connection:
                return connection.execute(replaced).rowcount == 1

        return await asyncio.to_thread(work)

    async def close(self) -> None:
        """Close the connection."""
        await asyncio.to_thread(self._engine.dispose)

    def _create(self) -> None:
        """Create the table and the row where they are missing."""
        if self._is_there:
            return
        with self._engine.begin() as connection:
            # Without a lock, two processes could create the table at once.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            self._meta.create_all(connection)
            row = postgresql.insert(self._rows).values(application=self._application)
            connection.execute(row.on_conflict_do_nothing())
        self._is_there = True


class SharedLimits:
    """Takes turns for all processes of a run, and puts them where `Limits` finds them.

    Args:
        table: Where the turns come from.
        shared: What the processes of the run share.
        rate: Requests per second of all processes together.
        readers: Runs that may read at once; each keeps to `rate / readers` while the database does
            not answer.
        clock: Monotonic seconds, as of `Limits`.
    """

    def __init__(
        self,
        table: LimitsTable,
        shared: Shared,
        rate: float,
        readers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._shared = shared
        self._rate = rate
        self._readers = readers
        self._clock = clock
        self.block = max(1, int(rate * LEASE_SECONDS / readers))
        """Most turns that are taken at once."""
        self._taken = 0
        self._asking = asyncio.Lock()
        self._gone_until = float("-inf")
        self._is_gone = False
        self._agreed: Banks = {}

    async def lease(self, wanted: int) -> None:
        """Take turns, unless there are some; zero only shares pauses and circuits.

        Args:
            wanted: Number of requests that wait.
        """
        async with self._asking:
            numbers, asked_at = self._shared.numbers, self._clock()
            with self._shared.locked():
                if wanted and leased_turn(self._shared, asked_at) is not None:
                    return  # another one has asked meanwhile
                used = self._taken - int(numbers[LEFT])
                paused = max(0.0, numbers[PAUSED_UNTIL] - asked_at)
                closed = max(0.0, numbers[CLOSED_UNTIL] - asked_at)
            count = min(self.block, max(wanted, used + 1)) if wanted else 0
            if asked_at >= self._gone_until:
                try:
                    row = await self._table.take(count / self._rate, paused, closed)
                    self._note(row, count, asked_at)
                    await self._share_banks(row)
                except (SQLAlchemyError, OSError) as error:
                    self._lost(error)
                else:
                    return
            if wanted:
                self._alone()

    def _note(self, row: Row, count: int, asked_at: float) -> None:
        """Put turns where requests take them.

        The answer is later than the database's clock in it: turns begin late, and end early.
        """
        if self._is_gone:
            _LOG.warning("the database of LEAN_SHARED_LIMITS answers again")
            self._is_gone = False
        numbers, now = self._shared.numbers, self._clock()
        with self._shared.locked():
            for place, until in (
                (PAUSED_UNTIL, row.paused_until),
                (CLOSED_UNTIL, row.closed_until),
            ):
                if until > row.clock:
                    numbers[place] = max(numbers[place], now + until - row.clock)
            if not count:
                return
            wait = row.begins_at - row.clock
            numbers[FREE_AT] = now + wait
            numbers[ENDS_AT] = max(asked_at + wait + LEASE_SECONDS, numbers[FREE_AT])
            numbers[INTERVAL] = 1 / self._rate
            numbers[LEFT] = self._taken = count

    def _lost(self, error: Exception) -> None:
        if not self._is_gone:
            _LOG.warning(
                "the database of LEAN_SHARED_LIMITS does not answer (%s): up to %g requests per "
                "second, which is this process' part of the rate",
                type(error).__name__,
                self._rate / self._readers,
            )
        self._is_gone = True
        self._gone_until = self._clock() + _AGAIN_SECONDS

    def _alone(self) -> None:
        """Turns of this process' own part of the rate."""
        numbers, interval = self._shared.numbers, self._readers / self._rate
        with self._shared.locked():
            begins_at = max(numbers[FREE_AT], self._clock())
            if numbers[INTERVAL] != interval:
                begins_at += interval
            numbers[FREE_AT] = begins_at
            numbers[INTERVAL] = interval
            numbers[ENDS_AT] = begins_at + _ALONE_SECONDS
            numbers[LEFT] = self._taken = max(1, int(_ALONE_SECONDS / interval))

    async def _share_banks(self, row: Row) -> None:
        """Bring the circuits of banks here and in the row together."""
        stored = _BANKS.decode(row.banks)
        with self._shared.locked():
            text = self._shared.text
            circuits = CIRCUITS.decode(text) if text else {}
            ahead = row.clock - self._clock()
            found = merged(circuits, stored, self._agreed, row.clock, ahead)
            self._shared.text = msgspec.json.encode(circuits) if circuits else b""
        # What could not be shared counts as a change the next time.
        if found == stored or await self._table.share_banks(
            row.banks, msgspec.json.encode(found).decode()
        ):
            self._agreed = found

    async def close(self) -> None:
        """Close the connection to the database."""
        await self._table.close()


def merged(
    circuits: MutableMapping[str, Circuit],
    stored: Mapping[str, tuple[float, int]],
    agreed: Mapping[str, tuple[float, int]],
    clock: float,
    ahead: float,
) -> Banks:
    """The open circuits of all processes; what others changed is changed in `circuits` too.

    What changed here since both last agreed counts, otherwise what the row says.

    Args:
        circuits: The circuits here, with instants of this machine's monotonic clock.
        stored: The open circuits of the row.
        agreed: As `stored`, when they were brought together last.
        clock: Now, by the database.
        ahead: How far the database's clock is ahead of this machine's.
    """
    found: Banks = {}
    for bank in {*circuits, *stored, *agreed}:
        circuit = circuits.get(bank)
        if circuit is not None and circuit.is_paused:
            circuit = None
        mine = None
        if circuit is not None and circuit.retry_at is not None:
            mine = (circuit.retry_at + ahead, circuit.failures)
        theirs, before = stored.get(bank), agreed.get(bank)
        has_changed = (mine is None) != (before is None) or (
            mine is not None and before is not None and abs(mine[0] - before[0]) > _CLOSE_SECONDS
        )
        if has_changed and mine is not None:
            theirs = max(mine, theirs) if theirs is not None else mine
        elif has_changed:
            theirs = None
        if theirs is not None and theirs[0] > clock:
            found[bank] = theirs
            if bank not in circuits or not circuits[bank].is_paused:
                open_one = circuits.setdefault(bank, Circuit())
                open_one.failures, open_one.retry_at = theirs[1], theirs[0] - ahead
        elif circuit is not None and mine is not None and mine[0] > clock:
            # Another process has heard from the bank; the next failure opens it again.
            circuit.retry_at, circuit.is_probing = None, False
            circuit.failures = max(0, circuit.failures - 1)
    return found


_CLOSE_SECONDS = 0.05
"""Instants of two clocks that differ by less are the same."""


def shared_limits(
    settings: LeanSettings, url: SecretStr, shared: Shared, readers: int
) -> SharedLimits:
    """The limits of an application that other machines share.

    Raises:
        ConfigError: As `LimitsTable`.
    """
    token = settings.app_token.get_secret_value() if settings.app_token else settings.client_id
    named = f"{settings.api_url} {token}"
    application = hashlib.sha256(named.encode()).hexdigest()[:32]
    table = LimitsTable(url.get_secret_value(), application)
    return SharedLimits(table, shared, settings.requests_per_second, readers)
