"""Sizes and checksums: they show whether a file is still what was written."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from lean_resources.errors import ConfigError, causes

_BLOCK_BYTES = 1 << 20
_SEAL = b"\ncrc32 "


class DamageError(ConfigError):
    """A file of the lake is missing, shorter than it was, or cannot be read."""

    remedy = "Run leanhouse fsck: it says what is lost. leanhouse fsck --repair mends what it can."
    default_code = "DAMAGED"


UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError, DamageError)
"""Errors of reading a damaged file."""
_KINDS = (
    duckdb.IOException,
    duckdb.InvalidInputException,
    duckdb.SerializationException,
    duckdb.FatalException,
    duckdb.InternalException,
    pa.ArrowException,
    OSError,
)
_WORDS = re.compile(
    r"parquet|magic bytes|corrupt|checksum|snappy|zstd|decompress|tprotocol|thrift"
    r"|don't know what type|no files found",
    re.IGNORECASE,
)
_PATH = re.compile(r"((?:[^/'\"\s]+/){0,3}[^/'\"\s]+\.parquet)")


def damage_error(error: BaseException) -> DamageError | None:
    """The damage behind an error of a library; None if the error has another cause.

    Args:
        error: Any error; its causes are checked too.
    """
    for cause in causes(error):
        if isinstance(cause, DamageError):
            return cause
        # Errors of Parquet's own parser have no class of their own.
        is_of_files = isinstance(cause, _KINDS) or type(cause) is duckdb.Error
        if is_of_files and _WORDS.search(text := str(cause)):
            found = _PATH.search(text)
            return DamageError(f"{found[1] if found else 'a file of the lake'} cannot be read")
    return None


@dataclass(frozen=True, slots=True)
class Digest:
    """Size and checksum of a file.

    Args:
        bytes: Its size.
        crc32: Its checksum by zlib, which finds every single flipped bit.
    """

    bytes: int
    crc32: int


def digest(file: Path | BinaryIO) -> Digest:
    """Size and checksum of a local file; after a write the system still has it in memory.

    Raises:
        OSError: It cannot be read.
    """
    size = checksum = 0
    with file.open("rb", buffering=0) if isinstance(file, Path) else file as opened:
        while block := opened.read(_BLOCK_BYTES):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return Digest(size, checksum)


def sealed(text: str) -> str:
    """A text with its checksum as its last line."""
    return f"{text}{_SEAL.decode()}{zlib.crc32(text.encode()):08x}\n"


def unsealed(data: bytes) -> bytes:
    """The text without its checksum; a text without a checksum, from before format 3, as it is.

    Raises:
        ValueError: The checksum is not that of the text.
    """
    text, found, checksum = data.rpartition(_SEAL)
    if not found:
        return data
    if checksum != b"%08x\n" % zlib.crc32(text):
        raise ValueError("the checksum is another one")
    return text
