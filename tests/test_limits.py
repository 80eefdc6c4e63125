import asyncio
import math
import selectors
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lean_resources.errors import BankPausedError, UnavailableError
from lean_resources.limits import CircuitBreaker, CircuitOpenError, Limits, retry_after

BANK = "LEA1_SAMAOB_SAU"


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once when everybody waits."""

    def __init__(self):
        self.now = 0.0
        super().__init__(_VirtualSelector(self))

    def time(self):
        return self.now


class _VirtualSelector(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        assert timeout is not None, "everybody waits for nothing"
        # Work takes a little time too; timers that fire a rounding error early rely on it.
        self._loop.now += max(timeout, 1e-6)
        return super().select(0)


def _run(main):
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main())


def _virtual_limits(max_concurrency, requests_per_second):
    return Limits(
        max_concurrency,
        requests_per_second,
        clock=lambda: asyncio.get_running_loop().time(),
    )


class _Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


async def _begin_all(limits, durations, starts, running):
    loop = asyncio.get_running_loop()
    busy = 0

    async def one(duration):
        nonlocal busy
        async with limits:
            busy += 1
            starts.append(loop.time())
            running.append(busy)
            await asyncio.sleep(duration)
            busy -= 1

    await asyncio.gather(*(one(duration) for duration in durations))


@settings(deadline=None, max_examples=60)
@given(
    max_concurrency=st.integers(1, 20),
    rate=st.floats(0.2, 50),
    durations=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_limits_are_never_exceeded(max_concurrency, rate, durations):
    """In any span of time no more begin than the rate allows, nor are more in flight at once."""
    starts, running = [], []

    async def main():
        await _begin_all(_virtual_limits(max_concurrency, rate), durations, starts, running)

    _run(main)

    burst = max(1, math.floor(rate))
    assert len(starts) == len(durations)
    assert max(running) <= max_concurrency
    for (first, begins), (last, ends) in combinations(enumerate(starts), 2):
        assert last - first + 1 <= burst + rate * (ends - begins) + 1e-3


def test_limits_use_the_rate_they_have():
    """Forty requests at ten a second take three seconds: a burst of ten, then ten a second."""
    starts, running = [], []

    async def main():
        await _begin_all(_virtual_limits(40, 10), [0] * 40, starts, running)

    _run(main)

    assert starts[9] == pytest.approx(0.0, abs=0.01)
    assert starts[-1] == pytest.approx(3.0, abs=0.01)


@settings(deadline=None, max_examples=40)
@given(
    rate=st.floats(1, 30),
    pauses=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 10)), min_size=1, max_size=4),
)
def test_nobody_begins_during_a_pause(rate, pauses):
    """A pause holds everyone back until its end, also those who already waited for their turn."""
    starts, running, silences = [], [], []

    async def main():
        limits = _virtual_limits(8, rate)
        loop = asyncio.get_running_loop()

        async def pause(at, seconds):
            await asyncio.sleep(at)
            silences.append((loop.time(), loop.time() + seconds))
            limits.limited(seconds, math.inf)

        await asyncio.gather(
            _begin_all(limits, [0.1] * 40, starts, running),
            *(pause(at, seconds) for at, seconds in pauses),
        )

    _run(main)

    assert len(starts) == 40
    for begins, ends in silences:
        # At the very instant of the 429, others may just have begun.
        assert not [start for start in starts if begins + 1e-4 < start < ends - 1e-4]
    for (first, begins), (last, ends) in combinations(enumerate(starts), 2):
        assert last - first + 1 <= math.floor(rate) + rate * (ends - begins) + 1e-3


def test_pause_uses_the_clock_and_sleep_given():
    """A pause sleeps once for what is left of it, and the longer of two pauses stands."""
    clock, slept = _Clock(), []

    async def sleep(seconds):
        slept.append(seconds)
        clock.now += seconds

    async def main():
        limits = Limits(2, 100, clock=clock, sleep=sleep)
        limits.limited(30, math.inf)
        limits.limited(10, math.inf)
        limits.limited(-5, math.inf)
        clock.now += 5
        assert limits.paused_seconds == 25
        async with limits:
            pass
        async with limits:
            pass

    asyncio.run(main())

    assert slept == [25]


def test_pause_ends_where_the_clock_stands_still():
    """A sleep that only notes its seconds is not called for ever."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    async def main():
        limits = Limits(1, 100, clock=lambda: 0.0, sleep=sleep)
        limits.limited(30, math.inf)
        async with limits:
            pass

    asyncio.run(main())

    assert slept == [30]


def test_cancelled_waiters_leave_no_trace():
    """Slots of requests that were cancelled, or that failed, are free again."""

    async def main():
        limits = _virtual_limits(1, 1)
        limits.limited(100, math.inf)
        waiters = [asyncio.create_task(_enter(limits)) for _ in range(5)]
        await asyncio.sleep(1)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        with pytest.raises(ZeroDivisionError):
            await _enter(limits, fail=True)
        async with asyncio.timeout(10):
            await _enter(limits)

    _run(main)


async def _enter(limits, *, fail=False):
    async with limits:
        if fail:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "٣"}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30.0,
        ),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT",
                "date": "Wed, 21 Oct 2026 07:29:00 GMT",
            },
            0.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_reads_seconds_and_dates(headers, seconds):
    """Both forms of Retry-After are understood, and nonsense means that nothing was asked."""
    assert retry_after(headers) == seconds


def _opened(clock, *, failures=3, cooldown=60):
    breaker = CircuitBreaker(failures, cooldown, clock)
    for _ in range(failures):
        breaker.check(BANK)
        breaker.failed(BANK)
    return breaker


def test_failures_in_a_row_open_the_circuit():
    """After the last of them the bank is left alone, and the error says for how long."""
    clock = _Clock()
    breaker = _opened(clock)
    clock.now += 20

    with pytest.raises(CircuitOpenError) as caught:
        breaker.check(BANK)

    assert breaker.state(BANK) == "open"
    assert caught.value.retry_after == 40
    assert caught.value.code == "CIRCUIT_OPEN"
    assert caught.value.remedy
    assert isinstance(caught.value, BankPausedError)
    assert isinstance(caught.value, UnavailableError)
    assert BANK in str(caught.value)


def test_failures_with_a_success_between_do_not_open():
    """Only failures in a row count."""
    breaker = CircuitBreaker(2, 60, _Clock())
    for _ in range(10):
        breaker.failed(BANK)
        breaker.succeeded(BANK)

    breaker.check(BANK)
    assert breaker.state(BANK) == "closed"


def test_one_probe_goes_through():
    """After the cooldown one request finds out; the others are held back until it has."""
    clock = _Clock()
    breaker = _opened(clock)
    clock.now += 60

    assert breaker.state(BANK) == "half_open"
    breaker.check(BANK)
    with pytest.raises(CircuitOpenError):
        breaker.check(BANK)
    breaker.succeeded(BANK)

    assert breaker.state(BANK) == "closed"
    breaker.check(BANK)
    breaker.failed(BANK)
    assert breaker.state(BANK) == "closed"


def test_a_failed_probe_opens_again():
    """The cooldown starts anew with the failure of the probe."""
    clock = _Clock()
    breaker = _opened(clock)
    clock.now += 60
    breaker.check(BANK)
    clock.now += 10
    breaker.failed(BANK)
    assert breaker.state(BANK) == "open"

    clock.now += 59
    with pytest.raises(CircuitOpenError):
        breaker.check(BANK)
    clock.now += 1
    breaker.check(BANK)


def test_a_lost_probe_is_replaced():
    """A probe that never reports holds the bank for one more cooldown, not for ever."""
    clock = _Clock()
    breaker = _opened(clock)
    clock.now += 60
    breaker.check(BANK)

    clock.now += 59
    with pytest.raises(CircuitOpenError):
        breaker.check(BANK)
    clock.now += 1
    breaker.check(BANK)


def test_late_reports_do_not_move_an_open_circuit():
    """Requests that began before neither close the circuit nor prolong its cooldown."""
    clock = _Clock()
    breaker = _opened(clock)
    clock.now += 30
    breaker.succeeded(BANK)
    breaker.failed(BANK)

    assert breaker.state(BANK) == "open"
    clock.now += 30
    assert breaker.state(BANK) == "half_open"


def test_a_paused_bank_stays_paused():
    """Neither time nor reports end a pause; another breaker knows nothing of it."""
    clock = _Clock()
    breaker = _opened(clock)
    breaker.pause(BANK)
    clock.now += 1e9
    breaker.succeeded(BANK)
    breaker.failed(BANK)

    with pytest.raises(BankPausedError) as caught:
        breaker.check(BANK)
    assert caught.value.code == "DISABLED_BY_LEAN"
    assert breaker.state(BANK) == "paused"

    assert CircuitBreaker().state(BANK) == "closed"


_REPORTS = st.lists(
    st.tuples(
        st.sampled_from(["check", "succeeded", "failed", "pause"]),
        st.sampled_from(["A", "B"]),
        st.sampled_from([0, 1, 30, 60, 200]),
    ),
    max_size=60,
)
_MOVES = {
    "check": {("half_open", "half_open")},
    "succeeded": {("half_open", "closed")},
    "failed": {("closed", "open"), ("half_open", "open")},
    "pause": {(state, "paused") for state in ("closed", "open", "half_open")},
}


@given(_REPORTS, st.integers(1, 5))
def test_breaker_only_makes_the_moves_drawn(reports, failures):
    """Any history moves a circuit along its state machine, one bank at a time."""
    clock = _Clock()
    breaker = CircuitBreaker(failures, 60, clock)
    for report, bank, seconds in reports:
        clock.now += seconds
        before = {name: breaker.state(name) for name in "AB"}
        passed = True
        try:
            getattr(breaker, report)(bank)
        except BankPausedError:
            passed = False
        after = {name: breaker.state(name) for name in "AB"}

        move = (before[bank], after[bank])
        assert move[0] == move[1] or move in _MOVES[report]
        assert all(before[name] == after[name] for name in "AB" if name != bank)
        if report == "check":
            assert passed or before[bank] != "closed"
            assert not passed or before[bank] in {"closed", "half_open"}


@given(_REPORTS)
def test_no_history_leaves_a_bank_stuck(reports):
    """Unless it is paused, a bank is asked again two cooldowns later, and a success closes it."""
    clock = _Clock()
    breaker = CircuitBreaker(3, 60, clock)
    for report, bank, seconds in reports:
        clock.now += seconds
        if report in {"succeeded", "failed"}:
            getattr(breaker, report)(bank)
        elif report == "check":
            try:
                breaker.check(bank)
            except CircuitOpenError as error:
                assert 0 < error.retry_after <= 60  # noqa: PT017
    clock.now += 120

    for bank in "AB":
        breaker.check(bank)
        breaker.succeeded(bank)
        assert breaker.state(bank) == "closed"


@given(st.lists(st.floats(0, 100), max_size=200), st.integers(1, 6))
def test_a_dead_bank_costs_one_request_per_cooldown(steps, failures):
    """While every request fails, at most the first few and one per cooldown reach the bank."""
    clock = _Clock()
    breaker, asked, began_at = CircuitBreaker(failures, 60, clock), 0, clock.now
    for step in steps:
        clock.now += step
        try:
            breaker.check(BANK)
        except CircuitOpenError:
            continue
        asked += 1
        breaker.failed(BANK)

    assert asked <= failures + (clock.now - began_at) / 60


def test_a_renewed_circuit_is_opened_again_by_its_next_failure():
    """A bank is asked once for each stream, however many failures a closed circuit stands."""
    breaker = _opened(_Clock(), failures=3)
    breaker.pause("paused")

    breaker.renew()
    breaker.check(BANK)
    breaker.failed(BANK)

    assert breaker.state(BANK) == "open"
    assert breaker.state("paused") == "paused"
