"""Ids of what the lake holds."""

from __future__ import annotations

import secrets
import time


def new_id() -> str:
    """An id that sorts by the time it was made, unique across processes."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"
