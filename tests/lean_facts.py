"""Write `lean_facts.json`: what tests need of Lean's OpenAPI files, as facts in a shape of our own.

Run it with the folder of Lean's files, which are not ours to ship:

    .venv/bin/python tests/lean_facts.py FOLDER

The files describe what may be in an answer but forbid nothing. Here every object that names its
properties forbids others, so that an invented field is found. `allOf` is merged before that,
because a part of a whole cannot forbid what the other parts allow. `openapi.py` says how facts are
written, and reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from openapi import FACTS, FORMATS, LEAVES, Endpoint
from test_openapi import ENDPOINTS, REFUSALS

FOLDER = Path(sys.argv[1] if __name__ == "__main__" else ".")
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
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@cache
def spec(file: str) -> dict[str, Any]:
    """One of Lean's files, by its name without what all names share."""
    path = FOLDER / f"lean-technologies-{file}-openapi.yml"
    # Timestamps in examples stay text.
    loader = type("Loader", (yaml.CSafeLoader,), {"yaml_implicit_resolvers": {}})
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items():
        kept = [(tag, match) for tag, match in resolvers if not tag.endswith(":timestamp")]
        loader.yaml_implicit_resolvers[first] = kept
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def response(endpoint: Endpoint) -> dict[str, Any]:
    """What a file says of one answer of an endpoint, whichever media type it names."""
    found = spec(endpoint.file)["paths"][endpoint.path][endpoint.method]["responses"]
    return next(iter(found[endpoint.status]["content"].values()))


def schema(endpoint: Endpoint) -> dict[str, Any]:
    """The strict schema of an answer."""
    return strict(response(endpoint)["schema"], spec(endpoint.file))


def sample(value: Any) -> Any:
    """An example's fields without their values, but for its status."""
    if not isinstance(value, dict):
        return None
    return {
        name: inner if name == "status" and isinstance(inner, str) else sample(inner)
        for name, inner in value.items()
    }


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
        whole.setdefault("additionalProperties", False)
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


def fact(node: Mapping[str, Any]) -> Any:
    """A strict schema as a fact.

    Raises:
        ValueError: It says something that facts have no words for.
    """
    left = {key: value for key, value in node.items() if key != "required"}
    if left.get("format") not in {None, *FORMATS}:
        left.pop("format")  # how wide a number is, which no test holds
    kinds = left.pop("type", None)
    null = "?" if isinstance(kinds, list) and "null" in kinds else ""
    kind = kinds[0] if isinstance(kinds, list) else kinds
    match kind, left:
        case "object", {"properties": properties, "additionalProperties": False, **rest}:
            required = set(node.get("required", ()))
            found: Any = {"?": True} if null else {}
            for name, inner in properties.items():
                found[f"{name}!" if name in required else name] = fact(inner)
        case "object", {"additionalProperties": inner, **rest}:
            found = ({"?": True} if null else {}) | {"*": fact(inner)}
        case "array", {"items": inner, **rest}:
            found = [fact(inner), *(["?"] if null else [])]
        case None, {"anyOf": alternatives, **rest}:
            found = {"any of": [fact(inner) for inner in alternatives]}
        case "string" | None, {"enum": words, **rest}:
            # Of type and vocabulary, the narrower one decides whether null may be.
            may_be_null = null and None in words
            found = {"words": sorted(filter(None, words)), **({"?": True} if may_be_null else {})}
        case "string", {"const": word, **rest}:
            found = f"={word}"
        case _:
            rest = {}
            told = {"type": kind, **left} if kind else left
            found = next((name for name, leaf in LEAVES.items() if leaf == told), None)
            found = found and found + null
    if found is None or rest:
        raise ValueError(f"facts have no words for {dict(node)}")
    return found


def _parts(node: Any) -> Iterator[str]:
    """Every record and vocabulary within a fact, as text, itself first."""
    if isinstance(node, dict):
        yield json.dumps(node)
    for inner in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from _parts(inner)


def shared(answers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answers with every record and vocabulary that comes twice replaced by a name, and those."""
    count = Counter(part for answer in answers.values() for part in _parts(answer))
    names: dict[str, str] = {}
    shapes: dict[str, Any] = {}

    def replaced(node: Any, name: str) -> Any:
        if isinstance(node, list):
            return [replaced(inner, name) for inner in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node)
        small = {key: replaced(inner, key.rstrip("!") if key != "*" else name)
                 for key, inner in node.items()}  # fmt: skip
        if count[text] < 2:
            return small
        if text not in names:
            taken = sum(one.rstrip("0123456789") == name for one in shapes)
            names[text] = f"{name}{taken + 1}" if taken else name
            shapes[names[text]] = small
        return f"#{names[text]}"

    return {key: replaced(answer, "answer") for key, answer in answers.items()}, shapes


def main() -> None:
    """Write the file."""
    schemas = [*ENDPOINTS.values(), *(r.endpoint for r in REFUSALS.values() if not r.example)]
    answers, shapes = shared({one.key: fact(schema(one)) for one in schemas})
    examples = {}
    for refusal in REFUSALS.values():
        if refusal.example:
            found = response(refusal.endpoint)["examples"][refusal.example]
            value = _followed(found, spec(refusal.endpoint.file))["value"]
            examples[f"{refusal.endpoint.key} {refusal.example}"] = sample(value)
    ids = {
        hashlib.sha256(found.encode()).hexdigest()[:12]
        for path in FOLDER.glob("*.yml")
        for found in _UUID.findall(path.read_text(encoding="utf-8"))
    }
    lines = []
    for title, facts in (("answers", answers), ("shapes", shapes), ("examples", examples)):
        body = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(facts.items()))
        lines.append(f" {json.dumps(title)}: {{\n{body}\n }}")
    lines.append(f' "ids": {json.dumps(sorted(ids))}')
    FACTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
