"""A lake of every older format opens, and the next write carries it forward."""

import asyncio
import json
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import Slept, client_of

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "conformance"), str(HERE / "marts"), str(HERE / "lakes")]

from known import KEY, models
from make import held, world
from worlds import CHAIN, DAY, pull_with

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.lake.compaction import compact
from pipelines.lake.format import FORMAT
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.manifest import PART_FORM, current_manifest
from pipelines.operate.vacuum import vacuum
from pipelines.publish.warehouse import connect, publish
from pipelines.sync.replay import replay

ARCHIVES = sorted((HERE / "lakes").glob("format-*.tar.gz"))


def format_of(file):
    """What a test of a kept lake is called after."""
    return file.name.removesuffix(".tar.gz")


@pytest.fixture(params=ARCHIVES, ids=format_of)
def lake(request, tmp_path):
    """A lake as that format's code left it."""
    with tarfile.open(request.param) as packed:
        packed.extractall(tmp_path, filter="data")
    return Lake(tmp_path, "sandbox")


def told(lake):
    """The values that the lake held when it was made."""
    return json.loads((lake.folder / "held.json").read_text())


def of_streams(values):
    """Rows and money of each stream and of its history."""
    return {name: value for name, value in values.items() if isinstance(value, list)}


def test_every_format_before_this_one_has_a_lake():
    """Whoever raises the format keeps a lake of the one before."""
    kept = {int(file.name.removeprefix("format-").removesuffix(".tar.gz")) for file in ARCHIVES}

    assert kept >= set(range(1, FORMAT))


def test_an_older_lake_shows_what_it_held(lake):
    """Rows and money of every stream and history, before and after models are built from it."""
    before = told(lake)
    number = lake.format.number

    assert of_streams(held(lake)) == of_streams(before)
    assert lake.format.number == number, "reading changes nothing"

    if number == 3:
        publish(lake, models())
        with connect(lake) as warehouse:
            rows = warehouse.execute("select count(*) from fct_transactions").fetchone()
            assert rows[0] > 0, "parts of the older form are read until they are built anew"
    problems = [one.problem for one in build(lake, models(), hash_key=KEY)]
    publish(lake, models())

    assert not any(problems)
    parts = current_manifest(lake).parts.values()
    assert {part.form for one in parts for part in one.values()} == {PART_FORM}
    assert lake.format.number == FORMAT
    with connect(lake) as warehouse:
        rows = warehouse.execute("select count(*), sum(amount)::varchar from transactions")
        assert list(rows.fetchone()) == before["transactions"]
        assert warehouse.execute("select count(*) from fct_transactions").fetchone()[0] > 0


def test_what_an_older_lake_quarantined_is_not_known(lake):
    """A read of format 1 with records that did not fit tells no days: none of it is known."""
    if lake.format.number > 1:
        pytest.skip("later formats tell the days")
    with lake.connect() as connection:
        unfit = connection.execute(
            "select count(*) from claims inner join pulls on claims.pull_id = pulls.pull_id"
            " where pulls.quarantined > 0 and not claims.is_unfit"
        ).fetchone()

    assert unfit == (0,)


@pytest.mark.parametrize(
    "lake",
    [ARCHIVES[0], *(pytest.param(one, marks=pytest.mark.conformance) for one in ARCHIVES[1:])],
    indirect=True,
    ids=format_of,
)
def test_an_older_lake_is_synced_merged_and_typed_again(lake):
    """New pulls, merging and replay leave every earlier row where it was."""
    before = of_streams(told(lake))
    sandbox = world()
    sandbox.clock.advance(9 * DAY)

    async def work():
        async with client_of(sandbox, Slept(sandbox), page_size=30) as lean:
            await pull_with(lean, lake)

    asyncio.run(work())
    compact(lake)
    for name in CHAIN:
        replay(STREAMS[name], lake)

    assert lake.format.number == FORMAT
    after = of_streams(held(lake))
    for name in CHAIN:
        assert after[f"{name}_history"][0] >= before[f"{name}_history"][0]


def test_a_newer_lake_is_refused_with_a_sentence(tmp_path):
    """Nothing is read, written, deleted or built by code that cannot know what lies there."""
    lake = Lake(tmp_path, "sandbox")
    lake.folder.mkdir(parents=True)
    (lake.folder / f"{FORMAT + 1}.format").touch()

    for use in (
        lake.connect,
        lambda: vacuum(lake),
        lambda: lake.batch().commit([]),
        lambda: build(lake, models(), hash_key=KEY, only=[]),
        lambda: publish(lake, models()),
    ):
        with pytest.raises(ConfigError, match=rf"format {FORMAT + 1}.*install"):
            use()
    assert sorted(file.suffix for file in lake.folder.iterdir()) == [".format"]
