"""The lake holds what is true, row for row and value for value."""

import asyncio

import pytest
from conftest import TODAY, client_of, settings_of, sync_everything
from oracle import comparable, true_rows

from lean_resources import LeanClient
from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.lake import Lake


def held(stream, lake):
    """The resolved rows of a stream, by key."""
    names = ", ".join(f'"{name}"' for name in stream.schema.names)
    with lake.connect() as connection:
        rows = connection.sql(f"select {names} from {stream.name}").to_arrow_table().to_pylist()
    return {
        tuple(found[name] for name in stream.key): comparable(stream, found) for found in rows
    }, len(rows)


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """Two hundred customers and a year, pulled over HTTP into a lake."""
    sandbox = Sandbox(customers=200, months=12, seed=7, today=TODAY)
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
    rows, count = held(stream, lake)

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
    before = {name: held(stream, lake) for name, stream in STREAMS.items()}

    reports = asyncio.run(sync_everything(client_of(sandbox), lake))

    assert {name: held(stream, lake) for name, stream in STREAMS.items()} == before
    assert reports["transactions"].rows["transactions"] == 0
    assert reports["transactions"].requests == reports["transactions"].parents
    assert set(reports["balances"].outcomes) <= {"UNCHANGED", "SKIPPED", "FAILED"}
