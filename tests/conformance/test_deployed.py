"""The services of deploy/compose.yaml, started together on loopback by their own commands.

Without containers: hosts become loopback, ports become free ones, and PostgreSQL is the tests' own.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
import yaml
from cluster import running

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
PATIENCE = 240
RUNS = "{ runsOrError { ... on Runs { results { status pipelineName } } } }"
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
    name locationOrLoadError { __typename } } } } }"""


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Deployment:
    """The services, their files in one folder.

    Args:
        folder: Empty, and for this deployment alone.
        database: The port of PostgreSQL.
    """

    def __init__(self, folder, database):
        self.folder = folder
        self.ports = {port: free_port() for port in ("3000", "4000", "8600", "8650")}
        self.ports["5432"] = database
        self.home = folder / "home"
        self.home.joinpath("dagster").mkdir(parents=True)
        shutil.copy(DEPLOY / "dagster.yaml", self.home / "dagster")
        self._write("workspace.yaml", (DEPLOY / "workspace.yaml").read_text(encoding="utf-8"))
        made = [sys.executable, DEPLOY / "make_secrets.py", "--offline", "--into", folder]
        subprocess.run(made, check=True, timeout=60)
        for file in (folder / "lean.env", folder / "secrets" / "LEAN_WEBHOOK_INBOX"):
            file.write_text(
                self._here(file.read_text()).replace("@postgres", f"@127.0.0.1:{database}")
            )

    def _write(self, name, text):
        (self.folder / name).write_text(self._here(text), encoding="utf-8")

    def _here(self, text):
        """A text of a container's, on loopback."""
        text = re.sub(r"\b(3000|4000|5432|8600|8650)\b", lambda at: self.ports[at[0]], text)
        text = text.replace("/etc/leanhouse", str(self.folder)).replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"(?<=//)receiver|(?<=host: )code|^(postgres|receiver)$", "127.0.0.1", text)

    def environment(self, name):
        """What a container of a service has, and nothing of the machine's."""
        service = SERVICES[name]
        secrets = self.folder / f"secrets-of-{name}"
        secrets.mkdir(exist_ok=True)
        for secret in service.get("secrets", []):
            shutil.copy(self.folder / "secrets" / secret, secrets)
        files = [self.folder / file for file in service.get("env_file", [])]
        lines = [line for file in files for line in file.read_text().splitlines()]
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LEANHOUSE_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "SECRETS_FOLDER": str(secrets),
            **dict(line.split("=", 1) for line in lines),
            **{key: self._here(value) for key, value in service.get("environment", {}).items()},
        }

    def command(self, name, *words):
        """A command in the container of a service."""
        words = [self._here(word) for word in words or SERVICES[name]["command"]]
        return ["sh", str(DEPLOY / "entrypoint.sh"), *words]

    @contextlib.contextmanager
    def started(self, name, *more):
        """A service, until the block ends: by SIGTERM, as an engine does."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.command(name), *more],
                cwd=self.folder, env=self.environment(name), stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_well(name, process, log)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def _wait_until_well(self, name, process, log):
        check = SERVICES[name].get("healthcheck")
        deadline = time.monotonic() + PATIENCE
        while check is not None and self.run(name, *check["test"][1:]).returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{name} is not well: {log.read_text()}"
            time.sleep(1)

    def run(self, name, *words):
        """A command in the container of a service, to its end."""
        return subprocess.run(
            self.command(name, *words),
            cwd=self.folder, env=self.environment(name), capture_output=True, text=True,
            check=False, timeout=PATIENCE,
        )  # fmt: skip

    def ask(self, query):
        """What Dagster's webserver answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['3000']}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def query(self, sql):
        """What the warehouse answers, asked in the code's container."""
        ended = self.run("code", "leanhouse", "query", "--csv", sql)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()[-1]


@pytest.fixture
def deployment(tmp_path):
    """The services that are started by each test, with PostgreSQL as deploy/postgres sets it up."""
    with running() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create role dagster superuser login")
            connection.execute("create database dagster owner dagster")
            script = (DEPLOY / "postgres" / "receiver.sh").read_text(encoding="utf-8")
            statements = script.split("<<'SQL'\n")[1].split("SQL\n")[0]
            for statement in statements.replace(":'password'", "'made up'").split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        yield Deployment(tmp_path, url.rsplit(":", 1)[1].split("/")[0])


def test_a_sync_and_a_webhook_go_through_all_services(deployment):
    """Each health check answers; the daemon starts the run that a webhook asks for."""
    small = ("--customers", "3", "--months", "2")
    with contextlib.ExitStack() as services:
        services.enter_context(deployment.started("receiver"))
        services.enter_context(deployment.started("lean", *small))
        for name in ("code", "webserver", "daemon"):
            services.enter_context(deployment.started(name))
        entries = deployment.ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
        assert [(e["name"], e["locationOrLoadError"]["__typename"]) for e in entries] == [
            ("leanhouse", "RepositoryLocation")
        ]

        synced = deployment.run("code", "leanhouse", "sync")
        assert synced.returncode == 0, synced.stderr
        assert "receiver_down" not in deployment.run("code", "leanhouse", "status", "--json").stdout
        entities = int(deployment.query("select count(distinct entity_id) from dim_entities"))

        connect = f"http://127.0.0.1:{deployment.ports['8600']}/_sandbox/connect"
        request = urllib.request.Request(connect, b"{}", {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            entity_id = json.load(answer)["entity_id"]
        deadline = time.monotonic() + PATIENCE
        seen = f"select count(*) from transactions where entity_id = '{entity_id}'"
        while not (rows := int(deployment.query(seen))):
            assert time.monotonic() < deadline, (deployment.folder / "daemon.log").read_text()
            time.sleep(2)

        assert rows > 0
        found = int(deployment.query("select count(distinct entity_id) from dim_entities"))
        runs = deployment.ask(RUNS)["runsOrError"]["results"]

    assert found == entities + 1
    assert {run["pipelineName"] for run in runs} >= {"doorbell"}
    assert "FAILURE" not in {run["status"] for run in runs}
    # What strangers reach, and what has no login, never had the credentials of Lean.
    for name in ("receiver", "webserver", "daemon"):
        assert "LEAN_CLIENT_SECRET" not in {
            file.name for file in (deployment.folder / f"secrets-of-{name}").iterdir()
        }
    # Nothing is for others to read, whoever wrote it.
    readable = [f for f in deployment.home.rglob("*") if f.is_file() and f.stat().st_mode & 0o77]
    assert [file.name for file in readable] in ([], ["dagster.yaml"])


def test_the_receivers_role_has_no_way_to_dagsters_database(deployment):
    """It is the part that strangers reach."""
    port = deployment.ports["5432"]

    psycopg.connect(f"postgresql://inbox@127.0.0.1:{port}/inbox").close()
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(f"postgresql://inbox@127.0.0.1:{port}/dagster")
