"""What is wrong is found, and nothing else: the rules of health over real lakes and real runs."""

import asyncio
import datetime as dt
import shutil

import pytest
from conftest import client_of, sync_everything

from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake
from pipelines.operate.health import health
from pipelines.sync.policy import Policy


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lake of four customers, filled now, with the offline Lean that filled it."""
    lake = Lake(tmp_path_factory.mktemp("healthy"), "sandbox")
    sandbox = Sandbox(customers=4, months=2, seed=7, today=dt.datetime.now(dt.UTC))
    asyncio.run(sync_everything(client_of(sandbox), lake))
    return lake, sandbox


@pytest.fixture
def lake(made, tmp_path):
    """A copy of that lake."""
    shutil.copytree(made[0].folder, tmp_path / "sandbox")
    return Lake(tmp_path, "sandbox")


def found(lake, **given):
    """Rules and subjects of the problems of a lake."""
    return [(one.rule, one.subject) for one in health(lake, Policy(), **given).problems]


def test_a_lake_that_is_well_has_no_problem(lake):
    """Its banks show what was read and asked today."""
    seen = health(lake, Policy())

    assert seen.problems == []
    assert not seen.needs_a_person
    banks = {one.bank_identifier: one for one in seen.banks}
    assert banks.keys() == {"", "ALINMA_SAU", "LEA1_SAMAOB_SAU", "LEA2_SAMAOB_SAU"}
    assert all(one.entities and one.requests_today for name, one in banks.items() if name)
    assert {one.stream for one in seen.streams} >= {"accounts", "transactions"}


def test_a_lake_that_does_not_exist_yet_says_what_to_do_first(tmp_path):
    """Nothing is made by looking."""
    assert found(Lake(tmp_path / "none", "sandbox")) == [("no_sync_yet", "lake")]
    assert not (tmp_path / "none").exists()
