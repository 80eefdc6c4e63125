"""What a model, a check and a table macro are, once their files have been read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lean_resources.errors import ConfigError
from pipelines.models.relations import Relation

LAYERS = {"staging": 0, "intermediate": 1, "marts": 1, "pii": 2}
"""Folders of models, each with its height: a model reads none that is higher.

Steps on the way to a mart lie in `intermediate`. What lies in `pii` is published only where that is
switched on.
"""

SUBJECTS = {
    "money": "What moved, between whom, and what for.",
    "balances": "What accounts held, and whether movements explain it.",
    "income and obligations": "What comes in and is owed regularly, and what is left to pay with.",
    "people and consents": "Who is connected to which banks, with which accounts and permissions.",
    "trust": "Which data are complete, fresh and sound enough to use.",
}
"""What marts are about, in the order of the dictionary, each with what its tables answer."""


class ModelError(ConfigError):
    """A file under `sql/` is wrong; the message names the file and the line."""

    remedy = "Correct the file in sql/ that the message names."

    def __init__(self, file: Path, line: int, problem: str) -> None:
        super().__init__(f"{file.parent.name}/{file.name}:{line}: {problem}")
        self.file = file
        self.line = line


class BuildError(Exception):
    """A model or a build cannot be published; the message contains no value of a row."""


@dataclass(frozen=True, slots=True)
class ModelColumn:
    """A column of a model.

    Args:
        name: Its name.
        type: DuckDB's name of its type.
        doc: Its meaning: its own, or that of the column that it passes on unchanged.
        pii: Whether it is personal.
        sources: Columns that its value is computed from, as (relation, column), sorted.
    """

    name: str
    type: str
    doc: str
    pii: bool
    sources: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """How a model's rows are kept.

    Args:
        month: Column with the month (YYYY-MM) by which rows are split into files, or None.
        before: First month of the inputs that a month reads, relative to itself; 0 or less.
        after: Last month of the inputs that a month reads, relative to itself; 0 or more.
        is_view: Whether rows are not stored, but selected by each reader.
    """

    month: str | None = None
    before: int = 0
    after: int = 0
    is_view: bool = False


@dataclass(frozen=True, slots=True)
class Apart:
    """How the rows of a model come apart: those of some accounts follow from what these brought.

    Args:
        is_by_customer: Whether they follow from the accounts of whole customers only, together with
            all who share a joint account; else from each account alone.
        column: The column with the id by which a row is told.
    """

    is_by_customer: bool
    column: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """One SQL file: a documented SELECT over streams and other models.

    Args:
        name: Name of the file, the table and the Dagster asset.
        layer: Folder, one of `LAYERS`.
        description: What it is for, in one or more sentences.
        grain: What one row stands for.
        key: Columns that together identify a row, and are never null.
        stored: How its rows are kept.
        apart: How its rows come apart; None where they do not, and for a view, whose rows come
            apart like those that it reads.
        subject: What a mart is about, one of `SUBJECTS`; empty in other layers.
        formerly: The name that it had in the version before, or empty.
        notes: Other entries of the header, such as which rows count and the time zone of days.
        sample: A query to start from, or empty.
        body: The SELECT.
        reads: Relations that the SELECT names, sorted.
        columns: The columns, in order.
    """

    name: str
    layer: str
    file: Path
    description: str
    grain: str
    key: tuple[str, ...]
    stored: Stored
    apart: Apart | None
    subject: str
    formerly: str
    notes: Mapping[str, str]
    sample: str
    body: str
    reads: tuple[str, ...]
    columns: tuple[ModelColumn, ...] = ()

    @property
    def doc(self) -> str:
        """Its description and its grain."""
        return f"{self.description} Grain: {self.grain}."

    @property
    def schema(self) -> str:
        """The schema of the warehouse that shows it without what is personal."""
        return "intermediate" if self.layer == "intermediate" else "main"

    @property
    def place(self) -> str:
        """How any program that opens the warehouse finds it: with its schema, `main` left out."""
        return self.name if self.schema == "main" else f"{self.schema}.{self.name}"

    @property
    def question(self) -> str:
        """Its sample as any program can ask it that opens the warehouse; empty without one."""
        return self.sample.replace(f"from {self.name}", f"from {self.place}")

    @property
    def docs(self) -> dict[str, str]:
        """Meaning of each column."""
        return {column.name: column.doc for column in self.columns}

    @cached_property
    def public(self) -> tuple[str, ...]:
        """Names of the columns that are not personal."""
        return tuple(column.name for column in self.columns if not column.pii)


@dataclass(frozen=True, slots=True)
class Check:
    """A SQL file that returns the rows that break a claim.

    Args:
        name: The claim in short: the part of the file's name after the model's.
        model: Name of the model that it is about.
        claim: The claim as a sentence.
        is_error: Whether a broken claim is an error rather than a warning.
        is_monthly: Whether it runs month by month. It then sees one month at a time, and runs again
            only for months in which something that it reads has changed.
        body: The SELECT of the offenders.
        reads: Relations that the SELECT names, sorted.
    """

    name: str
    model: str
    claim: str
    is_error: bool
    is_monthly: bool
    body: str
    reads: tuple[str, ...]
    file: Path


@dataclass(frozen=True, slots=True)
class TableMacro:
    """A query of models with parameters, used like a table.

    Args:
        name: Name of the file and of the macro.
        parameters: Names of its parameters, as the statement lists them.
        body: The SELECT.
        reads: Models and relations that it names, sorted; it is published if all of them are.
    """

    name: str
    parameters: str
    body: str
    reads: tuple[str, ...]

    def statement(self, before: str = "") -> str:
        """The statement that creates it.

        Args:
            before: What stands before its SELECT, such as `with pulls as (from raw.pulls)`.
        """
        return (
            f"create or replace macro {self.name}({self.parameters}) as table"
            f" {before} select * from ({self.body}\n)"
        )


@dataclass(frozen=True)
class Models:
    """All models and checks of a folder; models are in an order in which they can be built."""

    by_name: Mapping[str, Model]
    checks: tuple[Check, ...]
    relations: Mapping[str, Relation]
    macros: Mapping[str, str]
    seeds: Mapping[str, Path]
    table_macros: tuple[TableMacro, ...] = ()

    def __iter__(self) -> Iterator[Model]:
        return iter(self.by_name.values())

    def __getitem__(self, name: str) -> Model:
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def checks_of(self, name: str) -> tuple[Check, ...]:
        """The checks about a model."""
        return tuple(check for check in self.checks if check.model == name)
