"""The comment at the top of a SQL file, which says what the file means."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ENTRY = re.compile(r"([a-z]+):(?:\s+(.*))?$")
_COLUMN = re.compile(r"([a-z][a-z0-9_]*)(?:\s+\((pii)\))?(?:\s\s+(.*))?$")


class HeaderError(ValueError):
    """A header that cannot be read.

    Args:
        line: Number of the line, from 1.
        problem: What is wrong with it.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line
        self.problem = problem


@dataclass(slots=True)
class Header:
    """A header, taken apart; numbers are lines of the file, from 1.

    Args:
        description: The sentences before the first entry.
        entries: Text by entry: `grain:`, `key:` and so on.
        lines: Line of each entry.
        columns: Meaning, whether it is personal, and line, by column.
        length: Lines of the header.
    """

    description: str = ""
    entries: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    columns: dict[str, tuple[str, bool, int]] = field(default_factory=dict)
    length: int = 0


def header_of(text: str) -> Header:
    """The header of a SQL file.

    Raises:
        HeaderError: An entry or a column stands twice, or a line below `columns:` names none.
    """
    header = Header()
    entry = column = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("--"):
            break
        header.length = number
        words = line.removeprefix("--").rstrip()
        is_indented = words.startswith("   ")
        words = words.strip()
        if not words:
            continue
        match = None if is_indented else _ENTRY.match(words)
        if match:
            entry, column = match[1], ""
            if entry in header.entries:
                raise HeaderError(number, f"{entry} stands twice")
            header.entries[entry] = match[2] or ""
            header.lines[entry] = number
        elif entry == "":
            header.description = f"{header.description} {words}".strip()
        elif entry == "columns":
            column = _column(header, words, number, column)
        else:
            header.entries[entry] = f"{header.entries[entry]} {words}".strip()
    return header


def _column(header: Header, words: str, number: int, column: str) -> str:
    """Take in a line below `columns:`; a line that names no column continues the one before."""
    match = _COLUMN.match(words)
    if match and match[3]:
        if match[1] in header.columns:
            raise HeaderError(number, f"column {match[1]} stands twice")
        header.columns[match[1]] = (match[3], match[2] is not None, number)
        return match[1]
    if not column:
        raise HeaderError(number, "a column is its name, two spaces and its meaning")
    doc, pii, line = header.columns[column]
    header.columns[column] = (f"{doc} {words}", pii, line)
    return column
