"""Exports: the same rows, types and meanings in each form, whole, and nothing personal."""

import csv
import json
import signal
import subprocess
import sys
from decimal import Decimal

import duckdb
import pandas as pd
import pytest
from known import known, models
from typer.testing import CliRunner

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.cli.main import app
from pipelines.publish import export as exporting
from pipelines.publish.export import Choice, Form, export

TABLES = ("fct_cash_flow_monthly", "fct_balance_snapshots", "mart_sync_health", "dim_banks")
MONTHLY = Choice(tables=("fct_cash_flow_monthly",))
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.publish import export
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
export._reveal = die
export.export(
    Lake(Path(sys.argv[1]), "sandbox"), load(), Path(sys.argv[2]), export.Form(sys.argv[3]),
    export.Choice(tables=("dim_banks",)),
)
"""


@pytest.fixture
def world():
    """A world whose tables were built and published."""
    world = known(7)
    assert world.connection
    return world


def write(world, target, form, choice=MONTHLY):
    """An export; what was exported."""
    return export(world.lake, models(), target, form, choice)


def described(connection, relation):
    """Names and types of the columns of a relation."""
    found = connection.execute(f"describe select * from {relation}").fetchall()
    return [(name, kind) for name, kind, *_ in found]


def test_duckdb_and_parquet_hold_rows_types_and_meanings(world, tmp_path):
    """Each table as the warehouse shows it."""
    choice = Choice(tables=TABLES)
    done = write(world, tmp_path / "out.duckdb", Form.DUCKDB, choice)
    write(world, tmp_path / "out", Form.PARQUET, choice)

    assert set(done.rows) == {f"main.{name}" for name in TABLES}
    contents = json.loads((tmp_path / "out" / "leanhouse.json").read_text())["files"]
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"attach '{tmp_path}/out.duckdb' as copy (read_only)")
        for name in TABLES:
            truth = world.connection.execute(f"from {name} order by all").fetchall()
            assert truth
            assert len(truth) == done.rows[f"main.{name}"] == contents[f"{name}.parquet"]["rows"]
            types = described(world.connection, name)
            assert described(connection, f"copy.{name}") == types
            stored = f"'{tmp_path}/out/{name}.parquet'"
            assert described(connection, stored) == types
            columns = ", ".join(f'"{column}"::{kind}' for column, kind in types)
            for relation in (f"copy.{name}", stored):
                found = connection.execute(f"select {columns} from {relation} order by all")
                assert found.fetchall() == truth
            docs = {column.name: column.doc for column in models()[name].columns}
            assert contents[f"{name}.parquet"]["docs"] == docs


def csv_problems(world, folder):
    """What in CSV files is not what the tables hold."""
    problems = []
    contents = json.loads((folder / "leanhouse.json").read_text())["files"]
    for name in TABLES:
        types = contents[f"{name}.csv"]["types"]
        back = ", ".join(
            f'"{column}"' if "(VARCHAR," in kind or "[]" in kind else f'"{column}"::{kind}'
            for column, kind in types.items()
        )
        asked = ", ".join(
            f'to_json("{column}")::varchar'
            if "(VARCHAR," in kind or "[]" in kind
            else f'"{column}"'
            for column, kind in types.items()
        )
        file = f"read_csv('{folder}/{name}.csv', all_varchar = true, header = true)"
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            found = connection.execute(f"select {back} from {file} order by all").fetchall()
        truth = world.connection.execute(f"select {asked} from {name} order by all").fetchall()
        if found != truth:
            problems.append(f"{name} has other values")
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                money = [row[column] for column, kind in types.items() if "DECIMAL" in kind]
                problems += [text for text in money if text != plain(text)]
    return problems


def plain(text):
    """A number in fixed notation, without zeros at the end."""
    if not text:
        return text
    fixed = f"{Decimal(text):f}"
    return fixed.rstrip("0").rstrip(".") if "." in fixed else fixed


def test_csv_is_exact_and_zero_is_0(world, tmp_path, monkeypatch):
    """Every value can be read back; a zero has no exponent and no places."""
    write(world, tmp_path / "out", Form.CSV, Choice(tables=TABLES))

    assert csv_problems(world, tmp_path / "out") == []
    text = (tmp_path / "out" / "fct_cash_flow_monthly.csv").read_text()
    assert ",0,0," in text

    # A mutant: DuckDB's own text of a decimal.
    monkeypatch.setattr(exporting, "_as_text", lambda name, _kind: f'"{name}"')
    write(world, tmp_path / "out", Form.CSV, Choice(tables=TABLES))
    assert "0.000000000" in csv_problems(world, tmp_path / "out")


def test_pandas_keeps_decimals_as_the_docs_say(world, tmp_path):
    """Arrow's types keep money; `.df()` of DuckDB does not, which is why the docs warn of it."""
    write(world, tmp_path / "out", Form.PARQUET)
    write(world, tmp_path / "csv", Form.CSV)
    (exact,) = world.connection.execute(
        "select sum(inflow_amount) from fct_cash_flow_monthly"
    ).fetchone()

    file = tmp_path / "out" / "fct_cash_flow_monthly.parquet"
    frame = pd.read_parquet(file, dtype_backend="pyarrow")
    assert frame["inflow_amount"].sum() == exact
    frame = pd.read_csv(
        tmp_path / "csv" / "fct_cash_flow_monthly.csv",
        converters={"inflow_amount": lambda text: Decimal(text) if text else None},
    )
    assert frame["inflow_amount"].sum() == exact
    with duckdb.connect() as connection:
        assert str(connection.sql(f"from '{file}'").df()["inflow_amount"].dtype) == "float64"


@pytest.mark.parametrize("form", [Form.DUCKDB, Form.PARQUET])
def test_a_killed_process_leaves_the_old_export(world, tmp_path, form):
    """What was begun goes with the next export, and is for its owner alone."""
    target = tmp_path / ("out.duckdb" if form is Form.DUCKDB else "out")
    write(world, target, form)
    before = contents_of(target)
    command = [sys.executable, "-c", KILLED, str(world.lake.folder.parent), str(target), form]

    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    assert contents_of(target) == before
    (begun,) = set(tmp_path.iterdir()) - {target}
    assert begun.stat().st_mode & 0o777 == 0o700
    write(world, target, form, Choice(tables=("dim_banks",)))
    assert list(tmp_path.iterdir()) == [target]
    assert contents_of(target) != before
    assert {one.stat().st_mode & 0o077 for one in (target, *target.rglob("*"))} == {0}


def contents_of(target):
    """Bytes by name, of a file or a folder."""
    files = [target] if target.is_file() else sorted(target.rglob("*.*"))
    return {file.name: file.read_bytes() for file in files}


def test_what_no_export_wrote_is_never_replaced(world, tmp_path):
    """A file, a database and a folder of somebody else; one file more in an export's folder."""
    (tmp_path / "text.duckdb").write_text("mine")
    with duckdb.connect(str(tmp_path / "other.duckdb")) as connection:
        connection.execute("create schema intermediate; create table mine as select 1 as a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.parquet").touch()
    write(world, tmp_path / "own", Form.CSV)
    (tmp_path / "own" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = {name: contents_of(tmp_path / name) for name in ("text.duckdb", "other.duckdb", "own")}

    for name, form in (
        ("text.duckdb", Form.DUCKDB),
        ("other.duckdb", Form.DUCKDB),
        ("folder", Form.PARQUET),
        ("folder", Form.DUCKDB),
        ("own", Form.CSV),
    ):
        with pytest.raises(ConfigError, match="was not written by leanhouse export"):
            write(world, tmp_path / name, form)
    with pytest.raises(ConfigError, match="choose a folder outside"):
        write(world, world.lake.folder / "out", Form.CSV)

    assert {name: contents_of(tmp_path / name) for name in before} == before
    write(world, tmp_path / "empty", Form.CSV)
    assert not list(tmp_path.glob(".*"))


def test_layers_and_personal_columns(world, tmp_path):
    """Marts alone unless asked; a personal column only with the schema `pii`."""
    personal = {
        name: {column.name for column in stream.columns if column.pii}
        for name, stream in STREAMS.items()
    }
    write(world, tmp_path / "raw", Form.PARQUET, Choice(tables=("identity", "accounts")))
    with_pii = Choice(tables=("identity",), pii=True)
    write(world, tmp_path / "personal.duckdb", Form.DUCKDB, with_pii)

    files = json.loads((tmp_path / "raw" / "leanhouse.json").read_text())["files"]
    assert set(files) == {"raw/identity.parquet", "raw/accounts.parquet"}
    for one in files.values():
        assert not personal[one["name"]] & set(one["types"])
    with duckdb.connect(str(tmp_path / "personal.duckdb"), read_only=True) as connection:
        assert personal["identity"] <= {name for name, _ in described(connection, "pii.identity")}
        assert not personal["identity"] & {
            name for name, _ in described(connection, "raw.identity")
        }
    with exporting._connected(world.lake) as connection:
        tables = exporting._tables(connection, world.lake, models(), pii=False)
    chosen = exporting._chosen(tables, Choice())
    assert {one.name for one in chosen} == {one.name for one in models() if one.layer == "marts"}
    layers = {one.layer for one in exporting._chosen(tables, Choice(("marts", "raw")))}
    assert layers == {"marts", "raw"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("out", "--format", "xlsx"), "there is no format xlsx"),
        (("out.duckdb", "--format", "csv"), "choose another name"),
        (("out", "--format", "duckdb"), "choose another name"),
        (("out", "--layer", "gold"), "there is no layer gold"),
        (("out", "--pii"), "LEANHOUSE_PII=true"),
        (("out", "--table", "fct_nothing"), "there is no table fct_nothing"),
    ],
)
def test_a_wrong_command_says_what_to_do(world, tmp_path, monkeypatch, arguments, words):
    """And writes nothing."""
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(
        app, ["export", *arguments, "--home", str(world.lake.folder.parent.parent)]
    )

    assert ended.exit_code == 1
    assert words in f"{ended.stderr}{ended.exception}"
    assert list(tmp_path.iterdir()) == []
