"""The command that hands tables over to those who have no lake."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.app import Home, fail, lake_of
from pipelines.cli.console import say
from pipelines.environment import settings


def export(
    target: Annotated[
        Path, typer.Argument(help="A file that ends in .duckdb, or a folder for a file per table.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="duckdb|parquet|csv", help="Of a folder: parquet when left out."
        ),
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="This table only; can be repeated.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="intermediate|staging|raw", help="These tables beside marts; can be repeated."
        ),
    ] = None,
    pii: Annotated[
        bool, typer.Option("--pii", help="Add personal columns; needs LEANHOUSE_PII=true.")
    ] = False,
    home: Home = None,
) -> None:
    """Write tables to a DuckDB file, or to a folder of Parquet or CSV, that needs no lake."""
    from pipelines.models.loader import load
    from pipelines.publish.export import Choice, Form, Layer
    from pipelines.publish.export import export as write

    is_file = target.suffix == ".duckdb"
    chosen = form or ("duckdb" if is_file else "parquet")
    if chosen not in list(Form):
        raise fail(f"there is no format {chosen}: choose from {', '.join(Form)}")
    if is_file != (chosen == Form.DUCKDB):
        raise fail(
            "a DuckDB file ends in .duckdb; Parquet and CSV are folders: choose another name"
        )
    if unknown := sorted(set(layer or ()) - set(Layer)):
        raise fail(f"there is no layer {', '.join(unknown)}: choose from {', '.join(Layer)}")
    if pii and not settings().house.pii:
        raise fail("the warehouse has no personal columns: set LEANHOUSE_PII=true to export them")
    choice = Choice((Layer.MARTS, *(layer or ())), table or (), pii)
    done = write(lake_of(home), load(), target, Form(chosen), choice, settings().house.file_group)
    say(f"{done.path}: {len(done.rows)} tables, {sum(done.rows.values()):,} rows")
