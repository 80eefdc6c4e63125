"""Files that are there whole or not at all, and survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["beside", "put_text", "reveal", "synced"]


def beside(file: Path) -> Path:
    """Where a file is written before it is renamed into place."""
    return file.with_name(f"{file.name}.tmp")


def reveal(part: Path, file: Path) -> None:
    """Put a file that was written beside its place there, so that it survives a power cut."""
    synced(part)
    part.replace(file)
    synced(file.parent)


def put_text(file: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside(file).write_text(text, encoding="utf-8")
    reveal(beside(file), file)


def synced(place: Path) -> None:
    """Make a file, or the renames within a folder, survive a power cut."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
