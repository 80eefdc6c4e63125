"""Which storage a place is: a folder."""

from __future__ import annotations

from pathlib import Path

from lean_resources.errors import ConfigError
from pipelines.lake.folder import Folder
from pipelines.lake.storage import Storage


def open_storage(root: Path | str, environment: str) -> Storage:
    """The storage of one environment.

    Args:
        root: The folder of all environments.
        environment: `sandbox` or `production`.

    Raises:
        ConfigError: It is the URL of an object store, which this version cannot open.
    """
    if "://" in str(root):
        raise ConfigError(
            "this version has no lake in an object store: let LEANHOUSE_LAKE be unset"
        )
    return Folder(Path(root).resolve() / environment)
