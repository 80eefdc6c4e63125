"""Frames in pandas: the types of the tables, from a home or a file, and nothing but reading."""

import datetime as dt
from decimal import Decimal

import duckdb
import pandas as pd
import pytest
import shared
from conftest import TODAY

from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.export import publish_copy
from pipelines.publish.frames import Warehouse
from pipelines.publish.read_only import QueryError
from pipelines.publish.warehouse import connect, publish

BUILT = ("bridge_accounts", "dim_banks", "fct_balance_snapshots")
BALANCES = "select account_id, signed_amount, asked_at from fct_balance_snapshots order by all"


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake with a warehouse that has a few tables."""
    lake = Lake(tmp_path_factory.mktemp("home") / "lake", "sandbox")
    shared.filled(lake, sandbox={"customers": 2, "months": 2, "seed": 7, "today": TODAY})
    build(lake, load(), hash_key="made-up-key-of-tests", only=BUILT)
    publish(lake, load())
    return lake


def rows(frame):
    """The rows of a frame as DuckDB gives them."""
    return [
        tuple(one.to_pydatetime() if isinstance(one, pd.Timestamp) else one for one in row)
        for row in frame.itertuples(index=False)
    ]


def test_a_frame_holds_what_the_table_holds(lake):
    """Money is Decimal to the last place, instants are in UTC, and nothing became a float."""
    frame = Warehouse(lake.folder.parent.parent).frame(BALANCES)

    with connect(lake) as connection:
        truth = connection.execute(BALANCES).fetchall()
    assert truth
    assert rows(frame) == truth
    assert [str(one) for one in frame.dtypes] == [
        "string[pyarrow]",
        "decimal128(38, 9)[pyarrow]",
        "timestamp[us, tz=UTC][pyarrow]",
    ]
    exact = sum((row[1] for row in truth if row[1] is not None), Decimal(0))
    assert (frame["signed_amount"].sum(), type(frame["signed_amount"].sum())) == (exact, Decimal)


def test_null_stays_null_and_numbers_stay_whole(lake):
    """Where pandas' own types make 3 into 3.0, and null into NaN."""
    sql = """
        select * from (values
            (1, true, 0.000000001::decimal(38, 9), date '2026-03-15', ['a', null]),
            (null, null, null, null, null)
        )
    """
    frame = Warehouse(lake.folder.parent.parent).frame(sql)

    assert rows(frame.iloc[:1])[0][:4] == (1, True, Decimal("0.000000001"), dt.date(2026, 3, 15))
    assert list(frame.iloc[0, 4]) == ["a", None]
    assert frame.iloc[1].isna().all()
    assert str(frame.dtypes.iloc[0]) == "int32[pyarrow]"


def test_parameters_are_values_and_never_sql(lake):
    """By position and by name."""
    home = Warehouse(lake.folder.parent.parent)
    attack = "x' or true --"

    assert home.frame("select ? as a", [attack])["a"].tolist() == [attack]
    query = "select count(*) as banks from dim_banks where bank_identifier = $name"
    assert home.frame(query, {"name": attack})["banks"].tolist() == [0]


def test_every_place_is_found(lake, tmp_path, monkeypatch):
    """A home, the file in it, and a copy without a lake, from any folder."""
    monkeypatch.chdir(tmp_path)
    copy = publish_copy(lake, load(), tmp_path / "copy").path
    whole = Warehouse(lake.folder.parent.parent).frame(BALANCES)

    for place in (str(lake.warehouse), "copy/leanhouse.duckdb", copy):
        pd.testing.assert_frame_equal(Warehouse(place).frame(BALANCES), whole)


def test_a_frame_follows_the_newest_warehouse(tmp_path):
    """A query after a publication sees it."""
    lake = Lake(tmp_path / "lake", "sandbox")
    asked = Warehouse(tmp_path)
    with pytest.raises(FileNotFoundError, match="run a sync first"):
        asked.frame("from dim_banks")
    build(lake, load(), hash_key="made-up-key-of-tests", only=("dim_banks",))
    publish(lake, load())

    assert asked.frame("from dim_banks").empty


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select 1; select 2", "one at a time"),
        ("", "one at a time"),
        ("drop table pulls", "read-only"),
        ("from read_text('/etc/passwd')", "for operators"),
        ("set enable_external_access = true", "read-only"),
        ("from nothing_of_this_name", "nothing_of_this_name"),
    ],
)
@pytest.mark.parametrize("kind", ["home", "copy"])
def test_nothing_but_reading(lake, tmp_path, kind, sql, words):
    """The same bars as for `leanhouse query`, for a file without a lake too."""
    place = lake.folder.parent.parent
    if kind == "copy":
        place = tmp_path / "copy.duckdb"
        with duckdb.connect(str(place)) as connection:
            connection.execute("create table one as select 1 as a")
        assert Warehouse(place).frame("from one")["a"].tolist() == [1]

    with pytest.raises(QueryError, match=words):
        Warehouse(place).frame(sql)
