"""What commands load before they start to work, which is what one waits for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HEAVY = {
    *("dagster", "pandas", "duckdb", "pyarrow", "sqlglot", "sqlalchemy", "aiohttp", "starlette"),
    *("jinja2", "vl_convert"),
}
"""What takes longest to import."""

NEEDED = {
    ("--help",): set(),
    # Each ends at once, with everything imported: no secret, no date, no warehouse.
    ("webhooks",): {"sqlalchemy", "starlette"},
    ("sandbox", "--today", "never"): {"starlette"},
    ("query", "select 1"): {"duckdb", "pyarrow"},
    ("status",): {"duckdb", "pyarrow"},
    ("build", "--help"): set(),
    ("report", "--help"): set(),
}
"""Of these, what a command needs."""


def loaded(code: str, home: Path, *arguments: str) -> set[str]:
    """Which of the slow libraries a process has at its end."""
    report = (
        "import atexit, json, sys\n"
        "told = lambda: print('\\n' + json.dumps([m for m in sys.modules if '.' not in m]))\n"
        "atexit.register(told)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", report + code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={"LEANHOUSE_HOME": str(home), "PATH": ""},
    )
    assert "Traceback" not in ended.stderr
    return HEAVY & set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", NEEDED, ids=" ".join)
def test_a_command_loads_what_it_needs(arguments, tmp_path):
    """No command waits for Dagster, nor for a library that it does not use."""
    found = loaded("from pipelines.cli.main import main; main()", tmp_path, *arguments)

    assert found == NEEDED[arguments]


def test_definitions_load_without_parsing_models(tmp_path):
    """Dagster's code server loads no SQL parser once models were read, nor what an inbox takes."""
    code = "from pipelines.models.loader import load; load()"
    loaded(code, tmp_path)

    found = loaded("import pipelines.definitions", tmp_path)

    assert "dagster" in found
    assert not found & {"pandas", "sqlalchemy", "sqlglot"}


def test_a_sync_does_not_load_the_offline_lean(tmp_path):
    """That belongs to the demo, `dev` and `sandbox`; this one ends where runs cannot be kept."""
    (tmp_path / "dagster").touch()
    report = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*(m for m in sys.modules if m.count('.') <= 2)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"{report}from pipelines.cli.main import main; main()", "sync"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={"LEANHOUSE_HOME": str(tmp_path), "PATH": ""},
    )

    assert ended.returncode != 0
    found = set(ended.stdout.split())
    assert {"pipelines.dagster_defs.in_process", "lean_resources.client"} <= found
    assert not found & {"lean_resources.sandbox", "pipelines.cli.demo"}


def test_dev_names_the_extra_that_it_lacks(tmp_path):
    """A plain installation has no Dagster UI."""
    code = (
        "import sys\n"
        "sys.modules['dagster_webserver'] = None\n"
        "from pipelines.cli.main import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "dev"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"LEANHOUSE_HOME": str(tmp_path), "PATH": ""},
    )

    assert ended.returncode == 1
    assert "pip install 'leanhouse[webserver]'" in ended.stderr
    assert "Traceback" not in ended.stderr
