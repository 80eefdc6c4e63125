"""Builds in buckets, by several processes: plan, buckets, end; rows are those of the whole."""

import logging
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor

import msgspec
import pytest
from test_deltas import HOUR, KEY, MONTHS, START, World, rows, some_models
from typer.testing import CliRunner

from lean_resources.errors import ConfigError
from pipelines.cli.main import app
from pipelines.lake.folders import MANIFESTS, PLANS, WRITERS
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models import build as builds
from pipelines.models.build import build, build_bucket, commit_build, plan_build
from pipelines.models.manifest import current_manifest, keep_manifest, next_number
from pipelines.models.model import BuildError
from pipelines.models.plans import newest_plan, result_of
from pipelines.operate import vacuum as vacuums
from pipelines.operate.fsck import check
from pipelines.operate.vacuum import vacuum

FEW = some_models("fct_transactions", "mart_sync_health")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A lake of which nothing was built, and its rows once built as a whole."""
    folder = tmp_path_factory.mktemp("read")
    world = World(Lake(folder / "lake", "sandbox"))
    world.read_all()
    shutil.copytree(folder / "lake", folder / "whole")
    whole = Lake(folder / "whole", "sandbox")
    build(whole, FEW, hash_key=KEY, buckets=1)
    return world.lake.folder, rows(whole, FEW)


@pytest.fixture
def lake(read, tmp_path):
    """A copy of it."""
    shutil.copytree(read[0], tmp_path / "lake" / "sandbox")
    return Lake(tmp_path / "lake", "sandbox")


def planned(lake, buckets=2, name="run"):
    """A plan of so many buckets."""
    return plan_build(lake, FEW, hash_key=KEY, name=name, buckets=buckets)


def bucket(lake, plan, number):
    """What was built of a bucket."""
    return build_bucket(lake, FEW, plan, number, hash_key=KEY)


def committed(lake, plan):
    """What the end of a build says of each model."""
    return commit_build(lake, FEW, plan, hash_key=KEY)


def step(folder, numbers):
    """What a step does in a process of its own, which knows the lake and the name of the plan."""
    lake = Lake(folder, "sandbox")
    return [bucket(lake, newest_plan(lake, "run"), number) for number in numbers]


def test_two_processes_give_the_rows_of_the_whole(read, lake):
    """Each builds two of four buckets; the end finds what they built."""
    planned(lake, 4)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(step, [lake.folder.parent] * 2, [(0, 2), (1, 3)]))
    built = committed(lake, newest_plan(lake, "run"))

    assert not [one for one in built if one.problem]
    assert rows(lake, FEW) == read[1]
    assert not check(lake).findings
    assert not list(lake.storage.list(f"{PLANS}/*/*"))


def test_a_bucket_that_was_built_is_not_built_again(lake):
    """As long as its files are there; a result that is damaged counts for nothing."""
    plan = planned(lake)
    first = bucket(lake, plan, 0)

    assert first.files
    assert bucket(lake, plan, 0) == first
    lake.storage.delete(Key(first.files[0]))
    second = bucket(lake, plan, 0)
    assert not {*first.files} & {*second.files}
    lake.storage.put(plan.result(0), b"damaged")
    assert not {*second.files} & {*bucket(lake, plan, 0).files}


@pytest.mark.conformance
def test_the_slower_of_two_processes_leaves_nothing(lake, monkeypatch):
    """A step that was given up and lives on builds what its successor builds."""
    plan = planned(lake)
    run = builds.Build.run

    def overtaken(self, progress):
        monkeypatch.setattr(builds.Build, "run", run)
        found.append(bucket(lake, plan, 0))
        return run(self, progress)

    found = []
    monkeypatch.setattr(builds.Build, "run", overtaken)

    assert bucket(lake, plan, 0) == found[0]
    assert {str(one.key) for one in lake.storage.walk() if one.key.parts[0] == "marts"} == {
        *found[0].files
    }


def test_a_build_without_a_bucket_does_not_end(lake):
    """Its rows would be missing."""
    plan = planned(lake)
    bucket(lake, plan, 1)

    with pytest.raises(BuildError, match="1 of 2 buckets are not built"):
        committed(lake, plan)
    assert not list(lake.storage.list(f"{MANIFESTS}/*"))


def test_a_build_that_was_overtaken_starts_again(read, lake):
    """From the other's result, with what it built and still fits."""
    plan = planned(lake)
    for number in plan.numbers:
        bucket(lake, plan, number)
    build(lake, FEW, hash_key=KEY, only={"mart_sync_health"})

    assert committed(lake, plan) is None
    built = build(lake, FEW, hash_key=KEY, name="run", buckets=2)
    assert rows(lake, FEW) == read[1]
    assert not list(lake.storage.list(f"{PLANS}/*/*"))
    parts = {one.model.name: (one.parts, one.written) for one in built}
    assert parts["fct_transactions"] == (4, 0)


@pytest.mark.conformance
def test_an_overtaken_build_that_counts_is_caught(lake, monkeypatch):
    """What was published meanwhile would be gone."""
    world = World(lake, now=START + 100 * HOUR)
    plan = planned(lake)
    for number in plan.numbers:
        bucket(lake, plan, number)
    world.moved["a0", MONTHS[1]] = {"t1": 5}
    world.read("a0", MONTHS[1])
    build(lake, FEW, hash_key=KEY, buckets=2)
    after = rows(lake, FEW)

    def keep_newer(lake, manifest, _base, writer_id):
        manifest.number = next_number(lake)
        keep_manifest(lake, manifest, writer_id)
        return True

    monkeypatch.setattr(builds, "newest_manifest", lambda _lake: None)
    monkeypatch.setattr(builds, "keep_newer", keep_newer)
    committed(lake, plan)

    assert rows(lake, FEW) != after


def test_a_large_component_is_built_alone(read, lake, monkeypatch, caplog):
    """In a bucket after the others, and the log says how many there are, and not whose."""
    monkeypatch.setattr(builds, "BUCKET_ROWS", 11)
    with caplog.at_level(logging.WARNING):
        plan = planned(lake)
    for number in plan.numbers:
        bucket(lake, plan, number)
    committed(lake, plan)

    assert (plan.count, plan.giants) == (2, 1)
    assert "1 of the groups" in caplog.text
    assert "c0" not in caplog.text
    assert alone(lake) == 9
    assert rows(lake, FEW) == read[1]


@pytest.mark.conformance
def test_a_component_that_is_large_no_longer_is_one_of_the_others(read, lake, monkeypatch):
    """Parts of its bucket are gone."""
    monkeypatch.setattr(builds, "BUCKET_ROWS", 11)
    build(lake, FEW, hash_key=KEY, buckets=2)
    assert alone(lake)
    monkeypatch.setattr(builds, "BUCKET_ROWS", 12)
    build(lake, FEW, hash_key=KEY)

    assert not alone(lake)
    assert rows(lake, FEW) == read[1]


def alone(lake):
    """Movements of a month in the bucket that comes after two others."""
    parts = current_manifest(lake).parts["fct_transactions"]
    return parts["2026-03/002-of-002"].rows if "2026-03/002-of-002" in parts else 0


@pytest.mark.parametrize(
    ("other", "says"),
    [({"version": "0.0.1"}, "begun by leanhouse 0.0.1"), ({"recipe": "x"}, "LEANHOUSE_HASH_KEY")],
)
def test_processes_with_other_code_are_refused(other, says, lake):
    """Their buckets would not fit together."""
    plan = msgspec.structs.replace(planned(lake), **other)
    for act in (lambda: bucket(lake, plan, 0), lambda: committed(lake, plan)):
        with pytest.raises(ConfigError, match=says):
            act()


def killed_step(lake):
    """A plan whose first bucket was built by a process that was killed after its result."""
    plan = planned(lake)
    for number in plan.numbers:
        bucket(lake, plan, number)
    writer = Key(result_of(lake, plan.result(0)).files[0]).stem.split("-")[0]
    lake.storage.put(WRITERS / writer, b"")
    return plan


def test_a_vacuum_leaves_what_a_plan_may_need(read, lake):
    """Also what a killed process built."""
    plan = killed_step(lake)
    vacuum(lake, older_than_seconds=3600)
    committed(lake, plan)

    assert rows(lake, FEW) == read[1]


@pytest.mark.conformance
def test_a_vacuum_deletes_what_a_plan_no_longer_needs(lake):
    """The plan, what was built for it, and nothing that counts."""
    build(lake, FEW, hash_key=KEY, buckets=2)
    given_up = planned(lake, 4, "given-up")
    bucket(lake, given_up, 0)
    vacuum(lake, older_than_seconds=-1, yes_delete=0)
    assert not list(lake.storage.list(f"{PLANS}/*/*"))
    marts = {str(one.key) for one in lake.storage.walk() if one.key.parts[0] == "marts"}
    assert marts == {part.file for _, part in current_manifest(lake).files()}


@pytest.mark.conformance
def test_a_vacuum_that_knows_no_plans_is_caught(lake, monkeypatch):
    """Files of a killed process that its result names would be gone."""
    monkeypatch.setattr(vacuums, "results", lambda _lake, _name: ())
    plan = killed_step(lake)
    vacuum(lake, older_than_seconds=3600)

    assert any(one.problem for one in committed(lake, plan))


@pytest.mark.parametrize("more", [["3"], ["2", "--rollback"]], ids=["three", "rollback"])
def test_a_command_takes_a_power_of_two_alone(tmp_path, more):
    """Before it opens the lake."""
    ended = CliRunner().invoke(app, ["build", "--home", str(tmp_path), "--buckets", *more])

    assert ended.exit_code == 1
    assert "--buckets" in ended.stderr


def test_a_command_sets_the_number_of_buckets_for_later_builds(tmp_path):
    """Also of a lake without rows, so that its first build is in buckets."""
    ended = CliRunner().invoke(app, ["build", "--home", str(tmp_path), "--buckets", "2"])
    lake = Lake(tmp_path / "lake", "sandbox")

    assert ended.exit_code == 0, ended.stderr
    assert current_manifest(lake).buckets == 2
    World(lake).read_all()
    build(lake, FEW, hash_key=KEY)
    assert current_manifest(lake).buckets == 2
