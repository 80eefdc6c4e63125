"""Output on a terminal: plain text, tables of results, progress bars.

Values are shown as they are: no text is read as markup, and characters that a terminal would obey
(control characters, escape sequences, marks of direction) are spelt out.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipelines.cli.results import as_text, names_of

if TYPE_CHECKING:
    import duckdb

    from pipelines.dagster_defs.in_process import StreamSummary

_MOST_ROWS = 200
_PIPED_WIDTH = 200
"""Width of a pipe, which has none of its own; a table folded at 80 columns cannot be read."""
_BETWEEN = 3
"""Width of the space between two columns."""


def plain_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is, on a terminal of any encoding."""
    stream = sys.stderr if stderr else sys.stdout
    # A character that the encoding lacks is spelt out, instead of an error.
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return Console(
        stderr=stderr,
        width=None if stream.isatty() else shutil.get_terminal_size((_PIPED_WIDTH, 0)).columns,
        markup=False,
        emoji=False,
        highlight=False,
    )


def say(text: str, *, style: str | None = None) -> None:
    """Print a message; long lines are not folded."""
    plain_console().print(Text(visible(text, keeps="\n")), style=style, soft_wrap=True)


def visible(text: str, *, keeps: str = "") -> str:
    r"""The text with unprintable characters spelt out, as in `\x1b` or `\u202e`.

    Args:
        keeps: Unprintable characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or one in keeps
        else one.encode("unicode_escape", "surrogatepass").decode("ascii")
        for one in text
    )


def standard_output() -> Callable[[str], object]:
    """What writes to standard output: exact text in UTF-8, on a terminal as `visible` makes it."""
    is_shown = sys.stdout.isatty()
    if isinstance(sys.stdout, io.TextIOWrapper) and is_shown:
        sys.stdout.reconfigure(errors="backslashreplace")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    return lambda text: sys.stdout.write(visible(text, keeps="\n") if is_shown else text)


def show(result: duckdb.DuckDBPyConnection, console: Console) -> None:
    """Print at most 200 rows of a result: as a table, or with a line per value if it is too wide.

    Args:
        result: A connection that has executed a query.
        console: Where to print; its width decides.
    """
    names = [visible(name) for name in names_of(result)]
    rows = result.fetchmany(_MOST_ROWS + 1) if names else []
    cells = [[_cell(value) for value in row] for row in rows[:_MOST_ROWS]]
    widths = [
        max(map(cell_len, column)) for column in zip(names, *cells, strict=True) if any(column)
    ]
    if sum(widths) + _BETWEEN * (len(names) - 1) <= console.width:
        console.print(_table(names, rows[:_MOST_ROWS], cells))
    else:
        _expanded(names, cells)
    if names and not rows:
        say("(no rows)")
    if len(rows) > _MOST_ROWS:
        say(f"(the first {_MOST_ROWS} rows; --csv, --json or --parquet FILE take all)")


def _table(
    names: Sequence[str], rows: Sequence[Sequence[Any]], cells: Sequence[Sequence[str]]
) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for number, name in enumerate(names):
        known = [row[number] for row in rows if row[number] is not None]
        are_numbers = known and all(
            isinstance(value, int | float | Decimal) and not isinstance(value, bool)
            for value in known
        )
        table.add_column(Text(name), justify="right" if are_numbers else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _expanded(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a line per value, as psql does in its expanded form."""
    if not rows:
        say(", ".join(names))
    widest = max(map(cell_len, names))
    for number, row in enumerate(rows, start=1):
        head = f"-[ RECORD {number} ]"
        lines = [f"{head:-<{widest + 1}}+{'-' * 10}"]
        lines += [
            f"{name}{' ' * (widest - cell_len(name))} | {value}".rstrip(" ")
            for name, value in zip(names, row, strict=True)
        ]
        say("\n".join(lines))


def _cell(value: Any) -> str:
    """A value for people to read; money without the zeros that only its type has."""
    if value is None:
        return "NULL"
    if isinstance(value, Decimal) and value.is_finite():
        whole, point, places = f"{value:f}".partition(".")
        return f"{whole}{point}{places.rstrip('0').ljust(min(2, len(places)), '0')}"
    return visible(as_text(value))


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[Any]:
    """Show a bar per stream; yields the function to call with stream, number done and total."""
    bars = Progress(
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def progress(stream: str, done: int, total: int) -> None:
        if stream not in tasks:
            tasks[stream] = bars.add_task(stream, total=total)
        bars.update(tasks[stream], completed=done, total=total)

    with bars:
        yield progress


def summary_table(summaries: Sequence[StreamSummary]) -> Table:
    """A table of what a sync did, one row per stream."""
    table = Table(title="Pulled")
    table.add_column("stream")
    for name in ("read targets", "pulls", "rows", "requests", "seconds"):
        table.add_column(name, justify="right")
    for one in summaries:
        counts = (one.read_targets, sum(one.pulls.values()), one.rows, one.requests)
        table.add_row(one.stream, *map("{:,}".format, counts), f"{one.seconds:.1f}")
    return table
