"""Damage is found, nothing is taken for no rows, and what can be mended is mended."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "conformance"), str(HERE / "marts"), str(HERE / "lakes")]

from conftest import showing
from damages import HOWS, KINDS, TRANSACTIONS, Base, damage, sentence, shown

from lean_resources.streams import STREAMS
from pipelines.lake.compaction import compact
from pipelines.lake.digests import DamageError
from pipelines.lake.lake import Lake
from pipelines.models.manifest import Manifest, keep_manifest
from pipelines.operate.fsck import check, repair
from pipelines.operate.vacuum import plan_vacuum
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection, Task, tasks_of

SOME_HOWS = [
    pytest.param(how, marks=() if how in ("delete", "flip") else pytest.mark.conformance)
    for how in HOWS
]
"""A file that is gone and one whose length says nothing in `make test`; all in the long form."""
DATA = ("typed rows", "typed listing", "merged rows", "superseded rows", "answers", "quarantine")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A lake without tables, that has merged files and single ones."""
    names = ("entities", "consents", "accounts", "identity", "transactions")
    return Base(tmp_path_factory.mktemp("damage"), tables=(), nights=3, names=names)


@pytest.fixture(scope="module")
def sound(base):
    """What that lake shows."""
    return shown(base.fresh())


@pytest.fixture
def lake(base):
    """That lake, sound."""
    return base.fresh()


def spoil(lake, kinds, how):
    """Damage a file of each kind; their paths below the lake's folder."""
    files = [KINDS[kind](lake) for kind in kinds]
    for file in files:
        damage(file, how)
    return {file.relative_to(lake.folder).as_posix() for file in files}


def found(lake):
    """Paths that fsck names."""
    return {one.path for one in check(lake).findings}


def count(lake, name="transactions"):
    """Rows of a stream, as they show."""
    with showing(lake, (name,)) as connection:
        return connection.execute(f"select count(*) from {name}").fetchone()[0]


@pytest.mark.parametrize("how", SOME_HOWS)
def test_damage_of_each_kind_of_file_is_found_and_mended(base, lake, how):
    """Rows are decoded again from the answers: the present and the past are as if nothing was."""
    kinds = [kind for kind in DATA if kind != "answers"]
    kinds += ["checkpoint", "copy of a commit"] if how != "delete" else []
    files = spoil(lake, kinds, how)

    assert found(lake) == files
    if how != "flip":
        with pytest.raises(DamageError, match=r"is missing|has the wrong size"):
            lake.connect()
    repair(lake)
    assert found(lake) == set()
    base.heal(lake)
    assert shown(lake) == base.truth


def test_a_sound_lake_has_no_finding_and_nothing_unverified(lake):
    """Every file of format 3 is compared with what it held, the refreshes' logs apart."""
    report = check(lake)

    assert (report.findings, report.unverified) == ([], 0)
    assert report.verified > 20


def test_an_error_names_the_file_and_whose_days_it_held(lake):
    """And no id of anybody."""
    (path,) = spoil(lake, ["typed rows"], "delete")

    with pytest.raises(DamageError) as error:
        lake.connect()

    assert path in error.value.message
    assert "transactions of 8 accounts, 2026-03-01 to 2026-03-17" in error.value.message
    assert "leanhouse fsck --repair" in error.value.remedy


def test_without_the_comparison_rows_are_left_out_in_silence(lake, monkeypatch):
    """A mutant: nobody looks whether the files are there."""
    whole = count(lake)
    spoil(lake, ["typed rows"], "delete")
    monkeypatch.setattr(Lake, "check_folders", lambda *_: None)

    assert count(lake) < whole


@pytest.mark.parametrize("how", SOME_HOWS)
@pytest.mark.parametrize("kind", ["ledger", "merged ledger"])
def test_the_ledger_is_restored_from_its_copy(sound, lake, kind, how):
    """Whatever became of a commit or of a merged day."""
    files = spoil(lake, [kind], how)

    assert found(lake) == files
    if how != "flip" or kind == "ledger":
        with pytest.raises(DamageError, match="the ledger's file pulls/"):
            lake.connect(())
    repair(lake)
    assert found(lake) == set()
    assert shown(lake) == sound


def test_a_commit_without_its_copy_is_missed_by_its_number(base, lake):
    """What only it covered is read again by the next sync, and vacuum goes on."""
    keep_manifest(lake, Manifest(number=1, commits=10_000), "made-up")
    file = KINDS["ledger"](lake)
    _batch, writer, number, *_ = file.stem.split("-")
    (other,) = (lake.folder / "pulls").glob(f"*/*-{writer}-{int(number) - 1}-*.parquet")
    other.unlink()
    (lake.folder / "checkpoints" / other.name).unlink()

    with pytest.raises(DamageError, match=f"{writer}-{int(number) - 1} is missing"):
        lake.connect()
    assert found(lake) == {f"pulls/{writer}-{int(number) - 1}"}
    assert any("1 commits are lost" in line for line in repair(lake))
    assert found(lake) == set()
    assert plan_vacuum(lake).refusal is None
    base.heal(lake)
    now = shown(lake)
    assert {name: now[name] for name in STREAMS} == {name: base.truth[name] for name in STREAMS}


def test_the_last_commit_of_a_killed_process_is_the_exception(base, lake):
    """Nothing names it: it is not missed, and the next sync reads what it had brought."""
    file = KINDS["ledger"](lake)
    file.unlink()
    (lake.folder / "checkpoints" / file.name).unlink()

    assert found(lake) == set()
    base.heal(lake)
    now = shown(lake)
    assert {name: now[name] for name in STREAMS} == {name: base.truth[name] for name in STREAMS}


def test_days_without_rows_and_answers_are_unknown_until_they_are_read(base, lake):
    """No reader takes them as covered, and the next sync reads them."""
    months = sorted(folder.name[-7:] for folder in (lake.folder / TRANSACTIONS.name).iterdir())
    for name in ("transactions", "identity"):
        shutil.rmtree(lake.folder / STREAMS[name].name)
        shutil.rmtree(lake.folder / "raw" / STREAMS[name].name)

    done = repair(lake)

    assert any("are unknown until the next sync" in line for line in done)
    with lake.connect() as connection:
        found = connection.execute(
            "select distinct status, code from account_days where status <> 'not_permitted'"
            " and pull_id is null and list_contains($1, strftime(utc_day, '%Y-%m'))",
            [months],
        ).fetchall()
    assert found == [("not_yet_pulled", "DATA_LOST")]
    now = base.sandbox.clock.now()
    due = tasks_of(STREAMS["identity"], lake, now, Policy(), Selection())
    assert any(isinstance(one, Task) for one in due), "though it was read this week"
    base.heal(lake)
    after = shown(lake)
    assert {name: after[name] for name in STREAMS} == {name: base.truth[name] for name in STREAMS}


def test_repair_that_was_killed_goes_on(base, lake, monkeypatch):
    """Rows count no more before they are decoded again; the next repair decodes them."""
    spoil(lake, ["typed rows", "merged rows"], "delete")
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.operate.fsck.replay", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            repair(lake)

    repair(lake)
    base.heal(lake)
    assert shown(lake) == base.truth


@pytest.mark.parametrize("name", ["._{}", "{} copy.parquet", "{}.bak"])
def test_foreign_files_are_put_aside(lake, name):
    """A copy would double rows, and what is no Parquet would end every reader."""
    file = KINDS["typed rows"](lake)
    before = count(lake)
    foreign = file.with_name(name.format(file.name))
    foreign.write_bytes(file.read_bytes() if "copy" in name else b"junk")

    if foreign.suffix == ".parquet":
        with pytest.raises(DamageError, match="is not a file of the lake"):
            lake.connect()
    assert found(lake) == {foreign.relative_to(lake.folder).as_posix()}
    repair(lake)
    assert not foreign.exists()
    assert count(lake) == before
    assert [file.name for file in lake.folder.glob("set_aside/**/*") if file.is_file()]


def test_nothing_is_merged_with_a_file_that_has_changed(lake, monkeypatch):
    """Damage would be written along, with a checksum that fits it."""
    spoil(lake, ["typed rows"], "flip")
    monkeypatch.setattr("pipelines.lake.compaction._MOST_FILES", 0)

    words = sentence(lambda: compact(lake))

    assert "has the wrong checksum" in words or "cannot be read" in words


def test_the_command_says_what_is_lost_and_ends_with_1(base, lake):
    """And with 0 once it is mended."""
    home = lake.folder.parent.parent

    code = "from pipelines.cli.main import main; main()"

    def fsck(*options):
        return subprocess.run(
            [sys.executable, "-c", code, "fsck", *options, "--home", str(home)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": os.defpath, "PYTHONPATH": str(HERE.parent), "HOME": str(home)},
        )

    assert fsck().returncode == 0
    (path,) = spoil(lake, ["typed rows"], "empty")
    lost = fsck()
    mended = fsck("--repair")

    assert lost.returncode == 1
    assert f"{path} has the wrong size: transactions of 8 accounts" in lost.stdout
    assert "Traceback" not in lost.stderr
    assert mended.returncode == 0
    assert "decoded again from their answers" in mended.stdout
