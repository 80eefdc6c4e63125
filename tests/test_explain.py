"""`leanhouse build --explain MODEL`: DuckDB's own words on the terminal, and nowhere else."""

import logging
from dataclasses import replace

import dagster as dg
import pytest
from test_lake import NOW
from test_models import FEBRUARY, brought
from typer.testing import CliRunner

from pipelines.cli import main as cli
from pipelines.dagster_defs.model_assets import model_assets
from pipelines.dagster_defs.resources import LakeResource, silent
from pipelines.keys import SANDBOX_KEY
from pipelines.lake.lake import Lake
from pipelines.models import loader as models_module
from pipelines.models.build import build
from pipelines.models.loader import load

MODELS = load()
VALUE = "SA03 8000 0000 6080 1016 7519"
"""What a row might hold, and a message of DuckDB with it."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake with one movement, of which everything was built."""
    lake = Lake(tmp_path_factory.mktemp("home") / "lake", "sandbox")
    brought(lake, NOW, FEBRUARY)
    assert not [one.problem for one in build(lake, MODELS, hash_key=SANDBOX_KEY) if one.problem]
    return lake


def broken(name, value=VALUE):
    """The models with one that DuckDB refuses, quoting a value: a view as it is made."""
    model = MODELS[name]
    wrong = f"""select "{value}" from ({model.body}\n)"""
    if not model.stored.is_view:
        column = model.stored.month or model.columns[0].name
        wrong = f"select ('{value}'::integer)::varchar as {column}"
        wrong = f"from ({model.body}\n) union all by name {wrong}"
    return replace(MODELS, by_name={**MODELS.by_name, name: replace(model, body=wrong)})


def state(lake):
    """All that lies in a lake."""
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in lake.folder.rglob("*")}


def asked(lake, name, monkeypatch, models):
    """What the command prints, and ends with."""
    monkeypatch.setattr(models_module, "load", lambda: models)
    return CliRunner().invoke(
        cli.app, ["build", "--home", str(lake.folder.parent.parent), "--explain", name]
    )


BY_MACRO = ("fct_transactions", "bridge_accounts", "pii_accounts", "pii_customers", "dim_accounts")
PERSONAL = ("stg_accounts", "stg_transactions", "fct_recurring", "fct_transaction_links")


@pytest.mark.parametrize("name", [*BY_MACRO, *PERSONAL, "dim_dates"])
def test_every_model_is_explained(name, lake, monkeypatch, caplog):
    """Those that no query can run as well, because they need the key or personal columns."""
    before = state(lake)
    caplog.set_level(logging.DEBUG)

    result = asked(lake, name, monkeypatch, broken(name))

    assert result.exit_code == 1
    assert f"{name} cannot be built:\n" in result.stdout
    assert VALUE in result.stdout
    assert VALUE not in caplog.text + result.stderr
    assert state(lake) == before


def test_a_build_says_how_to_ask_and_no_value(lake, tmp_path):
    """Neither in its result nor anywhere in Dagster."""
    home = tmp_path / "lake"
    (tmp_path / "dagster").mkdir()
    wrong = broken("dim_banks")
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        result = dg.materialize(
            [model_assets(wrong)[0]],
            instance=instance,
            resources={
                "lake": LakeResource(root=str(home), environment="sandbox"),
                "progress": silent,
            },
            selection=["dim_banks"],
            raise_on_error=False,
        )
        told = [str(event) for event in instance.all_logs(result.run_id)]

    assert not result.success
    assert any("leanhouse build --explain dim_banks" in one for one in told)
    assert not any(VALUE in one for one in told)


def test_the_culprit_is_named_where_a_model_only_rests_on_it(lake, monkeypatch):
    """A model that fails because another does is sound itself."""
    result = asked(lake, "fct_cash_flow_monthly", monkeypatch, broken("fct_transactions"))

    assert "fct_cash_flow_monthly rests on fct_transactions. " in result.stdout
    assert VALUE in result.stdout


def test_what_can_be_built_is_said_to_be(lake, monkeypatch):
    """With nothing written; and a name that does not exist is one sentence."""
    before = state(lake)

    assert "dim_banks can be built" in asked(lake, "dim_banks", monkeypatch, MODELS).stdout
    absent = asked(lake, "dim_bank", monkeypatch, MODELS)
    assert absent.exit_code == 1
    assert absent.stderr == "error there is no model dim_bank; did you mean dim_banks?\n"
    assert state(lake) == before


def test_an_escape_in_a_message_does_not_reach_the_terminal(lake, monkeypatch):
    """A message quotes a value as it is."""
    result = asked(lake, "dim_banks", monkeypatch, broken("dim_banks", "\x1b[2J[red]x"))

    assert r"\x1b[2J[red]x" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_check_that_fails_is_explained(lake, monkeypatch):
    """Its SQL is the model's, as far as the build goes."""
    check = next(one for one in MODELS.checks if one.model == "fct_cash_flow_monthly")
    body = f"select '{VALUE}'::integer as wrong"
    wrong = replace(MODELS, checks=(replace(check, body=body, is_monthly=False),))

    result = asked(lake, check.model, monkeypatch, wrong)

    assert result.exit_code == 1
    assert VALUE in result.stdout


def test_a_lake_that_is_not_there_stays_so(tmp_path, monkeypatch):
    """An explanation creates no folder."""
    lake = Lake(tmp_path / "lake", "sandbox")

    result = asked(lake, "dim_banks", monkeypatch, broken("dim_banks"))

    assert VALUE in result.stdout
    assert list(tmp_path.iterdir()) == []
