"""Builds of accounts that changed, and of buckets: tables are as if built from nothing."""

import datetime as dt
import shutil
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_lake import pull

from lean_resources.streams import STREAMS
from pipelines.lake.folders import PLANS
from pipelines.lake.lake import Lake
from pipelines.lake.schemas import lake_schema
from pipelines.lake.storage import Key
from pipelines.models import components, deltas, some_accounts
from pipelines.models.build import build
from pipelines.models.deltas import build_changed
from pipelines.models.loader import load
from pipelines.models.manifest import current_manifest, keep_manifest
from pipelines.models.parts import typed_rows
from pipelines.models.rollback import roll_back
from pipelines.models.session import stored_rows
from pipelines.operate.fsck import check
from pipelines.operate.vacuum import vacuum
from pipelines.publish.warehouse import connect, publish

KEY = "made-up-key-of-tests"
START = dt.datetime(2026, 3, 20, 7, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
MONTHS = (dt.date(2026, 2, 1), dt.date(2026, 3, 1))
LAST_DAYS = (dt.date(2026, 2, 28), dt.date(2026, 3, 31))
IBANS = (None, *(f"SA0380000000608010167{number:03}" for number in range(3)))
ALL = load()


def some_models(*names):
    """The project's models, only those that some rest on, with their checks."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in ALL and name not in found:
            found.add(name)
            waiting += ALL[name].reads
    return replace(
        ALL,
        by_name={name: model for name, model in ALL.by_name.items() if name in found},
        checks=tuple(
            one for one in ALL.checks if {one.model, *one.reads} & set(ALL.by_name) <= found
        ),
        table_macros=(),
    )


FEW = some_models("fct_cash_flow_daily", "int_customer_months", "dim_customers", "mart_sync_health")


@dataclass
class World:
    """What Lean would say, and a lake that was told of it.

    Args:
        entities: Customer of each entity.
        consents: Entity, and whether it is active, of each consent.
        accounts: Entity and number of each account.
        moved: Amounts by id, of each account and month.
    """

    lake: Lake
    now: dt.datetime = START
    entities: dict = field(default_factory=lambda: {"e0": "c0", "e1": "c0", "e2": "c1", "e3": "c2"})
    consents: dict = field(default_factory=lambda: {f"k{n}": (f"e{n}", True) for n in range(4)})
    accounts: dict = field(
        default_factory=lambda: {f"a{n}": (f"e{n % 4}", IBANS[n % 4]) for n in range(5)}
    )
    moved: dict = field(default_factory=dict)

    def read_all(self):
        """Pull everything."""
        self.list_all()
        for entity in self.entities:
            self.list_accounts(entity)
        for number, account in enumerate(self.accounts):
            for month in MONTHS:
                self.moved[account, month] = {f"t{n}": 10 * number + n for n in range(1, 4)}
                self.read(account, month)

    def commit(self, stream, parent, rows, **more):
        """Let a pull bring rows."""
        self.now += HOUR
        one = pull(
            stream, parent, asked_at=self.now, known_at=self.now, refreshed_at=self.now,
            rows=len(rows), **more,
        )  # fmt: skip
        trace = {"pull_id": one.pull_id, "page_number": 0}
        table = pa.Table.from_pylist(
            [row | trace | {"record_number": n} for n, row in enumerate(rows)],
            schema=lake_schema(STREAMS[stream]),
        )
        batch = self.lake.batch(self.now)
        batch.rows(STREAMS[stream], table, month=one.month)
        batch.commit([one])

    def list_all(self):
        """Pull customers, entities and consents."""
        self.commit("customers", "application", [
            {"customer_id": one} for one in sorted({*self.entities.values(), "c9"})
        ])  # fmt: skip
        self.commit("entities", "application", [
            {"entity_id": one, "customer_id": customer, "bank_identifier": "B", "status": "ACTIVE",
             "created_at": START, "permits_accounts": True, "permits_transactions": True}
            for one, customer in self.entities.items()
        ])  # fmt: skip
        self.commit("consents", "application", [
            {"consent_id": one, "entity_id": entity, "customer_id": self.entities.get(entity),
             "bank_identifier": "B", "consent_status": "ACTIVE" if is_active else "REVOKED",
             "created_at": START, "expires_at": START + dt.timedelta(days=90)}
            for one, (entity, is_active) in self.consents.items()
        ])  # fmt: skip

    def list_accounts(self, entity):
        """Pull the accounts of an entity."""
        self.commit("accounts", entity, [
            {"entity_id": entity, "account_id": one, "status": "ENABLED", "currency": "SAR",
             "account_type": "PERSONAL", "account_sub_type": "CURRENT",
             "identifications": [{"identification": number}] if number else None}
            for one, (of, number) in self.accounts.items() if of == entity
        ], entity_id=entity)  # fmt: skip

    def read(self, account, month):
        """Pull a month of an account."""
        entity, _ = self.accounts[account]
        day = dt.datetime.combine(month, dt.time(12), dt.UTC)
        self.commit("transactions", account, [
            {"entity_id": entity, "account_id": account, "transaction_id": f"{one}-{month}",
             "amount": Decimal(amount), "currency": "SAR", "status": "BOOKED",
             "credit_debit_indicator": "CREDIT" if amount % 2 else "DEBIT",
             "booked_at": day + amount % 28 * dt.timedelta(days=1),
             "transaction_type": "SAME_BANK_TRANSFER", "transaction_reference": f"R{amount // 2}"}
            for one, amount in self.moved[account, month].items()
        ], entity_id=entity, month=f"{month:%Y-%m}", covered_from=month,
            covered_to=LAST_DAYS[MONTHS.index(month)])  # fmt: skip

    def change(self, kind, which, other):
        """Let something happen, and pull what an event would announce."""
        account = sorted(self.accounts)[which % len(self.accounts)]
        entity, number = self.accounts[account]
        month = MONTHS[other % 2]
        if kind == "rows":
            there = self.moved.setdefault((account, month), {})
            there[f"t{other}"] = 7 * which + other
            self.read(account, month)
        elif kind == "vanished rows":
            self.moved[account, month] = {}
            self.read(account, month)
        elif kind == "number":
            self.accounts[account] = (entity, IBANS[other % len(IBANS)])
            self.list_accounts(entity)
        elif kind == "account":
            new = f"a{len(self.accounts)}"
            self.accounts[new] = (entity, IBANS[other % len(IBANS)])
            self.moved[new, month] = {"t1": other}
            self.list_accounts(entity)
            self.read(new, month)
        elif kind == "no account" and len(self.accounts) > 2:
            del self.accounts[account]
            self.list_accounts(entity)
        elif kind == "entity":
            new = f"e{len(self.entities)}"
            self.entities[new] = f"c{other % 4}"
            self.consents[f"k{new}"] = (new, True)
            self.list_all()
            self.accounts[f"a{new}"] = (new, number)
            self.list_accounts(new)
        elif kind == "customer":
            self.entities[entity] = f"c{other % 4}"
            self.list_all()
        elif kind == "consent":
            name = f"k{int(entity[1:])}"
            self.consents[name] = (entity, not self.consents.get(name, (entity, False))[1])
            self.list_all()


def rows(lake, models):
    """All rows of each table that comes apart; of a table with the clock, without its instants."""
    manifest = current_manifest(lake)
    with lake.connect(()) as connection:
        found = {}
        for model in models:
            if model.apart and model.name in manifest.parts:
                select = stored_rows(lake, model, manifest)
                listed = [one.name for one in model.columns if one.name not in TIMES]
                result = connection.execute(f"select {', '.join(listed)} from ({select})")
                found[model.name] = sorted(map(repr, result.fetchall()))
        return found


TIMES = {"as_of", "last_seen_at", "days_to_expiry", "data_age_days", "day_count", "utc_to"}
"""Columns that differ by the clock, which moves on for accounts that changed alone."""
CHANGES = (
    "rows",
    "vanished rows",
    "number",
    "account",
    "no account",
    "entity",
    "customer",
    "consent",
)


def differing(folder, models, steps):
    """Tables whose rows, after some steps, are not those of a build from nothing."""
    world = World(Lake(folder / "lake", "sandbox"))
    world.read_all()
    build(world.lake, models, hash_key=KEY)
    for kind, which, other in steps:
        if kind == "fold":
            count = (1, 2, 4)[which % 3]
            built = build(world.lake, models, hash_key=KEY, buckets=count)
            if broken := [one.model.name for one in built if one.problem]:
                return broken
            assert current_manifest(world.lake).buckets == count
        else:
            world.change(kind, which, other)
            assert not [
                one for one in build_changed(world.lake, models, hash_key=KEY) if one.problem
            ]
            assert steps not in STORIES.values() or current_manifest(world.lake).deltas
    found = rows(world.lake, models)
    shutil.rmtree(world.lake.folder / "manifests")
    assert not [one for one in build(world.lake, models, hash_key=KEY, buckets=1) if one.problem]
    expected = rows(world.lake, models)
    assert found.keys() == expected.keys()
    assert any(expected.values())
    return [name for name in expected if found[name] != expected[name]]


STORIES = {
    "numbers": [
        ("number", 0, 1), ("number", 1, 2), ("rows", 0, 3), ("vanished rows", 1, 0),
        ("number", 0, 0), ("account", 2, 3),
    ],
    "customers": [("entity", 1, 1), ("customer", 0, 2), ("no account", 2, 0), ("consent", 3, 0)],
    "buckets": [("fold", 2, 0), ("number", 0, 1), ("fold", 2, 0)],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_changes_give_the_rows_of_a_build_from_nothing(story, tmp_path):
    """Movements, account numbers that become known, and people who come and go."""
    assert differing(tmp_path, FEW, STORIES[story]) == []


@pytest.mark.conformance
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from((*CHANGES, "fold")), st.integers(0, 6), st.integers(0, 8)),
        min_size=1,
        max_size=12,
    )
)
def test_any_changes_give_the_rows_of_a_build_from_nothing(tmp_path_factory, steps):
    """In any order, with whole builds in between, more of them than there may be deltas."""
    assert differing(tmp_path_factory.mktemp("law"), FEW, steps) == []


@pytest.mark.conformance
@pytest.mark.parametrize("story", STORIES)
def test_every_table_is_as_if_built_from_nothing(story, tmp_path):
    """All tables of the project, not only a few."""
    assert differing(tmp_path, ALL, STORIES[story]) == []


def test_buckets_by_account_are_caught(tmp_path, monkeypatch):
    """Ids that belong together lie in two buckets."""
    monkeypatch.setitem(components.QUERIES, "joined_ids", "select * from labels")
    assert differing(tmp_path, FEW, [("fold", 2, 0)])


def _open_component(monkeypatch):
    def count(self):
        return self.connection.execute("select count(*) from ids").fetchone()[0]

    monkeypatch.setattr(some_accounts.SomeAccounts, "_spread", count)


def _no_old_keys(monkeypatch):
    monkeypatch.setattr(
        some_accounts,
        "stored_rows",
        lambda *given: f"select * from ({stored_rows(*given)}) where false",
    )


def _lost_month(monkeypatch):
    def february(model, select):
        month = model.stored.month
        return typed_rows(model, f"{select} where {month} < '2026-03'" if month else select)

    monkeypatch.setattr(deltas, "typed_rows", february)


@pytest.mark.parametrize(
    "broken",
    [
        _open_component,
        pytest.param(_no_old_keys, marks=pytest.mark.conformance),
        pytest.param(_lost_month, marks=pytest.mark.conformance),
    ],
)
def test_a_delta_that_is_wrong_is_caught(broken, tmp_path, monkeypatch):
    """Half a component, rows under a key that is no more, a month that is forgotten."""
    broken(monkeypatch)
    assert differing(tmp_path, FEW, STORIES["numbers"][:4])


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A lake that was built and published, and a webhook's pull since."""
    world = World(Lake(tmp_path_factory.mktemp("started") / "lake", "sandbox"))
    world.read_all()
    build(world.lake, FEW, hash_key=KEY)
    publish(world.lake, FEW)
    world.change("rows", 0, 5)
    return world.lake.folder


@pytest.fixture
def lake(started, tmp_path):
    """A copy of it."""
    shutil.copytree(started, tmp_path / "lake" / "sandbox")
    return Lake(tmp_path / "lake", "sandbox")


def published(lake):
    """Rows of what a warehouse shows that changes with pulls and builds."""
    tables = [
        "raw.pulls",
        "raw.claims",
        "raw.transactions",
        "fct_cash_flow_daily",
        "raw.table_ages",
    ]
    with connect(lake) as connection:
        return {
            name: sorted(map(repr, connection.execute(f"from {name}").fetchall()))
            for name in (*tables, "fct_transactions", "dim_customers", "mart_sync_health")
        }


def test_a_warehouse_that_follows_is_like_a_new_one(lake):
    """A copy of the last file with the changes shows what a file from nothing shows."""
    build_changed(lake, FEW, hash_key=KEY)
    followed = publish(lake, FEW)
    found = published(lake)
    lake.warehouse.unlink()
    anew = publish(lake, FEW)

    assert (followed.rows, anew.rows["fct_transactions"]) == ({}, 30)
    assert found == published(lake)
    assert len(found["fct_transactions"]) == 31
    with connect(lake) as connection:
        ages = "select count(changed_rows_at), count(all_rows_at), count(*) from raw.table_ages"
        assert connection.execute(ages).fetchall() == [(15, 16, 16)]


def test_a_crash_before_the_manifest_leaves_the_old_rows(lake, monkeypatch):
    """Files without a manifest do not count, and the next build brings what they had."""
    before = rows(lake, FEW)
    with monkeypatch.context() as crash:
        crash.setattr(deltas, "keep_newer", _crash)
        with pytest.raises(KeyboardInterrupt):
            build_changed(lake, FEW, hash_key=KEY)

    assert rows(lake, FEW) == before
    build_changed(lake, FEW, hash_key=KEY)
    assert rows(lake, FEW) != before


def _crash(*_):
    raise KeyboardInterrupt


def test_builds_that_overtake_each_other_lose_nothing(lake):
    """One that comes second starts again from the other's result."""
    other = []

    def overtaken(name, *_):
        if not other:
            other.append(name)
            build_changed(lake, FEW, hash_key=KEY)

    build_changed(lake, FEW, hash_key=KEY, progress=overtaken)

    assert len(current_manifest(lake).deltas) == 1
    found = rows(lake, FEW)
    build(lake, FEW, hash_key=KEY)
    assert rows(lake, FEW) == found


def test_a_warehouse_of_buckets_is_like_another(lake):
    """Its tables, and what a vacuum leaves of it, are those of one part a month."""
    build(lake, FEW, hash_key=KEY)
    publish(lake, FEW)
    found = published(lake)
    build(lake, FEW, hash_key=KEY, buckets=2)
    publish(lake, FEW)
    vacuum(lake, older_than_seconds=-1)

    assert published(lake) == found
    assert not check(lake).findings
    assert not list(lake.storage.list(f"{PLANS}/*/*"))


def test_a_rollback_and_a_vacuum_know_deltas(lake):
    """Their files stay while they count, the build before them counts again, and damage is seen."""
    before = rows(lake, FEW)
    build_changed(lake, FEW, hash_key=KEY)
    after = rows(lake, FEW)
    [delta] = current_manifest(lake).deltas

    vacuum(lake, older_than_seconds=-1)
    assert rows(lake, FEW) == after
    assert "fct_transactions" in roll_back(lake).rows
    assert rows(lake, FEW) == before
    build_changed(lake, FEW, hash_key=KEY)
    assert rows(lake, FEW) == after
    [delta] = current_manifest(lake).deltas
    lake.storage.local(Key(delta.ids.file)).write_bytes(b"damaged")
    assert [one.path for one in check(lake).findings] == [delta.ids.file]
    assert {one.accounts for one in build_changed(lake, FEW, hash_key=KEY)} == {None}
    assert rows(lake, FEW) == after


@pytest.mark.parametrize("what", ["banks", "key", "problem", "many"])
def test_a_build_is_whole_where_more_than_accounts_changed(what, lake, monkeypatch):
    """A list of banks, another key, a build with a problem before, too many accounts."""
    world = World(lake, now=START + 100 * HOUR)
    if what == "banks":
        world.commit("banks", "PERSONAL", [{"bank_identifier": "B", "account_type": "PERSONAL"}])
    if what == "problem":
        manifest = current_manifest(lake)
        manifest.recipe, manifest.number = "", manifest.number + 1
        keep_manifest(lake, manifest, "problem")
    if what == "many":
        monkeypatch.setattr(deltas, "MOST_ACCOUNTS", 0)

    built = build_changed(lake, FEW, hash_key="other" if what == "key" else KEY)

    assert {one.accounts for one in built} == {None}
    assert not current_manifest(lake).deltas


def test_many_deltas_become_one(lake, monkeypatch):
    """Their accounts are computed again together; no earlier rows stay."""
    monkeypatch.setattr(deltas, "MOST_DELTAS", 1)
    world = World(lake, now=START + 100 * HOUR)
    build_changed(lake, FEW, hash_key=KEY)
    world.change("rows", 2, 6)
    build_changed(lake, FEW, hash_key=KEY)

    [delta] = current_manifest(lake).deltas
    assert delta.accounts == 4
    found = rows(lake, FEW)
    build(lake, FEW, hash_key=KEY)
    assert rows(lake, FEW) == found
