"""Records with the same key in a paged read: decides which are kept."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.quarantine import QUARANTINE_SCHEMA, TRACE_SCHEMA, key_text
from lean_resources.streams import Stream

_NAMELESS = re.compile(
    r"0*|null|none|nil|na|nan|undefined|unknown|notprovided|notavailable|notapplicable"
)
"""Banks' texts for a missing id, in lower case and without punctuation."""
_MARKS = re.compile(r"[\W_]+")

_ALIKE = "came twice alike, and is kept once"
_DIFFERS = "shares its key with another record that differs"
_NO_ID = "shares an id that names nothing with another record"


def is_null_like(text: Any) -> bool:
    """Whether an id means that there is no id, such as `NOTPROVIDED`, `N/A`, `null` or `0`."""
    return isinstance(text, str) and (
        _NAMELESS.fullmatch(_MARKS.sub("", text).casefold()) is not None
    )


def without_repeats(
    stream: Stream, rows: pa.Table
) -> tuple[pa.Table, pa.Table, Mapping[str, frozenset[str]]]:
    """Remove repeated keys of a paged read.

    Equal records with the same key are kept once. Different records with the same key are all left
    out, because it is unknown which is right. So are records that share a meaningless id.

    Args:
        rows: Rows of its schema and of `TRACE_SCHEMA`, in any order.

    Returns:
        The remaining rows; the removed rows, as `QUARANTINE_SCHEMA`; the keys that came on two
        pages, by `series_id`, which happens if records move during the read.
    """
    none = QUARANTINE_SCHEMA.empty_table()
    doubled = _doubled(stream, rows)
    if not doubled:
        return rows, none, {}
    places = pc.indices_nonzero(
        pc.is_in(rows["series_id"], value_set=pa.array(sorted(doubled), pa.string()))
    )
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    keys = rows.select(["series_id", *stream.key]).take(places).to_pylist()
    for place, key in zip(places.to_pylist(), keys, strict=True):
        groups[tuple(key.values())].append(place)
    out: list[int] = []
    quarantined: list[dict[str, Any]] = []
    shifted: defaultdict[str, set[str]] = defaultdict(set)
    for group in groups.values():
        if len(group) == 1:
            continue
        found = rows.take(pa.array(group)).to_pylist()
        gone, notes = _judged(stream, found)
        out += [group[place] for place in gone]
        quarantined += notes
        if len({row["page_number"] for row in found}) > 1 and not _is_nameless(stream, found[0]):
            shifted[found[0]["series_id"]].add(notes[0]["record_key"])
    keep = pc.invert(pc.is_in(pa.array(range(rows.num_rows)), value_set=pa.array(out, pa.int64())))
    quarantined.sort(key=lambda note: [note[name] for name in TRACE_SCHEMA.names])
    found_twice = {series_id: frozenset(keys) for series_id, keys in shifted.items()}
    return rows.filter(keep), pa.Table.from_pylist(quarantined, QUARANTINE_SCHEMA), found_twice


def _doubled(stream: Stream, rows: pa.Table) -> set[str]:
    """Paged reads in which a key occurs twice."""
    if pc.count_distinct(rows[stream.key[-1]]).as_py() == rows.num_rows:
        return set()
    keys = ["series_id", *stream.key]
    distinct = rows.select(keys).group_by(keys, use_threads=False).aggregate([([], "count_all")])
    if distinct.num_rows == rows.num_rows:
        return set()
    twice = distinct.filter(pc.greater(distinct["count_all"], 1))
    return set(twice["series_id"].to_pylist())


def _is_nameless(stream: Stream, row: dict[str, Any]) -> bool:
    """Whether the record's own id is meaningless."""
    given = [name for name in stream.key if stream.column(name).request is None]
    return any(is_null_like(row[name]) for name in given)


def _judged(
    stream: Stream, found: Sequence[dict[str, Any]]
) -> tuple[Sequence[int], list[dict[str, Any]]]:
    """Places of the records to leave out of a group with the same key, and their notes."""
    contents = [{name: row[name] for name in stream.schema.names} for row in found]
    everything = range(len(found))
    if _is_nameless(stream, found[0]):
        return everything, [_note(stream, row, _NO_ID) for row in found]
    if any(content != contents[0] for content in contents):
        return everything, [_note(stream, row, _DIFFERS) for row in found]
    kept = min(everything, key=lambda place: found[place]["record_number"])
    gone = [place for place in everything if place != kept]
    # Nothing is lost, because the kept record is equal.
    return gone, [_note(stream, found[place], _ALIKE) | {"is_lost": False} for place in gone]


def _note(stream: Stream, row: dict[str, Any], reason: str) -> dict[str, Any]:
    placing = next((row[name] for name in stream.placed_by if row[name] is not None), None)
    return {
        **{name: row[name] for name in TRACE_SCHEMA.names},
        "column_name": stream.key[-1],
        "reason": reason,
        "record_key": key_text([row[name] for name in stream.key]),
        "placed_on": placing.date() if placing is not None else None,
        "is_lost": True,
    }
