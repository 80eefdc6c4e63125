"""Movements on accounts: rows per month, as a pure function of the account and the month.

A row says from when until when the bank shows it. A pending purchase that books later is two rows:
the second begins when the first ends. A `Statement` has what the bank shows at an instant: the rows
in booked order, and the balance after each booked row. The balances add up to the last minor unit
at each instant.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from lean_resources.sandbox.clock import (
    DAY,
    HOUR,
    MINUTE,
    NEVER,
    SECOND,
    date_of,
    first_day,
    month_of,
)
from lean_resources.sandbox.flows import ABROAD, BILLERS, FLOWS, MERCHANTS, Biller, Flow, Merchant
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.people import firm, person
from lean_resources.sandbox.world import Account, Slot, World

_RATES = {
    "USD": (37_552, 2),
    "EUR": (40_871, 2),
    "GBP": (47_926, 2),
    "AED": (10_224, 2),
    "JPY": (246, 0),
}
"""Riyals per unit in ten-thousandths, and the currency's decimal places."""

_BOOKED = "BOOKED"
_PENDING = "PENDING"


class Party(NamedTuple):
    """The other side of a transfer.

    Args:
        draw: Hash from which the account number and the bank are drawn.
        own: Place of the customer's own account; -1 for a stranger's account.
    """

    name: str
    arabic: str
    draw: int
    own: int = -1


class Exchange(NamedTuple):
    """A purchase in another currency; the rate is in ten-thousandths."""

    currency: str
    minor: int
    rate: int


class Bill(NamedTuple):
    """A payment through SADAD."""

    biller: Biller
    number: int


class Charge(NamedTuple):
    """A charge that is part of the amount, in minor units."""

    minor: int
    vat: int


class Row(NamedTuple):
    """A movement as the bank shows it for a while.

    Args:
        booked: Booking instant.
        seq: Its number on the account, which stays when the row changes.
        variant: Number of earlier ids of the movement.
        shown: First instant at which the bank shows it.
        until: First instant at which the bank no longer shows it in this form.
        minor: Signed amount in minor units.
        happened: When the movement happened.
        draw: Hash for reference, terminal and wording.
    """

    booked: int
    seq: int
    variant: int
    shown: int
    until: int
    status: str
    minor: int
    flow: Flow
    party: Merchant | Party | Biller | None
    happened: int
    extra: Exchange | Bill | Charge | None
    draw: int


class Statement:
    """An account as the bank shows it at an instant, with the shown rows in booked order."""

    __slots__ = ("available", "balances", "booked", "instant", "instants", "pending", "rows")

    def __init__(self, account: Account, instant: int, rows: list[Row]) -> None:
        self.rows = rows
        self.instant = instant
        self.instants = [row.booked for row in rows]
        self.balances: list[int] = []
        balance, pending = account.opening, 0
        for row in rows:
            if row.status == _BOOKED:
                balance += row.minor
            elif row.minor < 0:
                pending += row.minor
            self.balances.append(balance)
        self.booked = balance
        self.pending = pending
        self.available = balance + pending + account.credit_line

    def between(self, first: int, last: int) -> tuple[int, int]:
        """Bounds of the rows booked on the UTC days from `first` to `last`, both included."""
        return (
            bisect_left(self.instants, first * DAY),
            bisect_right(self.instants, (last + 1) * DAY - 1),
        )

    def balance_before(self, day: int) -> int:
        """Booked balance at the start of a UTC day."""
        at = bisect_left(self.instants, day * DAY)
        if at:
            return self.balances[at - 1]
        return self.booked - sum(row.minor for row in self.rows if row.status == _BOOKED)


class Ledger:
    """Writes the movements of a world's accounts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._months = lru_cache(maxsize=2048)(self._write_month)
        self._statements = lru_cache(maxsize=256)(self._write_statement)

    def statement(self, account: Account, instant: int) -> Statement:
        """The account as the bank shows it at an instant."""
        return self._statements(account, instant)

    def _write_statement(self, account: Account, instant: int) -> Statement:
        rows: list[Row] = []
        for month in range(account.first_month, month_of(instant // DAY) + 1):
            rows += [
                row for row in self._months(account, month) if row.shown <= instant < row.until
            ]
        rows += [row for row in self.script(account) if row.shown <= instant < row.until]
        rows.sort(key=itemgetter(0, 1))
        return Statement(account, instant, rows)

    def _write_month(self, account: Account, month: int) -> tuple[Row, ...]:
        page = _Page(account, month, self.world.seed)
        _WRITERS[account.kind](page)
        for transfer in own_transfers(self.world, account, month):
            page.own(*transfer)
        return tuple(page.rows)

    def script(self, account: Account) -> tuple[Row, ...]:
        """Rows around the day on which the clock starts."""
        if account.key[2] != 0 or account.slot not in {Slot.PENDING, Slot.LATE}:
            return ()
        script = _pending_script if account.slot == Slot.PENDING else _late_script
        return script(account, self.world.start_day)


class _Page:
    """A month of an account while it is written."""

    def __init__(self, account: Account, month: int, seed: int) -> None:
        self.account = account
        self.bank = account.bank
        self.month = month
        self.first = first_day(month)
        self.days = first_day(month + 1) - self.first
        self.random = random.Random(mix(seed, 31, account.draw, month))  # noqa: S311
        self.seed = seed
        self.rows: list[Row] = []
        self.count = 0
        self.salary = salary_of(seed, account.key[0])
        favourites = [mix(account.draw, 33, place) % len(MERCHANTS) for place in range(9)]
        self.favourites = [MERCHANTS[place] for place in favourites]

    def moment(self, day: int | None = None) -> int:
        """An instant on a day of the month, mostly during the day in Riyadh."""
        draw = self.random.random
        if day is None:
            day = int(draw() * self.days)
        second = int((5 + draw() * 16) * 3600) if draw() < 0.95 else int((21 + draw() * 3) * 3600)
        return (self.first + day) * DAY + second * SECOND + int(draw() * SECOND)

    def add(
        self,
        flow: Flow,
        happened: int,
        minor: int,
        party: Merchant | Party | Biller | None = None,
        extra: Exchange | Bill | Charge | None = None,
        *,
        draw: int | None = None,
        seq: int | None = None,
    ) -> int:
        """Write a movement; returns its draw."""
        if draw is None:
            draw = self.random.getrandbits(48)
        if seq is None:
            seq = self.month * 1000 + self.count
            self.count += 1
        bank = self.bank

        def on(instant: int) -> int:
            return instant // DAY * DAY if bank.midnight else instant

        booked, shown = on(happened), happened + 90 * SECOND
        row = Row(
            booked, seq, 0, shown, NEVER, _BOOKED, minor, flow, party, happened, extra, draw
        )  # fmt: skip
        if bank.pending and flow.card and minor < 0:
            posted = happened + (20 + draw % 30) * HOUR
            self.rows.append(row._replace(until=posted, status=_PENDING))
            row = row._replace(shown=posted, booked=on(posted) if bank.older else booked)
        elif draw % 97 == 0:
            row = row._replace(shown=happened + (2 + draw % 7) * DAY)
        self.rows.append(row)
        return draw

    def own(self, number: int, happened: int, minor: int, other: int, draw: int) -> None:
        """Write this account's leg of a transfer between the customer's own accounts."""
        party = Party("OWN ACCOUNT", "حسابي", mix(draw, 7), other)
        flow = FLOWS["own_in" if minor > 0 else "own_out"]
        seq = self.month * 1000 + 800 + number
        self.add(flow, happened, minor, party, draw=draw, seq=seq)

    def purchases(self, count: int, *, scale: int = 100, online: int = 15) -> None:
        """Write card purchases; some are paid back, in part or by reversal."""
        draw = self.random.random
        for _ in range(count):
            shops = self.favourites if draw() < 0.8 else MERCHANTS
            shop = shops[int(draw() * len(shops))]
            share = draw()
            minor = (shop.low + int((shop.high - shop.low) * share * share)) * scale // 100
            minor = max(150, min(minor, self.salary // 40 + int(draw() * 900)))
            ending = draw()
            unit = 100 if ending < 0.3 else 50 if ending < 0.45 else 1
            minor = minor // unit * unit or unit
            happened = self.moment()
            flow = FLOWS["online" if draw() * 100 < online else "pos"]
            reference = self.add(flow, happened, -minor, shop)
            fate = draw()
            if fate < 0.02:
                back = happened + int((2 + draw() * 6) * DAY)
                self.add(FLOWS["refund"], back, minor, shop)
            elif fate < 0.032:
                self.add(FLOWS["reversal"], happened + 3 * MINUTE, minor, shop, draw=reference)

    def bills(self, count: int, *, scale: int = 1) -> None:
        """Write a SADAD payment for each of this many billers."""
        for biller in BILLERS[:count]:
            minor = biller.low + int((biller.high - biller.low) * self.random.random())
            bill = Bill(biller, self.random.getrandbits(33))
            self.add(FLOWS["bill"], self.moment(), -minor * scale, biller, bill)

    def abroad(self) -> None:
        """Write a purchase in another currency."""
        draw = self.random.random
        shop = ABROAD[int(draw() * len(ABROAD))]
        foreign = shop.low + int((shop.high - shop.low) * draw())
        rate, places = _RATES[shop.currency]
        rate += int(draw() * 60) if rate > 1000 else int(draw() * 6)
        minor = (foreign * rate * 100 // 10**places + 5000) // 10_000
        flow = FLOWS["foreign"]
        charge = Exchange(shop.currency, foreign, rate)
        self.add(flow, self.moment(), -max(minor, 1), shop, charge)

    def transfer(self, flow: str, minor: int, day: int | None = None) -> int:
        """Write a transfer to or from a stranger; returns its instant."""
        number = self.random.getrandbits(20)
        other = person(0, number)
        party = Party(other.short_name.upper(), other.arabic_name, mix(number, 5))
        happened = self.moment(day)
        self.add(FLOWS[flow], happened, minor, party)
        return happened


def own_transfers(
    world: World, account: Account, month: int
) -> list[tuple[int, int, int, int, int]]:
    """An account's legs of the month's transfers between the customer's accounts.

    Each leg is (number, instant, signed amount, place of the other account, draw). The entity
    decides them, so both legs have the same number, instant and draw.
    """
    customer, ordinal, place = account.key
    if account.kind not in _OWN_KINDS or account.siblings[0] != "CURRENT":
        return []
    first = first_day(month)
    salary = salary_of(world.seed, customer)
    legs = []
    number = 0
    for other, kind in enumerate(account.siblings):
        if other == 0 or kind not in _OWN_KINDS:
            continue
        draw = mix(world.seed, 34, customer, ordinal, other, month)
        day, share = _OWN_KINDS[kind]
        amount = salary * (share + (draw >> 8) % share) // 1_500 // 100 * 100
        instant = (first + day) * DAY + (6 + draw % 12) * HOUR + (draw >> 24) % HOUR
        turns = [amount]
        if kind == "SAVINGS" and draw % 4 == 0:
            turns.append(-(amount * 3 // 2))
        for turn, minor in enumerate(turns):
            number += 1
            if place in (0, other) and (kind != "PREPAID" or account.slot != Slot.NARROW):
                mine = -minor if place == 0 else minor
                partner = other if place == 0 else 0
                legs.append(
                    (number, instant + turn * DAY, mine, partner, (draw >> 4) % 2**47 + turn)
                )
    return legs


_OWN_KINDS = {
    "CURRENT": (0, 1),
    "SAVINGS": (27, 80),
    "CREDIT": (4, 95),
    "CHARGE_CARD": (5, 95),
    "PREPAID": (9, 30),
}
"""Day of the month and share of the salary, in thousandths, that goes to an own account."""


def salary_of(seed: int, customer: int) -> int:
    """A customer's monthly salary in halalas."""
    return (550_000 + mix(seed, 32, customer) % 2_250_000) // 5_000 * 5_000


def _current(page: _Page) -> None:
    _obligations(page)
    draw = page.random.random
    scale = max(45, min(220, page.salary // 10_000))
    page.purchases(14 + int(draw() * 18), scale=scale)
    for _ in range(1 + int(draw() * 3)):
        page.add(FLOWS["atm"], page.moment(), -(1 + int(draw() * 6)) * 10_000)
    for _ in range(1 + int(draw() * 3)):
        page.transfer("sent", -(5_000 + int(draw() * scale * 600)))
    if draw() < 0.6:
        page.transfer("received", 5_000 + int(draw() * scale * 700))
    if draw() < 0.5:
        page.abroad()
    if draw() < 0.12:
        happened = page.transfer("abroad", -(50_000 + int(draw() * 200_000)))
        page.add(FLOWS["fee"], happened + SECOND, -5_750, None, Charge(5_000, 750))
    if draw() < 0.1:
        page.add(FLOWS["cash_in"], page.moment(), (1 + int(draw() * 20)) * 5_000)
    if draw() < 0.2:
        page.add(FLOWS["cashback"], page.moment(20), 300 + int(draw() * 4_000))
    if not page.bank.midnight:
        _edges(page)


def _obligations(page: _Page) -> None:
    """Monthly movements: salary, rent, instalment and bills."""
    salary = page.salary
    english, arabic = firm(page.account.draw)
    employer = Party(english, arabic, mix(page.account.draw, 41))
    page.add(FLOWS["salary"], _payday(page), salary, employer)
    if page.account.draw % 3:
        landlord = person(0, page.account.draw % 2**20)
        party = Party(landlord.short_name.upper(), landlord.arabic_name, mix(page.account.draw, 42))
        rent = salary * 22 // 100 // 5_000 * 5_000
        page.add(FLOWS["rent"], page.moment(page.account.draw % 5), -rent, party)
    if page.account.draw % 2:
        loan = salary * 11 // 100 // 100 * 100
        lender = Party("MARKABA FINANCE", "مركبة للتمويل", mix(page.account.draw, 43))
        page.add(FLOWS["loan"], page.moment(1), -loan, lender)
    page.bills(2 + int(page.random.random() * 4))


def _edges(page: _Page) -> None:
    """Rows at the edges of days and months, where the date depends on the time zone."""
    shop = page.favourites[0]
    evening = (page.first + 8) * DAY + 20 * HOUR + 59 * MINUTE + 59 * SECOND
    page.add(FLOWS["cash_in"], evening, 10_000)
    page.add(FLOWS["reversal"], evening + SECOND, 1_150, shop)
    end = (page.first + page.days) * DAY - 1
    page.add(FLOWS["monthly_fee"], end, -1_150, None, Charge(1_000, 150))


def _payday(page: _Page) -> int:
    """The 27th at 03:00 UTC; the Thursday before if the 27th is a Friday or Saturday."""
    day = page.first + 26
    weekday = date_of(day).weekday()
    if weekday in (4, 5):
        day -= weekday - 3
    return day * DAY + 3 * HOUR + page.account.draw % HOUR


def _joint(page: _Page) -> None:
    draw = page.random.random
    for _ in range(2):
        page.transfer("received", 100_000 + int(draw() * 150_000), 1)
    page.purchases(10 + int(draw() * 8), scale=80, online=5)
    page.bills(2)


def _savings(page: _Page) -> None:
    draw = page.random.random
    profit = 2_000 + int(draw() * 30_000)
    page.add(FLOWS["profit"], (page.first + page.days) * DAY - 2 * HOUR, profit)
    if draw() < 0.3:
        page.transfer("received", 20_000 + int(draw() * 300_000))


def _card(page: _Page) -> None:
    draw = page.random.random
    page.purchases(7 + int(draw() * 10), scale=page.salary // 11_000, online=40)
    if draw() < 0.6:
        page.abroad()
    if page.month % 12 == 5:
        page.add(FLOWS["monthly_fee"], page.moment(3), -34_500, None, Charge(30_000, 4_500))


def _prepaid(page: _Page) -> None:
    draw = page.random.random
    page.purchases(2 + int(draw() * 5), scale=6, online=60)
    if page.account.siblings[0] != "CURRENT" or page.account.slot == Slot.NARROW:
        page.transfer("received", 40_000 + int(draw() * 40_000), 0)


def _wallet(page: _Page) -> None:
    draw = page.random.random
    for _ in range(2):
        page.transfer("received", 40_000 + int(draw() * 60_000))
    page.purchases(8 + int(draw() * 10), scale=12, online=50)
    page.transfer("sent", -(2_000 + int(draw() * 30_000)))
    _edges(page)


def _dinar(page: _Page) -> None:
    """Amounts of three decimal places."""
    draw = page.random.random
    page.transfer("received", 120_000 + int(draw() * 400_000), 2)
    for _ in range(2 + int(draw() * 5)):
        page.transfer("sent", -(1_001 + int(draw() * 60_000)))


def _odd(page: _Page) -> None:
    draw = page.random.random
    for flow in ("unsupported", "never_seen"):
        page.transfer(flow, -(1_000 + int(draw() * 9_000)))
    page.transfer("received", 30_000 + int(draw() * 9_000))


def _business(page: _Page) -> None:
    draw = page.random.random
    for day in range(page.days):
        minor = 180_000 + int(draw() * 1_400_000)
        page.add(FLOWS["settlement"], page.moment(day), minor, None)
    for _ in range(8 + int(draw() * 8)):
        number = page.random.getrandbits(20)
        english, arabic = firm(number)
        party = Party(english, arabic, mix(number, 6))
        page.add(FLOWS["sent"], page.moment(), -(200_000 + int(draw() * 2_400_000)), party)
    page.add(FLOWS["payroll"], _payday(page), -(6_000_000 + int(draw() * 900_000)))
    if page.month % 3 == 0:
        page.add(FLOWS["tax"], page.moment(27), -(1_500_000 + int(draw() * 900_000)))
    page.bills(3, scale=10)
    _edges(page)


_WRITERS = {
    "CURRENT": _current,
    "JOINT": _joint,
    "SAVINGS": _savings,
    "CREDIT": _card,
    "CHARGE_CARD": _card,
    "PREPAID": _prepaid,
    "EMONEY": _wallet,
    "DINAR": _dinar,
    "UNSUPPORTED": _odd,
    "DIGITAL_GOLD": _odd,
    "BUSINESS": _business,
}


def _pending_script(account: Account, today: int) -> tuple[Row, ...]:
    """Four purchases of yesterday that are pending today and end differently tomorrow."""
    pos = FLOWS["pos"]
    base = month_of(today) * 1000 + 900
    turn = (today + 1) * DAY + 6 * HOUR
    rows = []
    for number, (minor, shop) in enumerate(
        ((-8_750, 0), (-21_499, 8), (-15_000, 8), (-32_000, 17))
    ):
        happened = (today - 1) * DAY + (10 + number) * HOUR + 7 * MINUTE
        draw = mix(account.draw, 51, number) >> 16
        start = Row(
            (today - 1) * DAY, base + number, 0, happened + MINUTE, turn, _PENDING, minor, pos,
            MERCHANTS[shop], happened, None, draw,
        )  # fmt: skip
        rows.append(start)
        if number < 3:
            rows.append(
                start._replace(
                    booked=(today + 1) * DAY,
                    variant=1 if number == 1 else 0,
                    shown=turn,
                    until=NEVER,
                    status=_BOOKED,
                    minor=-17_350 if number == 2 else minor,
                )
            )
    return tuple(rows)


def _late_script(account: Account, today: int) -> tuple[Row, ...]:
    """Rows that the bank posts days late, and two equal purchases."""
    pos = FLOWS["pos"]
    base = month_of(today) * 1000 + 900
    coffee, market = MERCHANTS[4], MERCHANTS[0]
    noon = 12 * HOUR
    tomorrow = (today + 1) * DAY + 6 * HOUR
    last_month = first_day(month_of(today)) * DAY - 5 * HOUR
    bought = (today - 4) * DAY + noon
    script = (
        ((today - 9) * DAY + noon, (today - 3) * DAY, -6_425, market, 0),
        ((today - 6) * DAY + noon, tomorrow, -9_980, market, 1),
        (last_month, tomorrow, -12_345, market, 2),
        (bought, bought, -1_800, coffee, 3),
        (bought, bought, -1_800, coffee, 3),
    )
    return tuple(
        Row(
            happened, base + number, 0, shown, NEVER, _BOOKED, minor, pos, shop, happened, None,
            mix(account.draw, 52, place) >> 16,
        )
        for number, (happened, shown, minor, shop, place) in enumerate(script)
    )  # fmt: skip
