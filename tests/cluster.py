"""A throw-away PostgreSQL of whatever version is installed, on a socket of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["programs", "running"]

_USERS = ("postgres", "nobody")


def programs() -> Path:
    """Folder of `initdb` and `postgres`, the newest version first.

    Raises:
        RuntimeError: None is installed.
    """
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parts[-3]),
    )
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


def _user() -> list[str]:
    """How to leave root behind, which PostgreSQL refuses to run as."""
    if os.geteuid() != 0:
        return []
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = next(names[name] for name in _USERS if name in names)
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
    ]  # fmt: skip


@contextlib.contextmanager
def running(*, is_durable: bool = False) -> Iterator[str]:
    """Run a cluster while the block runs.

    Args:
        is_durable: Whether commits reach the disk, as they do in a deployment.

    Yields:
        The URL of its database, on loopback.
    """
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    become = _user()
    if become:
        entry = pwd.getpwuid(int(become[1].split("=")[1]))
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    tools = programs()
    initdb = [tools / "initdb", "-D", data, "-U", "leanhouse", "-A", "trust", "--no-sync"]
    server = [
        tools / "postgres", "-D", data, "-p", str(port), "-k", folder,
        "-c", "listen_addresses=127.0.0.1", "-c", f"fsync={'on' if is_durable else 'off'}",
    ]  # fmt: skip
    try:
        subprocess.run([*become, *initdb], check=True, capture_output=True, cwd="/", timeout=120)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*become, *server], stdout=log, stderr=log, cwd="/")
        try:
            _wait(port, process)
            yield f"postgresql://leanhouse@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="leanhouse", dbname="postgres"
            ).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
