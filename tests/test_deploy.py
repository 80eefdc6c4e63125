"""What lies in deploy/ names what there is, runs as nobody's root, and holds no secret."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lean_resources.settings import VARIABLES, WEBHOOK_VARIABLES
from pipelines.environment import HOUSE_VARIABLES, KNOWN

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
MADE = {"lean.env", "receiver.env", "requirements.lock"}
"""What a deployment or a tool writes."""
FILES = sorted(
    file for file in DEPLOY.rglob("*")
    if file.is_file() and not {"secrets", "__pycache__"} & {*file.parts} and file.name not in MADE
)  # fmt: skip
SECRET = {one.name for one in (*HOUSE_VARIABLES, *VARIABLES, *WEBHOOK_VARIABLES) if one.secret} | {
    "DAGSTER_PG_PASSWORD",
    "INBOX_PASSWORD",
}
VARIABLE = re.compile(r"\bLEAN(?:HOUSE)?_[A-Z_]+\b")
HIGH_ENTROPY = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])[\w-]{24,}\b|://[^\s/@{}]+:[^\s/@{}]+@")
"""A text that looks like a password, and a URL that has one."""


def documents(name):
    """The documents of a YAML file."""
    return [*yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))]


def environments():
    """Each environment that a file sets: where it stands, and its names with their values."""
    (compose,) = documents("compose.yaml")
    for name, service in compose["services"].items():
        yield name, service.get("environment", {})
    (values,) = documents("helm/values.yaml")
    for deployment in values["dagster-user-deployments"]["deployments"]:
        yield "values.yaml", {one["name"]: one["value"] for one in deployment["env"]}
    for document in documents("helm/receiver.yaml"):
        for container in pods(document):
            yield "receiver.yaml", {one["name"]: one["value"] for one in container["env"]}
    for unit in DEPLOY.glob("systemd/*.service"):
        lines = unit.read_text(encoding="utf-8")
        yield unit.name, dict(re.findall(r"(?m)^Environment=(\w+)=(.*)$", lines))


def pods(document):
    """The containers of a Kubernetes object."""
    return document["spec"].get("template", {}).get("spec", {}).get("containers", [])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_a_file_names_settings_that_exist_and_holds_no_secret(file):
    """Also in its comments. What looks like a secret is none of its values."""
    text = file.read_text(encoding="utf-8")

    assert set(VARIABLE.findall(text)) <= KNOWN
    if file.suffix in {".yaml", ".service", ""}:
        assert HIGH_ENTROPY.findall(text) == []
    if file.suffix == ".yaml":
        assert [*yaml.safe_load_all(text)]


def test_no_environment_has_a_secret():
    """Secrets come from files or objects that are named."""
    found = [*environments()]

    assert len(found) > 8
    for where, given in found:
        assert not SECRET & set(given), where
        assert not {name for name in given if "PASSWORD" in name and not name.endswith("_FILE")}


@pytest.mark.parametrize("text", ["a: 8f14e45fceea167a5a36dedd4bea2543", "postgresql://u:pw@h/d"])
def test_a_secret_would_be_found(text):
    """A mutant of a file."""
    assert HIGH_ENTROPY.search(text)


def test_containers_run_as_nobody_over_a_root_that_is_read_only():
    """By number, because Kubernetes cannot know a name's."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    users = re.findall(r"(?m)^USER (\S+)", dockerfile)
    (compose,) = documents("compose.yaml")
    (values,) = documents("helm/values.yaml")
    ours = [one for one in compose["services"].values() if one["image"].startswith("leanhouse")]

    assert users == ["10001:10001"]
    assert len(ours) == 5
    for service in ours:
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    for pod in (*values["dagster-user-deployments"]["deployments"],
                values["dagsterWebserver"], values["dagsterDaemon"]):  # fmt: skip
        assert pod["podSecurityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["allowPrivilegeEscalation"] is False
    for document in documents("helm/receiver.yaml"):
        for container in pods(document):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert document["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


def test_every_service_says_whether_it_is_well():
    """All but the offline Lean."""
    (compose,) = documents("compose.yaml")
    without = {name for name, one in compose["services"].items() if "healthcheck" not in one}

    assert without == {"lean"}


def test_only_the_code_has_leans_credentials_and_the_lake():
    """Neither what strangers reach nor what has no login."""
    (compose,) = documents("compose.yaml")
    services = compose["services"]

    assert {n for n, one in services.items() if "LEAN_CLIENT_SECRET" in one.get("secrets", [])} == {
        "code"
    }
    assert {n for n, one in services.items() if "home:" in str(one.get("volumes", []))} == {"code"}
    assert all(
        port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", [])
    )
    assert {*compose["secrets"]} == {
        name for one in services.values() for name in one.get("secrets", [])
    }


def test_dagsters_settings_are_those_of_a_home_with_a_storage():
    """Pools, retries and the launcher are the same everywhere."""
    (deployed,) = documents("dagster.yaml")
    usual = yaml.safe_load((ROOT / "pipelines" / "dagster.yaml").read_text(encoding="utf-8"))
    (values,) = documents("helm/values.yaml")

    assert deployed.pop("storage")["postgres"]["postgres_db"]["password"] == {
        "env": "DAGSTER_PG_PASSWORD"
    }
    assert deployed == usual
    runs, pools = values["concurrency"]["runs"], values["concurrency"]["pools"]
    assert runs["maxConcurrentRuns"] == usual["concurrency"]["runs"]["max_concurrent_runs"]
    assert pools["defaultLimit"] == usual["concurrency"]["pools"]["default_limit"]
    assert pools["granularity"] == usual["concurrency"]["pools"]["granularity"]


def test_units_keep_what_they_write_to_themselves():
    """Dagster's own processes load none of our code, which would set the umask."""
    units = [*DEPLOY.glob("systemd/*.service")]

    assert len(units) == 4
    for unit in units:
        lines = unit.read_text(encoding="utf-8").splitlines()
        assert {"UMask=0077", "User=leanhouse", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= {
            *lines
        }, unit.name


def test_the_image_and_the_chart_are_of_this_version():
    """The chart's version is that of the library `dagster`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (compose,) = documents("compose.yaml")
    (values,) = documents("helm/values.yaml")
    receiver = documents("helm/receiver.yaml")[0]
    lock = (DEPLOY / "requirements.lock").read_text(encoding="utf-8")
    dagster = re.search(r"^dagster==(\S+)", lock, re.MULTILINE)[1]

    assert compose["services"]["code"]["image"] == f"leanhouse:{project['version']}"
    assert values["dagsterWebserver"]["image"]["tag"] == project["version"]
    assert pods(receiver)[0]["image"].endswith(f":{project['version']}")
    assert f"--version {dagster} " in (DEPLOY / "helm" / "values.yaml").read_text(encoding="utf-8")


def test_secrets_are_made_once_and_read_from_files(tmp_path):
    """What compose.yaml names is there; a second time changes nothing; the command finds them."""
    make = [sys.executable, DEPLOY / "make_secrets.py", "--offline", "--into", tmp_path]
    subprocess.run(make, check=True, timeout=60)
    made = {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()}
    subprocess.run(make, check=True, timeout=60)
    (compose,) = documents("compose.yaml")

    assert set(made) == set(compose["secrets"])
    assert made == {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()}
    assert (tmp_path / "secrets").stat().st_mode & 0o77 == 0
    shown = subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "sh", "-c", "umask; env"],
        env={"PATH": os.environ["PATH"], "SECRETS_FOLDER": str(tmp_path / "secrets")},
        check=True, capture_output=True, text=True, timeout=20,
    ).stdout.splitlines()  # fmt: skip
    assert shown[0] == "0077"
    assert f"LEAN_CLIENT_SECRET={made['LEAN_CLIENT_SECRET'].decode()}" in shown


def test_what_cannot_be_made_up_is_left_to_fill_in(tmp_path):
    """With the place where it is found."""
    ended = subprocess.run(
        [sys.executable, DEPLOY / "make_secrets.py", "--into", tmp_path],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert {line.split(":")[0].rsplit("/", 1)[1] for line in ended.stdout.splitlines()} == {
        "LEAN_CLIENT_SECRET",
        "LEAN_WEBHOOK_SECRET",
        "LEANHOUSE_ALERT_URLS",
        "lean.env",
        "receiver.env",
    }
