"""The cache of models that were read: most processes change none, and parsing takes seconds.

Its key is a hash of all that the result depends on: SQL, seeds, code and versions of libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from importlib.metadata import version
from pathlib import Path

import msgspec

import pipelines
from lean_resources import streams
from pipelines.models.model import Models

CODE = (Path(pipelines.__file__).parent, Path(streams.__file__).parent)
"""Folders of Python that the result depends on."""


class Cache:
    """The models of a folder, kept in `__pycache__` there.

    Args:
        root: The folder, as for `load`.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / "__pycache__" / f"models.{key_of(root)}.msgpack"

    def get(self) -> Models | None:
        """The models, or None if something has changed since they were kept."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.msgpack.decode(
                self._file.read_bytes(), type=Models, dec_hook=lambda kind, text: kind(text)
            )
        return None

    def put(self, models: Models) -> None:
        """Keep the models instead of earlier ones; does nothing in a folder that is read-only."""
        with contextlib.suppress(OSError):
            for outdated in self._file.parent.glob("models.*.msgpack"):
                outdated.unlink(missing_ok=True)
            self._file.parent.mkdir(exist_ok=True)
            beside = self._file.with_suffix(f".{os.getpid()}.tmp")
            beside.write_bytes(msgspec.msgpack.encode(models, enc_hook=str))
            beside.replace(self._file)


def key_of(root: Path) -> str:
    """Hash of everything that the models of a folder depend on, code included."""
    code = [file for folder in CODE for file in sorted(folder.rglob("*.py"))]
    files = [*code, *sorted(root.rglob("*.sql")), *sorted((root / "seeds").glob("*.csv"))]
    hashed = hashlib.sha256(f"{root} {version('duckdb')} {version('sqlglot')}".encode())
    for file in files:
        hashed.update(f"\0{file}\0".encode())
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:32]
