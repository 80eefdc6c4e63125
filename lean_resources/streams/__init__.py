"""The catalogue: every stream of Lean, declared once.

A stream's request, typed schema, Dagster asset, lake layout, SQL view, page of the data dictionary
and derived tests all follow from its declaration. CONTRIBUTING says how to add a stream.
"""

from lean_resources.permissions import PERMISSIONS
from lean_resources.streams.catalogue import STREAMS, family
from lean_resources.streams.schema import (
    Column,
    Kind,
    Paging,
    Segment,
    Stream,
    Window,
    segments,
)

__all__ = [
    "PERMISSIONS",
    "STREAMS",
    "Column",
    "Kind",
    "Paging",
    "Segment",
    "Stream",
    "Window",
    "family",
    "segments",
]
