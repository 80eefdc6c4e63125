"""What Lean's OpenAPI files say of answers, as strict JSON schemas made from `lean_facts.json`.

`lean_facts.py` writes that file. A fact is one of

- a leaf: a name of `LEAVES`, or `=word` for one fixed text; with `?` behind it where it may be null
- a record: `{"field": fact, "other!": fact}`, `!` where the field has to be there; no other may be
- a map: `{"*": fact}`; a list: `[fact]`; alternatives: `{"any of": [fact, ...]}`
- a vocabulary: `{"words": [...]}`
- `#name`, which stands among the shapes because it occurs more than once

A record, map or vocabulary with `"?": true`, and a list with `"?"` behind its fact, may be null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, FormatChecker

FACTS = Path(__file__).parent / "lean_facts.json"

FORMATS = {
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    # Any calendar: the older generation has Hijri dates, some with days that February has not.
    "date": r"\d{4}-\d{2}-\d{2}",
    # Recorded with 3 to 9 digits of a second; documented with a space, and without a zone.
    "date-time": r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?( ?(Z|[+-]\d{2}:?\d{2}))?",
}
LEAVES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "uuid": {"type": "string", "format": "uuid"},
    "date": {"type": "string", "format": "date"},
    "instant": {"type": "string", "format": "date-time"},
    "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "record": {"type": "object"},
    "null": {"type": "null"},
    "any": {},
}
_FORBIDS = "additionalProperties"


class Endpoint(NamedTuple):
    """Where a body's schema is: the short name of a file, a path, a method and a status."""

    file: str
    path: str
    method: str = "get"
    status: str = "200"

    @property
    def key(self) -> str:
        """Its name among the facts."""
        return f"{self.file} {self.method} {self.path} {self.status}"


class Violation(NamedTuple):
    """Where a body is not what its schema says, and which rule it breaks."""

    place: str
    rule: str


_COMPILED = {name: re.compile(pattern) for name, pattern in FORMATS.items()}


def format_of(text: str) -> str:
    """The format that a text has, or what kind of text it is otherwise."""
    for name, pattern in _COMPILED.items():
        if pattern.fullmatch(text):
            return name
    return "text" if text else "empty"


def _format_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, pattern in _COMPILED.items():

        def matches(value: object, pattern: re.Pattern[str] = pattern) -> bool:
            return not isinstance(value, str) or pattern.fullmatch(value) is not None

        checker.checks(name)(matches)
    return checker


_CHECKER = _format_checker()


@cache
def facts() -> dict[str, Any]:
    """All facts: answers, shapes, examples and hashes of ids."""
    return json.loads(FACTS.read_text(encoding="utf-8"))


@cache
def schema(endpoint: Endpoint) -> dict[str, Any]:
    """The strict schema of an answer."""
    answers = facts()["answers"]
    assert endpoint.key in answers, (
        f"Lean's files have no {endpoint.key}: run tests/lean_facts.py with files that have it"
    )
    return _schema(answers[endpoint.key])


def example(endpoint: Endpoint, name: str) -> Any:
    """The fields of an example that Lean gives for an answer, without values but for its status."""
    return facts()["examples"][f"{endpoint.key} {name}"]


def _schema(fact: Any) -> dict[str, Any]:
    """The JSON schema that a fact stands for."""
    if isinstance(fact, str):
        if fact.startswith("#"):
            return _schema(facts()["shapes"][fact[1:]])
        if fact.startswith("="):
            return {"type": "string", "const": fact[1:]}
        leaf = LEAVES[fact.removesuffix("?")]
        return leaf | ({"type": [leaf["type"], "null"]} if fact.endswith("?") else {})
    if isinstance(fact, list):
        return {"type": _type("array", "?" in fact[1:]), "items": _schema(fact[0])}
    inner = {name: value for name, value in fact.items() if name != "?"}
    is_nullable = "?" in fact
    if "any of" in inner:
        return {"anyOf": [_schema(one) for one in inner["any of"]]}
    if "words" in inner:
        words = [*inner["words"], None] if is_nullable else inner["words"]
        return {"type": _type("string", is_nullable), "enum": words}
    if "*" in inner:
        return {"type": _type("object", is_nullable), _FORBIDS: _schema(inner["*"])}
    return {
        "type": _type("object", is_nullable),
        "properties": {name.removesuffix("!"): _schema(value) for name, value in inner.items()},
        "required": [name[:-1] for name in inner if name.endswith("!")],
        _FORBIDS: False,
    }


def _type(name: str, is_nullable: bool) -> str | list[str]:
    return [name, "null"] if is_nullable else name


def shape(value: Any) -> dict[str, Any]:
    """The strict schema of bodies shaped like an example, for answers that have no schema."""
    if not isinstance(value, dict):
        return {}
    return {
        "type": "object",
        "properties": {name: shape(inner) for name, inner in value.items()},
        "required": list(value),
        _FORBIDS: False,
    }


@cache
def _validator(endpoint: Endpoint) -> Draft202012Validator:
    return Draft202012Validator(schema(endpoint), format_checker=_CHECKER)


def violations(endpoint: Endpoint, body: Any) -> set[Violation]:
    """Where a body is not what Lean's file says of the endpoint's answer."""
    return set(_flat(_validator(endpoint).iter_errors(body)))


def shape_violations(sample: Any, body: Any) -> set[Violation]:
    """Where a body has not the fields of a sample."""
    return set(_flat(Draft202012Validator(shape(sample)).iter_errors(body)))


def _flat(errors: Iterator[Any]) -> Iterator[Violation]:
    for error in errors:
        place = _place(error.absolute_path)
        prefix = f"{place}." if place else ""
        if error.validator == _FORBIDS:
            extra = error.instance.keys() - error.schema.get("properties", {}).keys()
            yield from (Violation(f"{prefix}{name}", "unknown") for name in extra)
        elif error.validator == "required":
            missing = set(error.validator_value) - error.instance.keys()
            yield from (Violation(f"{prefix}{name}", "missing") for name in missing)
        elif error.instance is None:
            yield Violation(place, "null")
        elif error.validator in ("anyOf", "oneOf"):
            yield from _flat(_nearest(error))
        else:
            yield Violation(place, error.validator)


def _nearest(error: Any) -> Iterator[Any]:
    """Errors under the alternative that fits best."""
    alternatives: dict[int, list[Any]] = {}
    for inner in error.context:
        alternatives.setdefault(inner.schema_path[0], []).append(inner)
    return iter(min(alternatives.values(), key=lambda errors: sum(map(_weight, errors))))


def _weight(error: Any) -> int:
    """How much an error tells that an alternative is not the one meant."""
    return 100 if error.validator == "type" and not error.path else 1


def _place(steps: Any) -> str:
    """A path with every place in a list written `[]`."""
    text = "".join("[]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")
