"""What is installed works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shared import once

from pipelines.lake.queries import QUERIES
from pipelines.lake.views import LAKE_VIEWS
from pipelines.shipped import SQL

ROOT = Path(__file__).resolve().parent.parent
PACKED = ("leanhouse.py", "lean_resources", "pipelines", "sql")


def build(folder):
    """Build the wheel and unpack it, as an installation does."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    copied = ("pyproject.toml", "README.md", "LICENSE", *PACKED)
    # Of a copy, because a build leaves files beside what it builds.
    source = folder / "source"
    source.mkdir()
    for name in copied:
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    subprocess.run([*command, "-w", folder, source], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "installed")


@pytest.fixture
def run(tmp_path):
    """Runs a Python outside the checkout that finds the installed code first."""
    installed = once("wheel", build) / "installed"

    def ended(*arguments, timeout=120):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout,
        ).stdout

    return ended


def test_every_package_and_every_sql_file_is_in_the_wheel():
    """A folder that pyproject.toml does not list would be missing."""
    installed = once("wheel", build) / "installed"
    ours = [*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("lean_resources/**/*.py")]
    for file in ours:
        assert (installed / file.relative_to(ROOT)).is_file(), file
    shipped = {file.relative_to(SQL) for file in SQL.rglob("*") if file.suffix in {".sql", ".csv"}}
    assert shipped == {
        file.relative_to(installed / "pipelines" / "sql")
        for file in (installed / "pipelines" / "sql").rglob("*.*")
    }
    assert (installed / "pipelines" / "dagster.yaml").is_file()
    pages = {file.name for file in (ROOT / "pipelines" / "operate" / "pages").iterdir()}
    assert pages == {file.name for file in installed.glob("pipelines/operate/pages/*")}
    for file in ROOT.glob("lean_resources/sandbox/tables/*"):
        assert (installed / file.relative_to(ROOT)).is_file(), file
    assert (installed / "leanhouse.py").is_file()


def test_the_installed_code_reads_its_own_files(run):
    """And keeps its state in the home of whoever runs it."""
    told = run(
        "-c",
        "from pipelines import shipped\n"
        "from pipelines.lake.queries import QUERIES\n"
        "from pipelines.lake.views import LAKE_VIEWS\n"
        "print(shipped.CHECKOUT, shipped.DEFAULT_HOME.name, len(QUERIES), len(LAKE_VIEWS))",
    )

    assert told.split() == ["None", ".leanhouse", str(len(QUERIES)), str(len(LAKE_VIEWS))]


@pytest.mark.slow
def test_the_installed_command_line_prints_the_dictionary(run):
    """Every model is read, bound and described from the files of the wheel."""
    written = run("-m", "pipelines.cli", "dictionary")

    assert written == (ROOT / "docs" / "dictionary.md").read_text(encoding="utf-8")


@pytest.mark.conformance
def test_the_installed_demo_runs(run):
    """A sync, the tables and a query, outside the checkout."""
    run("-m", "pipelines.cli", "demo", timeout=600)

    asked = ("query", "--home", "demo", "--csv", "select count(*) > 0 as there from transactions")
    home = run("-c", "from pipelines.shipped import DEFAULT_HOME; print(DEFAULT_HOME / 'demo')")
    assert "true" in run("-m", "pipelines.cli", *asked[:2], home.strip(), *asked[3:])
