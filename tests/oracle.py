"""What the lake should hold, from the sandbox's truth, without the decoder, SQL or Arrow.

Only the catalogue's names, kinds and paths are shared with what is tested; that they are right is
for the golden responses to prove.
"""

import datetime as dt
import json
import re
from decimal import Decimal
from functools import cache

from lean_resources.streams import Kind

_DIGITS = re.compile(r"(\.\d{6})\d+")


@cache
def steps(paths):
    """The names of each path, each with whether the first of a list is meant."""
    return [
        [(part.removesuffix("[0]"), part.endswith("[0]")) for part in path.split(".")]
        for path in paths
    ]


def find(record, paths):
    """The first value that is not null."""
    for path in steps(paths):
        found = record
        for name, first in path:
            found = found.get(name) if isinstance(found, dict) else None
            if first and isinstance(found, list):
                found = found[0] if found else None
            if found is None:
                break
        else:
            return found
    return None


def typed(column, found):
    """The value as the catalogue declares it."""
    if found is None:
        return None
    match column.kind:
        case Kind.TEXT:
            return column.aliases.get(str(found), str(found))
        case Kind.MONEY | Kind.RATE:
            return Decimal(found)
        case Kind.INSTANT:
            text = _DIGITS.sub(r"\1", found.replace("Z", "+00:00"))
            instant = dt.datetime.fromisoformat(text)
            return instant.replace(tzinfo=instant.tzinfo or dt.UTC).astimezone(dt.UTC)
        case Kind.DATE:
            return dt.date.fromisoformat(found[:10])
        case Kind.TEXTS:
            return [found] if isinstance(found, str) else found
        case Kind.TEXT_MAP:
            return sorted(found.items())
        case Kind.JSON:
            return json.loads(json.dumps(found, default=str))
        case Kind.ITEMS:
            if len(found) < column.fewest:
                return None
            return [
                {f.name: typed(f, find(item, f.paths)) for f in column.fields} for item in found
            ]
    return found


def row(stream, record, asked):
    """The typed row of one record."""
    found = {}
    for column in stream.columns:
        value = find(record, column.paths)
        if value is None and column.request is not None:
            value = asked.get(column.request)
        found[column.name] = typed(column, value)
    return found


def comparable(stream, found):
    """A row of the lake in the words of `row`."""
    kinds = {column.name: column.kind for column in stream.columns}
    return {
        name: sorted(value.items() if isinstance(value, dict) else value)
        if kinds[name] is Kind.TEXT_MAP and value is not None
        else json.loads(value)
        if kinds[name] is Kind.JSON and value is not None
        else value
        for name, value in found.items()
    }


def true_rows(stream, sandbox):
    """The typed rows of a stream's truth, by key."""
    found = {}
    places = {}
    newest = {}
    banks = {
        true["record"]["id"]: true["record"]["bank_identifier"]
        for true in sandbox.truth("entities")
    }
    for true in sandbox.truth(stream.name):
        asked = dict(true["parent"])
        parent = asked.get(stream.parent_key or "", "")
        asked["record_number"] = places[parent] = places.get(parent, -1) + 1
        if stream.exploded_from is not None:
            asked["bank_identifier"] = banks[asked["entity_id"]]
        typed = row(stream, true["record"], asked)
        found[tuple(typed[name] for name in stream.key)] = typed
        if stream.detail is not None:
            best = newest.get(parent)
            if best is None or typed["created_at"] > best["created_at"]:
                newest[parent] = typed
    if stream.detail is not None:
        told = {id(typed) for typed in newest.values()}
        for typed in found.values():
            if id(typed) not in told:
                typed.update(accounts_status=None, identity_status=None, account_statuses=None)
    return found
