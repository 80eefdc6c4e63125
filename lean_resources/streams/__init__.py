"""The catalogue: every stream of Lean, declared once.

A stream's request, typed schema, Dagster asset, lake layout, SQL view, page of the data dictionary
and derived tests all follow from its declaration. CONTRIBUTING says how to add a stream.
"""

from lean_resources.streams.catalogue import ACCOUNT_STREAMS, PERMISSION_OF, STREAMS, family
from lean_resources.streams.schema import (
    PERMISSIONS,
    Column,
    Kind,
    Paging,
    Segment,
    Stream,
    Window,
    segments,
)

__all__ = [
    "ACCOUNT_STREAMS",
    "PERMISSIONS",
    "PERMISSION_OF",
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
