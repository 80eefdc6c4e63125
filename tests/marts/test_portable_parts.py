"""Files of model parts are plain Parquet: other readers find the rows and the money of DuckDB."""

from decimal import Decimal, localcontext

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from known import models

from pipelines.models.manifest import PART_FORM, current_manifest

V1_ENCODINGS = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"}


def parts_of(world):
    """Model, name and file of each part that has rows."""
    lake = world.lake
    return [
        (models()[name], month, lake.folder / part.file)
        for name, parts in current_manifest(lake).parts.items()
        for month, part in parts.items()
        if part.rows
    ]


def faults(file):
    """What in a file some engine cannot read, or what makes files of one table differ."""
    found = pq.ParquetFile(file)
    problems = {
        f"{field.name} is {part}"
        for field in found.schema_arrow
        for part in ("uint", "interval", "duration")
        if part in str(field.type)
    }
    problems |= {f"{field.name} is required" for field in found.schema_arrow if not field.nullable}
    if "Interval" in str(found.schema) or "INTERVAL" in str(found.schema):
        problems.add("an interval")
    for group in range(found.num_row_groups):
        for column in range(found.metadata.num_columns):
            chunk = found.metadata.row_group(group).column(column)
            problems |= {f"encoding {one}" for one in set(chunk.encodings) - V1_ENCODINGS}
    return problems


def amounts_of(table):
    """Names of the decimal columns of an Arrow table."""
    return [field.name for field in table.schema if pa.types.is_decimal(field.type)]


def total(values):
    """Exact sum of the values that are there."""
    with localcontext(prec=60):
        return sum((Decimal(value) for value in values if value is not None), Decimal(0))


def test_every_part_is_read_alike_by_each_reader(world):
    """Equal rows and equal sums of each decimal column, and no fault in any file."""
    parts = parts_of(world)
    assert {model.name for model, _, _ in parts} >= {"fct_transactions", "mart_sync_health"}
    for model, month, file in parts:
        assert not faults(file), file
        if month:
            assert file.parent.name == f"{model.stored.month}={month}"
        arrow = pq.ParquetFile(file).read()
        frame = pd.read_parquet(file, dtype_backend="pyarrow", partitioning=None)
        other = pl.read_parquet(file)
        names = amounts_of(arrow)
        with duckdb.connect() as connection:
            sums = ", ".join(f'sum("{name}")' for name in names)
            rows, *truth = connection.execute(
                f"select count(*), {sums} from read_parquet($1, hive_partitioning = false)",
                [str(file)],
            ).fetchone()
        assert arrow.num_rows == len(frame) == other.height == rows
        assert [column.name for column in model.columns] == arrow.column_names == other.columns
        for name, expected in zip(names, truth, strict=True):
            for values in (arrow[name].to_pylist(), frame[name].dropna(), other[name].to_list()):
                assert total(values) == (expected or 0), (file, name)


def test_a_folder_is_read_with_its_partitions(world):
    """Readers that take folders for columns find the column's own values there."""
    folder = world.lake.folder / "marts" / "fct_cash_flow_monthly"
    parts = current_manifest(world.lake).parts["fct_cash_flow_monthly"]

    rows = pl.scan_parquet(folder, hive_partitioning=True, try_parse_hive_dates=False)
    counts = rows.group_by("riyadh_month").len().collect()

    assert dict(counts.iter_rows()) == {name: one.rows for name, one in parts.items() if one.rows}


PLAIN = "format parquet, parquet_version v1"
NULLABLE = "union all select null, null where random() < 0"


@pytest.mark.parametrize(
    ("select", "options", "expected"),
    [
        (f"select 1::ubigint as a, 'x' as b {NULLABLE}", PLAIN, "uint"),
        (f"select map {{'x': 1::ubigint}} as a, 'x' as b {NULLABLE}", PLAIN, "uint"),
        (f"select interval 1 day as a, 'x' as b {NULLABLE}", PLAIN, "interval"),
        ("select 1 as a, 'x' as b", PLAIN, "required"),
        (
            f"select range as a, md5(range::text) as b from range(5000) {NULLABLE}",
            "format parquet, parquet_version v2, dictionary_size_limit 1",
            "encoding",
        ),
        (f"select 1 as a, 'x' as b {NULLABLE}", PLAIN, None),
    ],
    ids=["UINT64", "UINT64 in a map", "INTERVAL", "required", "version 2", "as it should be"],
)
def test_a_file_with_a_fault_is_found(tmp_path, select, options, expected):
    """What the build wrote before, each fault alone."""
    file = tmp_path / "part.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"copy ({select}) to '{file}' ({options})")

    found = faults(file)

    assert not found if expected is None else any(expected in one for one in found)


def test_parts_have_todays_form(world):
    """A part without rows too, so that the next build leaves it."""
    forms = {
        p.form for parts in current_manifest(world.lake).parts.values() for p in parts.values()
    }

    assert forms == {PART_FORM}
