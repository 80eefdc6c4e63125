"""The model layer: what is refused at load, lineage, what is built again, readers, automation."""

import datetime as dt
import hashlib
import hmac
import shutil
import threading
import unicodedata
from pathlib import Path

import dagster as dg
import duckdb
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lake import DAY, NOW, commit, customers, movements, pull

import pipelines.models.cache
from lean_resources import streams
from lean_resources.streams import STREAMS
from pipelines.dagster_defs.model_assets import model_assets
from pipelines.dagster_defs.resources import LakeResource, silent
from pipelines.lake.lake import Lake
from pipelines.models import build as building
from pipelines.models import manifest as manifests
from pipelines.models import rollback
from pipelines.models.build import build
from pipelines.models.cache import CODE
from pipelines.models.lineage import trace
from pipelines.models.loader import ROOT, load
from pipelines.models.manifest import current_manifest
from pipelines.models.model import ModelError
from pipelines.models.model_files import read
from pipelines.models.relations import add_macros
from pipelines.models.rollback import RollbackError, roll_back
from pipelines.models.session import stored_rows
from pipelines.operate.fsck import check as fsck
from pipelines.operate.vacuum import Reason, vacuum
from pipelines.publish.warehouse import connect, publish

JANUARY, FEBRUARY = dt.date(2026, 1, 10), dt.date(2026, 2, 10)


def sql(select, *columns, key="customer_id", stored="table", apart="whole", **entries):
    """The text of a model; columns are lines of its header."""
    lines = ["For a test.", "", "grain:  one row", f"key:    {key}", f"stored: {stored}"]
    lines += [f"apart:  {apart}"] if apart and stored != "view" else []
    lines += [f"{name}: {value}" for name, value in entries.items()]
    lines += ["columns:", *(f"  {column}" for column in columns)] if columns else []
    header = "\n".join(f"-- {line}".rstrip() for line in lines)
    return f"{header}\n{select}\n"


def written(folder, **files):
    """A folder of models, named layer__name; marts get a subject in place of an empty line."""
    for name, text in files.items():
        layer, _, stem = name.partition("__")
        (folder / layer).mkdir(parents=True, exist_ok=True)
        needs_subject = layer == "marts" and "-- subject:" not in text
        subject = "-- subject: money" if needs_subject else "--"
        (folder / layer / f"{stem}.sql").write_text(text.replace("\n--\n", f"\n{subject}\n", 1))
    if not (folder / "macros").exists():
        (folder / "macros").symlink_to(ROOT / "macros")
    return folder


PLAIN = sql("select customer_id from customers")
REFUSED = {
    "circle": (
        {
            "marts__one": sql("select customer_id from two"),
            "marts__two": sql("select customer_id from one"),
        },
        r"marts/(one|two)\.sql:7: models read each other in a circle",
    ),
    "unknown-table": (
        {"marts__one": sql("select customer_id\nfrom clients")},
        r"marts/one\.sql:8: there is no stream, model or seed clients",
    ),
    "no-key": (
        {"marts__one": PLAIN.replace("-- key:    customer_id\n", "")},
        r"marts/one\.sql:1: the header has no key",
    ),
    "key-that-is-no-column": (
        {"marts__one": sql("select app_user_id from customers")},
        r"marts/one\.sql:4: the SELECT has no column customer_id",
    ),
    "does-not-parse": (
        {"marts__one": sql("select customer_id\nfrom customers where (")},
        r"marts/one\.sql:\d+: the SELECT does not parse",
    ),
    "no-select": (
        {"marts__one": sql("drop table customers")},
        r"marts/one\.sql:1: a file holds one SELECT and nothing else",
    ),
    "two-statements": (
        {"marts__one": sql("select customer_id from customers; select 1")},
        r"marts/one\.sql:1: a file holds one SELECT and nothing else",
    ),
    "does-not-bind": (
        {"marts__one": sql("select\n    customer_id,\n    surname\nfrom customers")},
        r"marts/one\.sql:9: .*surname",
    ),
    "header-names-what-is-not-there": (
        {"marts__one": sql("select customer_id from customers", "surname  A name.")},
        r"marts/one\.sql:8: the SELECT has no column surname",
    ),
    "not-for-other-engines": (
        {
            "marts__one": sql(
                "select\n    customer_id,\n    1::ubigint as found\nfrom customers",
                "found  How many.",
            )
        },
        r"marts/one\.sql:8: found is UBIGINT, which other engines cannot read: cast it",
    ),
    "undocumented": (
        {"marts__one": sql("select customer_id, 1 as score from customers")},
        r"marts/one\.sql:6: column score has no meaning",
    ),
    "meaning-without-a-full-stop": (
        {"marts__one": sql("select customer_id, 1 as score from customers", "score  A number")},
        r"marts/one\.sql:8: score: its meaning is not a sentence",
    ),
    "no-first-sentence": (
        {"marts__one": PLAIN.replace("-- For a test.", "-- For a test")},
        r"marts/one\.sql:1: the header does not start with a sentence",
    ),
    "column-twice": (
        {
            "marts__one": sql(
                "select customer_id, 1 as score from customers", "score  A.", "score  B."
            )
        },
        r"marts/one\.sql:9: column score stands twice",
    ),
    "personal-in-a-mart": (
        {"marts__one": sql("select account_id, nickname from accounts", key="account_id")},
        r"marts/one\.sql:6: nickname is personal, and marts hold none",
    ),
    "made-of-personal": (
        {
            "marts__one": sql(
                "select account_id, upper(nickname) as loud from accounts",
                "loud  Loud.",
                key="account_id",
            )
        },
        r"marts/one\.sql:8: loud is made of personal columns",
    ),
    "made-of-personal-two-models-up": (
        {
            "staging__names": sql(
                "select account_id, lower(nickname) as quiet from accounts",
                "quiet (pii)  Quiet.",
                key="account_id",
                stored="view",
            ),
            "marts__one": sql(
                "select account_id, length(quiet) as size from names",
                "size  A length.",
                key="account_id",
            ),
        },
        r"marts/one\.sql:8: size is made of personal columns",
    ),
    "cleared-of-nothing": (
        {"marts__one": sql("select customer_id from customers", cleared="customer_id (an id)")},
        r"marts/one\.sql:7: customer_id is made of nothing personal",
    ),
    "cleared-column-that-is-not-there": (
        {"marts__one": sql("select customer_id from customers", cleared="surname (short)")},
        r"marts/one\.sql:7: the SELECT has no column surname",
    ),
    "stored-in-no-known-way": (
        {"marts__one": sql("select customer_id from customers", stored="weekly")},
        r"marts/one\.sql:5: stored is",
    ),
    "stored-by-no-column": (
        {"marts__one": sql("select customer_id from customers", stored="by month")},
        r"marts/one\.sql:5: the SELECT has no column month",
    ),
    "name-of-a-stream": (
        {"marts__customers": PLAIN},
        r"marts/customers\.sql:1: customers is the name of a stream",
    ),
    "staging-that-reads-intermediate": (
        {"intermediate__one": PLAIN, "staging__two": sql("select customer_id from one")},
        r"staging/two\.sql:7: staging may not read one",
    ),
    "unknown-subject": (
        {"marts__one": PLAIN.replace("-- key:", "-- subject: weather\n-- key:")},
        r"marts/one\.sql:4: a mart has a subject, and only a mart: one of money",
    ),
    "subject-of-a-step": (
        {"intermediate__one": PLAIN.replace("-- key:", "-- subject: money\n-- key:")},
        r"intermediate/one\.sql:4: a mart has a subject, and only a mart: one of money",
    ),
    "mart-without-subject": (
        {"marts__one": PLAIN.replace("\n--\n", "\n")},
        r"marts/one\.sql:1: a mart has a subject, and only a mart: one of money",
    ),
    "personal-in-intermediate": (
        {"intermediate__one": sql("select account_id, nickname from accounts", key="account_id")},
        r"intermediate/one\.sql:6: nickname is personal, and intermediate hold none",
    ),
    "staging-that-reads-marts": (
        {"marts__one": PLAIN, "staging__two": sql("select customer_id from one")},
        r"staging/two\.sql:7: staging may not read one",
    ),
    "name-in-two-layers": (
        {"marts__one": PLAIN, "staging__one": PLAIN},
        r"marts/one\.sql:1: staging has that name too",
    ),
    "check-about-nothing": (
        {"marts__one": PLAIN, "checks__two__holds": "-- It holds.\nselect 1 as one"},
        r"checks/two__holds\.sql:1: a check is named",
    ),
    "check-without-a-claim": (
        {"marts__one": PLAIN, "checks__one__holds": "select customer_id from one"},
        r"checks/one__holds\.sql:1: the first comment is not the claim",
    ),
    "check-of-no-known-severity": (
        {
            "marts__one": PLAIN,
            "checks__one__holds": "-- It holds.\n-- severity: fatal\nselect customer_id from one",
        },
        r"checks/one__holds\.sql:2: severity is error or warning",
    ),
    "check-by-month-of-a-table": (
        {
            "marts__one": PLAIN,
            "checks__one__holds": "-- It holds.\n-- each: month\nselect customer_id from one",
        },
        r"checks/one__holds\.sql:2: each is month, of a model kept by month",
    ),
    "check-that-shows-names": (
        {
            "marts__one": PLAIN,
            "checks__one__holds": "-- It holds.\nselect nickname\nfrom accounts",
        },
        r"checks/one__holds\.sql:2: nickname is personal and would be shown",
    ),
    "sample-that-does-not-bind": (
        {"marts__one": sql("select customer_id from customers", sample="select surname from one")},
        r"marts/one\.sql:7: .*surname",
    ),
    "apart-by-nothing": (
        {"marts__one": sql("select customer_id from customers", apart="")},
        r"marts/one\.sql:1: apart is",
    ),
    "apart-in-no-known-way": (
        {"marts__one": sql("select customer_id from customers", apart="by customer_id")},
        r"marts/one\.sql:6: apart is",
    ),
    "apart-by-no-column": (
        {"marts__one": sql("select customer_id from customers", apart="account by account_key")},
        r"marts/one\.sql:6: the SELECT has no column account_key",
    ),
    "apart-by-no-id": (
        {
            "marts__one": sql(
                "select customer_id, app_user_id from customers", apart="customer by app_user_id"
            )
        },
        r"marts/one\.sql:6: app_user_id is no id of an account",
    ),
    "apart-from-a-whole": (
        {
            "marts__one": PLAIN,
            "marts__seen": sql("select customer_id from one", stored="view"),
            "marts__two": sql("select customer_id\nfrom seen", apart="customer by customer_id"),
        },
        r"marts/two\.sql:8: the rows of one do not come apart, so those of two neither",
    ),
    "apart-and-a-view": (
        {"marts__one": PLAIN.replace("-- stored: table", "-- stored: view")},
        r"marts/one\.sql:6: a view comes apart like what it reads",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_with_file_and_line(name, tmp_path):
    """What is wrong with a model is told at load, where it stands."""
    files, expected = REFUSED[name]

    with pytest.raises(ModelError, match=expected) as refused:
        load(written(tmp_path, **files))

    assert "sql/" in refused.value.remedy


def test_what_is_refused_is_accepted_when_it_is_right(tmp_path):
    """The models of the refusals are themselves sound: nothing else is wrong with them."""
    models = load(written(tmp_path, marts__one=PLAIN, staging__two=PLAIN))

    assert [model.name for model in models] == ["two", "one"]
    assert models["one"].columns[0].doc == STREAMS["customers"].column("customer_id").doc


SCHEMA = {
    "a": {"id": "VARCHAR", "name": "VARCHAR", "tags": "VARCHAR[]"},
    "b": {"id": "VARCHAR", "name": "VARCHAR"},
}
LINEAGE = {
    "passed-on": ("select id as other from a", {"other": {("a", "id")}}, {"other"}),
    "computed": ("select id || name as both from a", {"both": {("a", "id"), ("a", "name")}}, ()),
    "constant": ("select 1 as one from a", {"one": set()}, ()),
    "star": (
        "select * from a",
        {"id": {("a", "id")}, "name": {("a", "name")}, "tags": {("a", "tags")}},
        {"id", "name", "tags"},
    ),
    "star-of-one-table-excluded": (
        "select b.* exclude (id) from a inner join b on a.id = b.id",
        {"name": {("b", "name")}},
        {"name"},
    ),
    "cte": (
        "with x as (select id, upper(name) as loud from a) select loud, id from x",
        {"loud": {("a", "name")}, "id": {("a", "id")}},
        {"id"},
    ),
    "cte-named-like-a-table": (
        "with b as (select name as id from a) select id from b",
        {"id": {("a", "name")}},
        {"id"},
    ),
    "union": (
        "select id as x from a union all select name as x from b",
        {"x": {("a", "id"), ("b", "name")}},
        (),
    ),
    "subquery": (
        "select (select max(b.name) from b where b.id = a.id) as best from a",
        {"best": {("b", "name"), ("b", "id"), ("a", "id")}},
        (),
    ),
    "derived-table": (
        "select y from (select name as y from a) as z",
        {"y": {("a", "name")}},
        {"y"},
    ),
    "unnest": ("select unnest(tags) as tag from a", {"tag": {("a", "tags")}}, ()),
    "unnest-in-from": (
        "select t.tag from a, unnest(a.tags) as t(tag)",
        {"tag": {("a", "tags")}},
        (),
    ),
    "window": (
        "select lag(name) over (partition by id order by id) as was from a",
        {"was": {("a", "name"), ("a", "id")}},
        (),
    ),
    "what-it-is-filtered-by-is-no-part": (
        "select a.id from a inner join b on a.name = b.name where b.id = '1'",
        {"id": {("a", "id")}},
        {"id"},
    ),
}


@pytest.mark.parametrize("name", LINEAGE)
def test_lineage_of(name):
    """Each column leads to the columns that its value is made of, through whatever lies between."""
    body, sources, passed_on = LINEAGE[name]

    found = trace(sqlglot.parse_one(body, dialect="duckdb"), SCHEMA)

    held = {column: set(one.sources) for column, one in found.items()}
    if name == "subquery":
        # A subquery that is computed with may count what it is filtered by, but never less.
        assert ("b", "name") in held["best"] <= sources["best"]
    else:
        assert held == sources
    assert {column for column, one in found.items() if one.passed_on} == set(passed_on)


MOVES = sql(
    "select\n    transaction_id,\n    strftime(booked_at at time zone 'UTC', '%Y-%m') as month,\n"
    "    amount\nfrom transactions",
    "month  UTC month.",
    key="transaction_id",
    stored="by month",
)
TOTALS = sql(
    "select month, count(*) as moves, sum(amount) as total from moves group by month",
    "month  UTC month.",
    "moves  How many.",
    "total  Their sum.",
    key="month",
)
GROUPS = sql("select 'x' as all_of, customer_id from customers", "all_of  One.", key="all_of")
READER = sql("select all_of from groups", key="all_of")
NAMES = sql("select customer_id from customers")


@pytest.fixture
def models(tmp_path):
    """Five small models: two in a chain by month, two in a chain whose key can break, one alone."""
    files = {"moves": MOVES, "totals": TOTALS, "groups": GROUPS, "reader": READER, "names": NAMES}
    return load(written(tmp_path / "sql", **{f"marts__{k}": v for k, v in files.items()}))


@pytest.fixture
def lake(tmp_path):
    """A lake with a customer, and an account with a movement in each of two months."""
    lake = Lake(tmp_path / "lake", "sandbox")
    commit(lake, first := pull(), customers(first, "c1"))
    for day in (JANUARY, FEBRUARY):
        brought(lake, NOW, day)
    return lake


def brought(lake, asked_at, *days):
    """Commit the movements of a month: everything that there is of it."""
    one = pull(
        "transactions",
        "a",
        asked_at=asked_at,
        month=f"{days[0]:%Y-%m}",
        covered_from=days[0].replace(day=1),
        covered_to=days[0].replace(day=28),
    )
    commit(lake, one, movements(one, *days), month=one.month)


def built(lake, models, **more):
    """What was written, by model, and which models had a problem."""
    found = build(lake, models, **{"hash_key": "k", **more})
    return {one.model.name: one.written for one in found}, [
        one.model.name for one in found if one.problem
    ]


def rows(lake, models, query):
    """What the tables of the newest build answer, without a warehouse that shows them."""
    manifest = current_manifest(lake)
    with duckdb.connect() as connection:
        for model in models:
            connection.execute(f"create view {model.name} as {stored_rows(lake, model, manifest)}")
        return connection.execute(query).fetchall()


def test_nothing_is_built_again_when_nothing_changed(lake, models):
    """The second build writes no file, whatever was committed in between to no effect."""
    first, _ = built(lake, models)
    files = sorted((lake.folder / "marts").rglob("*.parquet"))

    second, problems = built(lake, models)

    assert first == {"moves": 2, "totals": 1, "groups": 1, "reader": 1, "names": 1}
    assert set(second.values()) == {0}
    assert problems == []
    assert sorted((lake.folder / "marts").rglob("*.parquet")) == files


@pytest.mark.parametrize(
    ("text", "other", "written_again"),
    [("For a test", "Said better", 0), ("from customers", "from customers where true", 1)],
)
def test_other_words_build_nothing_again(lake, tmp_path, text, other, written_again):
    """What a header says changes no row; what its SELECT says may."""
    for said in (text, other):
        models = load(written(tmp_path / "sql", marts__names=PLAIN.replace(text, said)))
        [names] = build(lake, models, hash_key="k")

    assert names.written == written_again


def test_a_check_that_finds_something_else_is_told_once(lake, tmp_path):
    """It turns when it runs first and when its offenders are others, and not in between."""
    claim = "-- There is but one movement.\nselect transaction_id from moves limit 9 offset 1"
    one = load(written(tmp_path / "sql", marts__moves=MOVES, checks__moves__alone=claim))

    def turned():
        [moves] = build(lake, one, hash_key="k")
        return [(check.name, moves.checks[check].offenders) for check in moves.changed_checks]

    assert turned() == [("alone", 1)]
    assert turned() == []
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)
    assert turned() == [("alone", 2)]
    brought(lake, NOW + 2 * DAY, FEBRUARY, FEBRUARY + DAY)
    assert turned() == []


@pytest.mark.parametrize("each", ["", "-- each: month\n"])
@pytest.mark.parametrize("fails", ["moves", "below"])
def test_a_build_that_fails_forgets_no_finding(fails, each, lake, tmp_path):
    """A model that stays as it was keeps what its checks had found; so do the others."""
    claim = f"-- There is no movement.\n{each}select transaction_id from moves"
    fine = sql("select customer_id from customers")
    odd = sql("select customer_id from customers union all select customer_id from customers")
    both = MOVES.replace("\nfrom transactions", "\nfrom transactions, range(2)")
    before = {"marts__moves": MOVES, "marts__below": fine, "checks__moves__none": claim}
    after = before | ({"marts__moves": both} if fails == "moves" else {"marts__below": odd})

    def found(**files):
        built = build(lake, load(written(tmp_path / "sql", **files)), hash_key="k")
        problems = [one.model.name for one in built if one.problem]
        kept = current_manifest(lake).checks["moves"]["none"]
        (moves,) = (one for one in built if one.model.name == "moves")
        (shown,) = moves.checks.values()
        assert shown == kept
        return problems, kept.offenders, [check.name for check in moves.changed_checks]

    commit(lake, first := pull(), customers(first, "c1"))
    assert found(**before) == ([], 2, ["none"])
    assert found(**after) == ([fails], 2, [])
    assert found(**before) == ([], 2, [])


def test_a_monthly_check_sees_one_month_at_a_time(lake, tmp_path):
    """What it finds is the sum of what it finds in each month, whichever of them changed."""
    claim = (
        "-- A month has but one movement.\n-- each: month\n"
        "select count(*) as moves from moves having count(*) > 1"
    )
    one = load(written(tmp_path / "sql", marts__moves=MOVES, checks__moves__alone=claim))

    def found():
        [moves] = build(lake, one, hash_key="k")
        [result] = moves.checks.values()
        return result.offenders, result.shown

    assert found() == (0, [])
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)
    assert found() == (1, [{"moves": "2"}])
    brought(lake, NOW + DAY, JANUARY, JANUARY + DAY, JANUARY + 2 * DAY)
    assert found() == (2, [{"moves": "3"}, {"moves": "2"}])


@pytest.mark.parametrize(
    ("day", "late"),
    [
        ("booked_at::date", [FEBRUARY, FEBRUARY]),
        ("booked_at::date + case when month(booked_at) = 1 then 31 else 0 end", [FEBRUARY]),
    ],
    ids=["within-a-month", "across-months"],
)
def test_a_key_that_breaks_in_a_month_that_changed_is_found(day, late, lake, tmp_path):
    """Whether the key's days lie apart by month or not, a month that changed may double none."""
    days = sql(
        f"select\n    ({day})::date as moved_on,\n"
        "    strftime(booked_at at time zone 'UTC', '%Y-%m') as month\n"
        "from transactions\nwhere booked_at < timestamptz '2026-02-11'",
        "moved_on  A day.",
        "month  UTC month.",
        key="moved_on",
        stored="by month",
    )
    models = load(written(tmp_path / "sql", marts__days=days))
    brought(lake, NOW + DAY, FEBRUARY + DAY)
    assert built(lake, models) == ({"days": 2}, [])

    brought(lake, NOW + 2 * DAY, *late)

    assert built(lake, models) == ({"days": 1}, ["days"])
    assert rows(lake, models, "select count(*) from days") == [(1,)]


def test_only_the_month_that_changed_is_built_again(lake, models):
    """A new read of one month writes that month and what rests on it, and nothing else."""
    built(lake, models)
    january = current_manifest(lake).parts["moves"]["2026-01"]
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)

    again, _ = built(lake, models)

    assert again == {"moves": 1, "totals": 1, "groups": 0, "reader": 0, "names": 0}
    assert current_manifest(lake).parts["moves"]["2026-01"] == january
    assert rows(lake, models, "select month, moves, total from totals order by all") == [
        ("2026-01", 1, 1),
        ("2026-02", 2, 2),
    ]


def test_months_are_built_together_while_few_rows_stand_behind_them(lake, models):
    """Each has its own file all the same, and the rows that it has when it is built alone."""
    query = "select month, count(*), sum(amount) from moves group by all order by all"
    together, _ = built(lake, models)
    first = rows(lake, models, query)
    for file in (lake.folder / "manifests").iterdir():
        file.unlink()
    alone, _ = built(lake, models, rows_at_once=0)

    assert (alone, rows(lake, models, query)) == (together, first)
    assert len(first) == alone["moves"] == 2
    assert len(list((lake.folder / "marts").glob("moves/month=*/*.parquet"))) == 4


def test_a_part_that_is_cut_or_gone_is_built_again(lake, models):
    """Whatever is not as long as it was: the build makes it anew, and all that rests on it."""
    built(lake, models)
    before = rows(lake, models, "select * from totals order by all")
    for part, cut in zip(current_manifest(lake).parts["moves"].values(), (0, 100), strict=True):
        file = lake.folder / part.file
        file.write_bytes(file.read_bytes()[:cut])

    again, problems = built(lake, models)

    assert (again["moves"], problems) == (2, [])
    assert rows(lake, models, "select * from totals order by all") == before


@pytest.mark.parametrize("data", [b"", b'{"parts":', None], ids=["empty", "cut", "flipped"])
def test_a_manifest_that_is_damaged_gives_way_to_the_one_before(lake, models, data):
    """The next build heals it, from the manifest before or from nothing."""
    built(lake, models)
    before = rows(lake, models, "select * from totals order by all")
    (manifest,) = (lake.folder / "manifests").glob("*.json")
    held = manifest.read_bytes()
    manifest.write_bytes(data if data is not None else held.replace(b"moves", b"movez", 1))

    again, problems = built(lake, models)

    assert again["moves"] == 2
    assert problems == []
    assert rows(lake, models, "select * from totals order by all") == before


def test_a_part_that_comes_out_the_same_stops_the_chain(lake, models):
    """A month that is read again unchanged is built, found the same, and goes no further."""
    built(lake, models)
    before = current_manifest(lake).parts
    brought(lake, NOW + DAY, FEBRUARY)

    again, _ = built(lake, models)

    assert (again["moves"], again["totals"]) == (1, 0)
    after = current_manifest(lake).parts
    assert after["moves"]["2026-02"].file == before["moves"]["2026-02"].file
    assert after["totals"] == before["totals"]


def test_a_month_that_is_emptied_is_empty(lake, models):
    """Movements that a bank takes back are gone from what rests on them."""
    built(lake, models)
    one = pull(
        "transactions",
        "a",
        asked_at=NOW + DAY,
        month="2026-02",
        covered_from=dt.date(2026, 2, 1),
        covered_to=dt.date(2026, 2, 28),
    )
    commit(lake, one, movements(one), month="2026-02")

    built(lake, models)

    assert rows(lake, models, "select month from totals") == [("2026-01",)]


def test_a_doubled_key_leaves_a_model_and_its_readers_as_they_were(lake, models):
    """Whoever does not read it moves on; it and its readers show the last sound build."""
    built(lake, models)
    commit(lake, second := pull(asked_at=NOW + DAY), customers(second, "c1", "c2"))

    _, problems = built(lake, models)

    assert problems == ["groups", "reader"]
    publish(lake, models)
    with connect(lake) as warehouse:
        assert warehouse.execute("select customer_id from groups").fetchall() == [("c1",)]
        assert warehouse.execute("from reader").fetchall() == [("x",)]
        assert warehouse.execute("select count(*) from names").fetchall() == [(2,)]
    commit(lake, third := pull(asked_at=NOW + 2 * DAY), customers(third, "c3"))
    assert built(lake, models)[1] == []
    assert rows(lake, models, "select customer_id from groups") == [("c3",)]


def test_a_renamed_model_keeps_what_was_built(lake, models, tmp_path):
    """Its rows show at once, and what reads it is written anew only where rows changed."""
    built(lake, models)
    files = sorted((lake.folder / "marts").rglob("*.parquet"))
    new = MOVES.replace("-- stored:", "-- formerly: moves\n-- stored:")
    totals = TOTALS.replace("from moves", "from int_moves")
    renamed = load(written(tmp_path / "new", intermediate__int_moves=new, marts__totals=totals))

    publish(lake, renamed)
    with connect(lake) as warehouse:
        assert (
            warehouse.execute("from moves").fetchall()
            == warehouse.execute("from intermediate.int_moves").fetchall()
        )
        assert warehouse.execute("select sum(moves) from totals").fetchone()[0] > 0
    assert [one.changed for one in build(lake, renamed, hash_key="k")] == [0, 0]
    assert sorted((lake.folder / "marts").rglob("*.parquet")) == files


@pytest.mark.parametrize("only", ["totals", "reader"])
def test_one_model_is_built_from_what_was_built_last(only, lake, models):
    """What it reads need not be asked for, as when one asset is materialized."""
    built(lake, models)
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)

    [one] = build(lake, models, hash_key="other", only={only})

    assert (one.problem, one.written) == (None, 1)
    if only == "totals":
        found = rows(lake, models, "select month, moves from totals order by all")
        assert found == [("2026-01", 1), ("2026-02", 1)]


def test_another_key_of_hashes_builds_everything_anew(lake, models):
    """Tables that were hashed with two keys never stand side by side."""
    built(lake, models)

    again, _ = built(lake, models, hash_key="other")

    assert again == {"moves": 2, "totals": 1, "groups": 1, "reader": 1, "names": 1}


def test_a_crash_before_the_manifest_leaves_the_old_build(lake, models, monkeypatch):
    """Files that no manifest names do not count; the next build makes up for it."""
    built(lake, models)
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)
    with monkeypatch.context() as broken:
        broken.setattr(manifests, "sealed", _crash)
        with pytest.raises(RuntimeError, match="power cut"):
            build(lake, models, hash_key="k")

    assert rows(lake, models, "select count(*) from moves") == [(2,)]
    built(lake, models)
    assert rows(lake, models, "select count(*) from moves") == [(3,)]


def _crash(*_):
    raise RuntimeError("power cut")


def test_two_builds_at_once_lose_nothing_of_each_other(lake, models):
    """Whoever comes second begins again from what the first made, and shows newer rows too."""
    built(lake, models)
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)
    inner = []

    def overtaken(_name, done, total):
        if done == total and not inner:
            brought(lake, NOW + 2 * DAY, FEBRUARY, FEBRUARY + DAY, FEBRUARY + 2 * DAY)
            inner.append(built(lake, models, only={"moves", "totals"}))

    outer, problems = built(lake, models, progress=overtaken)

    assert inner == [({"moves": 1, "totals": 1}, [])]
    assert (problems, outer["moves"], outer["groups"]) == ([], 0, 0)
    assert rows(lake, models, "select sum(moves) from totals") == [(4,)]
    assert sorted(file.name for file in (lake.folder / "manifests").iterdir()) == [
        f"{number:010}.json" for number in (1, 2, 3)
    ]
    named = {
        part.file for parts in current_manifest(lake).parts.values() for part in parts.values()
    }
    assert all((lake.folder / file).exists() for file in named)
    assert not [one for one in vacuum(lake).deletions if one.reason is Reason.UNKNOWN]


def test_builds_that_are_always_overtaken_end(lake, models):
    """With a sentence, and with the others' tables as they are."""

    def overtaken(name, *_):
        if name == "moves":
            brought(lake, NOW + DAY, FEBRUARY)
            built(lake, models, only={"names"})

    with pytest.raises(building.BuildError, match="build once more"):
        build(lake, models, hash_key="k", progress=overtaken)
    assert current_manifest(lake).number == building._ATTEMPTS


def test_a_manifest_of_the_future_does_not_freeze_the_tables(lake, models):
    """Until format 3 its name was made of a clock; whatever is built now is newer."""
    built(lake, models)
    (file,) = (lake.folder / "manifests").iterdir()
    file.rename(file.with_name(f"{2**55:014x}{'0' * 18}.json"))
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)

    for _ in range(2):
        built(lake, models)
        assert rows(lake, models, "select sum(moves) from totals") == [(3,)]


def test_vacuum_keeps_what_a_manifest_names(lake, models):
    """Old files go, whatever the newest build shows stays, and young files are left alone."""
    built(lake, models)
    brought(lake, NOW + DAY, FEBRUARY, FEBRUARY + DAY)
    built(lake, models)
    named = {
        part.file for parts in current_manifest(lake).parts.values() for part in parts.values()
    }

    assert not vacuum(lake).deletions
    deleted = [one.key for one in vacuum(lake, older_than_seconds=-1).deletions]

    left = {
        str(file.relative_to(lake.folder)) for file in (lake.folder / "marts").rglob("*.parquet")
    }
    assert left == named
    assert {file.parent.name for file in deleted} == {"month=2026-02", "totals", "manifests"}
    assert rows(lake, models, "select sum(moves) from totals") == [(3,)]


@pytest.fixture(scope="module")
def macros():
    """A connection with the macros and a made-up key."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        files = sorted((ROOT / "macros").glob("*.sql"))
        add_macros(connection, [file.read_text() for file in files], "made-up-key")
        yield connection


_WORDS = {"\ufdf2", "\ufdf4", "\ufdfc"}
"""Words drawn as one character that names and money are written with."""


def test_letters_match_whatever_form_unicode_gives_them(macros):
    """Every presentation form of an Arabic letter is the letter of Unicode's own tables."""
    blocks = ((0x0600, 0x0700), (0xFB50, 0xFE00), (0xFE70, 0xFF00), (0xFF01, 0xFF5F))
    for first, last in blocks:
        for number in range(first, last):
            letter = chr(number)
            plain = unicodedata.normalize("NFKC", letter)
            is_mark = plain.strip() != plain
            if unicodedata.category(letter) == "Cn" or is_mark:
                continue
            if len(plain) > 1 and letter not in _WORDS and not 0xFEF5 <= number <= 0xFEFC:
                continue
            ours, theirs = macros.execute(
                "select matchable($1), matchable($2)", [f"ب{letter}ب", f"ب{plain}ب"]
            ).fetchone()
            assert ours == theirs, f"{number:04x}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Noura   bint\tOmar ", "NOURA BINT OMAR"),
        ("أحمـــد", "احمد"),
        ("فَاطِمَة", "فاطمه"),
        ("\u200fعلى\u202c", "علي"),
        ("١٢٣ ۴۵۶", "123 456"),
        ("", ""),
        (None, None),
    ],
    ids=["spaces", "tatweel", "vowels", "marks-of-direction", "digits", "empty", "null"],
)
def test_text_for_matching_has_no(text, expected, macros):
    """What banks write at will makes no difference."""
    assert macros.execute("select matchable($1)", [text]).fetchone() == (expected,)


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        ("2026-03-31T20:59:59.999999+00:00", "2026-03-31"),
        ("2026-03-31T21:00:00+00:00", "2026-04-01"),
        ("2028-02-28T21:00:00+00:00", "2028-02-29"),
        ("2028-02-29T21:00:00+00:00", "2028-03-01"),
        ("2025-12-31T21:00:00+00:00", "2026-01-01"),
        ("1969-12-31T20:59:59.999999+00:00", "1969-12-31"),
        ("1969-12-31T21:00:00+00:00", "1970-01-01"),
        ("1950-02-28T20:59:59+00:00", "1950-02-28"),
        ("1950-02-28T21:00:00+00:00", "1950-03-01"),
    ],
    ids=[
        "second-before-midnight",
        "midnight",
        "leap-day",
        "after-the-leap-day",
        "new-year",
        "before-1970",
        "first-of-1970",
        "long-before",
        "long-before-at-midnight",
    ],
)
def test_the_day_in_riyadh_of(instant, day, macros):
    """A day turns at 21:00 UTC, in every year."""
    found = macros.execute("select riyadh_date($1::timestamptz)", [instant]).fetchone()

    assert found == (dt.date.fromisoformat(day),)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Riyadh", "America/New_York"])
def test_the_utc_day_is_the_same_in_every_session(zone, macros):
    """A day turns at midnight UTC, before 1970 too, whatever the session's zone."""
    macros.execute(f"set TimeZone = '{zone}'")
    instants = ["2026-02-28T23:59:59.999999Z", "2026-03-01T00:00:00Z", "1969-12-31T23:59:59Z"]

    found = [
        macros.execute(f"select utc_day(timestamptz '{one}')::varchar").fetchone()
        for one in instants
    ]

    assert found == [("2026-02-28",), ("2026-03-01",), ("1969-12-31",)]
    assert macros.execute("select utc_day(null)").fetchone() == (None,)


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=80), key=st.text(max_size=20).filter(lambda k: len(k.encode()) <= 64))
def test_hashes_are_those_of_hmac(text, key):
    """keyed_hash is HMAC-SHA256 cut to 128 bits, whatever the text and the key."""
    with duckdb.connect() as connection:
        add_macros(connection, [(ROOT / "macros" / "keyed_hash.sql").read_text()], key)
        (found,) = connection.execute("select keyed_hash($1)", [text]).fetchone()

    assert found == hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def test_readers_neither_wait_nor_see_half_a_build(lake, models):
    """Three readers ask while models build and the warehouse is swapped, each of one build."""
    built(lake, models)
    publish(lake, models)
    question = "select (select count(*) from moves), (select sum(moves) from totals)"
    with connect(lake) as one, connect(lake) as two, connect(lake) as three:
        readers = (one, two, three)
        answers = []

        def ask(*_):
            # The build is held until all have been answered: had anyone to wait, none would end.
            threads = [
                threading.Thread(
                    target=lambda r=reader: answers.append(r.execute(question).fetchall()[0])
                )
                for reader in readers
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=60)
                assert not thread.is_alive()

        for step in range(1, 4):
            brought(lake, NOW + step * DAY, *(FEBRUARY + n * DAY for n in range(step + 1)))
            build(lake, models, hash_key="k", progress=ask)
            ask()
            publish(lake, models)
            ask()
            with connect(lake) as later:
                assert later.execute(question).fetchall() == [(2 + step, 2 + step)]
    assert len(answers) == 3 * 3 * (len(list(models)) + 1 + 2)
    assert set(answers) == {(2, 2)}


def _materialised(instance, *keys):
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(key))


def test_an_update_requests_what_is_downstream_once(models):
    """An update of a stream requests the models that read it, in order, each once; others none."""
    streams = [dg.AssetSpec(name) for name in STREAMS]
    assets = model_assets(models)
    lake = LakeResource(root="unused", environment="sandbox")
    defs = dg.Definitions(assets=[*streams, *assets], resources={"lake": lake, "progress": silent})
    names = [*(model.name for model in models), "warehouse"]

    def requested(result):
        return {name for name in names if result.get_num_requested(dg.AssetKey(name))}

    with dg.DagsterInstance.ephemeral() as instance:
        first = dg.evaluate_automation_conditions(defs=defs, instance=instance)
        assert requested(first) == set()
        _materialised(instance, "transactions")
        asked, cursor = [], first.cursor
        for _ in range(6):
            result = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=cursor)
            cursor = result.cursor
            now = sorted(requested(result), key=names.index)
            asked += now
            _materialised(instance, *now)

    assert sorted(asked) == sorted({"moves", "totals", "warehouse"})
    assert asked.index("moves") < asked.index("totals")


def test_a_circle_is_found_whatever_its_length(tmp_path):
    """Three models that read each other in turn are refused, with the whole circle named."""
    files = {
        f"marts__m{place}": sql(f"select customer_id from m{(place + 1) % 3}") for place in range(3)
    }

    with pytest.raises(ModelError, match="circle") as refused:
        load(written(tmp_path, **files))

    assert all(f"m{place}" in str(refused.value) for place in range(3))
    assert isinstance(refused.value.file, Path)


def test_what_was_read_is_kept_until_something_changes(tmp_path):
    """A second load gives the same models, another SQL file new ones, and rubbish is read anew."""
    root = tmp_path / "sql"
    shutil.copytree(
        ROOT,
        root,
        ignore=shutil.ignore_patterns(
            "__pycache__", "intermediate", "marts", "pii", "checks", "table_macros"
        ),
    )
    (root / "marts").mkdir()
    first = load(root)
    [kept] = (root / "__pycache__").iterdir()

    assert load(root) == first == read(root)

    kept.write_bytes(b"rubbish")
    assert load(root) == first

    (root / "marts" / "dim_new.sql").write_text(
        "-- New.\n-- subject: trust\n-- grain:  one row per bank\n-- key:    bank_identifier\n"
        "-- stored: view\nselect banks.bank_identifier from banks\n"
    )
    assert "dim_new" in load(root)
    assert len(list((root / "__pycache__").iterdir())) == 1


def test_what_was_read_is_read_again_when_code_changes(tmp_path, monkeypatch):
    """A change of any file of Python, however deep its folder, makes the kept models stale."""
    root, code = written(tmp_path / "sql", marts__one=PLAIN), tmp_path / "code"
    (code / "deep").mkdir(parents=True)
    (code / "deep" / "module.py").write_text("one = 1\n")
    assert {Path(pipelines.__file__).parent, Path(streams.__file__).parent} == set(CODE)
    monkeypatch.setattr(pipelines.models.cache, "CODE", (code,))
    load(root)
    [kept] = (root / "__pycache__").iterdir()

    load(root)
    assert kept.exists()
    (code / "deep" / "module.py").write_text("one = 2\n")
    load(root)

    assert not kept.exists()


MACRO = "-- For a test.\n--\n-- parameters: since\n-- sample: {sample}\n{select}\n"


def test_a_question_with_parameters_is_there_once_all_it_reads_is(tmp_path):
    """A table macro is published beside the models that it reads, and not before they are built."""
    folder = written(
        tmp_path / "sql",
        marts__one=PLAIN,
        table_macros__ones=MACRO.format(
            sample="from ones('a')", select="select * from one where customer_id > since"
        ),
    )
    lake = Lake(tmp_path / "lake", "sandbox")
    models = load(folder)
    query = "select count(*) from ones('')"

    publish(lake, models)
    with connect(lake) as connection, pytest.raises(duckdb.CatalogException):
        connection.execute(query)
    build(lake, models, hash_key="k")
    publish(lake, models)
    with connect(lake) as connection:
        assert connection.execute(query).fetchone() == (0,)


@pytest.mark.parametrize(
    ("sample", "select", "problem"),
    [
        ("from ones('a')", "select * from nothing", "there is no stream or model nothing"),
        ("from ones('a')", "select gone from one", "gone"),
        ("from ones()", "select * from one where customer_id > since", "ones"),
        ("", "select * from one", "a sentence, parameters and a sample"),
    ],
    ids=["unknown table", "unknown column", "wrong sample", "no sample"],
)
def test_a_question_that_cannot_be_asked_is_refused(sample, select, problem, tmp_path):
    """With its file, as models are."""
    text = MACRO.format(sample=sample, select=select)
    folder = written(tmp_path, marts__one=PLAIN, table_macros__ones=text)

    with pytest.raises(ModelError, match=rf"table_macros/ones\.sql:\d+: .*{problem}"):
        load(folder)


def third_build(lake, models):
    """Three builds with 2, 3 and 4 movements, and another that changed nothing."""
    for days in (0, 1, 2):
        brought(lake, NOW + days * DAY, *(FEBRUARY + one * DAY for one in range(days + 1)))
        built(lake, models)
    built(lake, models)


def test_a_rollback_lets_the_build_before_count_again(lake, models):
    """Under a new number; a second one goes further back, and the next build forwards again."""
    third_build(lake, models)
    query = "select count(*) from moves"

    done = roll_back(lake)
    assert (done.number, dict(done.rows)) == (2, {"moves": (4, 3), "totals": (2, 2)})
    assert rows(lake, models, query) == [(3,)]
    assert (current_manifest(lake).number, current_manifest(lake).commits) == (5, 6)
    publish(lake, models)
    with connect(lake) as connection:
        assert connection.execute(query).fetchone() == (3,)

    assert roll_back(lake).number == 1
    assert rows(lake, models, query) == [(2,)]
    before = sorted((lake.folder / "manifests").iterdir())
    with pytest.raises(RollbackError, match="no earlier build with other rows"):
        roll_back(lake)
    assert sorted((lake.folder / "manifests").iterdir()) == before

    again, problems = built(lake, models)
    assert problems == []
    assert (again["moves"], again["names"]) == (1, 0)
    assert rows(lake, models, query) == [(4,)]
    done = roll_back(lake)
    assert (done.number, done.rows["moves"]) == (1, (4, 2))


def test_a_rollback_is_refused_where_files_are_gone(lake, models):
    """A vacuum deleted them; the tables stay as they are. Nor is there one before a build."""
    with pytest.raises(RollbackError, match="no earlier build"):
        roll_back(lake)
    third_build(lake, models)
    (file,) = {Path(part.file) for part in manifest_of(lake, 2).parts["totals"].values()} - {
        Path(part.file) for part in current_manifest(lake).parts["totals"].values()
    }
    (lake.folder / file).unlink()

    with pytest.raises(RollbackError, match=r"build 2 were deleted by a vacuum"):
        roll_back(lake)
    assert current_manifest(lake).number == 4

    vacuum(lake, older_than_seconds=-1)
    with pytest.raises(RollbackError, match="no earlier build"):
        roll_back(lake)
    assert rows(lake, models, "select count(*) from moves") == [(4,)]


def manifest_of(lake, number):
    """The manifest with a number."""
    return manifests.read_manifest(lake, manifests.MANIFESTS / f"{number:010}.json")


def test_a_rollback_that_crashes_or_is_overtaken_changes_nothing(lake, models, monkeypatch):
    """The newest build counts: the one that was, or the one that came meanwhile."""
    third_build(lake, models)
    with monkeypatch.context() as broken:
        broken.setattr(manifests, "sealed", _crash)
        with pytest.raises(RuntimeError, match="power cut"):
            roll_back(lake)
    assert rows(lake, models, "select count(*) from moves") == [(4,)]

    def overtaken(lake, manifest):
        brought(lake, NOW + 9 * DAY, FEBRUARY)
        built(lake, models)

    with monkeypatch.context() as busy:
        busy.setattr(rollback, "_check_files", overtaken)
        with pytest.raises(RollbackError, match="another build ended meanwhile"):
            roll_back(lake)
    assert rows(lake, models, "select count(*) from moves") == [(2,)]


def test_a_vacuum_keeps_the_build_that_counts_again(lake, models):
    """Its files are named by the new manifest, however old they are."""
    third_build(lake, models)
    roll_back(lake)
    publish(lake, models)

    vacuum(lake, older_than_seconds=-1)

    assert rows(lake, models, "select count(*) from moves") == [(3,)]
    assert not fsck(lake).findings
