"""What is shipped beside the code: SQL files, and the settings of a Dagster instance."""

from __future__ import annotations

from pathlib import Path

_CODE = Path(__file__).resolve().parent
_INSTALLED = _CODE / "sql"

SQL = _INSTALLED if _INSTALLED.is_dir() else _CODE.parent / "sql"
"""Folder of the SQL files: within the code where a wheel is installed, else beside it."""
CHECKOUT = None if SQL == _INSTALLED else _CODE.parent
"""Folder of the checkout; None where a wheel is installed."""
DAGSTER_YAML = _CODE / "dagster.yaml"
"""Settings of a Dagster instance, from which each home begins."""
DEFAULT_HOME = CHECKOUT / "var" if CHECKOUT is not None else Path.home() / ".leanhouse"
"""Folder of the state where no setting names it."""
