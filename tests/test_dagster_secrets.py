"""No secret in Dagster: a running webserver, its storage, logs and processes are asked for each."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import psycopg
import pytest
from conftest import TODAY
from cryptography.hazmat.primitives import serialization
from test_dagster import _ask, _free_port, _until, values_of

from lean_resources.sandbox import Sandbox, serve
from pipelines.dagster_defs.in_process import prepare_home
from pipelines.environment import child_of

ROOT = Path(__file__).resolve().parent.parent
HASH_KEY = "made-up-hash-key-0123456789-abcdefghij"
INBOX_PASSWORD = "made-up-inbox-password-9f2c"
KEY_PASSWORD = "made-up-key-password-41d7"

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "pipelines.definitions"}
METADATA = """
  label description
  ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString }
  ... on PathMetadataEntry { path } ... on UrlMetadataEntry { url }
  ... on PythonArtifactMetadataEntry { module name } ... on MarkdownMetadataEntry { mdStr }
"""
CONFIG = "name description isRequired defaultValueAsJson configTypeKey"
QUERIES = {
    "resources": """query ($repository: RepositorySelector!) {
  allTopLevelResourceDetailsOrError(repositorySelector: $repository) {
    ... on ResourceDetailsList { results {
      name description resourceType isTopLevel
      configFields { CONFIG } configuredValues { key value type }
      nestedResources { name type } parentResources { name }
    } }
  }
}""",
    "run configuration": """query ($job: PipelineSelector!) {
  runConfigSchemaOrError(selector: $job) {
    ... on RunConfigSchema {
      rootDefaultYaml
      allConfigTypes {
        key description
        ... on CompositeConfigType { fields { CONFIG } } ... on EnumConfigType { values { value } }
      }
    }
  }
}""",
    "jobs": """query ($job: PipelineSelector!) {
  pipelineOrError(params: $job) {
    ... on Pipeline {
      name description tags { key value }
      metadataEntries { label description }
      modes { resources { name description configField { CONFIG configType { key } } } }
      solids { name definition { description metadata { key value } } }
    }
  }
}""",
    "assets": """query {
  assetNodes {
    assetKey { path } description opVersion opNames pools
    metadataEntries { METADATA }
    assetMaterializations(limit: 3) { message metadataEntries { METADATA } tags { key value } }
    assetChecksOrError { ... on AssetChecks { checks {
      name description
      executionForLatestMaterialization { evaluation { metadataEntries { METADATA } } }
    } } }
  }
}""",
    "runs": """query {
  runsOrError { ... on Runs { results {
    id status runConfigYaml runConfig pipelineName tags { key value }
    eventConnection { events {
      __typename
      ... on MessageEvent { message level }
      ... on DisplayableEvent { label description metadataEntries { METADATA } }
      ... on ErrorEvent { error { message stack causes { message stack } } }
    } }
  } } }
}""",
    "instance": """query {
  version
  instance {
    id info executablePath hasInfo runQueueConfig { maxConcurrentRuns tagConcurrencyLimitsYaml }
    runLauncher { name } concurrencyLimits { concurrencyKey } daemonHealth { id }
  }
  workspaceOrError { ... on Workspace { locationEntries {
    id name displayMetadata { key value }
  } } }
}""",
    "automation": """query ($repository: RepositorySelector!) {
  schedulesOrError(repositorySelector: $repository) { ... on Schedules { results {
    name description
    futureTicks(limit: 1) { results { evaluationResult { runRequests { runConfigYaml
      tags { key value } } } } }
  } } }
  sensorsOrError(repositorySelector: $repository) { ... on Sensors { results {
    name description metadata { assetKeys { path } }
  } } }
  utilizedEnvVarsOrError(repositorySelector: $repository) { __typename }
}""",
}
LAUNCH = """mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message stack }
  }
}"""


class Watch:
    """Command lines of every process of this machine, looked at three times a second."""

    def __init__(self):
        self.seen = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_about):
        self._end.set()
        self._thread.join()

    def _look(self):
        while not self._end.wait(0.3):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(file.read_bytes())
                except OSError:
                    continue


def _launch(url, resources):
    """The answer to the launch of the job of webhooks, with some configuration of resources."""
    params = {
        "selector": {**REPOSITORY, "jobName": "doorbell"},
        "mode": "default",
        "runConfigData": {
            "resources": resources,
            "ops": {"doorbell_pulls": {"config": {"streams": ["banks"], "entity_ids": []}}},
        },
    }
    return _ask(url, LAUNCH, params=params)["launchRun"]


def _encrypted(key, folder):
    """A private key again, with a password."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    file = folder / "encrypted_key.pem"
    file.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(KEY_PASSWORD.encode()),
        )
    )
    return file


def _lines_of(*files):
    """What a private key's files hold, line by line, and without line ends."""
    lines = [line for file in files for line in file.read_text().splitlines() if "---" not in line]
    return {line for line in lines if len(line) > 20}


@pytest.fixture(scope="module")
def asked(tmp_path_factory, postgres):
    """A full sync and a run of a webserver: secrets, and all that can be read of them."""
    home = tmp_path_factory.mktemp("home")
    sandbox = Sandbox(customers=2, months=1, seed=7, today=TODAY)
    port = _free_port()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("create database inbox_of_secrets")
    inbox = re.sub(r"//([^@/]+@)?", f"//postgres:{INBOX_PASSWORD}@", postgres, count=1)
    inbox = inbox.rsplit("/", 1)[0] + "/inbox_of_secrets"
    told = {}
    with serve(sandbox, port=0, mtls=True) as server, Watch() as watch:
        prepare_home(home / "dagster")
        with (home / "dagster" / "dagster.yaml").open("a") as settings:
            # No daemon: what is launched starts at once.
            settings.write(
                "\nrun_coordinator:\n  module: dagster._core.run_coordinator\n"
                "  class: DefaultRunCoordinator\n"
            )
        text = (home / "dagster" / "dagster.yaml").read_text()
        text = re.sub(r"^run_queue:\n(  .*\n)+", "", text, flags=re.MULTILINE)
        text = re.sub(r"^  runs:\n(    .*\n)+", "", text, flags=re.MULTILINE)
        (home / "dagster" / "dagster.yaml").write_text(text)
        certificates = server.certificates
        key = _encrypted(certificates.client_key, tmp_path_factory.mktemp("key"))
        environment = child_of(
            values_of(sandbox, server)
            | {
                "trust_root": str(certificates.authority),
                "client_cert": str(certificates.client_cert),
                "client_key": str(key),
                "client_key_password": KEY_PASSWORD,
                "webhook_secret": sandbox.webhook_secret,
                "webhook_next_secret": "made-up-next-secret-77aa",
                "webhook_app_token": sandbox.app_token,
                "webhook_inbox": inbox,
            },
            home,
        ) | {"LEANHOUSE_HASH_KEY": HASH_KEY}
        secrets = {
            HASH_KEY,
            INBOX_PASSWORD,
            KEY_PASSWORD,
            sandbox.client_secret,
            sandbox.webhook_secret,
            sandbox.app_token,
            "made-up-next-secret-77aa",
            *_lines_of(key, certificates.client_key),
        }
        synced = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "sync"],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=500,
        )
        told["the sync's output"] = synced.stdout + synced.stderr
        assert synced.returncode == 0, told["the sync's output"][-2000:]
        log = (home / "webserver.log").open("wb")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster_webserver", "-w", "workspace.yaml"),
                *("-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}/graphql"
        try:
            _until(lambda: _ask(url, "{ version }"), 120, "the webserver's first answer")
            told |= _asked_of(url)
            with socket.create_server(("127.0.0.1", 0)) as elsewhere:
                moved = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/token"
                refusals = [
                    _launch(url, {"lean": {"config": {"token_url": moved}}}),
                    _launch(url, {"lean": {"config": {"api_url": moved}}}),
                    _launch(url, {"lake": {"config": {"pii": True}}}),
                    _launch(url, {"lake": {"config": {"root": str(home / "elsewhere")}}}),
                    _launch(url, {"inbox": {"config": {"url": "sqlite:////tmp/elsewhere.db"}}}),
                ]
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            log.close()
    told["processes"] = b"\n".join(watch.seen).decode(errors="replace").replace("\0", " ")
    told["storage"] = "\n".join(_texts_in(home / "dagster"))
    told["logs"] = (home / "webserver.log").read_text(errors="replace")
    return secrets, told, refusals, home


def _asked_of(url):
    """What GraphQL says of everything, after a run that it launched itself has ended."""
    launched = _launch(url, {})
    assert launched["__typename"] == "LaunchRunSuccess", launched
    one_run = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
    _until(
        lambda: (
            _ask(url, one_run, id=launched["run"]["id"])["runOrError"]["status"]
            in {"SUCCESS", "FAILURE", "CANCELED"}
        ),
        120,
        "the end of the run",
    )
    found = {}
    for name, query in QUERIES.items():
        filled = query.replace("CONFIG", CONFIG).replace("METADATA", METADATA)
        jobs = ["doorbell", "nightly_sync"] if "$job" in query else [None]
        answers = []
        for job in jobs:
            variables = {}
            if "$job" in query:
                variables["job"] = {**REPOSITORY, "pipelineName": job}
            if "$repository" in query:
                variables["repository"] = REPOSITORY
            answers.append(_ask(url, filled, **variables))
        found[name] = json.dumps(answers, ensure_ascii=False)
    return found


def _texts_in(folder):
    """Everything in the files of a folder: databases row by row, with what is compressed."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        body = file.read_bytes()
        yield body.decode(errors="replace")
        if not body.startswith(b"SQLite format 3"):
            continue
        with sqlite3.connect(file) as connection:
            tables = connection.execute("select name from sqlite_master where type = 'table'")
            for (table,) in tables.fetchall():
                for row in connection.execute(f'select * from "{table}"'):
                    yield "\n".join(_text(value) for value in row)


def _text(value):
    if not isinstance(value, bytes):
        return str(value)
    try:
        return zlib.decompress(value).decode(errors="replace")
    except zlib.error:
        return value.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("channel", [*QUERIES, "the sync's output", "processes", "storage", "logs"])
def test_no_secret_of_a_full_run_is_in_dagster(asked, channel):
    """Not the client secret, the hash key, a password, a webhook secret or a line of the key."""
    secrets, told, _, _ = asked

    leaked = [secret for secret in secrets if secret in told[channel]]

    assert len(leaked) == 0, f"{len(leaked)} of {len(secrets)} secrets are in {channel}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_there_was_something_to_read(asked):
    """Each channel was really read: resources, runs with events, snapshots, and the processes."""
    secrets, told, _, _ = asked

    assert len(secrets) > 12
    for name in ("lean", "lake", "inbox", "policy", "progress"):
        assert f'"name": "{name}"' in told["resources"]
    assert "entity_ids" in told["run configuration"]
    assert told["runs"].count('"__typename"') > 300
    assert '"SUCCESS"' in told["runs"]
    assert "dagster/row_count" in told["assets"]
    assert "PIPELINE_SUCCESS" in told["storage"]
    assert "nightly_sync" in told["automation"]
    assert "dagster_webserver" in told["processes"]
    assert "pipelines.cli sync" in told["processes"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_resource_has_a_field(asked):
    """There is nothing on their pages that could be shown, and nothing a run could replace."""
    [found] = json.loads(asked[1]["resources"])

    resources = found["allTopLevelResourceDetailsOrError"]["results"]
    assert {one["name"] for one in resources} == {"lean", "lake", "inbox", "policy", "progress"}
    for one in resources:
        assert one["configFields"] == []
        assert one["configuredValues"] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_brings_a_host_a_folder_or_a_schema_of_persons_is_refused(asked):
    """No run starts, nobody is spoken to, nothing is written elsewhere."""
    _, _, refusals, home = asked

    assert [one["__typename"] for one in refusals] == ["RunConfigValidationInvalid"] * 5
    assert not (home / "elsewhere").exists()
