"""Logs: text as ever, or JSON line by line, of commands, the receiver and runs; no secret."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import httpx
import pytest
from conftest import TODAY
from dagster import _loggers
from prometheus_client.parser import text_string_to_metric_families
from test_receiver import body_of, signed

from lean_resources.sandbox import Sandbox, serve
from pipelines import logs
from pipelines.cli.demo import accept_clock, settings_of
from pipelines.dagster_defs.resources import log_runs_as_json
from pipelines.environment import child_of
from pipelines.webhooks.receiver import PATH

ROOT = Path(__file__).resolve().parent.parent
WRONG = "made-up-wrong-secret-5d1c"
HASH_KEY = "made-up-hash-key-0123456789-abcdefghij"
JSON = {"LEANHOUSE_LOG_FORMAT": "json"}


def ran(*arguments, **environment):
    """A command that ended by itself."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env=environment,
    )


def lines_of(text):
    """The lines of a log in JSON, each with its four fields."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert line["time"].endswith("+00:00")
    return lines


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of commands that reach an offline Lean."""
    home = tmp_path_factory.mktemp("home")
    accept_clock(home)
    sandbox = Sandbox(customers=1, months=1, seed=7, today=TODAY)
    with serve(sandbox, port=0, mtls=False) as server:
        values = settings_of(sandbox, server, requests_per_second=500)
        yield child_of(values, home) | {"LEANHOUSE_HASH_KEY": HASH_KEY}


@pytest.mark.slow
def test_a_sync_logs_json_and_writes_metrics(environment, tmp_path):
    """Each line of standard error is JSON, also that of the metrics which cannot be written."""
    file = tmp_path / "leanhouse.prom"
    done = ran("sync", **environment, **JSON, LEANHOUSE_METRICS_FILE=str(file))

    assert done.returncode == 0, done.stderr
    lines_of(done.stderr)
    metrics = {one.name for one in text_string_to_metric_families(file.read_text())}
    assert {"leanhouse_pulls_last_day", "leanhouse_table_rows"} <= metrics

    missing = str(tmp_path / "missing" / "leanhouse.prom")
    done = ran("build", **environment, **JSON, LEANHOUSE_METRICS_FILE=missing)

    [line] = lines_of(done.stderr)
    assert line["level"] == "WARNING"
    assert line["message"].startswith("metrics were not written")


@pytest.mark.slow
def test_a_sync_that_fails_says_so_in_json_without_a_secret(environment, tmp_path):
    """Neither the client's secret nor the hash key is in it."""
    wrong = environment | {"LEAN_CLIENT_SECRET": WRONG, "LEANHOUSE_HOME": str(tmp_path)}
    done = ran("sync", **wrong, **JSON)

    lines = lines_of(done.stderr)
    assert done.returncode == 1
    assert lines[-1]["level"] == "ERROR"
    assert "credentials" in lines[-1]["message"]
    for secret in (WRONG, HASH_KEY):
        assert secret not in done.stderr + done.stdout
    # Its run is recorded where DAGSTER_HOME says, as `leanhouse status` reads it.
    assert not (tmp_path / "dagster").exists()


def test_wrong_settings_are_said_in_json_too(tmp_path):
    """The format is known where another setting is wrong; the class of the error stands by it."""
    given = {"LEANHOUSE_HOME": str(tmp_path), "LEAN_REGION": WRONG, "PATH": os.environ["PATH"]}
    done = ran("status", **given, **JSON)

    [line] = lines_of(done.stderr)
    assert (done.returncode, line["level"], line["error"]) == (1, "ERROR", "ConfigError")
    assert line["message"].startswith("LEAN_REGION is not an allowed value")
    assert WRONG not in done.stderr
    assert ran("status", **given).stderr.startswith("error LEAN_REGION")
    assert "LEANHOUSE_LOG_FORMAT" in ran("status", **given, LEANHOUSE_LOG_FORMAT="xml").stderr


def test_the_receiver_logs_json(environment, tmp_path):
    """Its own lines, those of the server that carries it, and that a signal ended it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    inbox = tmp_path / "inbox.db"
    given = environment | {
        **JSON,
        "LEAN_WEBHOOK_SECRET": "whsec_made_up_0001",
        "LEAN_WEBHOOK_PORT": str(port),
        "LEAN_WEBHOOK_INBOX": f"sqlite:///{inbox}",
    }
    command = [sys.executable, "-m", "pipelines.cli", "webhooks"]
    body = body_of(1)
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=ROOT, env=given, stderr=subprocess.PIPE, text=True) as done:
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.05)
            inbox.unlink()
            answer = httpx.post(f"{url}{PATH}", content=body, headers=signed(body))
            assert answer.status_code == 503
        finally:
            done.send_signal(signal.SIGTERM)
            _, said = done.communicate(timeout=60)

    lines = lines_of(said)
    assert any("answered 503" in line["message"] for line in lines)
    assert "ended by SIGTERM" in lines[-1]["message"]
    assert "whsec_made_up_0001" not in said


def test_a_run_of_dagster_logs_json_with_its_fields(monkeypatch, capsys):
    """Run, job and step stand by themselves, and the class of the error that began it all."""
    monkeypatch.setattr(_loggers, "create_console_logger", _loggers.create_console_logger)
    log_runs_as_json()

    @dg.op
    def broken(context):
        context.log.info("it begins")
        raise ValueError("it broke")

    @dg.job
    def one():
        broken()

    result = one.execute_in_process(raise_on_error=False)

    lines = lines_of(capsys.readouterr().err)
    assert {line["run_id"] for line in lines} == {result.run_id}
    [begun] = [line for line in lines if line["message"] == "it begins"]
    assert (begun["step_key"], begun["job_name"], begun["level"]) == ("broken", "one", "INFO")
    [failed] = [line for line in lines if line.get("step_key") and "error" in line]
    assert failed["error"] == "ValueError"
    assert "it broke" in failed["traceback"]


def test_a_record_has_no_other_field():
    """What a library adds to a record stays out; the text of an error is as in text logs."""
    error = KeyError("gone")
    info = (KeyError, error, None)
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "ERROR", "msg": "two\nlines", "exc_info": info, "token": WRONG}
    )

    text = logs.JsonLines().format(record)

    assert WRONG not in text
    assert "\n" not in text
    assert json.loads(text)["message"] == "two\nlines"
    assert json.loads(text)["error"] == "KeyError"
