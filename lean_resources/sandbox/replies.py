"""Answers in Lean's form: envelopes, pages, refusals and the edge's HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lean_resources.sandbox.money import dump
from lean_resources.sandbox.tables import rows

EDGE_PAGE = (
    '<!DOCTYPE html>\n<html lang="en-US">\n<head><title>sandbox.sa.leantech.me | {status}: '
    '{reason}</title></head>\n<body><div id="cf-wrapper"><h1>{reason}</h1>'
    '<span class="code-label">Error code {status}</span><p>Cloudflare Ray ID: 8f2c1d0e9b7a6c54'
    "</p></div></body>\n</html>\n"
)
"""The page that Lean's edge sends when Lean does not answer."""

MESSAGES = {row["code"]: row["message"] for row in rows("messages")}
"""Lean's message for each code."""


@dataclass(slots=True)
class Reply:
    """An answer before it is sent.

    Args:
        cut: Whether to end the connection in the middle of the body.
        drip: Seconds between two bytes of the body; None sends it at once.
    """

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    drip: float | None = None

    @classmethod
    def json(cls, value: object, status: int = 200) -> Reply:
        """An answer in JSON, with exact amounts."""
        return cls(status, dump(value))

    @classmethod
    def edge(cls, status: int, reason: str) -> Reply:
        """The edge's HTML page."""
        html = EDGE_PAGE.format(status=status, reason=reason)
        return cls(status, html.encode(), "text/html; charset=UTF-8")


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not an error of ours
    """A refusal of Lean.

    Args:
        code: Lean's code.
        message: Lean's message; by default the usual message of the code.
        envelope: Whether to answer with a data envelope instead of an error.
        has_results_id: Whether the error has a `results_id`.
        short: Whether to use the form of the consents endpoints: `status_code` and `message`.
    """

    status: int
    code: str
    message: str = ""
    envelope: bool = field(default=False, kw_only=True)
    has_results_id: bool = field(default=True, kw_only=True)
    short: bool = field(default=False, kw_only=True)
    headers: dict[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        self.message = self.message or MESSAGES.get(self.code, self.code)

    @classmethod
    def bad_value(cls, name: str, value: object) -> Refusal:
        """A parameter that cannot be read."""
        return cls(
            400,
            "INVALID_PARAMETERS",
            "The request is badly formatted or a parameter of the wrong type has been provided, "
            f"field: {name}, value: {value}.",
        )

    @classmethod
    def missing(cls, name: str) -> Refusal:
        """A parameter that is not there."""
        return cls(400, "MISSING_PARAMETERS", f"Required parameter '{name}' is not present.")


def page_of(number: int, size: int, total: int) -> dict[str, Any]:
    """The page object; `size` is the requested size."""
    return {
        "number": number,
        "size": size,
        "total_elements": total,
        "total_pages": -(-total // size),
        "sort": None,
    }
