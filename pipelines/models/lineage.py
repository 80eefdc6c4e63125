"""Column lineage: the columns of tables that each column of a SELECT is computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

Source = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a column's value comes from.

    Args:
        sources: Columns that the value is computed from, as (table, column).
        passed_on: The column that is passed on unchanged, under any name; None if it is computed.
    """

    sources: frozenset[Source]
    passed_on: Source | None


_NOTHING = Trace(frozenset(), None)


def trace(query: exp.Query, schema: Mapping[str, Mapping[str, str]]) -> dict[str, Trace]:
    """Lineage of each column of a SELECT.

    Columns that rows are only filtered, joined or grouped by do not count.

    Args:
        query: A SELECT that binds; it is changed.
        schema: Types by column of each table that it names.
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
    """Lineage of the columns of a scope, by name."""
    if id(scope) in seen:
        return seen[id(scope)]
    # A recursive query names itself, which adds nothing to its first half.
    seen[id(scope)] = {}
    if scope.set_operation_scopes:
        left, right = (list(_columns(inner, seen).items()) for inner in scope.set_operation_scopes)
        found = {
            name: Trace(a.sources | b.sources, a.passed_on if a.passed_on == b.passed_on else None)
            for (name, a), (_, b) in zip(left, right, strict=False)
        }
    else:
        selects = scope.expression.selects if isinstance(scope.expression, exp.Query) else []
        found = {value.alias_or_name: _value(value.unalias(), scope, seen) for value in selects}
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
    """Columns of an expression, without those in its subqueries."""
    for node in value.walk(prune=lambda node: isinstance(node, exp.Query) and node is not value):
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
            # An unnested list: its elements come from the columns of its expression.
            return Trace(_value(source.expression, scope, seen).sources, None)
        scope = scope.parent
    return _NOTHING
