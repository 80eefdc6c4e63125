"""Where bytes of a home lie: all in the registry, and for nobody but those who may read them."""

import grp
import os
import stat
import subprocess
import sys

import dagster as dg
import pytest
import shared
from conftest import TODAY

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.dagster_defs.in_process import instance_at
from pipelines.dagster_defs.resources import LakeResource, bound
from pipelines.dagster_defs.warehouse_assets import compaction_asset
from pipelines.environment import Settings
from pipelines.lake.folder import Folder
from pipelines.lake.lake import Lake
from pipelines.lake.permissions import open_home
from pipelines.lake.places import PLACES, find, walk
from pipelines.lake.writers import LockedWriters
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.warehouse import publish
from pipelines.sync.replay import replay
from pipelines.webhooks.inbox import Inbox

MODELS = load()
WORLD = {"customers": 2, "months": 2, "seed": 7, "today": TODAY}
LEFT = """
import os, signal, sys
from pathlib import Path
from pipelines.lake.lake import Lake
lake = Lake(Path(sys.argv[1]), "sandbox")
with lake.planning(("entities",)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def umask():
    """The umask that most machines have; what a test sets does not outlive it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path, umask):
    """A home of an earlier version, that everybody may read: a lake after its first sync."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    lake = Lake(home / "lake", "sandbox")
    shared.filled(lake, ("banks", "customers", "entities", "accounts"), sandbox=WORLD)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


def cycle(home):
    """Everything that writes to a home, apart from pulls."""
    lake = Lake(home / "lake", "sandbox")
    with instance_at(home / "dagster") as instance:
        replay(STREAMS["accounts"], lake)
        build(lake, MODELS, hash_key="made-up-key", only=["dim_banks", "dim_dates"])
        publish(lake, MODELS)
        resource = LakeResource(home / "lake", "sandbox")
        dg.materialize(
            [compaction_asset(MODELS)], instance=instance, resources=bound(lake=resource)
        )
    (home / "inbox").mkdir()
    Inbox(f"sqlite:///{home / 'inbox' / 'sandbox.db'}", "sandbox").create()


def modes(home):
    """Permissions of all files and of all folders of a home, and the groups of both."""
    found = [(path.is_dir(), path.stat()) for path in (home, *home.rglob("*"))]
    files, folders = (
        {stat.S_IMODE(seen.st_mode) & 0o777 for is_dir, seen in found if is_dir is wanted}
        for wanted in (False, True)
    )
    return files, folders, {seen.st_gid for _, seen in found}


def test_every_file_of_a_home_has_its_place_and_only_its_owner_reads_it(home):
    """Whatever the umask is, and whatever lay there before."""
    open_home(home, None)
    cycle(home)

    found = list(walk(Folder(home)))
    assert [one.key for one in found if one.place is None or one.is_leftover] == []
    assert {one.place.name for one in found} >= {
        *("rows", "raw", "ledger", "marts", "manifests", "warehouse", "publications", "format"),
        *("inbox", "dagster"),
    }
    assert modes(home)[:2] == ({0o600}, {0o700})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second group")
def test_a_group_may_read_where_it_is_set(home):
    """And change nothing; what is made later follows."""
    group = next(one for one in grp.getgrall() if one.gr_gid != os.getegid())
    open_home(home, group.gr_name)
    Lake(home / "lake", "sandbox").batch().commit([])
    with instance_at(home / "dagster"):
        pass

    assert modes(home) == ({0o640}, {0o750}, {group.gr_gid})
    open_home(home, None)
    assert modes(home)[:2] == ({0o600}, {0o700})


@pytest.mark.parametrize("name", ["no such group", "a:b", "0"])
def test_a_group_that_is_not_there_is_refused(name):
    """Before anything is written."""
    with pytest.raises(ConfigError, match="LEANHOUSE_FILE_GROUP"):
        Settings.load({"LEANHOUSE_FILE_GROUP": name})


def test_every_process_sets_its_umask(tmp_path):
    """The command line, and what Dagster loads in the processes of runs and steps."""
    environment = os.environ | {"LEANHOUSE_HOME": str(tmp_path / "home")}
    for code in (
        "import pipelines.definitions",
        "from pipelines.cli.main import app; app(['vacuum'], standalone_mode=False)",
    ):
        script = f"import os; os.umask(0o022)\n{code}\nprint(oct(os.umask(0)))"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0o77"


def test_what_nobody_knows_is_known_to_be_unknown():
    """The patterns are not so wide that anything fits."""
    for path in (
        *("lake/sandbox/dump.csv", "lake/sandbox/accounts/x.parquet", "lake/staging/1.format"),
        *("core.1234", "lake/sandbox/accounts/pulled_on=2026-03-15/._x.parquet", "inbox/x.txt"),
        *("lake/sandbox/pulls/pulled_on=2026-03-15/a.parquet.bak", "dagster/.env"),
    ):
        assert find(path) == (None, False)
    assert all(place.doc.endswith(".") for place in PLACES)


def test_a_killed_process_is_told_from_a_living_one(tmp_path):
    """By its lock alone: no clock, no process id."""
    lake = Lake(tmp_path, "sandbox")
    subprocess.run([sys.executable, "-c", LEFT, str(tmp_path)], check=False)
    signs = LockedWriters(lake.folder / "writers")
    with signs.start() as living:
        alive, killed = signs.known()

    assert alive == {living.id}
    assert len(killed) == 1
    assert [file.name for file in (lake.folder / "spill").iterdir()] == [*killed]
