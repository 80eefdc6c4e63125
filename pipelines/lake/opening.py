"""Which storage a place is: a folder."""

from __future__ import annotations

from pathlib import Path

from pipelines.lake.folder import Folder
from pipelines.lake.storage import Storage


def open_storage(root: Path | str, environment: str) -> Storage:
    """The storage of one environment.

    Args:
        root: The folder of all environments.
        environment: `sandbox` or `production`.
    """
    return Folder(Path(root).resolve() / environment)
