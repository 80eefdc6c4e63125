"""What a lake shows beside its streams: the views, tables and macros of `sql/lake`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.lake.sql_header import header_of
from pipelines.shipped import SQL

_COMMENT = re.compile(r"--.*")
_NAMES = re.compile(r"\b(?:from|join)\s+(\w+)")
_INNER = re.compile(r"\b(\w+) as (?:(?:not )?materialized )?\(")


@dataclass(frozen=True, slots=True)
class LakeView:
    """A file of `sql/lake`.

    Args:
        name: Name of the file, and of what it creates.
        doc: What it shows and what a row stands for; empty where models may not read it.
        columns: Meanings of its columns; empty where models may not read it.
        parameters: Names of a table macro's parameters; empty for anything else.
        is_table: Whether its rows are copied into the connection.
        sql: Its SELECT, or the statement that creates a macro of a value.
        reads: Names behind `from` and `join`: views, streams and histories of the lake.
    """

    name: str
    doc: str
    columns: Mapping[str, str]
    parameters: str
    is_table: bool
    sql: str
    reads: tuple[str, ...]

    @property
    def statement(self) -> str:
        """The statement that creates it."""
        return self.statement_after("")

    def statement_after(self, before: str) -> str:
        """The statement that creates it.

        Args:
            before: What stands before the SELECT of a table macro, such as
                `with pulls as (from raw.pulls)`.
        """
        if self.sql.startswith("create"):
            return self.sql
        if self.parameters:
            body = f"{before} select * from ({self.sql})" if before else self.sql
            return f"create or replace macro {self.name}({self.parameters}) as table {body}"
        return f"create or replace {'table' if self.is_table else 'view'} {self.name} as {self.sql}"


def _read(file: Path) -> LakeView:
    text = file.read_text(encoding="utf-8")
    header = header_of(text)
    # Without comments: DuckDB keeps the text of a view, and reads it again whenever it binds it.
    sql = "\n".join(
        line for line in (_COMMENT.sub("", one).rstrip() for one in text.splitlines()) if line
    )
    names = set(_NAMES.findall(sql)) - set(_INNER.findall(sql))
    return LakeView(
        name=file.stem,
        doc=f"{header.description} Grain: {header.entries.get('grain', '')}.",
        columns={name: doc for name, (doc, *_) in header.columns.items()},
        parameters=header.entries.get("parameters", ""),
        is_table=header.entries.get("stored") == "table",
        sql=sql,
        reads=tuple(sorted(names)),
    )


LAKE_VIEWS = {file.stem: _read(file) for file in sorted((SQL / "lake").glob("*.sql"))}
"""By name. Read once, so that a process keeps to one version of them while files are replaced."""
