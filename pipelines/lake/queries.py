"""What the lake's own code asks: the files of sql/queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template

from pipelines.shipped import SQL

_COMMENT = re.compile(r"--.*\n")

QUERIES: Mapping[str, str] = {
    file.stem: file.read_text(encoding="utf-8") for file in (SQL / "queries").glob("*.sql")
}
"""SELECTs by name; read once, so that a process keeps to one version while files change."""


def filled(name: str, **parts: str) -> str:
    """A SELECT with SQL in place of `$name`, where no parameter can stand: columns, files, types.

    Other names stay as parameters. Comments go, because DuckDB keeps the text of a view.
    """
    return Template(_COMMENT.sub("", QUERIES[name])).safe_substitute(parts)
