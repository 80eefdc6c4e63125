"""Models: one SQL file each, with its header, what it reads and the lineage of its columns."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

import pipelines
from lean_resources import streams
from lean_resources.errors import ConfigError
from pipelines.models.relations import Relation
from pipelines.shipped import SQL

__all__ = [
    "CODE",
    "LAYERS",
    "ROOT",
    "Check",
    "Model",
    "ModelColumn",
    "ModelError",
    "Models",
    "TableMacro",
    "load",
]

ROOT = SQL
CODE = (Path(pipelines.__file__).parent, Path(streams.__file__).parent)
"""Folders of Python that what is read under `sql/` depends on."""
LAYERS = ("staging", "marts", "pii")
"""Folders of models; what lies in `pii` is published only where that is switched on."""


class ModelError(ConfigError):
    """A file under `sql/` is wrong; the message names the file and the line."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        super().__init__(f"{file.parent.name}/{file.name}:{line}: {problem}")
        self.file = file
        self.line = line


@dataclass(frozen=True, slots=True)
class ModelColumn:
    """A column of a model.

    Args:
        name: Its name.
        type: DuckDB's name of its type.
        doc: Its meaning, its own or that of the column it passes on unchanged.
        pii: Personal; stays out of the marts.
        sources: Columns that its value is made of, as (relation, column), sorted.
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
        month: Column with the month (YYYY-MM) whose rows make a file, or None.
        before: Months of its inputs that a month reads before itself, as a number below 1.
        after: Months of its inputs that a month reads after itself.
        is_view: Whether rows are not kept, but selected anew by each reader.
    """

    month: str | None = None
    before: int = 0
    after: int = 0
    is_view: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """One SQL file: a documented SELECT over streams and other models.

    Args:
        name: Name of the file, of the table and of the Dagster asset.
        layer: Folder, one of `LAYERS`.
        file: Where it was read.
        description: What it is for, one or more sentences.
        grain: What one row stands for.
        key: Columns that identify a row; they are unique and never null.
        stored: How its rows are kept.
        notes: What else the header says, such as which rows count and which zone days have.
        sample: A query that an analyst would start from, or empty.
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
    notes: Mapping[str, str]
    sample: str
    body: str
    reads: tuple[str, ...]
    columns: tuple[ModelColumn, ...] = ()

    @property
    def doc(self) -> str:
        """What it is for, and what a row stands for."""
        return f"{self.description} Grain: {self.grain}."

    @cached_property
    def public(self) -> tuple[str, ...]:
        """Names of the columns that are not personal."""
        return tuple(column.name for column in self.columns if not column.pii)


@dataclass(frozen=True, slots=True)
class Check:
    """A SQL file that returns the rows which break a claim.

    Args:
        name: The claim in short, the file's name behind the model's.
        model: The model that it is about.
        claim: The claim as a sentence.
        is_error: Whether a broken claim is an error rather than a warning.
        is_monthly: Whether it holds month by month, so that it is asked anew only where a month of
            what it reads is another one; it then sees one month at a time.
        body: The SELECT of the offenders.
        reads: Relations that the SELECT names, sorted.
        file: Where it was read.
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
    """A question with parameters over models, asked like a table.

    Args:
        name: Name of the file and of the macro.
        statement: The statement that creates it.
        reads: Models and relations that it names, sorted; it is there where all of them are.
    """

    name: str
    statement: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Models:
    """All models and checks of a folder, models in an order in which they can be built."""

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


def load(root: Path = ROOT) -> Models:
    """Read every model, check, macro and seed below a folder.

    What was read is kept in `__pycache__` there, because each process of a run needs it and most
    of them change nothing; another file, catalogue or version of a library makes it stale.

    Args:
        root: Folder with `staging`, `marts`, `pii`, `checks`, `macros`, `table_macros`
            and `seeds`.

    Raises:
        ModelError: A file does not parse or bind, its header is incomplete or disagrees with its
            columns, it reads what does not exist, or models read each other in a circle.
    """
    kept = root / "__pycache__" / f"models.{_stamp(root)}.msgpack"
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.msgpack.decode(kept.read_bytes(), type=Models, dec_hook=_from_text)
    from pipelines.models.model_files import read  # noqa: PLC0415 - a parser is slow to import

    models = read(root)
    # A checkout that cannot be written to only pays with time.
    with contextlib.suppress(OSError):
        for stale in kept.parent.glob("models.*.msgpack"):
            stale.unlink(missing_ok=True)
        kept.parent.mkdir(exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}.tmp")
        beside.write_bytes(msgspec.msgpack.encode(models, enc_hook=str))
        beside.replace(kept)
    return models


def _stamp(root: Path) -> str:
    """Hash of everything that what is read depends on."""
    code = [file for folder in CODE for file in sorted(folder.rglob("*.py"))]
    files = [*code, *sorted(root.rglob("*.sql"))]
    hashed = hashlib.sha256(f"{root} {version('duckdb')} {version('sqlglot')}".encode())
    for file in (*files, *sorted((root / "seeds").glob("*.csv"))):
        hashed.update(f"\0{file}\0".encode())
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:32]


def _from_text(kind: type, text: str) -> Any:
    return kind(text)
