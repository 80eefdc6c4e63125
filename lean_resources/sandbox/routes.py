"""Shared by all routes: a request with its parts, and the search for an entity."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from lean_resources.sandbox.clock import Clock, day_of, nanos_of, stamp
from lean_resources.sandbox.faults import Fault
from lean_resources.sandbox.ids import mix, opaque_uuid
from lean_resources.sandbox.replies import Refusal, Reply, page_of
from lean_resources.sandbox.store import Entity, Store

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(slots=True)
class Call:
    """A request with its parts.

    Args:
        label: Method and path template.
        target: Path and query, unchanged.
        path: Values of the path's parameters.
        headers: Headers, by lower-case name.
        mark: A number for ids, equal for the same request at the same time.
    """

    label: str
    target: str
    path: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    mark: int
    fault: Fault | None = None

    @property
    def results_id(self) -> str:
        """Lean's receipt for the answer."""
        return opaque_uuid(self.mark, mix(self.mark, 1))

    @property
    def entity_id(self) -> str | None:
        """The requested entity, from any part of the request."""
        if self.label == "POST /data/v2/refreshes":
            named = self.json().get("entity_id")
            return named if isinstance(named, str) else None
        return self.query.get("entity_id") or self.path.get("entity_id")

    def number(self, name: str, default: int | None, low: int, high: int | None) -> int:
        """A whole number of the query, from `low` to `high`; `default` if it is absent.

        Raises:
            Refusal: It is absent without a default, is not a number, or is out of range.
        """
        text = self.query.get(name)
        if text is None or text == "":
            if default is None:
                raise Refusal.missing(name)
            return default
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
            raise Refusal.bad_value(name, text)
        value = int(text)
        if value < low or (high is not None and value > high):
            raise Refusal.bad_value(name, text)
        return value

    def flag(self, name: str) -> bool:
        """A boolean of the query, false by default."""
        text = self.query.get(name, "false").lower()
        if text not in {"true", "false", ""}:
            raise Refusal.bad_value(name, text)
        return text == "true"

    def day(self, name: str, today: int) -> int | None:
        """A date of the query, up to today, counted in days since 1970."""
        text = self.query.get(name)
        if not text:
            return None
        if _DATE.fullmatch(text) is None:
            raise Refusal.bad_value(name, text)
        try:
            day = day_of(dt.date.fromisoformat(text))
        except ValueError:
            raise Refusal.bad_value(name, text) from None
        if day > today:
            problem = f"{name}: must be a date in the past or in the present"
            raise Refusal(400, "INVALID_PARAMETERS", problem)
        return day

    def instant(self, name: str) -> int | None:
        """An instant of the query, in nanoseconds."""
        text = self.query.get(name)
        if not text:
            return None
        try:
            return nanos_of(dt.datetime.fromisoformat(text))
        except ValueError:
            raise Refusal.bad_value(name, text) from None

    def uuid(self, name: str, *, path: bool = False) -> str:
        """A UUID of the path or the query."""
        text = self.path.get(name) if path else self.query.get(name)
        if not text:
            raise Refusal.missing(name)
        if UUID.fullmatch(text) is None:
            raise Refusal.bad_value(name, text)
        return text.lower()

    def meta(self) -> dict[str, str] | None:
        """The caller's own text in the query, which the answer repeats."""
        text = self.query.get("meta")
        if not text:
            return None
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise Refusal.bad_value("meta", text) from None
        if not isinstance(value, dict):
            raise Refusal.bad_value("meta", text)
        return {str(key): str(word) for key, word in value.items()}

    def json(self) -> dict[str, Any]:
        """The body, an object."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Refusal.bad_value("body", "unreadable") from None
        if not isinstance(value, dict):
            raise Refusal.bad_value("body", "not an object")
        return value


Handler = Callable[[Call], Reply]
Path = tuple[str, str, Handler]
"""Method, path template and handler of an endpoint."""


_Found = TypeVar("_Found")


class Routes:
    """A group of Lean's endpoints over a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = store.clock

    def _listed(
        self,
        call: Call,
        found: Sequence[_Found],
        write: Callable[[_Found], Any],
        *,
        key: str = "data",
        names: str = "page size",
        size: int | None = None,
    ) -> Reply:
        """A page of what was found.

        Args:
            write: Makes a record of one of them.
            key: Place of the records in the answer.
            names: Parameters of the page's number and size.
            size: Records per page by default; None where both parameters are required.
        """
        of_number, of_size = names.split()
        number = call.number(of_number, 0 if size else None, 0, None)
        size = call.number(of_size, size, 1, 100)
        shown = [write(one) for one in found[number * size : (number + 1) * size]]
        return Reply.json({key: shown, "page": page_of(number, size, len(found))})

    def _is_gone(self, entity: Entity) -> bool:
        return entity.deleted <= self.clock.nanos

    def _known(self, entity_id: str) -> Entity:
        entity = self.store.find_entity(entity_id)
        if entity is None or self._is_gone(entity):
            raise Refusal(404, "UNKNOWN_ENTITY")
        return entity


def timestamp(clock: Clock, call: Call) -> str:
    """The time of an answer by the sandbox's clock, to the nanosecond."""
    return stamp(clock.nanos + call.mark % 1_000_000, 9)
