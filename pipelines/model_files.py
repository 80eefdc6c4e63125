"""Model files: SQL with a comment on top, taken apart, bound and held against each other."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

from pipelines.lake import typed_nothing
from pipelines.lineage import Trace, trace
from pipelines.models import (
    LAYERS,
    ROOT,
    Check,
    Model,
    ModelColumn,
    ModelError,
    Models,
    Stored,
    TableMacro,
)
from pipelines.relations import Relation, empty_lake, relations
from pipelines.sql_header import Header, HeaderError, header_of

__all__ = ["read"]

_STORED = re.compile(r"(view|table)|by (\w+)(?:, reading (-\d+|0) to (\+\d+|0))?")
_ENTRIES = {"grain", "key", "stored", "columns", "cleared", "sample"}
_CLEARED = re.compile(r"(\w+) \([^()]+\)")
_LINE = re.compile(r"LINE (\d+):")


def read(root: Path = ROOT) -> Models:
    """Read every model, check, macro and seed below a folder, whatever was kept.

    Raises:
        ModelError: As `pipelines.models.load`.
    """
    macros = {file.stem: file.read_text() for file in sorted((root / "macros").glob("*.sql"))}
    seeds = {file.stem: file for file in sorted((root / "seeds").glob("*.csv"))}
    found: dict[str, Model] = {}
    headers: dict[str, Header] = {}
    queries: dict[str, exp.Query] = {}
    for layer in LAYERS:
        for file in sorted((root / layer).glob("*.sql")):
            if file.stem in found:
                raise ModelError(file, 1, f"{found[file.stem].file.parent.name} has that name too")
            name = file.stem
            found[name], headers[name], queries[name] = _read(file, layer)
    with empty_lake(macros.values(), seeds) as connection:
        known = relations(connection, seeds)
        _refuse_unknown(found, known)
        ordered = {name: found[name] for name in _order(found)}
        schema = {name: dict(relation.types) for name, relation in known.items()}
        for name, model in ordered.items():
            bound = _bind(connection, model, headers[name])
            schema[name] = bound
            traces = trace(queries[name], {one: schema[one] for one in model.reads})
            ordered[name] = _described(model, headers[name], bound, traces, known, ordered)
        checks = tuple(
            _check(file, ordered, known, connection)
            for file in sorted((root / "checks").glob("*.sql"))
        )
        _try_samples(connection, ordered, headers)
        table_macros = tuple(
            _table_macro(file, ordered, known, connection)
            for file in sorted((root / "table_macros").glob("*.sql"))
        )
    return Models(ordered, checks, known, macros, seeds, table_macros)


def _read(file: Path, layer: str) -> tuple[Model, Header, exp.Query]:
    text = file.read_text(encoding="utf-8")
    header = _header(file, text)
    for name in ("grain", "key", "stored"):
        if not header.entries.get(name):
            raise ModelError(file, 1, f"the header has no {name}")
    if not header.description.endswith("."):
        raise ModelError(file, 1, "the header does not start with a sentence")
    query, reads = _select(file, text)
    return (
        Model(
            name=file.stem,
            layer=layer,
            file=file,
            description=header.description,
            grain=header.entries["grain"],
            key=tuple(name.strip() for name in header.entries["key"].split(",")),
            stored=_stored(file, header),
            notes={k: v for k, v in header.entries.items() if k not in _ENTRIES},
            sample=header.entries.get("sample", ""),
            body=text,
            reads=reads,
        ),
        header,
        query,
    )


def _header(file: Path, text: str) -> Header:
    try:
        return header_of(text)
    except HeaderError as error:
        raise ModelError(file, error.line, error.problem) from None


def _stored(file: Path, header: Header) -> Stored:
    match = _STORED.fullmatch(header.entries["stored"])
    if match is None:
        raise ModelError(
            file,
            header.lines["stored"],
            "stored is `view`, `table` or `by <column>, reading -1 to +1`",
        )
    if match[1]:
        return Stored(is_view=match[1] == "view")
    return Stored(month=match[2], before=int(match[3] or 0), after=int(match[4] or 0))


def _select(file: Path, text: str) -> tuple[exp.Query, tuple[str, ...]]:
    """The one SELECT of a file, and the relations that it names."""
    try:
        statements = sqlglot.parse(text, dialect="duckdb")
    except ParseError as error:
        line = error.errors[0].get("line") or 1 if error.errors else 1
        what = error.errors[0].get("description", "") if error.errors else ""
        raise ModelError(file, line, f"the SELECT does not parse: {what}") from None
    query = statements[0]
    if len(statements) != 1 or not isinstance(query, exp.Query):
        raise ModelError(file, 1, "a file holds one SELECT and nothing else")
    return query, tuple(sorted(_tables(query)))


def _tables(query: exp.Expr) -> set[str]:
    inner = {cte.alias_or_name for cte in query.find_all(exp.CTE)}
    return {table.name for table in query.find_all(exp.Table) if table.name} - inner


def _refuse_unknown(found: Mapping[str, Model], known: Mapping[str, Relation]) -> None:
    for model in found.values():
        if model.name in known:
            raise ModelError(model.file, 1, f"{model.name} is the name of a stream or of the lake")
        for name in model.reads:
            if name not in found and name not in known:
                line = _line_of(model.body, name)
                raise ModelError(model.file, line, f"there is no stream, model or seed {name}")
            if name in found and LAYERS.index(found[name].layer) > LAYERS.index(model.layer):
                line = _line_of(model.body, name)
                raise ModelError(model.file, line, f"{model.layer} may not read {name}")


def _line_of(body: str, word: str) -> int:
    """The first line of the SELECT with a word in it."""
    for number, line in enumerate(body.splitlines(), 1):
        if not line.startswith("--") and re.search(rf"\b{word}\b", line):
            return number
    return 1


def _order(found: Mapping[str, Model]) -> list[str]:
    graph = {
        name: [other for other in model.reads if other in found] for name, model in found.items()
    }
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        circle = error.args[1]
        model = found[circle[0]]
        raise ModelError(
            model.file,
            _line_of(model.body, circle[-2]),
            f"models read each other in a circle: {' <- '.join(circle)}",
        ) from None


def _bind(connection: duckdb.DuckDBPyConnection, model: Model, header: Header) -> dict[str, str]:
    """Create the model without rows; its columns and their types."""
    try:
        rows = connection.execute(f"describe {model.body}").fetchall()
    except duckdb.Error as error:
        match = _LINE.search(str(error))
        # What DuckDB counts from 1 is the line of the statement, which begins with the header.
        line = int(match[1]) if match else header.length + 1
        raise ModelError(model.file, line, str(error).splitlines()[0]) from None
    bound = {str(row[0]): str(row[1]) for row in rows}
    # A table rather than a view, because whoever reads a view binds all that is behind it anew.
    connection.execute(f"create table {model.name} as {typed_nothing(bound.items())}")
    return bound


def _described(
    model: Model,
    header: Header,
    bound: Mapping[str, str],
    traces: Mapping[str, Trace],
    known: Mapping[str, Relation],
    models: Mapping[str, Model],
) -> Model:
    """The model with its columns, held against its header."""
    for name, (_, _, line) in header.columns.items():
        if name not in bound:
            raise ModelError(model.file, line, f"the SELECT has no column {name}")
    for name in (*model.key, *([model.stored.month] if model.stored.month else ())):
        if name not in bound:
            line = header.lines["key" if name in model.key else "stored"]
            raise ModelError(model.file, line, f"the SELECT has no column {name}")
    cleared = set(_CLEARED.findall(header.entries.get("cleared", "")))
    if unknown := cleared - set(bound):
        line = header.lines["cleared"]
        raise ModelError(model.file, line, f"the SELECT has no column {min(unknown)}")
    columns = []
    for name, kind in bound.items():
        traced = traces.get(name, Trace(frozenset(), None))
        doc, pii = _meaning(model, header, name, traced, known, models)
        columns.append(ModelColumn(name, kind, doc, pii, tuple(sorted(traced.sources))))
        is_personal = any(_is_personal(source, known, models) for source in traced.sources)
        line = _column_place(header, name)
        if is_personal and not pii and name not in cleared:
            raise ModelError(
                model.file,
                line,
                f"{name} is made of personal columns: mark it (pii), or list it under cleared"
                " with what makes it impersonal",
            )
        if name in cleared and not is_personal:
            raise ModelError(
                model.file, header.lines["cleared"], f"{name} is made of nothing personal"
            )
        if pii and model.layer == "marts":
            raise ModelError(model.file, line, f"{name} is personal, and marts hold none")
    return replace(model, columns=tuple(columns))


def _meaning(
    model: Model,
    header: Header,
    name: str,
    traced: Trace,
    known: Mapping[str, Relation],
    models: Mapping[str, Model],
) -> tuple[str, bool]:
    """Meaning of a column and whether it is personal, its own or that of what it passes on."""
    line = _column_place(header, name)
    if name in header.columns:
        doc, pii, _ = header.columns[name]
    else:
        passed = _upstream(traced, known, models)
        if passed is None:
            raise ModelError(
                model.file, line, f"column {name} has no meaning: give it a line under columns"
            )
        doc, pii = passed
    if not doc.endswith("."):
        raise ModelError(model.file, line, f"{name}: its meaning is not a sentence")
    return doc, pii


def _column_place(header: Header, name: str) -> int:
    """The line of the header that a complaint about a column points to."""
    if name in header.columns:
        return header.columns[name][2]
    return header.lines.get("columns", header.length)


def _upstream(
    traced: Trace, known: Mapping[str, Relation], models: Mapping[str, Model]
) -> tuple[str, bool] | None:
    """Meaning and mark of the column that is passed on unchanged, or None."""
    if traced.passed_on is None:
        return None
    table, column = traced.passed_on
    if table in known:
        doc = known[table].docs.get(column)
        return None if doc is None else (doc, column in known[table].pii)
    return next((one.doc, one.pii) for one in models[table].columns if one.name == column)


def _is_personal(
    source: tuple[str, str], known: Mapping[str, Relation], models: Mapping[str, Model]
) -> bool:
    table, column = source
    if table in known:
        return column in known[table].pii
    return column not in models[table].public


def _check(
    file: Path,
    models: Mapping[str, Model],
    known: Mapping[str, Relation],
    connection: duckdb.DuckDBPyConnection,
) -> Check:
    model, _, claim = file.stem.partition("__")
    if model not in models or not claim:
        raise ModelError(file, 1, "a check is named <model>__<claim>.sql after a model")
    text = file.read_text(encoding="utf-8")
    header = _header(file, text)
    if not header.description.endswith("."):
        raise ModelError(file, 1, "the first comment is not the claim as a sentence")
    severity = header.entries.get("severity", "error")
    if severity not in {"error", "warning"}:
        raise ModelError(file, header.lines["severity"], "severity is error or warning")
    each = header.entries.get("each")
    if each is not None and (each != "month" or models[model].stored.month is None):
        raise ModelError(file, header.lines["each"], "each is month, of a model kept by month")
    query, reads = _select_of_known(file, text, models, known)
    try:
        rows = connection.execute(f"describe {text}").fetchall()
    except duckdb.Error as error:
        match = _LINE.search(str(error))
        raise ModelError(file, int(match[1]) if match else 1, str(error).splitlines()[0]) from None
    _refuse_personal(file, text, query, reads, models, known, [str(row[0]) for row in rows])
    return Check(
        name=claim,
        model=model,
        claim=header.description,
        is_error=severity == "error",
        is_monthly=each is not None,
        body=text,
        reads=reads,
        file=file,
    )


def _select_of_known(
    file: Path, text: str, models: Mapping[str, Model], known: Mapping[str, Relation]
) -> tuple[exp.Query, tuple[str, ...]]:
    """The SELECT of a file and what it reads, all of which is there."""
    query, reads = _select(file, text)
    for name in reads:
        if name not in models and name not in known:
            raise ModelError(file, _line_of(text, name), f"there is no stream or model {name}")
    return query, reads


def _table_macro(
    file: Path,
    models: Mapping[str, Model],
    known: Mapping[str, Relation],
    connection: duckdb.DuckDBPyConnection,
) -> TableMacro:
    text = file.read_text(encoding="utf-8")
    header = _header(file, text)
    parameters, sample = header.entries.get("parameters"), header.entries.get("sample")
    if not header.description.endswith(".") or not parameters or not sample:
        raise ModelError(file, 1, "the header is a sentence, parameters and a sample")
    _, reads = _select_of_known(file, text, models, known)
    statement = f"create or replace macro {file.stem}({parameters}) as table {text}"
    try:
        connection.execute(statement)
        connection.execute(sample)
    except duckdb.Error as error:
        raise ModelError(file, header.length + 1, str(error).splitlines()[0]) from None
    return TableMacro(file.stem, statement, reads)


def _refuse_personal(
    file: Path,
    text: str,
    query: exp.Query,
    reads: tuple[str, ...],
    models: Mapping[str, Model],
    known: Mapping[str, Relation],
    names: list[str],
) -> None:
    """Refuse a check whose offenders, which are shown, would hold personal values."""
    schema = {
        name: {column.name: column.type for column in models[name].columns}
        if name in models
        else dict(known[name].types)
        for name in reads
    }
    traces = trace(query, schema)
    for name in names:
        sources = traces[name].sources if name in traces else ()
        if any(_is_personal(source, known, models) for source in sources):
            raise ModelError(file, _line_of(text, name), f"{name} is personal and would be shown")


def _try_samples(
    connection: duckdb.DuckDBPyConnection,
    models: Mapping[str, Model],
    headers: Mapping[str, Header],
) -> None:
    for name, model in models.items():
        if not model.sample:
            continue
        try:
            connection.execute(f"explain {model.sample}")
        except duckdb.Error as error:
            line = headers[name].lines["sample"]
            raise ModelError(model.file, line, str(error).splitlines()[0]) from None
