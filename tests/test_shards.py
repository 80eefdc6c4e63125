"""Shards: together they are the whole, none meets another, and SQL and Python agree on them."""

import asyncio
import datetime as dt
from collections import Counter

import duckdb
import pytest
import test_shapes
from conftest import TODAY, client_of
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import filled
from test_shapes import NOW, POLICY, lucky

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.shard import Shard
from pipelines.sync import shapes as shapes_module
from pipelines.sync.policy import Policy
from pipelines.sync.read_targets import ReadTarget
from pipelines.sync.refresh import refresh, stale_entities
from pipelines.sync.tasks import Selection, Task, tasks_of

COUNT = 2
SOME = {"accounts", "balances"}
SHARDS = [Shard(number, COUNT) for number in range(COUNT)]
WORLD = {"customers": 12, "months": 2, "seed": 7, "today": TODAY}
LATER = dt.datetime(2026, 3, 25, 2, tzinfo=dt.UTC)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(min_size=1).filter(lambda one: "\0" not in one), min_size=1), st.data())
def test_sql_and_python_agree_on_each_id(ids, data):
    """Whatever the id and the number of shards, exactly one shard holds it, and both know which."""
    count = data.draw(st.integers(1, 9))
    with duckdb.connect() as connection:
        connection.execute("create table ids as select unnest($ids) as entity_id", {"ids": ids})
        for number in range(count):
            shard = Shard(number, count)
            found = connection.execute(f"from ids where {shard.condition('entity_id')}").fetchall()
            assert Counter(one for (one,) in found) == Counter(filter(shard.holds, ids))
    assert all(sum(Shard(n, count).holds(one) for n in range(count)) == 1 for one in ids)


def test_an_id_stays_in_its_shard_for_ever():
    """Another version or machine must not put it elsewhere: two shards would read it, or none."""
    one = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
    for count, number in ((2, 0), (3, 2), (5, 1), (64, 42)):
        assert Shard(number, count).holds(one)
    with pytest.raises(ValueError, match="no shard 4 of 4"):
        Shard(4, 4)


def planned(stream, lake, now, policy, shard=None, months=None):
    """What is planned of a stream, in the order of the plan."""
    selection = Selection(shard=shard, months=months)
    return [
        (one.target_id, one.skip_code)
        if isinstance(one, ReadTarget)
        else one and (one.target.target_id, one.target.entity_id, one)
        for one in tasks_of(STREAMS[stream], lake, now, policy, selection)
    ]


def differs(stream, lake, now, policy, months=None):
    """Whether shards together plan anything else than all entities at once."""
    whole = planned(stream, lake, now, policy, None, months)
    parts = [planned(stream, lake, now, policy, shard, months) for shard in SHARDS]
    assert any(isinstance(one[-1], Task) for one in whole if one), "nothing is planned"
    for shard, part in zip(SHARDS, parts, strict=True):
        assert all(shard.holds(one[1]) for one in part if one and isinstance(one[-1], Task))
    return Counter(map(repr, whole)) != Counter(repr(one) for part in parts for one in part)


def test_shards_plan_what_is_planned_at_once(tmp_path, monkeypatch):
    """Each read of each account, in sync and backfill, whatever was read of it before.

    An account may have been another entity's, so that its earlier pulls are of another shard.
    """
    pull = test_shapes.a_pull

    def moved(stream, parent, at, **given):
        given |= {"entity_id": "another"} if stream == "transactions" else {}
        return pull(stream, parent, at, **given)

    monkeypatch.setattr(test_shapes, "a_pull", moved)
    monkeypatch.setattr(shapes_module, "ROWS_AT_ONCE", 25)
    lake = lucky(tmp_path, 11)
    for months in (None, {"2025-11", "2026-02"}):
        assert not differs("transactions", lake, NOW, POLICY, months)


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A lake after a first sync."""
    from pipelines.lake.lake import Lake

    return filled(Lake(tmp_path_factory.mktemp("lake"), "sandbox"), sandbox=WORLD)


KEYED = [
    pytest.param(one.name, marks=[] if one.name in SOME else pytest.mark.conformance)
    for one in STREAMS.values()
    if one.parent and not one.exploded_from and not one.scopes
]


@pytest.mark.parametrize("name", KEYED)
def test_shards_of_a_stream_are_the_whole(synced, name):
    """Streams by entity and by account alike."""
    assert not differs(name, synced, LATER, Policy())


def test_shards_refresh_what_all_would(synced):
    """The oldest come first in each."""
    whole = stale_entities(synced, Policy(), LATER, None)
    parts = [stale_entities(synced, Policy(), LATER, None, shard) for shard in SHARDS]
    assert len(whole[0]) > COUNT
    assert sorted(whole[0]) == sorted(one for stale, _ in parts for one in stale)
    for stale, _ in parts:
        assert stale == [one for one in whole[0] if one in stale]


def no_hash_in_sql(patched):
    """Each shard plans all entities."""
    patched.setattr(Shard, "condition", lambda _shard, _column: "true")


def another_hash_in_sql(patched):
    """SQL takes other digits of the hash."""
    right = Shard.condition
    other = lambda shard, column: right(shard, column).replace("left", "right")  # noqa: E731
    patched.setattr(Shard, "condition", other)


@pytest.mark.parametrize("mutant", [no_hash_in_sql, another_hash_in_sql])
def test_a_wrong_hash_is_found(synced, monkeypatch, mutant):
    """Entities would be read twice, or by a shard that is not theirs."""
    mutant(monkeypatch)
    try:
        found = differs("balances", synced, LATER, Policy())
    except AssertionError:
        found = True
    assert found


def test_shards_at_once_never_exceed_the_budget(tmp_path):
    """Beside a targeted run too, and after the number of shards has changed."""
    from pipelines.lake.lake import Lake

    lake = filled(Lake(tmp_path, "sandbox"), sandbox=WORLD)
    sandbox = Sandbox(**WORLD)
    sandbox.clock.advance(dt.timedelta(days=2))
    policy = Policy(refreshes_per_day=2, refresh_poll_seconds=0.01)
    some = {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}

    async def step(shard):
        async with client_of(sandbox) as client:
            entity_ids = None if shard else some
            return await refresh(client, lake, policy=policy, shard=shard, entity_ids=entity_ids)

    async def nights():
        for count in (2, 3, 1):
            await asyncio.gather(step(None), *(step(Shard(n, count)) for n in range(count)))
            sandbox.clock.advance(dt.timedelta(hours=7))

    asyncio.run(nights())

    spent = Counter()
    with lake.connect(("refresh_spends",)) as connection:
        found = connection.execute("select entity_id, spent_at from refresh_spends").fetchall()
    for entity, at in found:
        spent[entity] = max(spent[entity], sum(
            one == entity and at <= other < at + dt.timedelta(hours=24) for one, other in found
        ))  # fmt: skip
    assert some == set(spent)
    assert set(spent.values()) == {2}
