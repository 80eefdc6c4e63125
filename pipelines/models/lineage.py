"""Column-level lineage: which columns of which tables the columns of a SELECT are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

__all__ = ["Trace", "trace"]

Source = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a column's value comes from.

    Args:
        sources: Columns that its value is made of, as (table, column).
        passed_on: The one column that it is, under whatever name, or None where it is computed.
    """

    sources: frozenset[Source]
    passed_on: Source | None


_NOTHING = Trace(frozenset(), None)


def trace(query: exp.Query, schema: Mapping[str, Mapping[str, str]]) -> dict[str, Trace]:
    """Lineage of each column of a SELECT.

    What a row is filtered, joined or grouped by is not part of a value and does not count.

    Args:
        query: The SELECT, which has been seen to bind; it is changed.
        schema: Columns and types of each table that it names.
    """
    qualified = qualify(
        query,
        schema={name: dict(columns) for name, columns in schema.items()},
        dialect="duckdb",
        validate_qualify_columns=False,
        quote_identifiers=False,
    )
    scope = build_scope(qualified)
    if scope is None:  # pragma: no cover - a SELECT has a scope
        return {}
    return _columns(scope, {})


def _columns(scope: Scope, seen: dict[int, dict[str, Trace]]) -> dict[str, Trace]:
    """Lineage of what a scope selects, by name."""
    if id(scope) in seen:
        return seen[id(scope)]
    # A recursive query names itself: it adds nothing to what its first half brings.
    seen[id(scope)] = {}
    if scope.set_operation_scopes:
        left, right = (list(_columns(one, seen).items()) for one in scope.set_operation_scopes)
        found = {
            name: Trace(a.sources | b.sources, a.passed_on if a.passed_on == b.passed_on else None)
            for (name, a), (_, b) in zip(left, right, strict=False)
        }
    else:
        selects = scope.expression.selects if isinstance(scope.expression, exp.Query) else []
        found = {one.alias_or_name: _value(one.unalias(), scope, seen) for one in selects}
    seen[id(scope)] = found
    return found


def _value(value: exp.Expr, scope: Scope, seen: dict[int, dict[str, Trace]]) -> Trace:
    if isinstance(value, exp.Column):
        return _column(value, scope, seen)
    parts = [_column(column, scope, seen) for column in _own_columns(value)]
    for inner in scope.subquery_scopes:
        if _contains(value, inner.expression):
            parts += _columns(inner, seen).values()
    return Trace(frozenset().union(*(part.sources for part in parts)), None)


def _own_columns(value: exp.Expr) -> Iterator[exp.Column]:
    """Columns of an expression, those inside of its subqueries left out."""
    for node in value.walk(prune=lambda one: isinstance(one, exp.Query) and one is not value):
        if isinstance(node, exp.Column):
            yield node


def _contains(value: exp.Expr, inner: exp.Expr) -> bool:
    node: exp.Expr | None = inner
    while node is not None:
        if node is value:
            return True
        node = node.parent
    return False


def _column(column: exp.Column, scope: Scope | None, seen: dict[int, dict[str, Trace]]) -> Trace:
    while scope is not None:
        source = scope.sources.get(column.table)
        if isinstance(source, exp.Table):
            place = (source.name, column.name)
            return Trace(frozenset({place}), place)
        if isinstance(source, Scope):
            if isinstance(source.expression, exp.Query):
                return _columns(source, seen).get(column.name, _NOTHING)
            # An unnested list: its elements come from the columns in it.
            return Trace(_value(source.expression, scope, seen).sources, None)
        scope = scope.parent
    return _NOTHING
