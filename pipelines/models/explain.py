"""Why a model cannot be built, in DuckDB's own words, for the terminal of whoever asks.

Such words may quote values of rows: they belong in no log, no metadata and no error that is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models.build import Build, Built
from pipelines.models.model import Models

__all__ = ["Explained", "explain"]


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of a model that was built to see why it fails.

    Args:
        built: The model, or the first that it rests on and that fails.
        words: What DuckDB or the build says of it; empty where it can be built.
    """

    built: Built
    words: str


def explain(lake: Lake, models: Models, name: str, *, hash_key: str) -> Explained:
    """Build a model and what it rests on, with the lake left as it is.

    What is up to date is taken from the lake; the rest is written elsewhere and thrown away.

    Args:
        lake: The lake.
        models: What there is to build.
        name: The model.
        hash_key: Key of hashed identifiers, as for `build`.

    Raises:
        OSError: There is no room for what is thrown away.
    """
    below = _below(name, models)
    rests_on = [model for model in models if model.name in below and model.name != name]
    with TemporaryDirectory(prefix="leanhouse-explain-") as found:
        folder = Path(found)
        attempt = Build(lake, models, hash_key, folder, folder=Key(folder))
        with attempt.session.connection:
            for model in (*rests_on, models[name]):
                built = attempt.update(model)
                if error := attempt.errors.get(model.name):
                    return Explained(built, str(error))
    return Explained(built, "")


def _below(name: str, models: Models) -> set[str]:
    """A model and all that it and its checks rest on."""
    found: set[str] = set()

    def add(one: str) -> None:
        if one in models and one not in found:
            found.add(one)
            for read in models[one].reads:
                add(read)

    for one in (name, *(read for check in models.checks_of(name) for read in check.reads)):
        add(one)
    return found
