"""What the lake's own code asks: the files of sql/queries."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.shipped import SQL

__all__ = ["QUERIES"]

QUERIES: Mapping[str, str] = {
    file.stem: file.read_text(encoding="utf-8") for file in (SQL / "queries").glob("*.sql")
}
"""SELECTs by name; read once, so that a process keeps to one version while files change."""
