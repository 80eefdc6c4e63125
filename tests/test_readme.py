"""What the README says in figures is what was measured."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")


def figures_of(readme):
    """The figures of the README's section about speed."""
    section = readme.partition("\n## How fast\n")[2].partition("\n## ")[0]
    return set(FIGURE.findall(section))


def measured(page):
    """Every figure of the tables that benchmarks wrote."""
    tables = re.findall(r"<!-- ([\w-]+) -->\n(.*?)\n<!-- /\1 -->", page, re.DOTALL)
    return {figure for _, table in tables for figure in FIGURE.findall(table)}


@pytest.fixture(scope="module")
def page():
    """The page of performance."""
    return (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_the_readme_tells_only_figures_that_were_measured(page):
    """Each one stands in a table that a benchmark wrote."""
    told = figures_of((ROOT / "README.md").read_text(encoding="utf-8"))

    assert len(told) > 10
    assert told <= measured(page)


def test_a_figure_that_was_not_measured_is_found(page):
    """An invented one is in no table."""
    invented = "\n## How fast\n\n99,999,999.9 rows a second.\n\n## Next\n\n12\n"

    assert figures_of(invented) == {"99,999,999.9"}
    assert not figures_of(invented) <= measured(page)
