"""What `leanhouse query` reads and prints: values as they are, exact, on any terminal."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines.cli.console import plain_console, show, visible
from pipelines.cli.main import app
from pipelines.cli.results import write_csv, write_json
from pipelines.lake.lake import Lake

ROOT = Path(__file__).resolve().parent.parent
WIDE = "select " + ", ".join(f"'value {n} of a wide row' as column_{n}" for n in range(30))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose warehouse has one table."""
    home = tmp_path_factory.mktemp("home")
    file = Lake(home / "lake", "sandbox").warehouse
    file.parent.mkdir(parents=True)
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "create table movements as select 1 as id, 12.5::decimal(18, 4) as amount"
            " union all select 2, null"
        )
    return home


def ask(home, *arguments, given=None, columns=None):
    """What the command ends with."""
    env = {"COLUMNS": str(columns) if columns else ""}
    return CliRunner(env=env).invoke(app, ["query", "--home", str(home), *arguments], input=given)


def quoted(text):
    """A text as SQL spells it."""
    return "'" + text.replace("'", "''") + "'"


@pytest.mark.parametrize(
    "text",
    [
        "POS [visa] 123",
        "[/ref 12]",
        "[bold]x[/bold]",
        "[/]",
        ":smile: :bank:",
        "a\\[b]",
        "12:30 {x}",
    ],
)
def test_no_text_is_read_as_markup(home, text):
    """A value, a column's name and an error are shown as they are."""
    asked = f'select {quoted(text)} as value, 1 as "{text}"'

    assert text in ask(home, asked).stdout.splitlines()[2]
    assert text in ask(home, asked).stdout.splitlines()[0]
    turned = ask(home, asked, columns=9).stdout.splitlines()
    assert turned[1].split(" | ") == [f"{'value':<{len(text)}}", text]
    assert text in ask(home, f"select {quoted(text)} from nowhere").stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\rb\nc\td\x08e", r"a\rb\nc\td\x08e"),
        ("\u202eabc\u200f", r"\u202eabc\u200f"),
        ("a\u00a0b\x7f", r"a\xa0b\x7f"),
    ],
)
def test_a_terminal_is_never_sent_what_it_would_obey(home, text, shown):
    """What cannot be printed is spelt out: in a table, turned, in names and in errors."""
    for columns in (200, 5):
        result = ask(home, f'select {quoted(text)} as value, 1 as "{text}"', columns=columns)

        assert result.stdout.count(shown) == 2
        assert not set(result.stdout) - {"\n"} & set(text) - set(shown)
    failed = ask(home, f"select {quoted(text)} from nowhere")
    assert failed.exit_code == 1
    assert all(one.isprintable() for one in failed.stderr.replace("\n", ""))


@given(st.text())
def test_what_is_shown_can_be_printed(text):
    """Whatever a text holds, and what can be printed stays as it is."""
    assert visible(text).isprintable()
    if text.isprintable():
        assert visible(text) == text


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_a_wide_result_has_one_column_per_line(home, columns):
    """No cell is folded, at whatever width."""
    lines = ask(home, WIDE, columns=columns).stdout.splitlines()

    assert len(lines) == 31
    assert "RECORD 1" in lines[0]
    assert lines[7].split(" | ") == ["column_6 ", "value 6 of a wide row"]


def test_a_result_that_just_fits_is_a_table(home):
    """The width of the terminal decides, to the character, wide letters included."""
    for sql, width in (
        ("select 'abc' as left_one, 'def' as b_1", 8 + 3 + 3),
        ("select '銀行銀行銀行' as a, 'حساب' as b", 12 + 3 + 4),
    ):
        assert "RECORD" in ask(home, sql, columns=width - 1).stdout
        table = ask(home, sql, columns=width).stdout
        assert "RECORD" not in table
        assert len(table.splitlines()) == 3


def test_a_table_tells_null_from_empty_and_counts_what_it_leaves_out(home):
    """Unknown is not empty, and 200 rows are not all."""
    assert "NULL" in ask(home, "select null as a, '' as b").stdout
    assert "(no rows)" in ask(home, "select 1 as a where false").stdout
    assert "(no rows)" in ask(home, f"{WIDE} where false").stdout
    assert "first 200 rows" in ask(home, "select * from range(201)").stdout
    assert "first 200 rows" not in ask(home, "select * from range(200)").stdout


@pytest.mark.parametrize(
    "sql",
    [
        "select 1 as found",
        "select 1 as found;",
        "-- what it is for\nselect 1 as found",
        "--why\nselect 1 as found -- because\n;\n-- and done\n",
        "/* ; */ select 1 as found;;",
        "\ufeffselect 1 as found",
    ],
)
def test_one_statement_is_taken_from_everywhere(home, tmp_path, sql):
    """As an argument, from a file and from standard input, with comments."""
    file = tmp_path / "a question"
    file.write_text(sql, encoding="utf-8")

    assert ask(home, str(file)).stdout.split()[0] == "found"
    assert ask(home, "-", given=sql).stdout.split()[0] == "found"
    if not sql.startswith("\ufeff"):
        assert ask(home, sql).stdout.split()[0] == "found"
        assert ask(home, "--csv", sql).stdout == "found\n1\n"
        assert ask(home, sql, "--csv").stdout == "found\n1\n"


@pytest.mark.parametrize("sql", ["", "  ", ";", "\n", "-- only a comment", "/* */;"])
def test_an_empty_query_is_one_sentence(home, tmp_path, sql):
    """Wherever it comes from."""
    (tmp_path / "empty.sql").write_text(sql)

    for result in (
        ask(home, sql),
        ask(home, "-", given=sql),
        ask(home, str(tmp_path / "empty.sql")),
    ):
        assert result.exit_code == 1
        assert result.stderr.startswith("error the query is empty")
        assert result.stderr.count("\n") == 1


def test_what_cannot_be_asked_is_one_sentence(home, tmp_path):
    """More than one statement, no file, no text, two forms, nowhere to write."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    refused = {
        ("select 1; select 2",): "there are 2 statements",
        ("absent.sql",): "absent.sql cannot be read: No such file",
        (str(tmp_path),): "cannot be read: Is a directory",
        (str(tmp_path / "binary"),): "is not text in UTF-8",
        ("select 1", "--csv", "--json"): "give one of",
        ("select 1", "--parquet", str(tmp_path)): "cannot be written: Is a directory",
        ("select 1", "--parquet", str(tmp_path / "no" / "x")): "cannot be written: No such file",
        ("select interval 1 month", "--parquet", str(tmp_path / "x")): "Parquet does not know",
        ("select * from home",): "Table with name home does not exist",
        ("delete from movements",): "read-only",
        ("select " + "1," * 3000 + "1 from nowhere",): "nowhere does not exist",
    }
    for arguments, sentence in refused.items():
        result = ask(home, *arguments)

        assert result.exit_code == 1, arguments[0][:50]
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()
    assert "run a sync" in ask(tmp_path / "nothing", "select 1").stderr


def test_an_option_that_is_misspelt_is_not_sql(home):
    """Only what could not be an option is."""
    result = ask(home, "--cvs", "select 1")

    assert result.exit_code == 2
    assert "--cvs" in result.stderr


def test_parquet_is_exact(home, tmp_path):
    """Decimals stay decimals, sums too, null is null, and no name comes twice."""
    file = tmp_path / "found.parquet"
    file.write_text("what was there before")
    sql = "select *, sum(id) over () as total, sum(amount) over () as sum, '' as id from movements"

    result = ask(home, f"{sql} order by 1", "--parquet", str(file))

    assert result.stdout == f"2 rows in {file}\n"
    table = pq.read_table(file)
    assert table.to_pylist() == [
        {"id": 1, "amount": Decimal("12.5000"), "total": 3, "sum": Decimal("12.5"), "id_1": ""},
        {"id": 2, "amount": None, "total": 3, "sum": Decimal("12.5"), "id_1": ""},
    ]
    assert not any(
        "float" in str(field.type) or "double" in str(field.type) for field in table.schema
    )
    assert list(tmp_path.iterdir()) == [file]


VALUES = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(VALUES, st.none() | st.decimals(-(10**14), 10**14, places=4))))
def test_csv_and_json_hold_every_value(rows):
    """Text as it is, null apart from empty, money to its last place."""
    with duckdb.connect() as connection:
        connection.execute("create table t (id integer, a varchar, b decimal(38, 4))")
        if rows:
            given_rows = [[number, *row] for number, row in enumerate(rows)]
            connection.executemany("insert into t values ($1, $2, $3)", given_rows)

        written, line = io.StringIO(), io.StringIO()
        write_json(connection.execute("select a, b from t order by id"), written.write)
        read = json.loads(written.getvalue(), parse_float=pytest.fail)
        write_csv(connection.execute("select a, b from t order by id"), line.write)

    assert [(a, None if b is None else Decimal(b)) for a, b in map(dict.values, read)] == rows
    assert all(map(str.isprintable, written.getvalue().split("\n")))
    found = list(csv.reader(io.StringIO(line.getvalue(), newline="")))
    assert found == [["a", "b"]] + [
        ["" if one is None else str(one) for one in (a, None if b is None else f"{b:f}")]
        for a, b in rows
    ]
    assert line.getvalue().count('""') >= sum(a == "" for a, _ in rows)


def test_csv_tells_null_from_empty(home):
    """By the field's quotes, as PostgreSQL does."""
    result = ask(home, "select null as a, '' as b, 'x' as c, 1.50::decimal(9, 4) as d", "--csv")

    assert result.stdout == 'a,b,c,d\n,"",x,1.5000\n'


def command(home, *arguments, **env):
    """The command's arguments and environment as a process of its own."""
    code = "from pipelines.cli.main import main; main()"
    return (
        [sys.executable, "-c", code, "query", "--home", str(home), *arguments],
        {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **env},
    )


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_an_ascii_terminal_shows_everything(home, form):
    """No traceback; in a pipe CSV and JSON are UTF-8, whatever the terminal would be."""
    asked = "select 'حساب' as \"اسم\", chr(27) as escape"
    arguments, env = command(home, asked, *form, LANG="C", PYTHONIOENCODING="ascii")

    ended = subprocess.run(arguments, env=env, capture_output=True, timeout=60, check=False)

    assert ended.returncode == 0
    assert ended.stderr == b""
    if form:
        assert "حساب" in ended.stdout.decode()
    else:
        assert rb"\u062d\u0633\u0627\u0628" in ended.stdout


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_a_dumb_terminal_gets_no_escape(home, form):
    """On a terminal no form writes a control character of a value, CSV included."""
    arguments, env = command(
        home, "select chr(27) || '[2J' as value, chr(155) as csi", *form, TERM="dumb"
    )
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            arguments, env=env, stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, check=True
        )
        found = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)

    assert "[2J" in found
    assert not {"\x1b", "\x9b"} & set(found)


def test_a_reader_that_leaves_is_no_traceback(home):
    """As in a pipe to `head`."""
    arguments, env = command(home, "select * from range(200000)", "--csv")

    with subprocess.Popen(
        arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"range\n"
        process.stdout.close()
        process.wait(60)
        assert b"Traceback" not in process.stderr.read()


def test_tables_of_other_commands_show_values_too(home, capsys):
    """`status` and the demo print through the same table."""
    with duckdb.connect() as connection:
        show(connection.execute("select '[visa] ' || chr(27) as a"), plain_console())

    assert r"[visa] \x1b" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("--help",), ("query", "--help"), ("dictionary",)])
def test_no_command_needs_more_than_an_ascii_terminal(home, arguments):
    """Help and the dictionary are written whole."""
    ended = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli.main import main; main()", *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, b"")
    if arguments == ("dictionary",):
        assert ended.stdout == (ROOT / "docs" / "dictionary.md").read_bytes()
