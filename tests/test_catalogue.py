"""The catalogue holds no declaration that contradicts itself."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from lean_resources import streams
from lean_resources.streams import PERMISSIONS, STREAMS, Column, Kind, Stream, Window, segments

ROOT = Path(__file__).resolve().parent.parent

TEXT = Column(name="id", kind=Kind.TEXT, doc="An id.", paths=("id",), required=True)


def stream(**changes):
    """A valid declaration with some changes."""
    given = {
        "name": "things",
        "doc": "Things, one row per thing.",
        "path": "/things",
        "key": ("id",),
        "columns": (TEXT,),
        "source": "https://docs.leantech.me",
    }
    return Stream(**(given | changes))


def test_every_declared_stream_is_in_the_catalogue():
    """A stream that a file of the package declares is found by its name, and no other is."""
    modules = [
        importlib.import_module(f"{streams.__name__}.{found.name}")
        for found in pkgutil.iter_modules(streams.__path__)
    ]

    declared = {
        value for module in modules for value in vars(module).values() if isinstance(value, Stream)
    }

    assert declared == set(STREAMS.values())
    assert all(STREAMS[declaration.name] is declaration for declaration in declared)


NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = {"pull_id", "series_id", "page_number", "record_number", "month", "pulled_on"}


def flaws_of_words(declared):
    """What is wrong with the name and the doc of a declaration."""
    if not NAME.fullmatch(declared.name):
        yield "a name is lower case with underscores"
    if not declared.doc.endswith("."):
        yield "doc is not a sentence"


def flaws_of_column(column):
    """How the declaration of a column contradicts itself."""
    yield from flaws_of_words(column)
    if not column.paths and column.request is None:
        yield "neither a path nor a request parameter"
    for path in column.paths:
        try:
            segments(path)
        except ValueError as error:
            yield str(error)
    if (column.kind is Kind.ITEMS) != bool(column.fields):
        yield "fields belong to a column of kind items"
    if column.aliases and column.kind is not Kind.TEXT:
        yield "only text has aliases"
    if unknown := set(column.aliases.values()) - set(column.values):
        yield f"aliases lead to {sorted(unknown)}"
    for field in column.fields:
        yield from flaws_of_column(field)


def flaws(stream):
    """How the declaration of a stream contradicts itself."""
    names = [column.name for column in stream.columns]
    known = {column.name: column for column in stream.columns}
    yield from flaws_of_words(stream)
    asked = set(re.findall(r"{(\w+)}", stream.path))
    if unknown := asked - {"account_id"}:
        yield f"path parameters {sorted(unknown)} are not known"
    if stream.permission not in {None, *PERMISSIONS}:
        yield f"permission {stream.permission} is not among PERMISSIONS"
    if asked and stream.permission is None:
        yield "a stream of an account needs a permission"
    if stream.changes_seldom and (stream.window is not Window.SNAPSHOT or not stream.parent_key):
        yield "changes_seldom needs a snapshot of each entity or account"
    if doubled := {name for name in names if names.count(name) > 1}:
        yield f"columns declared twice: {sorted(doubled)}"
    if reserved := set(names) & RESERVED:
        yield f"columns named like the lake's own: {sorted(reserved)}"
    if not stream.key or not all(name in known and known[name].required for name in stream.key):
        yield f"key {stream.key} is not made of its required columns"
    if (stream.window is Window.MONTHS) != bool(stream.placed_by):
        yield "placed_by belongs to a stream of months"
    for name in stream.placed_by:
        if known[name].kind is not Kind.INSTANT:
            yield f"placed_by {name} is not an instant"
    for column in stream.columns:
        yield from (f"column {column.name}: {flaw}" for flaw in flaws_of_column(column))


@pytest.mark.parametrize("name", STREAMS)
def test_no_declaration_contradicts_itself(name):
    """Every stream of the catalogue, and each of its columns."""
    assert list(flaws(STREAMS[name])) == []


def test_parents_stand_before_their_children():
    """So that a sync in the order of the catalogue finds what it asks by."""
    known = set()
    for name, found in STREAMS.items():
        assert {found.parent, found.exploded_from} <= {None, *known}, name
        known.add(name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "Things"}, "lower case"),
        ({"doc": "Things"}, "sentence"),
        ({"columns": (TEXT, TEXT)}, "declared twice"),
        ({"key": ("other",)}, "key"),
        ({"path": "/accounts/{account_id}/things"}, "permission"),
        ({"window": Window.MONTHS}, "placed_by"),
        ({"window": Window.MONTHS, "placed_by": ("id",)}, "not an instant"),
        ({"path": "/things/{colour}"}, "colour"),
        ({"permission": "colours"}, "permission colours is not among PERMISSIONS"),
        ({"changes_seldom": True}, "changes_seldom"),
    ],
)
def test_a_wrong_stream_is_found(changes, reason):
    """A stream that contradicts itself."""
    assert any(reason in flaw for flaw in flaws(stream(**changes)))
    assert not list(flaws(stream()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "Id"}, "lower case"),
        ({"doc": "An id"}, "sentence"),
        ({"paths": ()}, "neither"),
        ({"paths": ("a..b",)}, "not a path"),
        ({"kind": Kind.ITEMS}, "fields"),
        ({"aliases": {"A": "B"}}, "lead to"),
    ],
)
def test_a_wrong_column_is_found(changes, reason):
    """A column that contradicts itself."""
    given = {"name": "id", "kind": Kind.TEXT, "doc": "An id.", "paths": ("id",)}

    assert any(reason in flaw for flaw in flaws_of_column(Column(**(given | changes))))


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_is_documented_to_the_last_column(name):
    """Docs end as sentences, sources are pages, keys are required, parents exist."""
    found = STREAMS[name]

    assert found.source.startswith("https://docs.leantech.me")
    assert "one row per" in found.doc
    assert all(column.doc.endswith(".") for column in found.columns)
    assert all(found.column(key).required for key in found.key)
    assert found.permission in {None, *PERMISSIONS}
    assert found.parent in {None, *STREAMS}


@pytest.mark.parametrize("name", STREAMS)
def test_money_is_decimal_and_instants_are_utc(name):
    """No column of any stream is a float, and no instant lacks its zone."""
    for field in STREAMS[name].schema:
        assert not pa.types.is_floating(field.type), field.name
        if pa.types.is_timestamp(field.type):
            assert field.type.tz == "UTC"


def test_money_never_travels_without_its_currency():
    """Each money column stands directly before the column of its currency."""
    for found in STREAMS.values():
        names = [column.name for column in found.columns]
        for place, column in enumerate(found.columns):
            if column.kind is Kind.MONEY:
                assert names[place + 1] == column.name.replace("amount", "currency")


@pytest.mark.parametrize(
    "word", ["name", "identification", "email", "phone", "national_id", "birth"]
)
def test_columns_that_sound_personal_are_marked(word):
    """Names and numbers of people and accounts are pii; names of banks and firms are not."""
    firms = {
        "name", "arabic_name", "commercial_name", "merchant_name", "servicer_identification",
        "creditor_agent_name", "debtor_agent_name", "creditor_agent_identification",
        "debtor_agent_identification", "creditor_agent_street_name", "debtor_agent_street_name",
        "creditor_agent_town_name", "debtor_agent_town_name", "mandate_identification",
        "exchange_contract_identification", "commercial_name_arabic",
    }  # fmt: skip
    for found in STREAMS.values():
        for column in found.columns:
            if word in column.name and column.name not in firms:
                assert column.pii, f"{found.name}.{column.name}"


def test_paths_step_into_fields_and_first_elements():
    """A path is a dotted list of names, each perhaps the first of a list."""
    steps = segments("regional_data.data.creditor_account[0].name")

    assert [step.name for step in steps] == ["regional_data", "data", "creditor_account", "name"]
    assert [step.first for step in steps] == [False, False, True, False]


def test_lean_is_usable_without_dagster_and_pandas():
    """Importing the client and everything under it loads neither Dagster nor pandas."""
    code = (
        "import sys, lean_resources.client, lean_resources.decoding, lean_resources.sandbox, json;"
        "print(json.dumps([m for m in ('dagster', 'pandas', 'pipelines') if m in sys.modules]))"
    )

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert json.loads(found.stdout) == []


def test_one_module_reads_the_environment():
    """`environ` is named in environment.py alone, which the command line and Dagster share.

    Besides, the allocator of Arrow is chosen before anything imports Arrow.
    """
    readers = {
        path.relative_to(ROOT).as_posix()
        for folder in ("lean_resources", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\benviron\b|getenv", path.read_text())
    }

    assert readers == {"pipelines/environment.py", "pipelines/__init__.py"}


def test_imports_run_one_way():
    """`lean_resources` never imports `pipelines`, and Dagster only in resource.py."""
    for path in (ROOT / "lean_resources").rglob("*.py"):
        text = path.read_text()
        assert "import pipelines" not in text
        assert "from pipelines" not in text
        if path.name != "resource.py":
            assert "import dagster" not in text
            assert "import pandas" not in text


def test_the_data_dictionary_is_current():
    """docs/dictionary.md is what the catalogue and the headers of the models say."""
    from pipelines.models.dictionary import dictionary, intermediate_dictionary
    from pipelines.models.loader import load

    written = (ROOT / "docs" / "dictionary.md").read_text()
    steps = (ROOT / "docs" / "dictionary-intermediate.md").read_text()

    assert written == dictionary(load()), "run: .venv/bin/leanhouse dictionary > docs/dictionary.md"
    assert steps == intermediate_dictionary(load()), (
        "run: .venv/bin/leanhouse dictionary --intermediate > docs/dictionary-intermediate.md"
    )
    headings = [line for line in written.splitlines() if line.startswith("### ")]
    for model in load():
        assert headings.count(f"### {model.name}") == (model.layer != "intermediate"), model.name


def test_the_example_of_the_settings_is_current():
    """.env.example is what the settings declare."""
    from pipelines.models.dictionary import env_example

    assert (ROOT / ".env.example").read_text() == env_example(), (
        "run: .venv/bin/leanhouse dictionary --settings > .env.example"
    )
