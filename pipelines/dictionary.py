"""Pages that are written from declarations: the data dictionary and .env.example."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lean_resources.settings import VARIABLES, WEBHOOK_VARIABLES, Variable
from lean_resources.streams import STREAMS, Column, Kind, Stream, Window
from pipelines.ledger import PULL_DOCS

__all__ = ["dictionary", "env_example"]

_HEAD = """\
# Data dictionary

Every stream of the lake and every column, written from `lean_resources/streams.py` by
`leanhouse dictionary`; a test keeps this page current. Each row also carries `pull_id` (the pull
in the ledger that brought it), `page_number` and `record_number` (its place in the answer).
Columns marked **pii** are personal.
"""


def dictionary() -> str:
    """The page, in Markdown."""
    parts = [_HEAD, *(_section(stream) for stream in STREAMS.values()), _ledger()]
    return "\n".join(parts)


def _section(stream: Stream) -> str:
    facts = [
        f"Key: `{'`, `'.join(stream.key)}`.",
        f"Permission: `{stream.permission}`." if stream.permission else "Needs no permission.",
        "Partitioned by UTC month of "
        + ", else ".join(f"`{name}`" for name in stream.placed_by)
        + "."
        if stream.window is Window.MONTHS
        else "A snapshot: the newest pull of each parent shows.",
        f"Request: `GET {stream.path}`.",
        f"[Reference]({stream.source}).",
    ]
    rows = [
        "| column | type | meaning | documented values |",
        "|---|---|---|---|",
        *(line for column in stream.columns for line in _rows(column)),
    ]
    return "\n".join([f"## {stream.name}", "", stream.doc, "", " ".join(facts), "", *rows, ""])


def _rows(column: Column, outer: str = "") -> list[str]:
    marks = [mark for mark, on in (("required", column.required), ("**pii**", column.pii)) if on]
    doc = column.doc + (f" ({', '.join(marks)})" if marks else "")
    values = ", ".join(f"`{value}`" for value in column.values)
    kind = "list of records" if column.kind is Kind.ITEMS else str(column.type)
    lines = [f"| `{outer}{column.name}` | {kind} | {doc} | {values} |"]
    for inner in column.fields:
        lines += _rows(inner, f"{outer}{column.name}[].")
    return lines


def _ledger() -> str:
    rows = [f"| `{name}` | {doc} |" for name, doc in PULL_DOCS.items()]
    head = ["## pulls", "", "The ledger, one row per pull, whatever its outcome.", ""]
    return "\n".join([*head, "| column | meaning |", "|---|---|", *rows, ""])


_ENV_HEAD = """\
# Settings of one application at Lean, written from lean_resources/settings.py by
# `leanhouse dictionary --settings`; a test keeps this file current. Copy it to .env and fill in.
# Blank means unset. Set the client id and secret, or the application token, never both.

# Folder of the lake and of everything else that is kept; var in the checkout when unset.
LEANHOUSE_HOME=

# Key of the hashes that stand for account numbers in the tables: 32 to 64 random characters,
# required in production. Another key makes other hashes: see docs/personal-data.md. Secret.
LEANHOUSE_HASH_KEY=

# Whether the warehouse has a schema pii with the personal columns: true or false. Default: false.
LEANHOUSE_PII=
"""

_WEBHOOK_HEAD = """\
# The receiver of webhooks, `leanhouse webhooks`; docs/webhooks.md says how to set it up.
"""


def env_example() -> str:
    """The file .env.example."""
    lines = [_ENV_HEAD, *_settings(VARIABLES), _WEBHOOK_HEAD, *_settings(WEBHOOK_VARIABLES)]
    return "\n".join(lines)


def _settings(variables: Sequence[Variable]) -> list[str]:
    lines = []
    for variable in variables:
        default = f" Default: {variable.default}." if variable.default else ""
        secret = " Secret." if variable.secret else ""
        text = f"{variable.description}{default}{secret}"
        lines += [*(f"# {line}" for line in textwrap.wrap(text, 96)), f"{variable.name}=", ""]
    return lines
