"""Pages that are generated from declarations: the data dictionary and .env.example."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lean_resources.settings import VARIABLES, WEBHOOK_VARIABLES
from lean_resources.streams import STREAMS, Column, Kind, Stream, Window
from lean_resources.variables import Variable
from pipelines.environment import HOUSE_VARIABLES
from pipelines.lake.ledger import PULL_DOCS
from pipelines.lake.schemas import TRACE_DOCS
from pipelines.models.model import SUBJECTS, Model, ModelColumn, Models

_HEAD = """\
# Data dictionary

Every table that analysts are promised, what these are made of, and every column. Written by
`leanhouse dictionary` from the headers under `sql/` and from `lean_resources/streams/`; a test
keeps this page current. Steps between staging and marts have
[a page of their own](dictionary-intermediate.md).

Marts come first, by subject: what analysts read first, without a personal column, and with account
numbers as keyed hashes. Staging, streams and seeds follow.

Columns marked **pii** are personal: they show in the schema `pii` alone, which is off by default.
"""

_LAYERS = {
    "staging": "Each stream as its banks show it now, typed and signed, with days in Riyadh.",
    "pii": "In the schema `pii`, which is off by default.",
}

_INTERMEDIATE_HEAD = """\
# Data dictionary: intermediate tables

Steps on the way to the tables of the [data dictionary](dictionary.md), in the schema
`intermediate`. They are built and checked like those, and may change with any version: no query
that is to last should read them. Written by `leanhouse dictionary --intermediate`; a test keeps
this page current.
"""

_STREAMS = """\
In the schema `raw`, as in `from raw.transactions`. Their bare names work until the next version.

Each row also carries `pull_id` (the pull in the ledger that brought it), `page_number` and
`record_number` (its place in the answer). Beside each stream lies its history, such as
`accounts_history`: every row that a committed pull ever brought, with when it was asked for.
"""


def dictionary(models: Models) -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    marts = _of_layer(models, "marts")
    for subject, doc in SUBJECTS.items():
        shown = [model for model in marts if model.subject == subject]
        parts += [f"## {subject.capitalize()}", "", f"{doc}\n", *map(_table, shown)]
    for layer, doc in _LAYERS.items():
        if shown := _of_layer(models, layer):
            parts += [f"## {layer.capitalize()}", "", f"{doc}\n", *map(_table, shown)]
    parts += ["## Streams", "", _STREAMS, *map(_section, STREAMS.values()), _ledger()]
    parts += ["## Seeds", "", *(_seed(name, models) for name in models.seeds)]
    return "\n".join(parts)


def intermediate_dictionary(models: Models) -> str:
    """The page of intermediate tables, in Markdown."""
    return "\n".join([_INTERMEDIATE_HEAD, *map(_table, _of_layer(models, "intermediate"))])


def _of_layer(models: Models, layer: str) -> list[Model]:
    """Models of a layer, by name."""
    return sorted((model for model in models if model.layer == layer), key=lambda model: model.name)


def _table(model: Model) -> str:
    stored = model.stored
    kept = "a view" if stored.is_view else f"by `{stored.month}`" if stored.month else "whole"
    facts = [
        f"Grain: {model.grain}.",
        f"Key: `{'`, `'.join(model.key)}`.",
        f"Kept: {kept}.",
        *([] if stored.is_view else [f"Comes apart: {_apart(model)}."]),
        f"Reads: `{'`, `'.join(model.reads)}`.",
        *(f"{name.capitalize()}: {note}." for name, note in model.notes.items()),
    ]
    whole, rest = _passed_whole(model)
    lines = [f"### {model.name}", "", model.description, "", " ".join(facts), ""]
    if whole:
        lines += [f"All columns of [`{whole}`](#{whole}), and:", ""]
    if rest:
        lines += ["| column | type | meaning | made of |", "|---|---|---|---|"]
        lines += [_model_row(column) for column in rest]
        lines += [""]
    lines += ["```sql", model.question or f"select * from {model.place} limit 10", "```", ""]
    return "\n".join(lines)


def _apart(model: Model) -> str:
    """How the rows of a model come apart, in words."""
    if model.apart is None:
        return "not"
    of_whom = "customers who share accounts" if model.apart.is_by_customer else "each account"
    return f"by {of_whom}, told by `{model.apart.column}`"


def _passed_whole(model: Model) -> tuple[str, list[ModelColumn]]:
    """The stream that a staging model passes on completely, or an empty name; other columns."""
    name = model.name.removeprefix("stg_")
    if model.layer != "staging" or name not in STREAMS:
        return "", list(model.columns)
    passed = {column.name for column in STREAMS[name].columns} | set(TRACE_DOCS)
    return name, [column for column in model.columns if column.name not in passed]


def _model_row(column: ModelColumn) -> str:
    sources = ", ".join(f"`{table}.{name}`" for table, name in column.sources)
    mark = " (**pii**)" if column.pii else ""
    return f"| `{column.name}` | {column.type} | {column.doc}{mark} | {sources} |"


def _seed(name: str, models: Models) -> str:
    relation = models.relations[name]
    rows = [f"| `{column}` | {doc} |" for column, doc in relation.docs.items()]
    head = [f"### {name}", "", relation.doc, "", "| column | meaning |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


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
    return "\n".join([f"### {stream.name}", "", stream.doc, "", " ".join(facts), "", *rows, ""])


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
    head = ["### pulls", "", "The ledger, one row per pull, whatever its outcome. In `raw`.", ""]
    return "\n".join([*head, "| column | meaning |", "|---|---|", *rows, ""])


_ENV_HEAD = """\
# Settings of one application at Lean, written from the declarations in the code by
# `leanhouse dictionary --settings`; a test keeps this file current. Copy it to .env and fill in.
# Blank means unset. Set the client id and secret, or the application token, never both.
#
# A shell (set -a; . ./.env; set +a) and Dagster (dotenv) both read this file. They agree when
# each line is NAME=value without spaces around the equals sign, and a value with anything but
# letters, digits and . _ - / : @ + , % stands between single quotes: NAME='a value'. Inside them
# use no single quote, no ${, no doubled backslash and no line end. `leanhouse doctor` says where
# they differ. A misspelt name, or a quote that became part of a value, is an error. Dagster takes
# this file's values before those of the shell that starts it.

# Dagster's telemetry is off, also where its home has no dagster.yaml.
DAGSTER_DISABLE_TELEMETRY=yes
"""

_WEBHOOK_HEAD = """\
# The receiver of webhooks, `leanhouse webhooks`; docs/webhooks.md says how to set it up.
"""


def env_example() -> str:
    """The text of .env.example."""
    lines = [
        _ENV_HEAD,
        *_settings(HOUSE_VARIABLES),
        *_settings(VARIABLES),
        _WEBHOOK_HEAD,
        *_settings(WEBHOOK_VARIABLES),
    ]
    return "\n".join(lines)


def _settings(variables: Sequence[Variable]) -> list[str]:
    lines = []
    for variable in variables:
        default = f" Default: {variable.default}." if variable.default else ""
        secret = " Secret." if variable.secret else ""
        text = f"{variable.description}{default}{secret}"
        lines += [*(f"# {line}" for line in textwrap.wrap(text, 96)), f"{variable.name}=", ""]
    return lines
