"""The lake holds what is true, row for row and value for value."""

import asyncio

import pytest
from conftest import TODAY, client_of, settings_of, showing, sync_everything
from oracle import comparable, true_rows

from lean_resources import LeanClient
from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake


def held(stream, connection):
    """The resolved rows of a stream, by key, and how many there are."""
    names = ", ".join(f'"{name}"' for name in stream.schema.names)
    rows = connection.sql(f"select {names} from {stream.name}").to_arrow_table().to_pylist()
    return {
        tuple(found[name] for name in stream.key): comparable(stream, found) for found in rows
    }, len(rows)


def everything(lake):
    """The resolved rows of every stream."""
    with showing(lake, STREAMS) as connection:
        return {name: held(stream, connection) for name, stream in STREAMS.items()}


@pytest.fixture
def sandbox():
    """A small offline Lean."""
    return Sandbox(customers=6, months=2, seed=7, today=TODAY)


@pytest.fixture(
    scope="module",
    params=[20, pytest.param(200, marks=pytest.mark.conformance)],
    ids="{}-customers".format,
)
def synced(request, tmp_path_factory):
    """Some customers and a year, pulled over HTTP into a lake."""
    sandbox = Sandbox(customers=request.param, months=12, seed=7, today=TODAY)
    lake = Lake(tmp_path_factory.mktemp("lake"), "sandbox")
    with serve(sandbox, port=0, mtls=False) as server:
        client = LeanClient(settings_of(sandbox, server.url))
        reports = asyncio.run(sync_everything(client, lake, insights=False))
    return sandbox, lake, reports


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", STREAMS)
def test_resolved_rows_are_the_truth(synced, name):
    """Every stream's resolved rows equal the sandbox's truth: no row more, no row less."""
    sandbox, lake, _ = synced
    stream = STREAMS[name]

    true = true_rows(stream, sandbox)
    with showing(lake, (name,)) as connection:
        rows, count = held(stream, connection)

    assert count == len(rows), "a key occurs twice"
    assert rows.keys() == true.keys()
    wrong = [
        (key, column, rows[key][column], value)
        for key, typed in true.items()
        for column, value in typed.items()
        if rows[key][column] != value
    ]
    assert wrong == []
    assert rows, "a stream without rows proves nothing"


@pytest.mark.slow
def test_nothing_was_quarantined_and_nothing_was_unknown(synced):
    """The catalogue knows every field that the offline Lean sends, and every record fits."""
    _, _, reports = synced

    assert {name: dict(report.drift) for name, report in reports.items() if report.drift} == {}
    assert sum(report.quarantined for report in reports.values()) == 0


def test_a_second_sync_changes_nothing(sandbox, lake):
    """Pulling again asks once per parent, adds no row, and shows the same rows."""
    asyncio.run(sync_everything(client_of(sandbox), lake))
    before = everything(lake)

    reports = asyncio.run(sync_everything(client_of(sandbox), lake))

    assert everything(lake) == before
    assert reports["transactions"].rows["transactions"] == 0
    assert reports["transactions"].requests == reports["transactions"].read_targets
    assert set(reports["balances"].outcomes) <= {"UNCHANGED", "SKIPPED", "FAILED"}
