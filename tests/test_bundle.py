"""The support bundle: what a report needs, whole, and neither a secret nor a personal value."""

import json
import os
import stat
import zipfile
from pathlib import Path

import pytest
import shared
from conftest import TODAY
from test_secrets import personal
from typer.testing import CliRunner

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.cli.main import app
from pipelines.environment import settings
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.models.manifest import CheckResult, current_manifest
from pipelines.operate import bundle

WORLD = {"customers": 2, "months": 2, "seed": 7, "today": TODAY}
SECRETS = {
    "LEANHOUSE_HASH_KEY": "made-up-hash-key-0123456789-abcdefghij",
    "LEAN_CLIENT_ID": "made-up-client-id-31",
    "LEAN_CLIENT_SECRET": "made-up-client-secret-32",
    "LEAN_WEBHOOK_SECRET": "made-up-webhook-secret-33",
    "LEAN_WEBHOOK_INBOX": "postgresql://someone:made-up-inbox-34@127.0.0.1:1/inbox",
    "LEANHOUSE_ALERT_URLS": "jsons://user:made-up-alert-35@localhost/made-up-path-36",
}
PARTS = {
    *("bundle.json", "fsck.json", "ledger.json", "places.json", "runs.json", "settings.json"),
    *("status.json", "tables.json", "versions.json"),
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    """Made-up secrets in the settings of this process."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEAN_WEBHOOK_PORT", "0")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def home(tmp_path):
    """A home with a lake, some tables and a policy."""
    lake = Lake(tmp_path / "home" / "lake", "sandbox")
    shared.filled(lake, sandbox=WORLD)
    build(lake, load(), hash_key="k", only=("dim_banks", "dim_dates"))
    (tmp_path / "home" / "policy.toml").write_text("lookback_days = 45\n")
    return tmp_path / "home"


def bundled(home):
    """The command, and the parts of its file, if there is one."""
    file = home.parent / "fault.zip"
    done = CliRunner().invoke(app, ["support-bundle", str(file), "--home", str(home)])
    if not file.exists():
        return done, {}
    with zipfile.ZipFile(file) as packed:
        assert packed.testzip() is None
        return done, {name: packed.read(name).decode() for name in packed.namelist()}


def refused(home):
    """The message of a bundle that was refused and left nothing."""
    done, parts = bundled(home)
    assert (done.exit_code, parts) == (1, {})
    assert isinstance(done.exception, bundle.BundleError)
    assert list(home.parent.iterdir()) == [home]
    return done.exception.message


def test_it_has_what_a_report_needs_and_nothing_that_is_secret(home, monkeypatch):
    """No value of a customer of a known world, no secret, no folder; for its owner alone."""
    before = os.umask(0)
    try:
        done, parts = bundled(home)
    finally:
        os.umask(before)

    assert done.exit_code == 0, done.output
    assert parts.keys() == {*PARTS, "policy.toml"}
    whole = "\n".join(parts.values())
    known = personal(Sandbox(**WORLD))
    assert len(known["account numbers"]) > 3
    texts = {json.loads(json.dumps(one)) for kind in known.values() for one in kind}
    public = {
        one for one in texts if one in json.dumps(Sandbox(**WORLD).truth("banks"), default=str)
    }
    assert [one for one in texts - public if one in whole] == []
    for name, value in SECRETS.items():
        assert value not in whole
        assert json.loads(parts["settings.json"])[name] == {"is_set": True}
    assert "made-up" not in whole
    assert str(home) not in whole
    assert json.loads(parts["tables.json"])["rows"]["dim_dates"] > 300
    assert {one["stream"] for one in json.loads(parts["ledger.json"])} >= {"accounts", "banks"}
    assert json.loads(parts["fsck.json"])["findings"] == {}
    assert "problems" in json.loads(parts["status.json"])
    assert json.loads(parts["places.json"])["rows"]["files"] > 3
    assert json.loads(parts["bundle.json"])["files_not_searched"] == 0
    file = home.parent / "fault.zip"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    content = file.read_bytes()
    again, _ = bundled(home)
    assert again.exit_code == 1
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("LEAN_CLIENT_SECRET", "made-up-client-secret-32"),
        ("LEAN_WEBHOOK_INBOX", "made-up-inbox-34"),
        ("LEANHOUSE_ALERT_URLS", "made-up-alert-35"),
    ],
)
def test_a_secret_in_a_part_stops_it(home, name, secret):
    """An operator may have written it into the policy; a part of a URL counts too."""
    with (home / "policy.toml").open("a") as policy:
        policy.write(f"# note: {secret}!\n")

    message = refused(home)

    assert message.endswith("stands in policy.toml")
    assert secret not in message
    assert name in SECRETS


def test_settings_with_their_values_are_caught(home, monkeypatch):
    """As if somebody had forgotten to leave the values out."""

    def leaky(found):
        yield from SECRETS.items()

    monkeypatch.setattr(bundle, "_settings", leaky)

    assert refused(home).endswith("stands in settings.json")


def test_shown_rows_of_checks_are_caught(home, monkeypatch):
    """A row that breaks a claim holds a customer's name, in the manifest and so in the part."""
    lake = Lake(home / "lake", "sandbox")
    with lake.connect(("identity",)) as connection:
        ((name,),) = connection.execute(
            f"select full_legal_name from ({lake.history(STREAMS['identity'])}) limit 1"
        ).fetchall()
    row = CheckResult("x", 1, [{"full_name": name}])
    monkeypatch.setattr(
        bundle, "_tables", lambda lake: {"shown": [row.shown, current_manifest(lake).number]}
    )

    message = refused(home)

    assert message.endswith("stands in tables.json")
    assert name not in message


def test_an_empty_home_has_a_bundle(tmp_path):
    """No lake, no warehouse, no policy; nothing is made in the home."""
    done, parts = bundled(tmp_path / "home")

    assert done.exit_code == 0, done.output
    assert parts.keys() == PARTS
    assert json.loads(parts["status.json"])["problems"][0]["rule"] == "no_sync_yet"
    assert not (tmp_path / "home").exists()


def test_a_damaged_home_has_a_bundle(home):
    """Rows, ledger and policy cannot be read: each part says so, and the others are there."""
    lake = home / "lake" / "sandbox"
    damaged = [next(lake.glob("identity/*/*.parquet")), next(lake.glob("pulls/*/*.parquet"))]
    for file in damaged:
        file.write_bytes(b"PAR1 made up PAR1")
    (home / "policy.toml").write_text(f"lookback_days = # see {home}/notes and {Path.home()}/x")

    done, parts = bundled(home)

    assert done.exit_code == 0, done.output
    assert parts.keys() == {*PARTS, "policy.toml"}
    assert parts["policy.toml"].endswith("see $LEANHOUSE_HOME/notes and ~/x")
    assert json.loads(parts["status.json"])["failed"] == "ConfigError"
    assert "failed" in json.loads(parts["ledger.json"])
    assert sum(json.loads(parts["fsck.json"])["findings"].values()) >= 1
    assert json.loads(parts["bundle.json"])["files_not_searched"] == 1


def test_a_bundle_is_not_written_into_the_home(home):
    """A file there would be foreign."""
    target = str(home / "fault.zip")
    done = CliRunner().invoke(app, ["support-bundle", target, "--home", str(home)])

    assert done.exit_code == 1
    assert not (home / "fault.zip").exists()
