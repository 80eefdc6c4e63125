"""Plans by shape: each account is planned as if it were alone, from all pulls of the ledger."""

import datetime as dt
import random

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lean_resources.streams import STREAMS
from pipelines.lake import lake as lake_module
from pipelines.lake.compaction import keep_present
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome, Pull
from pipelines.lake.queries import QUERIES
from pipelines.sync import shapes as shapes_module
from pipelines.sync import tasks as tasks_module
from pipelines.sync.planner import AllowedDays, Availability, Coverage, months, plan
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection, Task, tasks_of

NOW = dt.datetime(2026, 3, 20, 2, tzinfo=dt.UTC)
TODAY = NOW.date()
DAY = dt.timedelta(days=1)
ACCOUNTS = 40
ENTITIES = 8
POLICY = Policy(
    lookback_days_by_bank={"B1": 40, "B2": 10}, nightly_days_by_bank={"B3": 2}, history_months=10
)
ASKED = (
    "select account_id, bank_identifier, from_date, to_date, offered_from, reported_on"
    " from readable_accounts('transactions', $now) left join offered_now using (account_id)"
    " where skip_code is null order by account_id"
)


def midnight(day):
    """The instant at which a UTC day begins."""
    return dt.datetime.combine(day, dt.time(), dt.UTC)


IDS = random.Random()
"""Ids decide between pulls that are alike, so a lake of a seed has the same ones each time."""


def an_id():
    """An id of a pull or a read."""
    return f"{IDS.getrandbits(128):032x}"


def a_pull(stream, parent, at, **given):
    """A committed pull, as any night may have left it."""
    made = {"outcome": Outcome.COMMITTED, "asked_at": at, "finished_at": at, "known_at": at}
    made |= {"pull_id": an_id(), "series_id": an_id(), "generation": 1}
    return Pull(stream=stream, parent_id=parent, **(made | given))


def directory(lake, luck):
    """Entities with consents and refreshes, and their accounts."""
    batch = lake.batch()
    early = midnight(TODAY - 15 * DAY)
    pulls = []

    def add(stream, parent, found, **given):
        pull = a_pull(stream, parent, early, **given)
        pulls.append(pull)
        schema = STREAMS[stream].schema.append(pa.field("pull_id", pa.string()))
        table = pa.Table.from_pylist([one | {"pull_id": pull.pull_id} for one in found], schema)
        batch.rows(STREAMS[stream], table)

    entities = [f"e{n}" for n in range(ENTITIES)]
    banks = {entity: f"B{n % 5}" for n, entity in enumerate(entities)}
    add("banks", "PERSONAL", [{"bank_identifier": f"B{n}"} for n in range(5)])
    add(
        "entities",
        "application",
        [{"entity_id": e, "bank_identifier": banks[e], "status": "ACTIVE"} for e in entities],
    )
    consents = []
    for entity in entities:
        one = {"consent_id": entity, "entity_id": entity, "consent_status": "ACTIVE"}
        one |= {"permits_transactions": luck.random() < 0.9, "created_at": early}
        one |= {"transactions_from_at": midnight(TODAY - luck.randint(30, 330) * DAY)}
        if luck.random() < 0.3:
            one |= {"transactions_to_at": midnight(TODAY + luck.randint(-20, 20) * DAY)}
        consents.append(one)
    add("consents", "application", consents)
    for n, entity in enumerate(entities):
        own = [f"a{k:02}" for k in range(n, ACCOUNTS, ENTITIES)]
        listed = [{"account_id": account, "entity_id": entity} for account in own]
        add("accounts", entity, listed, entity_id=entity)
        reported = [
            {
                "account_id": account,
                "transactions_from_date": luck.choice(
                    [None, TODAY - luck.randint(5, 120) * DAY, TODAY - 500 * DAY]
                ),
            }
            for account in own
        ]
        one = {"refresh_id": entity, "entity_id": entity, "account_statuses": reported}
        one |= {"created_at": midnight(TODAY - luck.randint(1, 60) * DAY)}
        add("refreshes", entity, [one], entity_id=entity)
    batch.commit(pulls)


def read(luck, account, name, first, last, asked_at, *, is_odd):
    """A pull of some days of a month; an odd one is refused, has misfits, or no instant."""
    given = {"covered_from": first, "covered_to": last, "month": name, "refreshed_at": asked_at}
    given |= {"moving_from": luck.choice([None, last + DAY, max(first, last - 2 * DAY)])}
    if is_odd:
        given |= luck.choice(
            [
                {"unfit_dates": [first], "quarantined": 1},
                {"quarantined": 1},
                {"refreshed_at": None},
                {
                    "outcome": Outcome.FAILED,
                    "code": "RECORDS_UNFIT",
                    "unfit_dates": [last],
                    "covered_from": None,
                    "covered_to": None,
                },
            ]
        )
    return a_pull("transactions", account, asked_at, **given)


def year(luck, account):
    """What earlier nights read of an account."""
    since = TODAY - luck.randint(60, 330) * DAY
    for name, first, last in months(since, TODAY - 2 * DAY):
        for _ in range(luck.choice([0, 1, 1, 1, 1, 1, 2])):
            start = first + luck.choice([0, 0, 0, 0, 5]) * DAY
            end = max(start, last - luck.choice([0, 0, 0, 0, 4]) * DAY)
            late = midnight(min(last + luck.choice([0, 1, 9, 35, 70]) * DAY, TODAY - 2 * DAY))
            asked_at = late + luck.randint(0, 3) * dt.timedelta(hours=1)
            yield read(luck, account, name, start, end, asked_at, is_odd=luck.random() < 0.04)


def tail(luck, account):
    """What the last night read of an account."""
    if luck.random() < 0.2:
        return
    asked_at = midnight(TODAY - luck.choice([1, 1, 1, 1, 1, 3]) * DAY)
    for name, first, last in months(TODAY - luck.choice([10, 45]) * DAY, TODAY - DAY):
        yield read(luck, account, name, first, last, asked_at, is_odd=luck.random() < 0.1)
        if luck.random() < 0.1:
            yield read(luck, account, name, first, last, asked_at, is_odd=False)


def alone(lake, policy, only):
    """The plan of each account by itself, from the days that all pulls cover."""
    with lake.planning(("readable_accounts", "offered_now")) as connection:
        accounts = connection.execute(ASKED, {"now": NOW}).fetchall()
        columns = "parent_id, month, claimed_from, claimed_to, refreshed_at, is_unfit, moving_from"
        claims = connection.execute(
            f"select {columns} from all_coverage where stream = 'transactions'"
        ).fetchall()
    coverage = {}
    for account_id, name, first, last, at, is_unfit, moving_from in claims:
        ended = (first.replace(day=1) + 31 * DAY).replace(day=1) - DAY
        # Of a late copy only the day is known.
        is_late = at is not None and at.date() > ended + policy.longest_open_days * DAY
        copy = midnight(at.date()) if is_late else at
        one = Coverage(first, last, copy, is_unfit, moving_from)
        coverage.setdefault(account_id, {}).setdefault(name, []).append(one)
    for account_id, bank, from_date, to_date, offered_from, reported_on in accounts:
        availability = Availability(offered_from, reported_on) if offered_from else None
        allowed = AllowedDays(account_id, bank, from_date, to_date, availability)
        for one in plan(allowed, coverage, TODAY, policy, only):
            yield account_id, one.from_date, one.to_date, one.months, one.unless_refreshed_at


def together(lake, policy, only):
    """The plan of all accounts."""
    selection = Selection(months=only)
    for task in tasks_of(STREAMS["transactions"], lake, NOW, policy, selection):
        if isinstance(task, Task):
            days = (task.request["start_date"], task.request["end_date"])
            first, last = map(dt.date.fromisoformat, days)
            yield task.target.target_id, first, last, task.months, task.unless_refreshed_at


def lucky(folder, seed):
    """A lake of a year of nights with present pulls, and the pulls of a night since.

    Every second account went through the same as the others of these.
    """
    lake, luck = Lake(folder, "sandbox"), random.Random(seed)
    IDS.seed(seed)
    directory(lake, luck)
    for part in (year, tail):
        pulls = []
        for n in range(ACCOUNTS):
            pulls += part(luck if n % 2 else random.Random(seed), f"a{n:02}")
        lake.batch().commit(pulls)
        if part is year:
            keep_present(lake)
    return lake


def differing(lake):
    """Accounts whose plan is another one if they are planned alone."""
    found = set()
    for only in (None, {"2025-11", "2026-02"}):
        one, other = list(alone(lake, POLICY, only)), list(together(lake, POLICY, only))
        assert one, "nothing is planned"
        found |= {planned[0] for planned in {*one} ^ {*other}}
    return found


@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0))
def test_accounts_are_planned_as_if_alone(tmp_path_factory, seed):
    """Whatever was read of them, also if few are planned at once."""
    lake = lucky(tmp_path_factory.mktemp("lake"), seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shapes_module, "ROWS_AT_ONCE", 25)
        assert differing(lake) == set()


@pytest.mark.conformance
@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0))
def test_accounts_are_planned_as_if_alone_in_many_lakes(tmp_path_factory, seed):
    """The same, in more of them."""
    assert differing(lucky(tmp_path_factory.mktemp("lake"), seed)) == set()


def read_by_account(lake):
    """Add reads of balances of most accounts; the ledger does not say of which entity."""
    pulls = []
    for n in range(0, ACCOUNTS, 3):
        at = midnight(TODAY - (1 + n % 7) * DAY)
        pulls.append(a_pull("balances", f"a{n:02}", at, refreshed_at=at))
    lake.batch().commit(pulls)


def differing_by_entity(lake, entity_ids):
    """Streams whose plan for some entities is not the part of theirs of the plan for all."""
    chosen = Selection(entity_ids=entity_ids)
    found = set()
    for name in ("accounts", "refreshes", "balances", "transactions"):
        plans = [
            list(tasks_of(STREAMS[name], lake, NOW, POLICY, selection))
            for selection in (Selection(), chosen)
        ]
        whole, part = ([getattr(one, "target", one) for one in made] for made in plans)
        assert part or not entity_ids, "nothing is planned"
        kept = [n for n, target in enumerate(whole) if target.entity_id in entity_ids]
        if [plans[0][n] for n in kept] != plans[1]:
            found.add(name)
    return found


@pytest.mark.parametrize("entity_ids", [set(), {"e3", "no'body"}, {"e0", "e5"}])
def test_some_entities_are_planned_as_among_all(tmp_path, entity_ids):
    """What is left out of the ledger for them decides nothing."""
    lake = lucky(tmp_path, 6)
    read_by_account(lake)

    assert differing_by_entity(lake, entity_ids) == set()


def test_planning_for_an_entity_makes_no_claims_of_others(tmp_path):
    """After a webhook, planning costs what the entity has, not what the lake has."""
    lake = lucky(tmp_path, 6)
    read_by_account(lake)
    names = ("readable_accounts", "balances")
    with lake.planning(names, entity_ids={"e3"}) as connection:
        claims = connection.execute("select stream, parent_id from claims order by all").fetchall()

    own = [f"a{n:02}" for n in range(3, ACCOUNTS, ENTITIES) if n % 3 == 0]
    listed = [("consents", "application"), ("entities", "application")]
    expected = [("accounts", "e3"), ("banks", "PERSONAL"), *listed]
    assert claims == sorted([*expected, *(("balances", account) for account in own)])


def test_a_plan_from_pulls_that_name_the_entity_is_found(tmp_path, monkeypatch):
    """An account's pulls need not name the entity that it has now."""
    lake = lucky(tmp_path, 6)
    read_by_account(lake)
    real = lake_module._pulls_of
    by_entity = " and entity_id in (select entity_id from chosen)"
    monkeypatch.setattr(
        lake_module,
        "_pulls_of",
        lambda names, *where: real(names, *where) + (by_entity if where else ""),
    )

    assert differing_by_entity(lake, {"e0", "e5"}) == {"balances"}


def the_phase_is_forgotten(patched):
    """All accounts of a shape are due on the same night."""
    patched.setattr(tasks_module, "phase_of", lambda _account_id, _policy: 0)


def instants_are_those_of_another(patched):
    """The instant is that of the account which was planned first."""
    patched.setattr(tasks_module, "instant", lambda numbered, _instants: numbered)


def no_account_is_odd(patched):
    """Old pulls never decide beside new ones."""
    select = f"select * replace (true as is_plain) from ({QUERIES['changed_targets']})"
    patched.setattr(shapes_module, "QUERIES", {**QUERIES, "changed_targets": select})


@pytest.mark.parametrize(
    "mutant",
    [
        the_phase_is_forgotten,
        *(
            pytest.param(mutant, marks=pytest.mark.conformance)
            for mutant in (instants_are_those_of_another, no_account_is_odd)
        ),
    ],
)
def test_a_wrong_shape_is_found(tmp_path, mutant, monkeypatch):
    """Without a part of what decides, some account gets the plan of another one."""
    lake = lucky(tmp_path, 4)
    mutant(monkeypatch)

    assert differing(lake)
