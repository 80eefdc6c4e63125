"""Lean without Dagster: the catalogue, the client, the decoder and an offline Lean."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lean_resources.client import LeanClient
    from lean_resources.settings import LeanSettings
    from lean_resources.streams import STREAMS

__all__ = ["STREAMS", "LeanClient", "LeanSettings"]

_PLACES = {"STREAMS": "streams", "LeanClient": "client", "LeanSettings": "settings"}


def __getattr__(name: str) -> Any:
    # On first use: whoever needs one module of the package does not wait for all of them.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
