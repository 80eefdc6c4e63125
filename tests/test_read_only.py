"""`leanhouse query` as an attacker: the published tables, and nothing else of this machine."""

import os
import re
from pathlib import Path

import duckdb
import pytest
import shared
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.publish import read_only
from pipelines.publish.warehouse import connect, publish

WORLD = {"customers": 1, "months": 1, "seed": 7, "today": "2026-03-15"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a lake, its warehouse, an inbox, and a secret beside it."""
    home = tmp_path_factory.mktemp("home")
    lake = shared.filled(Lake(home / "lake", "sandbox"), sandbox=WORLD)
    publish(lake, load())
    (home / "secret.txt").write_text("PASSWORD")
    (home / "secret.csv").write_text("a,b\nPASSWORD,1\n")
    return home


def ask(home, *arguments, given=None):
    """What the command ends with."""
    return CliRunner().invoke(app, ["query", "--home", str(home), *arguments], input=given)


def one_file(home, pattern):
    """A file of the lake, as SQL spells it."""
    return next(iter(sorted((home / "lake" / "sandbox").glob(pattern)))).as_posix()


def attacks(home):
    """Statements that reach past the published tables, each by another door."""
    raw, typed, ledger = (
        one_file(home, pattern)
        for pattern in ("raw/identity/*/*.parquet", "identity/*/*.parquet", "pulls/*/*.parquet")
    )
    inner = f"select * from read_parquet('{typed}')"
    stem, name = typed.removesuffix(".parquet"), Path(typed).stem
    return [
        "from read_text('/etc/passwd')",
        "from read_csv('/proc/self/environ')",
        "from read_blob('/proc/self/environ')",
        f"from read_csv('{home}/secret.csv')",
        f"from '{home}/secret.csv'",
        "from glob('/*')",
        f"from read_parquet('{raw}')",
        f"from read_parquet('{ledger}')",
        inner,
        f"from '{typed}'",
        f'from "{stem}".parquet',
        f'from "{name}".parquet',
        f'from main."{typed}"',
        f"from parquet_scan('{typed}')",
        f"from parquet_metadata('{typed}')",
        f"from parquet_full_metadata('{typed}')",
        f"select (select max(full_name) from read_parquet('{typed}'))",
        f"with a as ({inner}) from a",
        f"with a as (from '{typed}') from a",
        f"select 1 where exists ({inner})",
        f"select * from pulls, lateral ({inner})",
        f"values ((select count(*) from '{typed}'))",
        f"describe '{typed}'",
        f"show '{typed}'",
        f"summarize '{typed}'",
        f"summarize {inner}",
        f"select * from (describe {inner})",
        f"explain analyze {inner}",
        f"explain (analyze, format json) {inner}",
        f"/* مرحبا */ explain analyze ({inner})",
        f"pivot '{typed}' on stream in ('a') using count(*)",
        f"from '{typed}' pivot (count(*) for stream in ('a'))",
        f"from query('{inner.replace(chr(39), chr(39) * 2)}')",
        f"from query_table('{typed}')",
        f"from histogram('{typed}', 'full_name')",
        "from json_execute_serialized_sql(json_serialize_sql('from read_text(''/etc/passwd'')'))",
        f"call read_text('{home}/secret.txt')",
        f"call pragma_table_info('{typed}')",
        f"pragma table_info('{typed}')",
        f"pragma import_database('{home}')",
        "pragma enable_profiling",
        "pragma memory_limit='1TB'",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset allowed_directories",
        "set variable a = 1",
        "use system",
        f"copy (select 1) to '{home}/out.csv'",
        f"copy (select 1) to '{ledger}' (format parquet)",
        f"copy pulls from '{home}/secret.csv'",
        f"explain analyze copy (select 1) to '{home}/out.csv'",
        f"attach '{home}/new.db'",
        f"attach '{home}/inbox/sandbox.db' (type sqlite)",
        f"export database '{home}/out'",
        f"import database '{home}/out'",
        "install httpfs",
        "load httpfs",
        f"load '{home}/x.duckdb_extension'",
        "create macro a() as 1",
        "create temp table a as select 1",
        f"create temp view a as from '{typed}'",
        "create secret (type s3)",
        "from duckdb_secrets()",
        "from which_secret('s3://a', 's3')",
        "from arrow_scan(1, 2, 3)",
        "from pandas_scan(1)",
        "select getenv('PATH')",
        "prepare a as select 1",
        "execute a",
        "checkpoint",
        "force checkpoint",
        "begin",
        "vacuum",
        "delete from pulls",
        "drop view transactions",
        "comment on view transactions is 'x'",
        "with a as (insert into pulls select * from pulls returning *) from a",
        "from read_text('https://127.0.0.1:1/x')",
        "from 's3://bucket/x.parquet'",
        "from other.main.pulls",
    ]


def files_of(home):
    """Every file under the home, and its bytes."""
    return {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}


def all_are_refused(home, attacked):
    """Ask for each statement: one sentence each, and nothing on the disk changes."""
    before = files_of(home)
    for sql in attacked:
        result = ask(home, sql)

        assert result.exit_code == 1, (sql, result.stdout)
        assert result.stdout == "", sql
        assert result.stderr.startswith("error "), sql
        assert "PASSWORD" not in result.stderr
        assert "root:" not in result.stderr
    assert files_of(home) == before


def test_no_statement_reaches_past_the_published_tables(home, monkeypatch):
    """From a folder beside the lake."""
    monkeypatch.setenv("MADE_UP", "PASSWORD")
    monkeypatch.chdir(home)

    all_are_refused(home, attacks(home))


def test_no_statement_reaches_a_file_of_its_own_folder(home, monkeypatch):
    """A bare name, which is a file where the command is started."""
    file = Path(one_file(home, "identity/*/*.parquet"))
    monkeypatch.chdir(file.parent)
    bare = [sql for sql in attacks(home) if file.stem in sql and str(file.parent) not in sql]

    assert bare
    all_are_refused(home, [*bare, f"from '{file.name}'", f"from read_parquet('{file.name}')"])


@pytest.mark.conformance
def test_no_statement_reaches_past_the_published_tables_from_among_the_files(home, monkeypatch):
    """Every one, from the folder of a file that is asked for."""
    monkeypatch.setenv("MADE_UP", "PASSWORD")
    monkeypatch.chdir(Path(one_file(home, "identity/*/*.parquet")).parent)

    all_are_refused(home, attacks(home))


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from transactions",
        "from leanhouse.main.transactions select count(*)",
        "from leanhouse.raw.transactions select count(*)",
        "from raw.pulls select count(*)",
        "with a as (select 1 as x) from a",
        "with recursive r(x) as (select 1 union all select x + 1 from r where x < 3) from r",
        "values (1)",
        "table pulls",
        "from range(3)",
        "select unnest([1, 2])",
        "describe transactions",
        "describe",
        "show tables",
        "show all tables",
        "summarize pulls",
        "explain select 1",
        "explain analyze select count(*) from transactions",
        "-- كم\nexplain (format json) (select 1)",
        "pragma show_tables",
        "pragma table_info('pulls')",
        "pragma version",
        "from transactions pivot (count(*) for status in ('BOOKED', 'PENDING'))",
        "pivot transactions on status in ('BOOKED') using count(*)",
        "from duckdb_columns() select comment where table_name = 'transactions'",
        "from information_schema.tables",
        "from sqlite_master",
        "select count(*) from coverage(now())",
        "select account_number('SA03 8000')",
        "select 'a/b.csv' as \"c.parquet\", '*' as d",
        'select * from (from transactions select 1 as "a/b") as x',
        "select timezone('Asia/Riyadh', now())",
        "from json_each('[1]')",
    ],
)
def test_what_reads_the_tables_is_answered(home, sql):
    """The bars are felt by nobody who asks tables by name."""
    result = ask(home, sql)

    assert result.exit_code == 0, result.stderr
    assert result.stdout


def test_each_bar_holds_by_itself(home, tmp_path, monkeypatch):
    """What the parser would let pass DuckDB refuses, and nothing unlocks it again."""
    lake = Lake(home / "lake", "sandbox")
    raw, ledger = one_file(home, "raw/*/*/*.parquet"), one_file(home, "pulls/*/*.parquet")
    monkeypatch.chdir(tmp_path)
    with connect(lake) as connection:
        read_only.close_off(connection, read_only._folders_of(connection))
        for sql in (
            f"from read_parquet('{raw}')",
            f"from read_parquet('{ledger}')",
            f"from read_parquet('{lake.folder}/transactions/../raw/x.parquet')",
            "from read_text('/etc/passwd')",
            "from read_blob('/proc/self/environ')",
            "from glob('/*')",
            f"copy (select 1) to '{tmp_path}/x'",
            f"copy (select 1) to '{ledger}' (format parquet)",
            f"attach '{tmp_path}/x.db'",
            "load httpfs",
            "set enable_external_access = true",
            "set allowed_directories = ['/']",
            "reset lock_configuration",
        ):
            with pytest.raises(duckdb.Error, match=r"disabled|locked|Cannot"):
                connection.execute(sql)
        assert connection.execute("select count(*) > 0 from transactions").fetchone() == (True,)


def test_a_missing_bar_is_noticed(home, monkeypatch):
    """Mutants: without the parser typed files are read, without the lock any file."""
    typed = one_file(home, "identity/*/*.parquet")
    monkeypatch.setattr(read_only, "refuse_unless_reading", lambda *_: None)
    assert ask(home, f"from read_parquet('{typed}')").exit_code == 0
    assert ask(home, "from read_text('/etc/passwd')").exit_code == 1

    monkeypatch.setattr(read_only, "close_off", lambda *_: None)
    assert "root:" in ask(home, "from read_text('/etc/passwd')", "--json").stdout


def test_an_operator_may_ask_anything(home, tmp_path):
    """`--unsafe` says so; the warehouse itself stays read-only."""
    file = tmp_path / "out.csv"

    assert "PASSWORD" in ask(home, f"from read_text('{home}/secret.txt')", "--unsafe").stdout
    assert ask(home, f"copy (select 1 as a) to '{file}'", "--unsafe").exit_code == 0
    assert file.read_text() == "a\n1\n"
    assert ask(home, "delete from pulls", "--unsafe").exit_code == 1


def test_a_result_never_replaces_a_file_of_the_lake(home, tmp_path, monkeypatch):
    """Not by a path, a relative one, or a link; anywhere else it is written."""
    ledger = Path(one_file(home, "pulls/*/*.parquet"))
    (tmp_path / "link").symlink_to(ledger.parent)
    monkeypatch.chdir(ledger.parent)
    before = files_of(home)

    for file in (ledger, ledger.name, tmp_path / "link" / ledger.name, home / "inbox" / "x"):
        result = ask(home, "select 1 as a", "--parquet", str(file))
        assert result.exit_code == 1
        assert "choose another folder" in result.stderr

    assert files_of(home) == before
    assert ask(home, "select 1 as a", "--parquet", str(tmp_path / "x")).exit_code == 0


def test_a_file_that_holds_no_sql_is_not_quoted(home, tmp_path):
    """Its name is said, and none of its words."""
    (tmp_path / "notes").write_text("PASSWORD is this")
    for file in (tmp_path / "notes", Path("/proc/self/environ"), Path("/etc/passwd")):
        said = ask(home, str(file)).stderr

        assert re.fullmatch(r"error \S+ (holds no SQL|is not text in UTF-8)\n", said), said
    (tmp_path / "report.sql").write_text("selct 1")
    assert "selct" in ask(home, str(tmp_path / "report.sql")).stderr
    assert os.environ["PATH"] not in ask(home, "/proc/self/environ").stderr
