"""Lean's OpenAPI files as strict JSON schemas.

The files describe what may be in an answer but forbid nothing. Here every object that names its
properties forbids others, so that an invented field is found. `allOf` is merged before that,
because a part of a whole cannot forbid what the other parts allow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonschema import Draft202012Validator, FormatChecker

FOLDER = os.environ.get("LEAN_OPENAPI_DIR", "")
"""Folder of Lean's OpenAPI files; they are not ours to ship."""

_FORMATS = {
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    # Any calendar: the older generation has Hijri dates, some with days that February has not.
    "date": r"\d{4}-\d{2}-\d{2}",
    # Recorded with 3 to 9 digits of a second; documented with a space, and without a zone.
    "date-time": r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?( ?(Z|[+-]\d{2}:?\d{2}))?",
}
_FORBIDS = "additionalProperties"


class Endpoint(NamedTuple):
    """Where a body's schema is: the short name of a file, a path, a method and a status."""

    file: str
    path: str
    method: str = "get"
    status: str = "200"


class Violation(NamedTuple):
    """Where a body is not what its schema says, and which rule it breaks."""

    place: str
    rule: str


_COMPILED = {name: re.compile(pattern) for name, pattern in _FORMATS.items()}


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
def spec(file: str) -> dict[str, Any]:
    """One of Lean's files, by its name without what all names share."""
    path = Path(FOLDER) / f"lean-technologies-{file}-openapi.yml"
    # Timestamps in examples stay text.
    loader = type("Loader", (yaml.CSafeLoader,), {"yaml_implicit_resolvers": {}})
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items():
        kept = [(tag, match) for tag, match in resolvers if not tag.endswith(":timestamp")]
        loader.yaml_implicit_resolvers[first] = kept
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


@cache
def response(endpoint: Endpoint) -> dict[str, Any]:
    """What a file says of one answer of an endpoint, whichever media type it names."""
    found = spec(endpoint.file)["paths"][endpoint.path][endpoint.method]["responses"]
    return next(iter(found[endpoint.status]["content"].values()))


@cache
def schema(endpoint: Endpoint) -> dict[str, Any]:
    """The strict schema of an answer."""
    return strict(response(endpoint)["schema"], spec(endpoint.file))


def example(endpoint: Endpoint, name: str) -> Any:
    """One of the examples that a file gives for an answer."""
    found = response(endpoint)["examples"][name]
    return _followed(found, spec(endpoint.file))["value"]


def _followed(node: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """A node with its reference replaced by what it refers to; what stands beside it wins."""
    if "$ref" not in node:
        return dict(node)
    target: Any = root
    for step in node["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    beside = {key: value for key, value in node.items() if key != "$ref"}
    return _followed(target, root) | beside


def strict(node: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without references and `allOf`, in which objects forbid what they do not name."""
    node = _followed(node, root)
    whole: dict[str, Any] = {}
    for part in node.pop("allOf", []):
        inner = strict(part, root)
        whole["properties"] = whole.get("properties", {}) | inner.pop("properties", {})
        whole["required"] = [*whole.get("required", []), *inner.pop("required", [])]
        whole |= inner
    properties = node.pop("properties", {})
    if properties or "properties" in whole:
        own = {name: strict(inner, root) for name, inner in properties.items()}
        whole["properties"] = whole.get("properties", {}) | own
        whole.setdefault(_FORBIDS, False)
    whole["required"] = [*whole.get("required", []), *node.pop("required", [])]
    if "items" in node:
        node["items"] = strict(node["items"], root)
    for name in ("anyOf", "oneOf"):
        if name in node:
            node[name] = [strict(inner, root) for inner in node[name]]
    is_nullable = node.pop("nullable", False)
    whole |= {key: value for key, value in node.items() if key in _KEPT}
    if is_nullable:
        whole["type"] = [whole["type"], "null"]
    return whole


_KEPT = (
    "type",
    "enum",
    "const",
    "format",
    "pattern",
    "items",
    "anyOf",
    "oneOf",
    "additionalProperties",
    "minLength",
    "maxLength",
)


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
