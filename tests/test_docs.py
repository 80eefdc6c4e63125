"""What the docs name is there: files, commands, targets, variables and knobs."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer.main
import yaml

from pipelines.cli.main import app
from pipelines.models.dictionary import env_example
from pipelines.sync.policy import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *("README.md", "CONTRIBUTING.md", "DECISIONS.md", "docs/guarantees.md", "docs/performance.md"),
    *("docs/personal-data.md", "docs/webhooks.md", "docs/security.md", "docs/install.md"),
    *(
        "docs/index.md",
        "docs/operate.md",
        "docs/status.md",
        "docs/deploy.md",
        "docs/backup.md",
        "docs/upgrade.md",
    ),
]
THEIRS = {"policy.toml", ".older.json", "leanhouse.json"}
"""Files that a deployment has, and the end of a name."""

CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"[\w./-]+\.(?:py|sql|md|toml|yaml|json|csv)")
TARGET = re.compile(r"\bmake ([a-z]+)\b")
COMMAND = re.compile(r"(?:^|(?<!from)[ /])leanhouse ([a-z][a-z-]*)\b")
VARIABLE = re.compile(r"\bLEAN(?:HOUSE)?(?:_[A-Z]+)+\b")


def code(page):
    """What a page sets as code: spans, and the lines of its blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()[1:-1]]
    return CODE.findall(BLOCK.sub("", text)) + lines


@cache
def tracked():
    """Files of the repository; all but those left out by git where there is no repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    return listed.splitlines()


def missing_files(snippets):
    """Names of files that no file of the repository has, or ends with."""
    named = {found for text in snippets for found in FILE.findall(text) if found == text}
    return {
        name for name in named - THEIRS
        if not any(file == name or file.endswith(f"/{name}") for file in tracked())
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    """Modules move; the pages that name them move along."""
    assert missing_files(code(page)) == set()


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_targets_that_a_page_names_are_there(page):
    """Whoever copies a line of a page gets what it says."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    commands = set(typer.main.get_group(app).commands)
    snippets = code(page)

    assert {name for text in snippets for name in TARGET.findall(text)} <= targets
    assert {name for text in snippets for name in COMMAND.findall(text)} <= commands


@pytest.mark.parametrize("page", PAGES)
def test_variables_that_a_page_names_are_read(page):
    """Each one stands in .env.example, which is written from the settings."""
    known = set(VARIABLE.findall(env_example()))

    assert {name for text in code(page) for name in VARIABLE.findall(text)} <= known


def test_the_readmes_policy_is_one():
    """The example of policy.toml loads, and its values are the usual ones where it says so."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    given = tomllib.loads(example)
    usual, *tables = load(ROOT / "policy.toml.none")

    for name, value in given.items():
        if isinstance(value, dict) and name in {"schedules", "alerts"}:
            table = tables[name == "alerts"].model_dump(mode="json")
            assert value.items() <= table.items()
        elif name != "lookback_days_by_bank":
            assert value == usual.model_dump(mode="json")[name], name


def test_the_site_has_every_page():
    """`make docs` finds dead links, but not a page that nothing leads to."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [page for section in site["nav"] for pages in section.values() for page in pages]

    assert sorted(listed) == sorted(file.name for file in (ROOT / "docs").glob("*.md"))


def test_what_is_not_there_is_found():
    """An invented module is missing."""
    named = ["pipelines/nothing.py", "pipelines/lake/lake.py"]
    assert missing_files(named) == {"pipelines/nothing.py"}


def test_each_control_has_its_test():
    """`docs/security.md` promises nothing that no test holds."""
    _, _, controls = (
        (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("## Controls")
    )
    rows = [line.split(" | ") for line in controls.splitlines() if line.startswith("| ")][1:]

    assert len(rows) >= 8
    for row in rows:
        named = CODE.findall(row[-1])
        assert named, row[0]
        for file, _, test in (name.partition("::") for name in named):
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {test or 'test_'}", text, re.MULTILINE), (
                file,
                test,
            )
