"""What is personal stays out of tables, files and the warehouse, unless its schema is asked for."""

import re
from collections import defaultdict

import duckdb
import pytest
from known import KEY, models
from oracle import find
from truth import account_keys

from lean_resources.streams import STREAMS, Kind
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.models.manifest import current_manifest
from pipelines.models.model import ModelError
from pipelines.publish.warehouse import connect, publish

IBAN = re.compile(rb"SA\d{2}[0-9A-Z]{20}")
NATIONAL_ID = re.compile(rb"(?<![0-9A-Za-z])[12]\d{9}(?![0-9A-Za-z])")
MOBILE = re.compile(rb"(?<![0-9A-Za-z])(?:\+?966|0)5\d{8}(?![0-9A-Za-z])")
EMAIL = re.compile(rb"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}")
_SHORTEST = 6


def personal_values(sandbox):
    """Every personal value that the offline Lean serves and that is long enough to tell apart."""
    found = set()
    for name, stream in STREAMS.items():
        columns = [column for column in stream.columns if column.pii]
        for true in sandbox.truth(name):
            for column in columns:
                value = find(true["record"], column.paths)
                items = value if isinstance(value, list) else [value]
                inner = [f for f in column.fields if f.pii] if column.kind is Kind.ITEMS else []
                for item in items:
                    values = [find(item, f.paths) for f in inner] if inner else [item]
                    found |= {text for text in values if isinstance(text, str)}
    public = {
        str(value)
        for name in ("banks", "customers")
        for true in sandbox.truth(name)
        for value in true["record"].values()
    }
    # A bank may describe a movement with nothing but a word of a vocabulary.
    public |= {
        word
        for stream in STREAMS.values()
        for column in stream.columns
        if not column.pii
        for word in column.values
    }
    for true in sandbox.truth("transactions"):
        public |= set(true["record"].get("flags") or ())
    # Categories and the like are words of this project: a nickname may be one of them.
    own = "\n".join(file.read_text() for file in models().seeds.values())
    return {
        text
        for text in found - public
        if len(text) >= _SHORTEST and not text.startswith("202") and text not in own
    }


def texts_of(file):
    """All values of a Parquet file as text, each once per column, whatever they are nested in."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        columns = connection.execute(f"describe select * from '{file}'").fetchall()
        values = [
            value
            for name, kind, *_ in columns
            if not kind.startswith(("TIMESTAMP", "DATE", "BOOLEAN"))
            for (value,) in connection.execute(
                f'select distinct "{name}"::varchar from \'{file}\' where "{name}" is not null'
            ).fetchall()
        ]
    return "\n".join(values)


def held(text, values):
    """The first of some values, each of six characters or more, that a text holds, or None."""
    begins = defaultdict(list)
    for value in values:
        begins[value[:_SHORTEST]].append(value)
    for place in range(len(text)):
        for value in begins.get(text[place : place + _SHORTEST], ()):
            if text.startswith(value, place):
                return value
    return None


def leaks(folder, manifest, sandbox):
    """Marts whose files hold something personal, with what kind of thing."""
    own = personal_values(sandbox)
    ids = {text.encode() for text in own if NATIONAL_ID.fullmatch(text.encode())}
    found = defaultdict(set)
    files = {
        str(folder / part.file): name
        for name, parts in manifest.parts.items()
        for part in parts.values()
        if part.file
    }
    assert files
    for file, name in files.items():
        text = texts_of(file)
        body = text.encode()
        if IBAN.search(body):
            found[name].add("iban")
        if set(NATIONAL_ID.findall(body)) & ids:
            found[name].add("national id")
        if MOBILE.search(body):
            found[name].add("mobile")
        if EMAIL.search(body):
            found[name].add("e-mail")
        if told := held(text, own):
            found[name].add(f"a value of {len(told)} characters")
    return dict(found)


def test_no_file_of_a_mart_holds_anything_personal(first_world):
    """No account number, id, mobile, e-mail, and no personal value of this world, in any file."""
    world = first_world

    assert leaks(world.lake.folder, current_manifest(world.lake), world.sandbox) == {}


@pytest.mark.parametrize(
    ("kind", "column", "expected"),
    [
        ("iban", "iban_of(identifications)", "iban"),
        ("name", "account_holder_name", "a value of"),
        ("list", "list_transform(identifications, lambda one: one.identification)", "iban"),
    ],
    ids=["account-number", "name", "numbers-in-a-list"],
)
def test_a_mart_that_leaks_is_caught(kind, column, expected, tmp_path, first_world):
    """With the rule on columns got round, the search of the values finds what came through."""
    root = _copied(tmp_path)
    header = "-- Leaks.\n-- subject: trust\n-- grain:  one row per account\n-- key:    account_id\n"
    header += "-- stored: table\n-- apart: whole\n"
    body = f"select account_id, {column} as told from accounts_history qualify"
    body += " row_number() over (partition by account_id order by pull_id) = 1"
    file = root / "marts" / "mart_leak.sql"
    file.write_text(f"{header}-- columns:\n--   told  A leak.\n{body}\n")

    with pytest.raises(ModelError, match="told is made of personal columns"):
        load(root)
    cleared = "-- cleared: told (it is not)\n"
    file.write_text(f"{header}{cleared}-- columns:\n--   told  A leak.\n{body}\n")
    lake = _linked(first_world, tmp_path)
    build(lake, load(root), hash_key=KEY, only={"mart_leak"})

    found = leaks(lake.folder, current_manifest(lake), first_world.sandbox)

    assert list(found) == ["mart_leak"], kind
    assert any(one.startswith(expected) for one in found["mart_leak"])


@pytest.fixture
def first_world():
    """The world of one seed, where three would prove no more."""
    from known import known

    return known(7)


def _copied(tmp_path):
    """A folder of models in which one may be added."""
    root = tmp_path / "sql"
    (root / "marts").mkdir(parents=True)
    source = models().seeds["categories"].parent.parent
    for folder in ("macros", "seeds"):
        (root / folder).symlink_to(source / folder)
    return root


def _linked(world, tmp_path):
    """The lake of a world without its marts."""
    lake = Lake(tmp_path / "lake", "sandbox")
    lake.folder.mkdir(parents=True)
    for place in world.lake.folder.iterdir():
        if place.name not in {"marts", "manifests"} and place.is_dir():
            (lake.folder / place.name).symlink_to(place)
    return lake


def test_without_the_switch_the_warehouse_has_nothing_personal(first_world):
    """No schema pii, no personal column of a stream or a model, and nothing that reaches one."""
    publish(first_world.lake, models())

    with connect(first_world.lake) as connection:
        schemas = connection.execute("select schema_name from duckdb_schemas()").fetchall()
        shown = set(
            connection.execute(
                "select table_name, column_name from duckdb_columns() where not internal"
            ).fetchall()
        )
        personal = {
            (name, column.name)
            for name, stream in STREAMS.items()
            for column in stream.columns
            if column.pii
        }
        personal |= {(f"{name}_history", column) for name, column in personal}
        personal |= {
            (model.name, column.name)
            for model in models()
            for column in model.columns
            if column.pii or model.layer == "pii"
        }

        assert "pii" not in {name for (name,) in schemas}
        assert not shown & personal
        assert ("accounts", "account_id") in shown
        for table, column in (("accounts", "identifications"), ("identity", "national_id")):
            with pytest.raises(duckdb.BinderException):
                connection.execute(f"select {column} from {table}")
    # Its comments speak of Riyadh and of salaries, which are somebody's town and account name.
    body = first_world.lake.warehouse.read_bytes()
    own = personal_values(first_world.sandbox) - {"Riyadh", "Salary"}
    assert not [text for text in own if text.encode() in body]
    assert KEY.encode() not in body


def test_with_the_switch_keys_lead_back_to_people(first_world):
    """Each key has its IBAN, holders and ids, each customer the names and numbers of the truth."""
    world = first_world
    keys = account_keys(world)
    ibans, holders, ids = {}, defaultdict(set), defaultdict(set)
    people = defaultdict(lambda: defaultdict(set))
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            key = keys[account_id]
            ids[key].add(account_id)
            holders[key] |= {row["account_holder_name"]} - {None}
            numbers = [one["identification"] for one in row["identifications"]]
            ibans[key] = next((one for one in numbers if IBAN.fullmatch(one.encode())), None)
        for row in day["identity"].values():
            customer_id = day["entities"][(row["entity_id"],)]["customer_id"]
            for column, name in {
                "legal_names": "full_legal_name",
                "names": "name",
                "national_ids": "national_id",
                "mobile_numbers": "mobile_number",
                "email_addresses": "email_address",
            }.items():
                people[customer_id][column] |= {row[name]} - {None}
    try:
        publish(world.lake, models(), pii=True)
        with connect(world.lake) as connection:
            accounts = _rows(connection, "from pii.pii_accounts")
            customers = _rows(connection, "from pii.pii_customers")
            main = connection.execute(
                "select view_name from duckdb_views()"
                " where schema_name = 'main' and view_name like 'pii%'"
            )
            assert main.fetchall() == []
    finally:
        publish(world.lake, models())

    assert {row["account_key"] for row in accounts} == set(ibans)
    for row in accounts:
        key = row["account_key"]
        assert row["iban"] == ibans[key]
        assert row["account_holder_names"] == sorted(holders[key])
        assert row["account_ids"] == sorted(ids[key])
    assert {row["customer_id"] for row in customers} == set(people)
    for row in customers:
        for column, values in people[row["customer_id"]].items():
            assert row[column] == sorted(values)


def _rows(connection, query):
    result = connection.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
