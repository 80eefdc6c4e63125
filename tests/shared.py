"""What is dear to make, made once per run whichever worker asks first, and copied for each test."""

import asyncio
import fcntl
import hashlib
import shutil
from pathlib import Path

__all__ = ["filled", "once"]

FOLDER = Path()
"""Folder of the run, the same for all workers; `conftest.py` says which."""


def once(name, make):
    """The folder of a name; `make` is given it, empty, by the first that asks in this run.

    Whoever asks meanwhile waits. Read it or copy it, and change nothing in it.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder, begun = FOLDER / name, FOLDER / f"{name}.begun"
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir()
            make(begun)
            begun.rename(folder)
    return folder


def filled(lake, names=None, *, sandbox, **selected):
    """The lake, still empty, as a first sync of an untouched offline Lean leaves it.

    Args:
        lake: Where to put it.
        names: The streams to sync; None means all.
        sandbox: Arguments of the offline Lean. One made of the same arguments goes on from there.
        selected: What to select of the sync, as `Selection` takes it.
    """
    from conftest import client_of, sync_everything

    from lean_resources.sandbox import Sandbox
    from pipelines.lake.lake import Lake

    def make(folder):
        made = Lake(folder, lake.folder.name)
        world = Sandbox(**sandbox)
        asyncio.run(sync_everything(client_of(world), made, names, **selected))

    told = repr((sorted(names or ()), sorted(sandbox.items()), sorted(selected.items())))
    folder = once(f"lake-{hashlib.sha256(told.encode()).hexdigest()[:16]}", make)
    assert not any(lake.folder.rglob("*.parquet")), "only an empty lake can be filled"
    shutil.copytree(folder / lake.folder.name, lake.folder, dirs_exist_ok=True)
    return lake
