"""Leaks: personal values of the lake that stand where none may stand."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection

import duckdb

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS, Column, Kind, Stream
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.models.model import Models

_SHORTEST = 5
"""Characters that a personal value has at least to be searched for; shorter texts are ambiguous."""
_IDENTIFYING = re.compile("identification|national_id|email|phone|mobile")
_SEARCHED = r"""
create temp macro plain(text) as regexp_replace(lower(text), '[\s+]+', '', 'g');
create temp macro cut(text, marks) as
    list_transform(string_split_regex(text, marks), lambda one: trim(one, ' .'));
create temp macro texts_in(json) as regexp_extract_all(json, '"((?:[^"\\]|\\.)*)"\s*[,\]}]', 1);
"""


class LeakError(ConfigError):
    """What is for others contains a personal value; the message names the place only."""

    remedy = (
        "Nothing was written. Find out how it got there (leanhouse dictionary says what a"
        " column is made of), and change the model or the setting that fills it."
    )


def leaking(
    connection: duckdb.DuckDBPyConnection, lake: Lake, models: Models, texts: str
) -> list[str]:
    """Places that contain a personal value of the lake, by name and each once.

    A value is searched for as a whole text and as an element of a list. A value that identifies on
    its own, such as an account number or an e-mail address, is searched for as a word of a text
    too. Other values do not count if public columns of banks and movements hold them as well: a
    merchant may have a customer's name.

    Args:
        connection: Where the lake's ledger is, and what `texts` reads.
        models: All models; their own words are no personal values.
        texts: A SELECT of what is searched, with columns `place` and `text`.
    """
    connection.execute(_SEARCHED)
    personal = " union all ".join(
        _select(lake, stream, columns)
        for stream in STREAMS.values()
        if (columns := [one for one in stream.columns if one.pii and one.kind is not Kind.DATE])
    )
    connection.execute(
        "create temp table personal as select plain(value) as value, bool_or(identifies) as"
        f" identifies from ({personal}) group by all having length(plain(value)) >= {_SHORTEST}"
    )
    connection.execute(
        "delete from personal where value in (select plain(unnest($1)))", [sorted(_words(models))]
    )
    texts_of = {Kind.TEXT, Kind.TEXTS}
    public = " union all ".join(
        _select(
            lake, stream, [one for one in stream.columns if not one.pii and one.kind in texts_of]
        )
        for stream in (STREAMS["banks"], STREAMS["transactions"])
    )
    connection.execute(
        "delete from personal where not identifies"
        f" and value in (select plain(value) from ({public}))"
    )
    connection.execute(f"create temp view texts as {texts}")
    found = connection.execute(QUERIES["leaking_columns"]).fetchall()
    return [place for (place,) in found]


def _select(lake: Lake, stream: Stream, columns: Collection[Column]) -> str:
    """The SELECT of all texts that columns ever had, and whether each identifies on its own."""
    names = ", ".join(f'"{column.name}"' for column in columns)
    texts = " union all ".join(
        f"select {value} as value, {bool(_IDENTIFYING.search(value))} as identifies from rows"
        for column in columns
        for value in _values(column)
    )
    # Not the view of this name, which lacks personal columns. Read once for all columns.
    return f"(with rows as materialized (select {names} from ({lake.history(stream)})) {texts})"


def _values(column: Column) -> list[str]:
    """Expressions that give the single texts of a column."""
    match column.kind:
        case Kind.TEXT:
            return [f'"{column.name}"']
        case Kind.TEXTS:
            return [f'unnest("{column.name}")']
        case Kind.TEXT_MAP:
            return [f'unnest(map_values("{column.name}"))']
        case Kind.JSON:
            return [f'unnest(texts_in("{column.name}"))']
        case Kind.ITEMS:
            inner = [field.name for field in column.fields if field.pii]
            return [f'unnest("{column.name}")."{name}"' for name in inner]
        case _:
            return [f'"{column.name}"::varchar']


def _words(models: Models) -> set[str]:
    """The project's own vocabulary: values in the catalogue, in seeds and in the SQL of models."""
    words = {
        word for stream in STREAMS.values() for column in stream.columns for word in column.values
    }
    for file in models.seeds.values():
        with file.open(encoding="utf-8", newline="") as lines:
            words.update(cell for row in csv.reader(lines) for cell in row)
    for body in (*models.macros.values(), *(model.body for model in models)):
        words.update(re.findall(r"'([^'\n]*)'", body))
    return words
