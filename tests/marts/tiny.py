"""A model or a check over a few rows made by hand, without a lake."""

import contextlib
from functools import cache

from known import KEY, models

from pipelines.models.relations import add_macros, empty_lake


def run(name, *, changed=None, **tables):
    """What a model or a check selects from the given rows, one dict per row.

    Args:
        name: The model, or the file of the check.
        changed: Pairs of text to replace in its SELECT first, for mutants; each has to be there.
        tables: Rows by the name of what the model reads; columns that a row leaves out are null.
            What is not given has no rows, seeds excepted.
    """
    loaded = models()
    checks = {f"{check.model}__{check.name}": check for check in loaded.checks}
    model = checks[name] if name in checks else loaded[name]
    body = model.body
    for old, new in (changed or {}).items():
        assert old in body, f"{name} has no {old!r} to change"
        body = body.replace(old, new)
    assert set(tables) <= set(model.reads), f"{name} reads {model.reads}"
    with _empty_lake() as connection:
        for read in model.reads:
            if read in loaded.seeds and read not in tables:
                continue
            types = (
                {column.name: column.type for column in loaded[read].columns}
                if read in loaded
                else dict(loaded.relations[read].types)
            )
            columns = ", ".join(f'"{column}" {kind}' for column, kind in types.items())
            connection.execute(f"create table tiny.{read} ({columns})")
            for row in tables.get(read, ()):
                names = ", ".join(f'"{column}"' for column in row)
                marks = ", ".join("?" * len(row))
                connection.execute(
                    f"insert into tiny.{read} ({names}) values ({marks})", list(row.values())
                )
        connection.execute("set search_path = 'tiny,main'")
        result = connection.execute(body)
        found = [column[0] for column in result.description]
        return [dict(zip(found, row, strict=True)) for row in result.fetchall()]


def scalar(expression, *values):
    """What an expression over macros gives for some values, $1 being the first."""
    _, connection = _nothing()
    (found,) = connection.execute(f"select {expression}", list(values)).fetchone()
    return found


@cache
def _nothing():
    """An empty lake, made once per process."""
    loaded = models()
    lake = contextlib.ExitStack()
    connection = lake.enter_context(empty_lake(loaded.macros.values(), loaded.seeds))
    add_macros(connection, (), KEY)
    return lake, connection


@contextlib.contextmanager
def _empty_lake():
    """The empty lake with a schema for rows, which is dropped again."""
    _, connection = _nothing()
    connection.execute("create schema tiny")
    try:
        yield connection
    finally:
        connection.execute("set search_path = 'main'")
        connection.execute("drop schema tiny cascade")
