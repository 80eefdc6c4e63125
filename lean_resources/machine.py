"""Errors of this machine, recognized in the errors of the system and of libraries."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from lean_resources.errors import MachineError, causes

_TEXTUAL = frozenset({"duckdb", "_duckdb", "sqlite3", "sqlalchemy", "pyarrow", "zoneinfo"})
"""Libraries whose errors contain the system's message but not its number."""

_QUOTED_FILE = re.compile(r'"(/[^"\n]+)"')


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A kind of trouble, and how it is recognized."""

    code: str
    message: str
    remedy: str
    numbers: tuple[int, ...] = ()
    words: tuple[str, ...] = ()

    def is_in(self, text: str) -> bool:
        """Whether the message of a library, in lower case, means it."""
        known = (*map(os.strerror, self.numbers), *self.words)
        return any(words.lower() in text for words in known)


_TROUBLES = (
    _Trouble(
        "DISK_FULL",
        "the disk is full",
        "Free space there, or move LEANHOUSE_HOME to a larger disk, and run it again; what was "
        "committed stays.",
        (errno.ENOSPC, errno.EDQUOT),
        ("database or disk is full",),
    ),
    _Trouble(
        "FILE_TOO_LARGE",
        "a file exceeds the largest size that is allowed",
        "Raise the limit of file sizes (ulimit -f), or use another file system, and run it again.",
        (errno.EFBIG,),
    ),
    _Trouble(
        "READ_ONLY",
        "a folder cannot be written: its file system is read-only",
        "Mount it writable, or set LEANHOUSE_HOME to a folder that can be written.",
        (errno.EROFS,),
        ("attempt to write a readonly database",),
    ),
    _Trouble(
        "NOT_PERMITTED",
        "this process may not read or write a file",
        "Give its user the right to it, or set LEANHOUSE_HOME to a folder of its own.",
        (errno.EACCES, errno.EPERM),
        ("unable to open database file",),
    ),
    _Trouble(
        "NOT_A_FOLDER",
        "there is a file in the place of a folder",
        "Move the file away, or set LEANHOUSE_HOME to another folder.",
        (errno.ENOTDIR, errno.EEXIST),
    ),
    _Trouble(
        "NAME_TOO_LONG",
        "a path is longer than its file system allows",
        "Set LEANHOUSE_HOME to a folder with a shorter path.",
        (errno.ENAMETOOLONG,),
    ),
    _Trouble(
        "DISK_FAILED",
        "the disk cannot be read or written",
        "Check the disk and the messages of the system (dmesg), then run it again.",
        (errno.EIO, errno.ESTALE, errno.ENXIO),
        ("disk i/o error",),
    ),
    _Trouble(
        "OPEN_FILES",
        "too many files are open",
        "Raise the limit of this process (ulimit -n), and run it again.",
        (errno.EMFILE, errno.ENFILE),
    ),
    _Trouble(
        "OUT_OF_MEMORY",
        "there is not enough memory",
        "Give this process more memory, or run less beside it; what was committed stays.",
        (errno.ENOMEM,),
        ("out of memory",),
    ),
    _Trouble(
        "TOO_MANY_THREADS",
        "no further thread or process can be started",
        "Raise the limit of processes (ulimit -u) or of the container, and run it again.",
        words=("can't start new thread",),
    ),
    _Trouble(
        "PORT_IN_USE",
        "the address is in use already",
        "Choose another port, or stop the program that listens there.",
        (errno.EADDRINUSE,),
    ),
    _Trouble(
        "NO_ADDRESS",
        "the address is not an address of this machine",
        "Choose an address of this machine, such as 127.0.0.1.",
        (errno.EADDRNOTAVAIL,),
    ),
    _Trouble(
        "NO_TIME_ZONES",
        "this machine has no time zones",
        "Install them: apt-get install tzdata, or pip install tzdata.",
        words=(
            "no time zone found",
            "unknown timezone",
            "cannot locate timezone",
            "timezone database",
        ),
    ),
)
_BY_CODE = {trouble.code: trouble for trouble in _TROUBLES}
_BY_NUMBER = {number: trouble for trouble in _TROUBLES for number in trouble.numbers}


def machine_error(error: BaseException, place: str | None = None) -> MachineError | None:
    """The error of this machine behind an error; None where the cause is something else.

    Args:
        error: Any error; its causes and the members of groups count too.
        place: A file or folder to name if the error does not name any.
    """
    for cause in causes(error):
        if isinstance(cause, MachineError):
            return cause
        trouble = _trouble(cause)
        if trouble is not None:
            found = getattr(cause, "filename", None) or _file_in(cause) or place
            where = f" ({found})" if isinstance(found, str) else ""
            return MachineError(
                f"{trouble.message}{where}", code=trouble.code, remedy=trouble.remedy
            )
    return None


def raise_machine_error(error: BaseException) -> None:
    """Return if an error is not an error of this machine.

    Raises:
        MachineError: This machine is the cause.
    """
    found = machine_error(error)
    if found is not None:
        raise found from error


def _file_in(error: BaseException) -> str | None:
    """The file that DuckDB's message names."""
    is_duckdb = type(error).__module__ in {"duckdb", "_duckdb"}
    found = _QUOTED_FILE.search(str(error)) if is_duckdb else None
    return found[1] if found else None


def _trouble(error: BaseException) -> _Trouble | None:
    if isinstance(error, MemoryError):
        return _BY_CODE["OUT_OF_MEMORY"]
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_NUMBER.get(error.errno)
    if type(error) is RuntimeError:
        threads = _BY_CODE["TOO_MANY_THREADS"]
        return threads if threads.is_in(str(error).lower()) else None
    if type(error).__module__.partition(".")[0] not in _TEXTUAL:
        return None
    if type(error).__name__ == "OutOfMemoryException":
        return _BY_CODE["OUT_OF_MEMORY"]
    text = str(error).lower()
    return next((trouble for trouble in _TROUBLES if trouble.is_in(text)), None)
