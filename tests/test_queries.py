"""The SELECTs that the lake's own code asks."""

from pathlib import Path

from pipelines.lake.queries import QUERIES

ROOT = Path(__file__).resolve().parent.parent


def test_every_query_is_asked_and_says_what_it_gives():
    """A file that nobody names any more would be read and linted for nothing."""
    code = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("pipelines/**/*.py"))

    assert QUERIES
    assert [name for name in QUERIES if f'"{name}"' not in code and f"'{name}'" not in code] == []
    assert all(text.startswith("-- ") for text in QUERIES.values())
