"""Each kind of file is damaged in each way, and every command is asked what it makes of it."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "marts"), str(HERE.parent / "lakes")]

from damages import HOWS, KINDS, Base, commands, damage, shown

from pipelines.operate.fsck import check, repair

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]

REMADE = {
    ("checkpoint", "delete"),
    ("copy of a commit", "delete"),
    ("manifest", "delete"),
    ("warehouse", "delete"),
}
"""What is made again from what is there, so that nothing is lost with it."""
BUILD_HEALS = {"model part", "manifest", "warehouse", "checkpoint", "copy of a commit", "answers"}
"""What a build needs not, or makes anew."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A lake with tables, a manifest and a warehouse."""
    names = ("banks", "entities", "consents", "accounts", "identity", "transactions")
    return Base(tmp_path_factory.mktemp("damage"), nights=3, names=names)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told_and_ends_in_the_truth(base, kind, how):
    """Nothing silent and nothing raw; after a repair, a sync and a build all is as it should be."""
    lake = base.fresh()
    file = KINDS[kind](lake)
    damage(file, how)
    path = file.relative_to(lake.folder).as_posix()

    found = {one.path for one in check(lake).findings}
    said = commands(base, lake)

    if (kind, how) not in REMADE:
        assert path in found
    if how != "flip" and kind not in BUILD_HEALS:
        assert path in (said["build"] or "")
    repair(lake)
    assert check(lake).findings == []
    base.heal(lake)
    assert check(lake).findings == []
    now = shown(lake, base.tables)
    assert {name for name in now if now[name] != base.truth[name]} == set()
