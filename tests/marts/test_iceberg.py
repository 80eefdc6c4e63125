"""Iceberg tables over the files of a build: what other readers find, and what no crash can do."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.parse
from decimal import Decimal, localcontext
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from known import KEY, known, models
from pyiceberg.catalog import load_catalog

from lean_resources.errors import ConfigError
from pipelines.dagster_defs.in_process import instance_at
from pipelines.dagster_defs.resources import LakeResource, bound
from pipelines.dagster_defs.warehouse_assets import iceberg_asset
from pipelines.lake.lake import Lake
from pipelines.lake.places import find, walk
from pipelines.lake.storage import Key
from pipelines.models.build import build
from pipelines.models.manifest import current_manifest, keep_manifest
from pipelines.models.model import Stored
from pipelines.operate.vacuum import vacuum
from pipelines.publish import iceberg
from pipelines.publish.iceberg import publish_tables
from pipelines.publish.publications import Publications
from pipelines.publish.warehouse import connect

FEW = ("fct_transactions", "fct_cash_flow_monthly", "dim_banks")
EXTRA = ("avro", "iceberg")
KILLED = """
import os, signal, sys
from pathlib import Path
from pyiceberg.catalog.sql import SqlCatalog
from known import models
from test_iceberg import few
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Storage
from pipelines.publish.iceberg import publish_tables

passed = 0

def watch(owner, name, fatal):
    inner = getattr(owner, name)
    def counted(*args, **kwargs):
        reached(fatal)
        done = inner(*args, **kwargs)
        reached(fatal)
        return done
    setattr(owner, name, counted)

def reached(fatal):
    global passed
    passed += 1
    if passed == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

chosen, folder = few(), Path(sys.argv[1])
for line in sys.stdin:
    if os.fork() == 0:
        for owner, name in ((SqlCatalog, "commit_table"), (Storage, "put"), (Storage, "delete")):
            watch(owner, name, int(line))
        publish_tables(Lake(folder, "sandbox"), chosen)
        os._exit(passed)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def few():
    """The models as if there were these marts only."""
    return dataclasses.replace(models(), by_name={name: models()[name] for name in FEW})


@pytest.fixture
def lake(tmp_path):
    """A copy of a world's lake whose tables were built and published."""
    world = known(7)
    assert world.connection
    shutil.copytree(world.lake.folder, tmp_path / "lake" / "sandbox")
    return Lake(tmp_path / "lake", "sandbox")


def catalogue_of(lake):
    """The catalogue, as whoever reads it opens it."""
    return load_catalog(
        "leanhouse", type="sql", uri=f"sqlite:///{lake.folder}/iceberg/catalogue.db"
    )


def table_of(lake, name):
    """A published table."""
    return catalogue_of(lake).load_table(f"marts.{name}")


def sets_of(lake):
    """Snapshot and rows of each table, by build and table, as `builds` has them."""
    rows = table_of(lake, "builds").scan().to_arrow().to_pylist()
    return {
        (row["build_number"], row["table_name"]): (row["snapshot_id"], row["row_count"])
        for row in rows
    }


def sums_of(arrow):
    """Rows, and the exact sum of each decimal column."""
    with localcontext(prec=60):
        return arrow.num_rows, {
            field.name: sum((v for v in arrow[field.name].to_pylist() if v is not None), Decimal(0))
            for field in arrow.schema
            if pa.types.is_decimal(field.type)
        }


def next_build(lake, name="fct_transactions", share=2):
    """A build that leaves one row in so many of the newest part of a table; its month."""
    manifest = current_manifest(lake)
    month, part = max((m, p) for m, p in manifest.parts[name].items() if p.rows)
    key = Key(part.file).with_name(f"made-by-a-test-{manifest.number}.parquet")
    with lake.connect(()) as connection:
        connection.execute(
            f"copy (select * from read_parquet('{lake.folder / part.file}', hive_partitioning ="
            f" false) using sample reservoir({max(1, part.rows // share)} rows) repeatable (1))"
            f" to '{lake.folder / key}' (format parquet, parquet_version v1)"
        )
        rows = connection.execute(f"select count(*) from '{lake.folder / key}'").fetchone()[0]
    size = (lake.folder / key).stat().st_size
    changed = type(part)(str(key), part.fingerprint, key.stem, rows, size, form=part.form)
    manifest.parts[name][month] = changed
    manifest.number += 1
    keep_manifest(lake, manifest, "a-test")
    return month


def test_each_reader_finds_the_rows_and_the_money_of_the_warehouse(lake):
    """Both pyiceberg and polars: every stored mart, its meanings, and no copied row."""
    done = publish_tables(lake, models())

    stored = {m.name for m in models() if m.layer == "marts" and not m.stored.is_view}
    names = {name for _, name in catalogue_of(lake).list_tables("marts")}
    assert names - {"builds"} == stored
    assert set(done.changed) == {n for n in stored if any(current_manifest(lake).parts[n].values())}
    files = set()
    with connect(lake) as warehouse:
        for name in sorted(stored):
            table = table_of(lake, name)
            truth = sums_of(warehouse.sql(f"from {name}").to_arrow_table())
            assert sums_of(table.scan().to_arrow()) == truth, name
            assert sums_of(pl.scan_iceberg(table).collect().to_arrow()) == truth, name
            docs = {field.name: field.doc for field in table.schema().fields}
            assert docs == {column.name: column.doc for column in models()[name].columns}
            assert not any(field.required for field in table.schema().fields)
            files |= {task.file.file_path for task in table.scan().plan_files()}
    parts = [p for n in stored for p in current_manifest(lake).parts[n].values() if p.rows]
    assert files == {f"file://{lake.folder}/{part.file}" for part in parts}
    copied = {file.parent.parent.name for file in (lake.folder / "iceberg").rglob("*.parquet")}
    assert copied == {"builds"}
    assert all(one.place is not None for one in walk(lake.storage, "lake/sandbox/"))


EXTENSION = """
import sys
from pathlib import Path
import duckdb, duckdb_extension_avro, duckdb_extension_iceberg

connection = duckdb.connect()
for module in (duckdb_extension_avro, duckdb_extension_iceberg):
    (file,) = Path(module.__file__).parent.rglob("*.duckdb_extension")
    connection.execute(f"load '{file}'")
for line in sys.stdin:
    metadata, *amounts = line.split()
    sums = "".join(f', sum("{name}")' for name in amounts)
    print(*connection.execute(f"select count(*){sums} from iceberg_scan('{metadata}')").fetchone())
"""


@pytest.mark.conformance
def test_duckdbs_extension_finds_the_same(lake, tmp_path):
    """In an environment of its own, because there is no extension for this version yet."""
    python = tmp_path / "duckdb" / "bin" / "python"
    version = "1.5.5"
    wanted = [f"{one}=={version}" for one in ("duckdb", *map("duckdb-extension-{}".format, EXTRA))]
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(python.parents[1])], check=True)
    install = [uv, "pip", "install", "-q", "-p", str(python), *wanted]
    if subprocess.run(install, check=False).returncode:
        pytest.skip("the extension cannot be installed here")
    publish_tables(lake, models())
    names = [name for _, name in catalogue_of(lake).list_tables("marts")]
    truth = {name: sums_of(table_of(lake, name).scan().to_arrow()) for name in names}
    asked = [
        " ".join([table_of(lake, name).metadata_location.removeprefix("file://"), *truth[name][1]])
        for name in names
    ]

    done = subprocess.run(
        [python, "-c", EXTENSION],
        input="\n".join(asked),
        check=True,
        capture_output=True,
        text=True,
    )

    assert len(names) > 20
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        count, *sums = line.split()
        found = [Decimal(0) if one == "None" else Decimal(one) for one in sums]
        assert (int(count), found) == (truth[name][0], list(truth[name][1].values())), name


@pytest.mark.conformance
def test_a_catalogue_in_postgresql_names_the_same(lake, postgres):
    """As Spark's and Trino's JDBC catalogues find it."""
    done = publish_tables(lake, few(), postgres)

    uri = postgres.replace("postgresql://", "postgresql+psycopg://")
    catalogue = load_catalog("leanhouse", type="sql", uri=uri)
    parts = current_manifest(lake).parts
    for name in FEW:
        rows = catalogue.load_table(f"marts.{name}").scan().to_arrow().num_rows
        assert rows == sum(part.rows for part in parts[name].values())
    builds = catalogue.load_table("marts.builds").scan().to_arrow()
    assert set(builds["build_number"].to_pylist()) == {done.build}
    assert not (lake.folder / "iceberg" / "catalogue.db").exists()


SPARK = """
import json, sys
from pyspark.sql import SparkSession

uri, user, password, warehouse, jars = json.loads(sys.argv[1])
catalogue = "spark.sql.catalog.leanhouse"
settings = {
    "spark.jars": jars,
    "spark.ui.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.extensions":
        "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    catalogue: "org.apache.iceberg.spark.SparkCatalog",
    f"{catalogue}.type": "jdbc",
    f"{catalogue}.uri": uri,
    f"{catalogue}.jdbc.user": user,
    f"{catalogue}.jdbc.password": password,
    f"{catalogue}.jdbc.schema-version": "V1",
    f"{catalogue}.warehouse": warehouse,
}
builder = SparkSession.builder.master("local[2]")
for name, value in settings.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
newest = spark.sql(
    "select table_name, snapshot_id from leanhouse.marts.builds where build_number ="
    " (select max(build_number) from leanhouse.marts.builds)"
).collect()
for table, snapshot in newest:
    rows = spark.table(f"leanhouse.marts.{table}")
    if snapshot is not None:
        rows = spark.sql(f"select * from leanhouse.marts.{table} version as of {snapshot}")
    # As text, so that the sum of many amounts is exact whatever a decimal of Spark holds.
    amounts = [name for name, kind in rows.dtypes if kind.startswith("decimal")]
    found = rows.selectExpr(*[f"cast(`{name}` as string)" for name in rows.columns]).toPandas()
    print(json.dumps([table, len(found), {name: list(found[name].dropna()) for name in amounts}]))
"""


@pytest.mark.conformance
def test_spark_finds_the_same_by_the_shared_catalogue(lake, postgres, tmp_path):
    """By `builds` and snapshots, and vectorised; ICEBERG_SPARK_JAR names the jars, by commas.

    They are Iceberg's runtime for Spark 3.5 and the driver of PostgreSQL.
    """
    jars = os.environ.get("ICEBERG_SPARK_JAR")
    if not jars:
        pytest.skip("ICEBERG_SPARK_JAR names no jar")
    python = tmp_path / "spark" / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(python.parents[1])], check=True)
    wanted = ("pyspark==3.5.9", "pandas<3", "setuptools<80")
    subprocess.run([uv, "pip", "install", "-q", "-p", str(python), *wanted], check=True)
    publish_tables(lake, models(), postgres)
    parts = urllib.parse.urlsplit(postgres)
    server = f"{parts.hostname}:{parts.port}{parts.path}"
    asked = [
        f"jdbc:postgresql://{server}", parts.username, parts.password or "",
        f"file://{lake.folder}/iceberg", jars,
    ]  # fmt: skip

    done = subprocess.run(
        [python, "-c", SPARK, json.dumps(asked)],
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    found = {
        name: (rows, amounts) for name, rows, amounts in map(json.loads, done.stdout.splitlines())
    }
    stored = {m.name for m in models() if m.layer == "marts" and not m.stored.is_view}
    assert set(found) == stored
    with connect(lake) as warehouse, localcontext(prec=60):
        for name, (rows, amounts) in found.items():
            sums = {
                column: sum(map(Decimal, values), Decimal(0)) for column, values in amounts.items()
            }
            assert (rows, sums) == sums_of(warehouse.sql(f"from {name}").to_arrow_table()), name


def test_only_a_changed_part_is_replaced_and_earlier_builds_stay_readable(lake):
    """One commit in one table; the set before is read by its snapshots or by its tag."""
    first = publish_tables(lake, few())
    before = sums_of(table_of(lake, "fct_transactions").scan().to_arrow())
    month = next_build(lake)

    again = publish_tables(lake, few())

    table = table_of(lake, "fct_transactions")
    assert (again.build, again.changed) == (first.build + 1, ("fct_transactions",))
    assert len(table.snapshots()) == 2
    summary = table.current_snapshot().summary
    assert (summary["added-data-files"], summary["deleted-data-files"]) == ("1", "1")
    assert summary["leanhouse.build"] == str(again.build)
    now = table.scan().to_arrow()
    assert now.num_rows < before[0]
    parts = current_manifest(lake).parts["fct_transactions"]
    chosen = table.scan(f"month == '{month}'")
    assert chosen.to_arrow().num_rows == parts[month].rows
    assert len(list(chosen.plan_files())) == 1
    sets = sets_of(lake)
    assert {build for build, _ in sets} == {first.build, again.build}
    snapshot, rows = sets[first.build, "fct_transactions"]
    assert (rows, sums_of(table.scan(snapshot_id=snapshot).to_arrow())) == (before[0], before)
    assert table.snapshot_by_name(f"build-{first.build}").snapshot_id == snapshot
    assert sets[first.build, "dim_banks"] == sets[again.build, "dim_banks"]


def test_nothing_new_commits_nothing(lake):
    """A second publication of a build changes no file of the catalogue or of metadata."""
    publish_tables(lake, few())
    before = {name: table_of(lake, name).metadata_location for name in (*FEW, "builds")}

    again = publish_tables(lake, few())

    assert not again.changed
    assert {name: table_of(lake, name).metadata_location for name in before} == before


def readable(lake):
    """Rows of each table of each complete set; fails if a file of a set is gone."""
    return {
        (build, name): table_of(lake, name).scan(snapshot_id=snapshot).to_arrow().num_rows
        for (build, name), (snapshot, _) in sets_of(lake).items()
    }


def hide(lake):
    """Take the warehouse away, which keeps files too."""
    shutil.rmtree(lake.folder / "published")
    lake.warehouse.unlink()


def last_part(lake):
    """The newest part of the transactions, as a path below the lake."""
    parts = current_manifest(lake).parts["fct_transactions"]
    return max((month, part.file) for month, part in parts.items() if part.rows)[1]


def test_a_vacuum_keeps_what_a_complete_set_names(lake, monkeypatch):
    """Files of a set go once the set is over, and not before."""
    hide(lake)
    monkeypatch.setattr(iceberg, "KEPT_BUILDS", 2)
    first, old = publish_tables(lake, few()).build, last_part(lake)
    for later in (1, 2):
        next_build(lake)
        publish_tables(lake, few())
        vacuum(lake, older_than_seconds=0)
        sets = sets_of(lake)
        assert {build for build, _ in sets} == {first + later - 1, first + later}
        assert readable(lake) == {key: rows for key, (_, rows) in sets.items()}
        assert (lake.folder / old).exists() == (later == 1)
        assert len(table_of(lake, "fct_transactions").snapshots()) == 2


def test_without_the_record_a_vacuum_would_break_a_set(lake, monkeypatch):
    """A mutant: the test above sees files of snapshots, and none that are kept in any case."""
    hide(lake)
    publish_tables(lake, few())
    old = last_part(lake)
    next_build(lake)
    monkeypatch.setattr(Publications, "builds_of_iceberg", lambda _: [])

    vacuum(lake, older_than_seconds=0)

    assert not (lake.folder / old).exists()


class Killer:
    """Publishes a lake in a process of its own, again and again from the state of the beginning."""

    def __init__(self, lake):
        here = Path(__file__).parent
        paths = [str(one) for one in (here, here.parent, here.parent / "conformance")]
        code = f"import sys; sys.path[:0] = {paths}\n{KILLED}"
        self._lake = lake
        self._before = shutil.copytree(lake.folder, lake.folder.parent.parent / "before")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(lake.folder.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_at(self, number):
        """How a publication ended that is killed at a boundary: the signal, or how many it had."""
        shutil.rmtree(self._lake.folder)
        shutil.copytree(self._before, self._lake.folder)
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        assert self._process.wait(60) == 0


def completes(lake):
    """What is not as it has to be, before or after the next publication; None if all is well."""
    is_there = (lake.folder / "iceberg" / "builds" / "data").exists()
    if is_there and readable(lake) != {key: rows for key, (_, rows) in sets_of(lake).items()}:
        return "builds names a set that cannot be read"
    done = publish_tables(lake, few())
    vacuum(lake, older_than_seconds=0)
    parts = {name: current_manifest(lake).parts[name].values() for name in FEW}
    rows = {(done.build, name): sum(one.rows for one in parts[name]) for name in FEW}
    now = {(done.build, name): table_of(lake, name).scan().to_arrow().num_rows for name in FEW}
    if now != rows:
        return "a table does not show the build"
    found = readable(lake)
    if not rows.items() <= found.items():
        return "builds does not name the build"
    named = {key: count for key, (_, count) in sets_of(lake).items()}
    return None if found == named else "a set that builds names is gone"


@pytest.mark.slow
def test_a_publication_that_was_killed_is_completed_by_the_next(lake):
    """At boundaries before, between and after the commits of tables."""
    publish_tables(lake, few())
    next_build(lake)
    next_build(lake, "fct_cash_flow_monthly")
    with Killer(lake) as killer:
        for number in (3, 5, 8):
            assert killer.kill_at(number) == -signal.SIGKILL, number
            assert completes(lake) is None, number


def test_a_set_that_is_named_too_early_is_found(lake, monkeypatch):
    """A mutant that writes `builds` before the tables."""
    publish_tables(lake, few())
    next_build(lake)
    publisher = iceberg._Publisher
    update, complete = publisher.update, publisher.complete

    def early(self, model):
        for name in FEW:
            self._tables[name] = table_of(lake, name)
        complete(self, FEW)
        raise KeyboardInterrupt

    monkeypatch.setattr(publisher, "update", early)
    with pytest.raises(KeyboardInterrupt):
        publish_tables(lake, few())
    monkeypatch.setattr(publisher, "update", update)

    assert completes(lake) == "builds names a set that cannot be read"


@pytest.mark.conformance
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_publication_is_killed_at_every_boundary(lake, is_first):
    """Also the very first, which creates the tables."""
    if not is_first:
        publish_tables(lake, few())
        next_build(lake)
    with Killer(lake) as killer:
        passed = killer.kill_at(10_000)
        assert 5 < passed < 100
        for number in range(1, passed + 1):
            assert killer.kill_at(number) == -signal.SIGKILL, number
            assert completes(lake) is None, number


def test_nothing_personal_gets_in(lake):
    """No model of the layer pii, and a personal column of a mart refuses the publication."""
    publish_tables(lake, models())
    names = {name for _, name in catalogue_of(lake).list_tables("marts")}
    assert not names & {model.name for model in models() if model.layer == "pii"}

    bank = models()["dim_banks"]
    columns = (dataclasses.replace(bank.columns[0], pii=True), *bank.columns[1:])
    changed = dataclasses.replace(bank, columns=columns)
    with pytest.raises(ConfigError, match=r"dim_banks has personal columns: \w+"):
        publish_tables(lake, dataclasses.replace(models(), by_name={"dim_banks": changed}))


def test_tables_follow_their_models(lake):
    """A model that is gone takes its table along; one of another shape gets a new table."""
    publish_tables(lake, few())
    other = dataclasses.replace(models()["fct_cash_flow_monthly"], stored=Stored())
    fewer = {"dim_banks": models()["dim_banks"], other.name: other}

    done = publish_tables(lake, dataclasses.replace(models(), by_name=fewer))

    assert done.changed == (other.name,)
    names = {name for _, name in catalogue_of(lake).list_tables("marts")}
    assert names == {*fewer, "builds"}
    assert not table_of(lake, other.name).spec().fields
    assert readable(lake) == {key: rows for key, (_, rows) in sets_of(lake).items()}


def test_a_home_that_was_moved_is_published_anew(lake, tmp_path):
    """Metadata of Iceberg names whole paths; the next publication names those of the new home."""
    publish_tables(lake, few())
    (tmp_path / "lake").rename(tmp_path / "moved")
    moved = Lake(tmp_path / "moved", "sandbox")

    done = publish_tables(moved, few())

    assert set(done.changed) == set(FEW)
    assert all(count for count in readable(moved).values())


def test_parts_of_an_earlier_form_are_refused(lake):
    """With the remedy, and before anything is published."""
    manifest = current_manifest(lake)
    for month, part in manifest.parts["dim_banks"].items():
        manifest.parts["dim_banks"][month] = type(part)(
            part.file, part.fingerprint, part.content_id, part.rows, part.bytes, part.crc32, 1
        )
    manifest.number += 1
    keep_manifest(lake, manifest, "a-test")

    with pytest.raises(ConfigError, match=r"parts of dim_banks .* run leanhouse build"):
        publish_tables(lake, few())

    assert not any(one.problem for one in build(lake, models(), hash_key=KEY, only=["dim_banks"]))
    assert publish_tables(lake, few()).tables == len(FEW)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://made-up-user:made-up-password@127.0.0.1:1/made-up-base",
        "http://127.0.0.1:1/made-up-base?credential=made-up-user:made-up-password",
        "ftp://made-up-user:made-up-password@127.0.0.1/made-up-base",
    ],
)
def test_a_catalogue_that_does_not_answer_is_said_without_its_secret(lake, url):
    """The sentence names the variable and nothing of its value."""
    with pytest.raises(ConfigError, match="LEANHOUSE_ICEBERG_CATALOGUE") as caught:
        publish_tables(lake, few(), url)

    assert "made-up" not in f"{caught.value} {caught.value.remedy}"
    assert caught.value.__cause__ is None, "what a driver said is not shown"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_without_the_package_the_extra_is_named():
    """Whoever switches it on on a plain installation reads what to install."""
    code = """
import sys
sys.modules["pyiceberg"] = None
from lean_resources.errors import ConfigError
try:
    import pipelines.publish.iceberg
except ConfigError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert "pip install 'leanhouse[iceberg]'" in done.stdout


def test_dagster_shows_the_build_that_the_tables_show(lake, tmp_path):
    """The asset's metadata has the build, and how many builds ended since."""
    resources = bound(lake=LakeResource(tmp_path / "lake", "sandbox"))
    with instance_at(tmp_path / "dagster") as instance:
        done = dg.materialize([iceberg_asset(few())], instance=instance, resources=resources)

    (event,) = done.asset_materializations_for_node("iceberg")
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown["build"] == current_manifest(lake).number
    assert (shown["builds behind"], shown["tables"]) == (0, len(FEW))


@pytest.mark.parametrize("path", ["kept.json", "dim_banks/metadata/v-0.avro", "catalogue.db"])
def test_its_files_have_a_place(path):
    """So vacuum and fsck know them."""
    place, is_leftover = find(f"lake/sandbox/iceberg/{path}")

    assert (place.name, is_leftover) == ("iceberg", False)


@pytest.mark.slow
def test_the_command_publishes_where_it_is_switched_on(lake):
    """After the warehouse, with a line that says what it did."""
    home = lake.folder.parent.parent
    environment = {**os.environ, "LEANHOUSE_ICEBERG": "true", "LEANHOUSE_HASH_KEY": KEY}
    command = [sys.executable, "-m", "pipelines.cli", "build", "--home", str(home)]

    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)

    assert f"tables show build {current_manifest(lake).number}" in done.stdout + done.stderr
    assert sets_of(lake)
