"""A backfill gives what syncing would have given, and nothing is claimed beyond the consent."""

import dataclasses
import shutil

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from laws import outside_consent, wrong_rows
from worlds import CHAIN, DAY, new_sandbox, next_day, pull

from pipelines.lake.lake import Lake
from pipelines.sync import tasks as tasks_module

MONTHS = ("2025-03", "2025-06", "2025-12", "2026-01", "2026-02", "2026-03")


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Lean on the third day, a lake of the first, and one that has no transactions yet."""
    folder = tmp_path_factory.mktemp("windows")
    sandbox = new_sandbox(months=2)
    first, bare = (Lake(folder / name, "sandbox") for name in ("first", "bare"))
    pull(sandbox, first)
    next_day(sandbox)
    next_day(sandbox)
    pull(sandbox, bare, CHAIN[:-1])
    return sandbox, first, bare


def backfilled(days, folder, start, *chosen):
    """What is not the truth after backfills of some months and one last sync.

    Args:
        days: Lean and the lakes.
        folder: Where to put a copy.
        start: Which lake to begin with.
        chosen: The months of each backfill.
    """
    sandbox, *others = days
    lake = Lake(folder, "sandbox")
    shutil.copytree(others[start].folder, lake.folder)
    for months in chosen:
        pull(sandbox, lake, CHAIN, months=months)
    pull(sandbox, lake)
    return wrong_rows(lake, sandbox, ("transactions",)) + outside_consent(lake)


@pytest.mark.conformance
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    start=st.sampled_from([0, 1]),
    chosen=st.lists(st.sets(st.sampled_from(MONTHS), min_size=1), min_size=1, max_size=3),
)
def test_a_backfill_is_what_syncing_would_have_given(days, tmp_path_factory, start, chosen):
    """Whichever months are read in whichever order, the next sync ends in the truth."""
    assert backfilled(days, tmp_path_factory.mktemp("lake"), start, *chosen) == []


def a_month_is_skipped(monkeypatch):
    """The planner leaves out the last month of a read."""
    plan = tasks_module.plan

    def skipping(*args):
        for read in plan(*args):
            yield dataclasses.replace(read, months=read.months[:-1] or read.months)

    monkeypatch.setattr(tasks_module, "plan", skipping)


def the_consent_is_not_looked_at(monkeypatch):
    """Days before and after the consent are asked for and claimed."""
    allowed_days_of = tasks_module.allowed_days_of

    def wide(target, *days):
        allowed = allowed_days_of(target, *days)
        return allowed and dataclasses.replace(allowed, from_date=allowed.from_date - 40 * DAY)

    monkeypatch.setattr(tasks_module, "allowed_days_of", wide)


def padding_is_claimed(monkeypatch):
    """The days asked for on either side of the claims are claimed too."""
    plan = tasks_module.plan

    def padded(*args):
        for read in plan(*args):
            first, *others = read.months
            yield dataclasses.replace(
                read,
                months=(dataclasses.replace(first, from_date=first.from_date - DAY), *others),
            )

    monkeypatch.setattr(tasks_module, "plan", padded)


@pytest.mark.conformance
@pytest.mark.parametrize(
    "mutant",
    [a_month_is_skipped, the_consent_is_not_looked_at, padding_is_claimed],
    ids=lambda mutant: mutant.__name__,
)
def test_a_careless_plan_breaks_a_law(days, tmp_path, monkeypatch, mutant):
    """A month left out and a day claimed without consent are seen."""
    mutant(monkeypatch)

    assert backfilled(days, tmp_path, 1, {"2026-01", "2026-02"})
