"""Why a model cannot be built, in DuckDB's own words, for the terminal of an operator.

These words may quote values of rows. They belong in no log, metadata or stored error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models.basis import Basis
from pipelines.models.build import Build, Built
from pipelines.models.model import Models


@dataclass(frozen=True, slots=True)
class Explained:
    """The result of building a model to see why it fails.

    Args:
        built: The model, or the first model that it rests on and that fails.
        words: The error of DuckDB or of the build; empty if the model can be built.
    """

    built: Built
    words: str


def explain(lake: Lake, models: Models, name: str, *, hash_key: str) -> Explained:
    """Build a model and what it rests on, without a change to the lake.

    Parts that are up to date are read from the lake. The others are written to a temporary folder.

    Args:
        name: Name of the model.
        hash_key: Key of hashed identifiers, as for `build`.

    Raises:
        OSError: There is no room for the temporary folder.
    """
    below = _below(name, models)
    rests_on = [model for model in models if model.name in below and model.name != name]
    with TemporaryDirectory(prefix="leanhouse-explain-") as found:
        folder = Path(found)
        basis = Basis.newest(lake, models)
        attempt = Build(basis, hash_key, folder, folder=Key(folder), only=below)
        with attempt.session.connection:
            for model in (*rests_on, models[name]):
                built = attempt.update(model)
                if error := attempt.errors.get(model.name):
                    return Explained(built, str(error))
    return Explained(built, "")


def _below(name: str, models: Models) -> set[str]:
    """Names of a model and of all models that it and its checks rest on."""
    found: set[str] = set()

    def add(read: str) -> None:
        if read in models and read not in found:
            found.add(read)
            for inner in models[read].reads:
                add(inner)

    add(name)
    for check in models.checks_of(name):
        for read in check.reads:
            add(read)
    return found
