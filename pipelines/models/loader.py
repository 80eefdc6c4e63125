"""The models of a folder: from the cache while nothing has changed, else from their files."""

from __future__ import annotations

from pathlib import Path

from pipelines.models.cache import Cache
from pipelines.models.model import Models
from pipelines.shipped import SQL

ROOT = SQL
"""Folder of the models that are shipped."""


def load(root: Path = ROOT) -> Models:
    """Read every model, check, macro and seed below a folder.

    The result is cached in `__pycache__` there, because every process of a run needs it.

    Args:
        root: Folder with `staging`, `intermediate`, `marts`, `pii`, `checks`, `macros`,
            `table_macros` and `seeds`.

    Raises:
        ModelError: A file does not parse or bind; its header is incomplete or disagrees with its
            columns; it reads something that does not exist; or models read each other in a circle.
    """
    cache = Cache(root)
    models = cache.get()
    if models is None:
        from pipelines.models.model_files import read  # noqa: PLC0415 - a parser is slow to import

        models = read(root)
        cache.put(models)
    return models
