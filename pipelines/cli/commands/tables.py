"""Commands for the tables: building, publishing, asking and describing them."""

import datetime as dt
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lean_resources.errors import LeanError
from pipelines.cli.app import Command, Home, fail, lake_of
from pipelines.cli.console import plain_console, say, standard_output
from pipelines.environment import settings

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake

_OPTION = re.compile(r"--[\w-]*(=|\Z)")


def build(
    home: Home = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Change nothing, and show why this model fails. May print values of rows.",
        ),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Build nothing: let the build before count again.")
    ] = False,
    buckets: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Keep tables in so many buckets from now on, a power of two."
        ),
    ] = None,
) -> None:
    """Build the tables whose inputs have changed, and publish the warehouse."""
    if rollback + (explain is not None) + (buckets is not None) > 1:
        raise fail("give one of --explain, --rollback and --buckets")
    if buckets is not None and buckets & (buckets - 1):
        raise fail("--buckets is a power of two, such as 8")
    if rollback:
        _roll_back(lake_of(home, is_written=True))
    elif explain is None:
        build_tables(lake_of(home, is_written=True), buckets)
    else:
        _explain(lake_of(home), explain)


def build_tables(lake: "Lake", buckets: int | None = None) -> None:
    """Build all models and publish the warehouse; fail if a model or a check did.

    Args:
        buckets: How many there are to be; None for as many as the lake needs, or has.
    """
    from pipelines.keys import checked_key
    from pipelines.models.build import build as build_models
    from pipelines.models.loader import load

    models = load()
    key = checked_key(settings().hash_key, lake.environment)
    built = build_models(lake, models, hash_key=key, buckets=buckets)
    for one in built:
        if one.written:
            say(f"{one.model.name:<30} {one.rows:,} rows, {one.seconds:.1f} s")
    _publish(lake)
    problems = list(dict.fromkeys(one.problem for one in built if one.problem is not None))
    broken = [
        f"{one.model.name}: {check.claim} ({found.offenders} rows)"
        for one in built
        for check, found in one.checks.items()
        if found.offenders and check.is_error
    ]
    if problems or broken:
        raise fail("; ".join(problems + broken))


def _roll_back(lake: "Lake") -> None:
    """Let the build before count again, publish it, and print what is different."""
    from pipelines.models.rollback import roll_back

    done = roll_back(lake)
    for name, (before, after) in done.rows.items():
        say(f"{name:<30} {after:,} rows instead of {before:,}")
    _publish(lake)
    ended = dt.datetime.fromtimestamp(done.written_at, dt.UTC)
    say(f"Build {done.number} of {ended:%Y-%m-%d %H:%M} UTC counts again, until the next build")


def _publish(lake: "Lake") -> None:
    """Publish the warehouse, and the Iceberg tables where they are switched on."""
    from pipelines.models.loader import load
    from pipelines.operate.metrics import write_metrics
    from pipelines.publish.warehouse import publish

    publish(lake, load(), pii=settings().house.pii)
    if settings().house.iceberg:
        from pipelines.publish.iceberg import publish_tables

        done = publish_tables(lake, load(), settings().iceberg_catalogue)
        say(
            f"Iceberg: {done.tables} tables show build {done.build}, {len(done.changed)} of them"
            f" changed, {done.seconds:.1f} s"
        )
    write_metrics(lake, settings().house.metrics_file)


def _explain(lake: "Lake", name: str) -> None:
    """Print what DuckDB says of a model, which belongs on standard output and nowhere else."""
    from pipelines.keys import checked_key
    from pipelines.models.explain import explain
    from pipelines.models.loader import load

    models = load()
    if name not in models:
        near = difflib.get_close_matches(name, [model.name for model in models], n=1)
        raise fail(f"there is no model {name}{''.join(f'; did you mean {one}?' for one in near)}")
    found = explain(lake, models, name, hash_key=checked_key(settings().hash_key, lake.environment))
    failed = found.built.model.name
    if not found.words:
        say(f"{name} can be built from the lake as it is now: {found.built.rows:,} rows")
        return
    rests = "" if failed == name else f"{name} rests on {failed}. "
    say(f"{rests}{failed} cannot be built:\n{found.words}")
    raise typer.Exit(1)


def publish(
    folder: Annotated[Path, typer.Argument(help="Folder to put leanhouse.duckdb in.")],
    readers: Annotated[Literal["analysts"], typer.Option("--for", help="Who is going to read it.")],
    home: Home = None,
) -> None:
    """Write a copy of the warehouse that needs no lake and holds nothing personal."""
    from pipelines.models.loader import load
    from pipelines.publish.export import publish_copy

    lake, group = lake_of(home), settings().house.file_group
    done = publish_copy(lake, load(), folder, group)
    say(f"{done.path}: {len(done.rows)} tables, {sum(done.rows.values()):,} rows, for {readers}")


def warehouse(
    action: Annotated[  # noqa: ARG001 - there is one
        Literal["pull"], typer.Argument(help="Bring a copy up to the newest warehouse.")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of the copy.")] = Path("warehouse"),
    home: Home = None,
) -> None:
    """Copy the warehouse and the files that it reads to a folder, for DuckDB alone.

    A later pull of the same folder brings only new files. The rights to read and
    list suffice. The copy holds what the warehouse does, and its files personal columns.
    """
    from pipelines.publish.pull import pull

    try:
        done = pull(lake_of(home), folder)
    except FileNotFoundError as error:
        raise fail(str(error)) from None
    say(
        f"{done.path} is {done.published}: {done.files:,} files, {done.new_files:,} of them new"
        f" ({done.new_bytes / 1e6:,.1f} MB).\nOpen it there: cd {done.path.parent} &&"
        f" duckdb -readonly {done.path.name}"
    )


class SqlCommand(Command):
    """A command whose argument may begin with a comment of SQL, which looks like an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put what cannot be an option behind all options."""
        if "--" in args:
            return super().parse_args(ctx, args)
        is_sql = [arg.startswith("--") and not _OPTION.match(arg) for arg in args]
        options = [arg for arg, is_it in zip(args, is_sql, strict=True) if not is_it]
        sql = [arg for arg, is_it in zip(args, is_sql, strict=True) if is_it]
        return super().parse_args(ctx, [*options, "--", *sql] if sql else options)


def query(
    sql: Annotated[
        str, typer.Argument(help="One SELECT, or a file that holds it, or - for standard input.")
    ],
    home: Home = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print an array of objects; decimals are text.")
    ] = False,
    parquet: Annotated[
        Path | None, typer.Option(help="Write the result to this Parquet file instead.")
    ] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="For operators: allow any statement and any file.")
    ] = False,
) -> None:
    """Ask the warehouse; a query reads its tables and nothing else, and changes nothing."""
    from pipelines.cli.query import Form, QueryError, ask, statement

    if csv + json + (parquet is not None) > 1:
        raise fail("give one of --csv, --json and --parquet")
    form = Form.CSV if csv else Form.JSON if json else Form.TABLE
    try:
        asked = statement(sql)
        ask(lake_of(home), asked, plain_console(), form, parquet, is_unsafe=unsafe)
    except (FileNotFoundError, QueryError) as error:
        raise fail(str(error)) from None
    except LeanError as error:
        raise fail(f"{error.message}. {error.remedy}") from None


def dictionary(
    settings: Annotated[
        bool, typer.Option("--settings", help="Print .env.example instead.")
    ] = False,
    intermediate: Annotated[
        bool, typer.Option("--intermediate", help="Print the page of intermediate tables instead.")
    ] = False,
) -> None:
    """Print the meaning of every table and column, as in docs/dictionary.md."""
    from pipelines.models.dictionary import dictionary as written
    from pipelines.models.dictionary import env_example, intermediate_dictionary
    from pipelines.models.loader import load

    if settings:
        page = env_example()
    else:
        page = intermediate_dictionary(load()) if intermediate else written(load())
    standard_output()(page)
