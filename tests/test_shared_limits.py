"""Limits that several machines share: one rate, pauses and open circuits, whoever crashes."""

import asyncio
import contextlib
import itertools
import json
import logging
import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from test_limits import BANK, _run

from lean_resources.errors import ConfigError
from lean_resources.limits import CircuitBreaker, CircuitOpenError, Limits
from lean_resources.settings import LeanSettings
from lean_resources.shared import LEFT, Shared
from lean_resources.shared_limits import (
    LEASE_SECONDS,
    LimitsTable,
    Row,
    SharedLimits,
    shared_limits,
)

WRONG = "postgresql://duty:made-up-password@127.0.0.1:1/nowhere"


class Table:
    """As `LimitsTable`, in virtual time: a row with a clock of its own, some way off."""

    AHEAD = 5000.0

    def __init__(self, seconds=0.0):
        self.free_at = self.paused_until = self.closed_until = 0.0
        self.banks = "{}"
        self.gone = False
        self.seconds = seconds

    async def take(self, seconds, paused, closed):
        await asyncio.sleep(self.seconds / 2)
        if self.gone:
            raise OperationalError("select", {}, Exception("made up"))
        clock = asyncio.get_running_loop().time() + self.AHEAD
        begins_at = max(self.free_at, self.paused_until, clock + paused)
        self.free_at = begins_at + seconds
        self.paused_until = max(self.paused_until, clock + paused)
        self.closed_until = max(self.closed_until, clock + closed)
        row = Row(clock, begins_at, self.paused_until, self.closed_until, self.banks)
        await asyncio.sleep(self.seconds / 2)
        return row

    async def share_banks(self, before, banks):
        if self.banks != before:
            return False
        self.banks = banks
        return True

    async def close(self):
        pass


def reader(table, rate, readers, concurrency=4):
    """The limits of one process, in virtual time."""
    clock = lambda: asyncio.get_running_loop().time()  # noqa: E731
    shared = Shared()
    lender = SharedLimits(table, shared, rate, readers, clock)
    return Limits(concurrency, rate, clock, shared=shared, lease=lender.lease), lender


async def works(limits, starts, wishes):
    """Begin requests as wished: each some seconds after the one before, and so long."""
    loop = asyncio.get_running_loop()

    async def one(after, seconds):
        await asyncio.sleep(after)
        async with limits:
            starts.append(loop.time())
            await asyncio.sleep(seconds)

    at = itertools.accumulate(after for after, _ in wishes)
    await asyncio.gather(
        *(one(after, seconds) for after, (_, seconds) in zip(at, wishes, strict=True))
    )


WISHES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.01, 0.2, 1.5]), st.sampled_from([0.0, 0.05, 0.6])),
    min_size=1,
    max_size=25,
)
READERS = st.lists(
    st.tuples(WISHES, st.one_of(st.none(), st.floats(0.05, 4))), min_size=1, max_size=4
)


def within_the_rate(rate, readers, seconds):
    """Whether a law holds for some processes, of which some crash: no window holds too many."""
    starts = []
    blocks = []

    async def main():
        table = Table(seconds)

        async def process(wishes, dies_after):
            limits, lender = reader(table, rate, len(readers))
            blocks.append(lender.block)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dies_after):
                    await works(limits, starts, wishes)

        await asyncio.gather(*(process(*one) for one in readers))

    _run(main)
    if all(dies_after is None for _, dies_after in readers):
        assert len(starts) == sum(len(wishes) for wishes, _ in readers), "each has its turn"
    starts.sort()
    return all(
        last - first + 1 <= rate * (ends - begins + LEASE_SECONDS) + max(blocks) + 1e-3
        for (first, begins), (last, ends) in combinations(enumerate(starts), 2)
    )


@settings(deadline=None, max_examples=60)
@given(rate=st.floats(0.5, 80), readers=READERS, seconds=st.sampled_from([0.0, 0.003, 0.1]))
def test_no_window_has_more_than_the_rate_and_what_was_taken_ahead(rate, readers, seconds):
    """Whatever the order of leases, ends and crashes, and however slow the database is."""
    assert within_the_rate(rate, readers, seconds)


BUSY = [([(0.0, 0.0)] * 25, None)] * 4


def turns_begin_at_once(patched):
    """A process does not wait for the instant from which its turns count."""
    right = SharedLimits._note
    patched.setattr(
        SharedLimits,
        "_note",
        lambda self, row, *given: right(self, row._replace(begins_at=row.clock), *given),
    )


def turns_are_never_used_up(patched):
    """A process goes on with the turns that it took."""
    right = Limits._leased_turn

    def turn(self):
        found = right(self)
        self._shared.numbers[LEFT] += found is not None
        return found and asyncio.get_running_loop().time()

    patched.setattr(Limits, "_leased_turn", turn)


def nobody_shares_the_row(patched):
    """Turns are taken, and the row does not move."""
    right = Table.take

    async def take(self, _seconds, *given):
        return await right(self, 0.0, *given)

    patched.setattr(Table, "take", take)


@pytest.mark.parametrize(
    "mutant", [turns_begin_at_once, turns_are_never_used_up, nobody_shares_the_row]
)
def test_a_faster_reader_is_found(monkeypatch, mutant):
    """The law notices each."""
    assert within_the_rate(40, BUSY, 0.0)
    mutant(monkeypatch)
    assert not within_the_rate(40, BUSY, 0.0)


def test_all_of_the_rate_is_used():
    """One process that is alone has all of it; and one more does not make it less."""
    for count in (1, 2):
        starts = []

        async def main(count=count, starts=starts):
            table = Table(0.003)
            made = [reader(table, 40, 4, concurrency=30)[0] for _ in range(count)]
            await asyncio.gather(
                *(works(one, starts, [(0.0, 0.3)] * (120 // count)) for one in made)
            )

        _run(main)
        assert 2.9 < max(starts) - min(starts) < 3.6


def test_without_the_database_each_keeps_to_its_part(caplog):
    """It says so once, looks for the database again, and goes on with it."""
    starts = []
    caplog.set_level(logging.WARNING)

    async def main():
        table = Table()
        table.gone = True
        made = [reader(table, 20, 4)[0] for _ in range(4)]
        await asyncio.gather(*(works(one, starts, [(0.0, 0.0)] * 25) for one in made))
        table.gone = False
        await asyncio.sleep(15)
        await works(made[0], [], [(0.0, 0.0)])

    _run(main)

    for (first, begins), (last, ends) in combinations(enumerate(sorted(starts)), 2):
        assert last - first + 1 <= 20 * (ends - begins) + 4 + 1e-3
    assert max(starts) - min(starts) < 6
    said = [record.getMessage() for record in caplog.records]
    assert sum("does not answer (OperationalError): up to 5 requests" in one for one in said) == 4
    assert sum("answers again" in one for one in said) == 1


def application(url):
    """Limits of one process over a real row, without a wait for a request."""
    shared = Shared()
    lender = SharedLimits(LimitsTable(url, "test"), shared, 1000, 2)
    return Limits(4, 1000, shared=shared, lease=lender.lease), CircuitBreaker(
        2, 60, shared=shared
    ), lender  # fmt: skip


def test_a_pause_and_an_open_circuit_are_those_of_all(postgres):
    """Another process waits as long, leaves the bank alone, and hears when the bank answers."""

    async def main():
        mine, my_banks, lender = application(postgres)
        other, other_banks, other_lender = application(postgres)
        async with mine, other:
            assert other.paused_seconds == 0
        mine.limited(30, 300)
        my_banks.failed(BANK)
        my_banks.failed(BANK)
        await lender.lease(0)
        await other_lender.lease(0)
        assert 25 < other.paused_seconds <= 30
        with pytest.raises(CircuitOpenError) as caught:
            other_banks.check(BANK)
        assert 55 < caught.value.retry_after <= 60
        # A stream begins: banks are asked once more, and one failure is enough.
        other_banks.renew()
        await other_lender.lease(0)
        await lender.lease(0)
        my_banks.check(BANK)
        my_banks.failed(BANK)
        assert my_banks.state(BANK) == "open"
        await lender.close()
        await other_lender.close()

    asyncio.run(main())


def test_a_paused_bank_is_no_news(postgres):
    """Lean says so to each that asks; the row forgets circuits when they have ended."""

    async def main():
        _, banks, lender = application(postgres)
        _, others, other_lender = application(postgres)
        banks.pause("DISABLED")
        await lender.lease(0)
        await other_lender.lease(0)
        assert others.state("DISABLED") == "closed"
        assert banks.state("DISABLED") == "paused"
        await lender.close()
        await other_lender.close()

    asyncio.run(main())


def test_a_real_row_gives_turns_to_all(postgres):
    """Four processes that want more than there is have the rate together; the lease is short."""
    starts = []

    async def main():
        made = []
        for _ in range(4):
            shared = Shared()
            lender = SharedLimits(LimitsTable(postgres, "rate"), shared, 80, 4)
            made.append((Limits(8, 80, shared=shared, lease=lender.lease), lender))

        async def one(limits):
            for _ in range(4):
                async with limits:
                    starts.append(time.monotonic())

        await asyncio.gather(*(one(limits) for limits, _ in made for _ in range(8)))
        for _, lender in made:
            await lender.close()

    asyncio.run(main())
    starts.sort()
    assert len(starts) == 128
    most = max(sum(at <= one < at + 1 for one in starts) for at in starts)
    assert most <= 80 * (1 + LEASE_SECONDS) + 80 * LEASE_SECONDS / 4
    assert starts[-1] - starts[0] > 1.2


def test_no_address_is_shown(caplog):
    """Not in an error, a log line or the settings."""
    given = LeanSettings(
        client_id="x", client_secret="x", requests_per_second=20, shared_limits=WRONG
    )

    async def main():
        found = shared_limits(given, given.shared_limits, Shared(), 4)
        await found.lease(1)
        await found.close()

    asyncio.run(main())
    assert "up to 5 requests per second" in caplog.text
    assert "made-up" not in caplog.text + repr(given)
    with pytest.raises(ConfigError, match="LEAN_SHARED_LIMITS is not the URL") as caught:
        LeanSettings.load({"LEAN_SHARED_LIMITS": "mysql://duty:made-up-password@host/name"})
    assert "made-up" not in str(caught.value)


def test_circuits_are_as_small_as_they_say():
    """JSON of the row holds banks, instants and counts, and nothing of anybody."""
    shared = Shared()
    table, asked_at = Table(), time.monotonic() + Table.AHEAD
    lender = SharedLimits(table, shared, 10, 1)
    CircuitBreaker(1, 60, shared=shared).failed(BANK)
    asyncio.run(lender.lease(0))
    ((bank, (until, failures)),) = json.loads(table.banks).items()
    assert (bank, failures) == (BANK, 1)
    assert 59 < until - asked_at < 61
