"""The tables of the made-up world, in `tables/`: banks, names, shops, kinds of movements."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Any, TypeVar, get_origin, get_type_hints

import msgspec

_Row = TypeVar("_Row")


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a table, without their empty cells."""
    text = files(__package__).joinpath("tables", f"{name}.csv").read_text(encoding="utf-8")
    found = csv.DictReader(text.splitlines())
    return [{column: cell for column, cell in row.items() if cell} for row in found]


def read(name: str, kind: type[_Row]) -> list[_Row]:
    """The rows of a table as a class, whose fields are its columns.

    A field that holds a collection has words with spaces between them in the table.
    """
    kinds = get_type_hints(kind).items()
    lists = {field for field, of in kinds if get_origin(of) in {tuple, frozenset}}
    made: list[dict[str, Any]] = [
        {column: cell.split() if column in lists else cell for column, cell in row.items()}
        for row in rows(name)
    ]
    return msgspec.convert(made, list[kind], strict=False)  # type: ignore[valid-type]
