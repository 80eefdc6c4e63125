"""Replay: rows made again from the answers as received are what was there."""

import asyncio
import shutil

import pytest
from conftest import TODAY, client_of, rows_of, showing, sync_everything

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake import folders
from pipelines.lake.digests import DamageError
from pipelines.operate.fsck import repair
from pipelines.sync.replay import replay


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A lake that holds everything of a small world, as it was pulled."""
    from pipelines.lake.lake import Lake

    sandbox = Sandbox(customers=3, months=3, seed=7, today=TODAY)
    lake = Lake(tmp_path_factory.mktemp("lake"), "sandbox")
    asyncio.run(sync_everything(client_of(sandbox), lake))
    return lake


def shown(lake, stream):
    """Resolved rows in one order, without where they came from."""
    columns = ", ".join(f'"{name}"' for name in stream.schema.names)
    with showing(lake, (stream.name,)) as connection:
        return connection.sql(f"select {columns} from {stream.name} order by all").to_arrow_table()


@pytest.mark.parametrize("name", STREAMS)
def test_replayed_rows_are_what_was_there(filled, name):
    """Every pull that counts gets a successor with the same rows, days and store."""
    stream = STREAMS[name]
    before = shown(filled, stream)
    claims = (
        f"select parent_id, month, claimed_from, claimed_to from claims where stream = '{name}'"
    )
    claimed = rows_of(filled, f"{claims} order by all")
    old = {
        pull for (pull,) in rows_of(filled, f"select pull_id from claims where stream = '{name}'")
    }

    done = replay(stream, filled, run_id="replay")

    assert shown(filled, stream).equals(before)
    assert rows_of(filled, f"{claims} order by all") == claimed
    new = rows_of(
        filled,
        "select pull_id, run_id from pulls where pull_id in"
        f" (select pull_id from claims where stream = '{name}')",
    )
    assert {run for _, run in new} == {"replay"}
    assert not old & {pull for pull, _ in new}
    assert (done.pulls, done.without_answers) == (len(old), 0)
    assert done.rows == before.num_rows


def test_rows_that_were_lost_come_back_from_the_answers(filled):
    """Without typed files nobody reads on; the answers suffice."""
    stream = STREAMS["transactions"]
    before = shown(filled, stream)
    assert before.num_rows > 0
    shutil.rmtree(filled.storage.local(folders.rows_of(stream)))
    with pytest.raises(DamageError, match="is missing"):
        replay(stream, filled)

    repair(filled)

    assert shown(filled, stream).equals(before)


def test_a_pull_without_answers_stays_as_it_is(filled):
    """Answers that were lost are missed once; their rows still count."""
    stream = STREAMS["beneficiaries"]
    before = shown(filled, stream)
    shutil.rmtree(filled.storage.local(folders.answers_of(stream)))
    with pytest.raises(DamageError, match="raw/beneficiaries"):
        replay(stream, filled)
    repair(filled)

    done = replay(stream, filled)

    assert (done.pulls, done.rows) == (0, 0)
    assert done.without_answers > 0
    assert shown(filled, stream).equals(before)
