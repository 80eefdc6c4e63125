"""What commands say of health: `status`, the end of `sync`, `doctor`, and `sync --dry-run`."""

import asyncio
import datetime as dt
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from commands import Commands
from conftest import client_of, rows_of, sync_everything
from test_dagster import values_of

from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.environment import child_of
from pipelines.lake.lake import Lake
from pipelines.operate.bank_health import BankHealth, StreamHealth
from pipelines.operate.health import Health
from pipelines.operate.problems import RULES, Problem
from pipelines.sync.estimate import REFRESH, estimate
from pipelines.sync.policy import Policy
from pipelines.sync.refresh_budget import Budget

ROOT = Path(__file__).resolve().parent.parent
WORLD = {"customers": 4, "months": 2, "seed": 7}
BANK = "ALINMA_SAU"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A served offline Lean, the home of a lake that was filled from it, and commands over both."""
    sandbox = Sandbox(**WORLD, today=dt.datetime.now(dt.UTC))
    home, output = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("output")
    asyncio.run(sync_everything(client_of(sandbox), Lake(home / "lake", "sandbox")))
    with serve(sandbox, port=0, mtls=False) as server:
        environment = child_of(values_of(sandbox, server), home) | {"COLUMNS": "80"}
        with Commands(environment, output) as commands:
            yield sandbox, home, commands


@pytest.fixture
def sandbox(made):
    """The offline Lean, without faults and at this machine's clock."""
    sandbox = made[0]
    sandbox.heal()
    behind = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(sandbox.clock.now().isoformat())
    sandbox.clock.advance(max(behind, dt.timedelta(0)))
    return sandbox


@pytest.fixture
def home(made, tmp_path):
    """A copy of the home."""
    return shutil.copytree(made[1], tmp_path / "home")


@pytest.fixture
def run(made, home):
    """Runs a command over that copy: its exit code and what it says."""

    def once(*arguments, **environment):
        paths = {"LEANHOUSE_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
        code, _, said = made[2].run(*arguments, **paths | environment)
        return code, said

    return once


def off(sandbox, home):
    """Let a bank be off, as the lake has heard."""
    sandbox.switch_bank(BANK, active=False)
    try:
        lake = Lake(home / "lake", "sandbox")
        asyncio.run(sync_everything(client_of(sandbox), lake, {"banks"}))
    finally:
        sandbox.switch_bank(BANK, active=True)


def listed(folder):
    """Every file of a folder, with its content."""
    return {
        str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest()
        for one in folder.rglob("*")
        if one.is_file()
    }


def test_a_home_that_is_well(run, home):
    """Banks and streams in 80 columns, nothing written, and exit code 0."""
    before = listed(home)

    code, said = run("status")

    assert code == 0
    assert said.startswith("Nothing is wrong.\n")
    assert max(map(len, said.splitlines())) <= 80
    [line] = [one.split() for one in said.splitlines() if one.startswith(BANK)]
    assert line[1] == "ok"
    assert line[-3].startswith("0/")
    assert {line.split()[0] for line in said.splitlines() if line} >= STREAMS.keys()
    assert listed(home) == before


def test_a_problem_comes_first_with_its_remedy_and_needs_a_person(run, home, sandbox):
    """By bank; `--json` has the same in a form that is documented."""
    off(sandbox, home)

    code, said = run("status")

    assert code == 1
    first, message, remedy = said.splitlines()[:3]
    assert first.startswith(f"error    bank_off {BANK} DISABLED_BY_LEAN since ")
    assert message.strip() == "the bank is switched off for data, and nothing of it is read"
    assert remedy.strip().startswith("Wait until Lean announces the bank as active")
    [line] = [one for one in said.splitlines() if one.startswith(BANK)]
    assert line.split()[1] == "off"

    code, said = run("status", "--json")

    found = json.loads(said)
    assert code == 1
    assert found.keys() == {"version", "needs_a_person", *(one.name for one in fields(Health))}
    assert (found["version"], found["needs_a_person"]) == (1, True)
    [problem] = found["problems"]
    assert (problem["rule"], problem["subject"]) == ("bank_off", BANK)
    for kind, rows in ((Problem, found["problems"]), (BankHealth, found["banks"]),
                       (StreamHealth, found["streams"])):  # fmt: skip
        assert {tuple(row) for row in rows} == {tuple(one.name for one in fields(kind))}


def test_the_page_for_those_on_duty_lists_every_rule():
    """With its severity."""
    page = (ROOT / "docs/status.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    listed_rules = {row[0].strip("| `"): row[1] for row in rows if len(row) == 3}

    assert list(listed_rules) == list(RULES)
    for name, rule in RULES.items():
        assert listed_rules[name].startswith((rule.severity, "as `bank_failing`")), name


def test_before_the_first_sync_nothing_is_made(run, tmp_path):
    """It says what to do first."""
    none = tmp_path / "none"

    code, said = run("status", LEANHOUSE_HOME=str(none), DAGSTER_HOME=str(none / "dagster"))

    assert code == 1
    assert "no_sync_yet" in said
    assert "leanhouse doctor" in said
    assert not none.exists()


def test_a_warning_needs_nobody(run, home):
    """The exit code stays 0."""
    lake = Lake(home / "lake", "sandbox")
    (home / "policy.toml").write_text("fresh_hours = { balances = 0.000001 }\n")

    code, said = run("status")

    assert code == 0
    assert said.startswith(f"warning  stale {BANK}")
    assert rows_of(lake, "select count(*) from refresh_spends") == [(0,)]


def test_what_the_policy_accepts_needs_nobody(run, home, sandbox):
    """It is counted apart; a rule that does not exist is refused."""
    off(sandbox, home)
    (home / "policy.toml").write_text('accepted_problems = ["bank_off"]\n')

    code, said = run("status")

    assert code == 0
    assert said.startswith("Nothing is wrong.\naccepted by policy.toml: bank_off\n")

    (home / "policy.toml").write_text('accepted_problems = ["bank_of"]\n')

    code, said = run("status")

    assert code == 1
    assert "there is no rule bank_of" in said


def test_doctor_warns_of_what_the_lake_knows(run, home, sandbox):
    """A bank that is off, and consents that end within 30 days instead of 14."""
    off(sandbox, home)
    entity = sandbox.connect(bank_identifier="LEA1_SAMAOB_SAU", consent_days=20)["entity_id"]
    try:
        lake = Lake(home / "lake", "sandbox")
        asyncio.run(sync_everything(client_of(sandbox), lake, {"entities"}))
    finally:
        sandbox.delete(entity)

    code, said = run("doctor")

    assert code == 0
    assert f"error    bank_off {BANK}" in said
    assert "warning  consent_ending LEA1_SAMAOB_SAU" in said
    assert "within 30 days: 1," in said
    assert "consent_ending" not in run("status")[1]


def reads_of(lake, since):
    """Paged reads in the ledger that began after an instant, by bank and stream."""
    return {
        (bank or "", stream): count
        for bank, stream, count in rows_of(
            lake,
            "select bank_identifier, stream, count(distinct series_id) from pulls"
            f" where asked_at > '{since}' and outcome <> 'SKIPPED' group by all",
        )
        if STREAMS[stream].exploded_from is None
    }


def test_an_estimate_is_what_the_next_sync_reads(home, sandbox):
    """By the same planner: as many paged reads, by bank and stream."""
    lake = Lake(home / "lake", "sandbox")
    entity_id = sandbox.connect(bank_identifier="LEA1_SAMAOB_SAU")["entity_id"]
    asyncio.run(sync_everything(client_of(sandbox), lake, {"entities", "accounts"}))
    since = now = dt.datetime.now(dt.UTC)

    found = estimate(lake, Policy(fresh_hours={}), now)
    asyncio.run(sync_everything(client_of(sandbox), lake))
    sandbox.delete(entity_id)

    assert {(one.bank_identifier, one.stream): one.reads for one in found} == reads_of(lake, since)
    assert all(one.requests >= one.reads and one.seconds > 0 for one in found)
    by_bank = Counter(one.bank_identifier for one in found if one.stream == "transactions")
    assert by_bank["LEA1_SAMAOB_SAU"] == 1


def test_refreshes_are_estimated_within_the_budget_and_none_is_spent(home, sandbox):
    """Of entities whose data is too old."""
    lake, policy = Lake(home / "lake", "sandbox"), Policy(fresh_hours={"balances": 1})
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=12)
    asked = sandbox.calls.total()

    first = {one.bank_identifier: one.reads for one in estimate(lake, policy, later)
             if one.stream == REFRESH}  # fmt: skip
    entities = dict(rows_of(
        lake, "select bank_identifier, count(*) from entities where status = 'ACTIVE' group by all"
    ))  # fmt: skip
    assert first == entities
    assert rows_of(lake, "select count(*) from refresh_spends") == [(0,)]
    of_bank = rows_of(lake, f"select entity_id from entities where bank_identifier = '{BANK}'")
    for _ in range(policy.refreshes_per_day):
        Budget(lake, policy.refreshes_per_day).reserve({one for (one,) in of_bank}, later)
    left = {one.bank_identifier for one in estimate(lake, policy, later) if one.stream == REFRESH}
    assert left == entities.keys() - {BANK}
    assert sandbox.calls.total() == asked


def test_a_dry_run_asks_nothing_and_changes_nothing(run, home, sandbox):
    """And says how it estimates."""
    before, asked = listed(home), sandbox.calls.total()

    code, said = run("sync", "--dry-run")

    assert code == 0
    assert [line.split() for line in said.splitlines() if line.startswith("banks")] == [
        ["banks", "-", "2", "2", "0.0"]
    ]
    assert "requests, " in said
    assert "means of the last 14 days" in said
    assert max(map(len, said.splitlines())) <= 80
    assert listed(home) == before
    assert sandbox.calls.total() == asked


@pytest.mark.slow
def test_a_sync_that_succeeds_says_what_is_wrong_all_the_same(run, home, sandbox):
    """A bank that is off does not end with no word; the exit code is that of the sync."""
    sandbox.switch_bank(BANK, active=False)
    try:
        code, said = run("sync")
    finally:
        sandbox.switch_bank(BANK, active=True)

    assert code == 0, said
    assert f"error    bank_off {BANK}" in said
    assert "Wait until Lean announces the bank as active" in said
    code, said = run("status")
    assert code == 1
    assert "unknown" in said


@pytest.mark.slow
def test_a_sync_that_fails_says_why_as_a_problem(run, home):
    """With the remedy, and its own error last."""
    code, said = run("sync", LEAN_CLIENT_SECRET="made-up-and-wrong")

    assert code == 1
    assert "error    credentials_refused lean" in said
    assert "Check the application's credentials" in said
    assert "made-up-and-wrong" not in said
    assert said.rstrip().splitlines()[-1].startswith("error ")
