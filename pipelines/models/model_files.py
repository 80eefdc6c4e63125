"""Model files: SQL with a header; each is parsed, bound, and checked against what it reads."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

from pipelines.lake.schemas import typed_nothing
from pipelines.lake.sql_header import Header, HeaderError, header_of
from pipelines.models.lineage import Trace, trace
from pipelines.models.model import (
    LAYERS,
    SUBJECTS,
    Apart,
    Check,
    Model,
    ModelColumn,
    ModelError,
    Models,
    Stored,
    TableMacro,
)
from pipelines.models.relations import Relation, empty_lake, relations

_STORED = re.compile(r"(view|table)|by (\w+)(?:, reading (-\d+|0) to (\+\d+|0))?")
_APART = re.compile(r"(account|customer) by (\w+)|whole")
_IDS = {"account_key", "account_id", "entity_id", "consent_id", "customer_id"}
"""Columns with the id of an account, or of whom it belongs to."""
_ENTRIES = {"grain", "key", "stored", "apart", "subject", "formerly", "columns", "cleared"}
_ENTRIES |= {"sample"}
_CLEARED = re.compile(r"(\w+) \([^()]+\)")
_NOT_PORTABLE = re.compile(
    r"\b(U?HUGEINT|U(TINY|SMALL|BIG)INT|UINTEGER|INTERVAL|BIGNUM|BIT|TIME WITH TIME ZONE|UNION)\b"
)
"""Types that Parquet, Iceberg or Spark lack."""
_LINE = re.compile(r"LINE (\d+):")


def read(root: Path) -> Models:
    """Read every model, check, macro and seed below a folder, past the cache.

    Raises:
        ModelError: As `pipelines.models.loader.load`.
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
        reading = _Reading(connection, relations(connection, seeds))
        reading.refuse_unknown(found)
        for name in _order(found):
            reading.add(found[name], headers[name], queries[name])
        checks = tuple(reading.check(file) for file in sorted((root / "checks").glob("*.sql")))
        for name, model in reading.models.items():
            if model.sample:
                line = headers[name].lines["sample"]
                reading.ask(model.file, f"explain {model.sample}", line)
        table_macros = tuple(
            reading.table_macro(file) for file in sorted((root / "table_macros").glob("*.sql"))
        )
    return Models(reading.models, checks, reading.known, macros, seeds, table_macros)


def _read(file: Path, layer: str) -> tuple[Model, Header, exp.Query]:
    text = file.read_text(encoding="utf-8")
    header = _header(file, text)
    for name in ("grain", "key", "stored"):
        if not header.entries.get(name):
            raise ModelError(file, 1, f"the header has no {name}")
    if not header.description.endswith("."):
        raise ModelError(file, 1, "the header does not start with a sentence")
    subject = header.entries.get("subject", "")
    if subject not in (SUBJECTS if layer == "marts" else {""}):
        problem = f"a mart has a subject, and only a mart: one of {', '.join(SUBJECTS)}"
        raise ModelError(file, header.lines.get("subject", 1), problem)
    query, reads = _select(file, text)
    return (
        Model(
            name=file.stem,
            layer=layer,
            file=file,
            description=header.description,
            grain=header.entries["grain"],
            key=tuple(name.strip() for name in header.entries["key"].split(",")),
            stored=(stored := _stored(file, header)),
            apart=_apart(file, header, stored),
            subject=subject,
            formerly=header.entries.get("formerly", ""),
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


def _apart(file: Path, header: Header, stored: Stored) -> Apart | None:
    found = header.entries.get("apart", "")
    line = header.lines.get("apart", 1)
    if stored.is_view:
        if found:
            raise ModelError(file, line, "a view comes apart like what it reads: leave this out")
        return None
    match = _APART.fullmatch(found)
    if match is None:
        problem = "apart is `account by <column>`, `customer by <column>` or `whole`"
        raise ModelError(file, line, problem)
    return Apart(match[1] == "customer", match[2]) if match[1] else None


def _select(file: Path, text: str) -> tuple[exp.Query, tuple[str, ...]]:
    """The SELECT of a file, and the relations that it names."""
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


def _line_of(body: str, word: str) -> int:
    """The first line of the SELECT that contains a word; 1 if none does."""
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


def _column_place(header: Header, name: str) -> int:
    """The line of the header to name in an error about a column."""
    if name in header.columns:
        return header.columns[name][2]
    return header.lines.get("columns", header.length)


class _Reading:
    """The models that have been read so far, and what they may read.

    Args:
        connection: A lake without rows, to which models are added.
        known: Relations that are not models: streams, seeds and the ledger.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, known: Mapping[str, Relation]
    ) -> None:
        self.models: dict[str, Model] = {}
        self.known = known
        self._connection = connection
        self._schema = {name: dict(relation.types) for name, relation in known.items()}

    def refuse_unknown(self, found: Mapping[str, Model]) -> None:
        """Refuse models that read something unknown, or something that their layer may not read."""
        for model in found.values():
            if model.name in self.known:
                message = f"{model.name} is the name of a stream or of the lake"
                raise ModelError(model.file, 1, message)
            for name in model.reads:
                line = _line_of(model.body, name)
                if name not in found and name not in self.known:
                    raise ModelError(model.file, line, f"there is no stream, model or seed {name}")
                if name in found and LAYERS[found[name].layer] > LAYERS[model.layer]:
                    raise ModelError(model.file, line, f"{model.layer} may not read {name}")

    def add(self, model: Model, header: Header, query: exp.Query) -> None:
        """Bind a model whose inputs were added before, and check its columns against its header."""
        # DuckDB counts lines of the statement from 1, and the statement begins with the header.
        rows = self.ask(model.file, f"describe {model.body}", header.length + 1, is_body=True)
        bound = {str(row[0]): str(row[1]) for row in rows}
        # A table instead of a view, because a query of a view binds everything behind it again.
        self._connection.execute(f"create table {model.name} as {typed_nothing(bound.items())}")
        self._schema[model.name] = bound
        traces = trace(query, {name: self._schema[name] for name in model.reads})
        self.models[model.name] = self._described(model, header, bound, traces)

    def ask(
        self, file: Path, statement: str, line: int, *, is_body: bool = False
    ) -> list[tuple[object, ...]]:
        """The rows of a statement.

        Args:
            file: The file that contains the statement.
            statement: One statement.
            line: The line to name in an error that names none.
            is_body: Whether lines of the statement are lines of the file.

        Raises:
            ModelError: The statement cannot be executed.
        """
        try:
            return self._connection.execute(statement).fetchall()
        except duckdb.Error as error:
            match = _LINE.search(str(error)) if is_body else None
            where = int(match[1]) if match else line
            raise ModelError(file, where, str(error).splitlines()[0]) from None

    def _described(
        self,
        model: Model,
        header: Header,
        bound: Mapping[str, str],
        traces: Mapping[str, Trace],
    ) -> Model:
        """The model with its columns, checked against its header."""
        month = model.stored.month
        cleared = set(_CLEARED.findall(header.entries.get("cleared", "")))
        named = [(name, line) for name, (_, _, line) in header.columns.items()]
        named += [(name, header.lines["key"]) for name in model.key]
        named += [(month, header.lines["stored"])] if month else []
        named += [(name, header.lines["cleared"]) for name in sorted(cleared)]
        named += [(model.apart.column, header.lines["apart"])] if model.apart else []
        for name, line in named:
            if name not in bound:
                raise ModelError(model.file, line, f"the SELECT has no column {name}")
        columns = []
        for name, kind in bound.items():
            traced = traces.get(name, Trace(frozenset(), None))
            doc, pii = self._meaning(model, header, name, traced)
            columns.append(ModelColumn(name, kind, doc, pii, tuple(sorted(traced.sources))))
            is_personal = any(map(self._is_personal, traced.sources))
            line = _column_place(header, name)
            if model.layer != "staging" and _NOT_PORTABLE.search(kind):
                raise ModelError(
                    model.file,
                    line,
                    f"{name} is {kind}, which other engines cannot read: cast it, whole numbers to"
                    " BIGINT and a length of time to a count of days or seconds",
                )
            if is_personal and not pii and name not in cleared:
                raise ModelError(
                    model.file,
                    line,
                    f"{name} is made of personal columns: mark it (pii), or list it under cleared"
                    " and say what makes it impersonal",
                )
            if name in cleared and not is_personal:
                raise ModelError(
                    model.file, header.lines["cleared"], f"{name} is made of nothing personal"
                )
            if pii and model.layer in {"intermediate", "marts"}:
                message = f"{name} is personal, and {model.layer} hold none"
                raise ModelError(model.file, line, message)
        self._refuse_too_much(model, header, columns)
        return replace(model, columns=tuple(columns))

    def _refuse_too_much(
        self, model: Model, header: Header, columns: Collection[ModelColumn]
    ) -> None:
        """Refuse rows that are said to come apart, by something else than an id or from a whole."""
        if model.apart is None:
            return
        told = next(one for one in columns if one.name == model.apart.column)
        of = {name for _, name in told.sources}
        if told.name not in _IDS and (not of or not of <= _IDS):
            problem = f"{told.name} is no id of an account, an entity, a consent or a customer"
            raise ModelError(model.file, header.lines["apart"], problem)
        for name in model.reads:
            if name in self.models and (whole := self._whole(self.models[name])):
                problem = f"the rows of {whole} do not come apart, so those of {model.name} neither"
                raise ModelError(model.file, _line_of(model.body, name), problem)

    def _whole(self, model: Model) -> str:
        """The name of a model that does not come apart: this one or one behind it; or empty."""
        if not model.stored.is_view:
            return "" if model.apart else model.name
        behind = (self._whole(self.models[name]) for name in model.reads if name in self.models)
        return next(filter(None, behind), "")

    def _meaning(self, model: Model, header: Header, name: str, traced: Trace) -> tuple[str, bool]:
        """Meaning of a column and whether it is personal, as its header or its source says."""
        line = _column_place(header, name)
        if name in header.columns:
            doc, pii, _ = header.columns[name]
        else:
            passed = self._upstream(traced)
            if passed is None:
                raise ModelError(
                    model.file, line, f"column {name} has no meaning: give it a line under columns"
                )
            doc, pii = passed
        if not doc.endswith("."):
            raise ModelError(model.file, line, f"{name}: its meaning is not a sentence")
        return doc, pii

    def _upstream(self, traced: Trace) -> tuple[str, bool] | None:
        """As `_meaning`, of the column that is passed on; None if the value is computed."""
        if traced.passed_on is None:
            return None
        table, column = traced.passed_on
        if table in self.known:
            doc = self.known[table].docs.get(column)
            return None if doc is None else (doc, column in self.known[table].pii)
        columns = self.models[table].columns
        return next((one.doc, one.pii) for one in columns if one.name == column)

    def _is_personal(self, source: tuple[str, str]) -> bool:
        table, column = source
        if table in self.known:
            return column in self.known[table].pii
        return column not in self.models[table].public

    def _select(self, file: Path, text: str) -> tuple[exp.Query, tuple[str, ...]]:
        """The SELECT of a file and what it reads, all of which exists."""
        query, reads = _select(file, text)
        for name in reads:
            if name not in self._schema:
                raise ModelError(file, _line_of(text, name), f"there is no stream or model {name}")
        return query, reads

    def check(self, file: Path) -> Check:
        """The check in a file; its rows may contain nothing personal, because they are shown."""
        model, _, claim = file.stem.partition("__")
        if model not in self.models or not claim:
            raise ModelError(file, 1, "a check is named <model>__<claim>.sql after a model")
        text = file.read_text(encoding="utf-8")
        header = _header(file, text)
        if not header.description.endswith("."):
            raise ModelError(file, 1, "the first comment is not the claim as a sentence")
        severity = header.entries.get("severity", "error")
        if severity not in {"error", "warning"}:
            raise ModelError(file, header.lines["severity"], "severity is error or warning")
        each = header.entries.get("each")
        if each is not None and (each != "month" or self.models[model].stored.month is None):
            raise ModelError(file, header.lines["each"], "each is month, of a model kept by month")
        query, reads = self._select(file, text)
        rows = self.ask(file, f"describe {text}", 1, is_body=True)
        traces = trace(query, {name: self._schema[name] for name in reads})
        for name in (str(row[0]) for row in rows):
            sources = traces[name].sources if name in traces else ()
            if any(map(self._is_personal, sources)):
                message = f"{name} is personal and would be shown"
                raise ModelError(file, _line_of(text, name), message)
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

    def table_macro(self, file: Path) -> TableMacro:
        """The table macro in a file, after a trial of its sample."""
        text = file.read_text(encoding="utf-8")
        header = _header(file, text)
        parameters, sample = header.entries.get("parameters"), header.entries.get("sample")
        if not header.description.endswith(".") or not parameters or not sample:
            raise ModelError(file, 1, "the header is a sentence, parameters and a sample")
        _, reads = self._select(file, text)
        macro = TableMacro(file.stem, parameters, text, reads)
        for one in (macro.statement(), sample):
            self.ask(file, one, header.length + 1)
        return macro
