"""Worlds that are shared are those that each test would make for itself."""

import threading
from collections import Counter
from pathlib import Path

import pytest
from conftest import TODAY, client_of, rows_of
from shared import filled, once

from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake

WORLD = {"customers": 3, "months": 1, "seed": 7, "today": TODAY}
NAMES = {"entities", "accounts"}


def test_a_folder_is_made_once_whoever_asks_at_the_same_time():
    """All who ask get the same folder, whole."""
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text("whole")

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(once("made-by-test", make))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert len(set(found)) == 1
    assert (found[0] / "file").read_text() == "whole"


def test_what_failed_to_be_made_is_made_by_the_next():
    """Half a folder is nobody's."""

    def half(folder):
        (folder / "half").touch()
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - whatever fails
        once("failed-by-test", half)

    assert list(once("failed-by-test", lambda _folder: None).iterdir()) == []


def test_a_filled_lake_is_a_copy_of_a_first_sync(tmp_path):
    """It shows what a sync of its own would show, and what is done to it stays with it."""
    import asyncio

    from conftest import sync_everything

    query = "select * exclude (pull_id) from accounts order by all"
    own = Lake(tmp_path / "own", "sandbox")
    asyncio.run(sync_everything(client_of(Sandbox(**WORLD)), own, NAMES))

    one = filled(Lake(tmp_path / "one", "sandbox"), NAMES, sandbox=WORLD)
    for file in one.folder.rglob("*.parquet"):
        file.write_bytes(b"")
    other = filled(Lake(tmp_path / "other", "sandbox"), NAMES, sandbox=WORLD)

    assert rows_of(other, query) == rows_of(own, query) != []
    with pytest.raises(AssertionError):
        filled(other, NAMES, sandbox=WORLD)


def test_no_two_test_modules_share_a_name():
    """Their folders are no packages: pytest would take the second module for the first."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]

    assert len(names) > 80
    assert [name for name, count in Counter(names).items() if count > 1] == []
