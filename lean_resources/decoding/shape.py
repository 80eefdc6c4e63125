"""The documented shape of a stream's records, from the paths of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from lean_resources.streams import STREAMS, Column, Kind, Stream, segments

_REGIONAL = "regional_data"

Paths = Callable[[Column], tuple[str, ...]]
"""Which of a column's paths are read."""
Place = tuple[str, ...]
"""Keys from a record down to a value; the elements of a list share one place."""


@dataclass(slots=True)
class Node:
    """One place in a record.

    Args:
        fields: The nodes under it, by key.
        kind: What the columns read from it; None where no column reads it.
        is_list: Whether it holds a list.
    """

    fields: dict[str, Node] = field(default_factory=dict)
    kind: Kind | None = None
    is_list: bool = False

    def at(self, path: str) -> Node:
        """The node at a path under this one, made where it is missing."""
        node = self
        for step in segments(path):
            node = node.fields.setdefault(step.name, Node())
            node.is_list |= step.first
        return node


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The shape of a stream's records. There is one of each stream and `paths`, by `shape_of`."""

    stream: Stream
    paths: Paths
    root: Node


def all_paths(column: Column) -> tuple[str, ...]:
    """Every path of a column."""
    return column.paths


def flat_paths(column: Column) -> tuple[str, ...]:
    """The paths of a column outside the regional part of a record."""
    return tuple(path for path in column.paths if not path.startswith(f"{_REGIONAL}."))


@cache
def shape_of(stream: Stream, paths: Paths) -> Shape:
    """The documented shape of a stream's records."""
    root = Node()
    _grow(root, stream.columns, paths)
    for inner in STREAMS.values():
        if inner.exploded_from == stream.name:
            root.fields[inner.records] = shape_of(inner, all_paths).root
    if paths is flat_paths:
        root.fields[_REGIONAL] = Node()
    return Shape(stream, paths, root)


def _grow(root: Node, columns: Sequence[Column], paths: Paths) -> None:
    for column in columns:
        for path in paths(column):
            node = root.at(path)
            if node.kind not in (None, column.kind):
                raise ValueError(f"{column.name}: {path} is read as {node.kind} elsewhere")
            node.kind = column.kind
            if column.kind is Kind.ITEMS:
                node.is_list = True
                _grow(node, column.fields, paths)
