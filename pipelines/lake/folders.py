"""Folders of a lake: where each kind of file lies, as keys of its storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.lake.storage import Key

if TYPE_CHECKING:
    # It imports Arrow, which a command that only says what there is must not wait for.
    from lean_resources.streams import Stream

LEDGER = Key("pulls")
CHECKPOINTS = Key("checkpoints")
"""Copies of the ledger's files."""
PRESENT = Key("present")
"""Pulls of the ledger that can still matter, derived from it."""
LOST = Key("lost")
"""What is known to be lost."""
REFRESH_RESERVATIONS = Key("spends")
REFRESH_RESULTS = Key("attempts")
MARTS = Key("marts")
"""Files of models."""
MANIFESTS = Key("manifests")
"""Which files of models count; the newest manifest says so."""
PLANS = Key("plans")
"""Builds in buckets that are under way, in a folder each."""
PUBLISHED = Key("published")
"""What published warehouses refer to."""
ICEBERG = Key("iceberg")
"""Metadata of tables that are published as Iceberg; their rows are the files of models."""
WRITERS = Key("writers")
"""A sign of each process that writes."""
SPILL = Key("spill")
"""What is thrown away, in a folder per writer."""
SET_ASIDE = Key("set_aside")
"""Damaged files, by the instant at which they were put aside."""
WAREHOUSE = Key("leanhouse.duckdb")
"""The file that analysts open, in a folder."""
WAREHOUSES = Key("warehouse")
"""The files that analysts open, by number, in an object store."""


def rows_of(stream: Stream) -> Key:
    """Folder of a stream's typed rows."""
    return Key(stream.name)


def answers_of(stream: Stream) -> Key:
    """Folder of a stream's answers as received."""
    return Key("raw", stream.name)


def quarantine_of(stream: Stream) -> Key:
    """Folder of a stream's records that did not fit."""
    return Key("quarantine", stream.name)


def superseded_of(stream: Stream) -> Key:
    """Folder of a stream's rows that merged files no longer show."""
    return Key("superseded", stream.name)
