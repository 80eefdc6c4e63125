"""The demo and the fast part of the tests on each Python from 3.11 on that is installed.

Pythons are looked for on PATH and among pyenv's versions; each minor version is tried once, in its
newest release and in an environment of its own, `.venv-3.x`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
# A shim of a version manager may be there and refuse to run; Debian's Python may lack ensurepip.
_ASK = (
    "import ensurepip, platform, sys, venv\n"
    "good = sys.version_info.releaselevel == 'final' and platform.python_implementation()"
    " == 'CPython'\n"
    "print(*sys.version_info[:3]) if good else sys.exit(1)\n"
)


def _candidates() -> Iterator[Path]:
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += sorted(pyenv.glob("versions/3.*/bin"))
    for folder in folders:
        for path in sorted(folder.glob("python3*")):
            if re.fullmatch(r"python3(\.\d+)?", path.name):
                yield path


def _version(python: Path) -> tuple[int, ...] | None:
    """Its version; None if it does not run, cannot make an environment, or is no release."""
    try:
        asked = subprocess.run(
            [python, "-I", "-c", _ASK], check=True, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(int(part) for part in asked.stdout.split())


def found() -> dict[tuple[int, ...], Path]:
    """Each minor version from `OLDEST` on, ascending, and the Python of its newest release."""
    newest: dict[tuple[int, ...], tuple[tuple[int, ...], Path]] = {}
    for python in _candidates():
        version = _version(python)
        if version is None or version[:2] < OLDEST:
            continue
        if version > newest.get(version[:2], ((), python))[0]:
            newest[version[:2]] = (version, python)
    return {minor: newest[minor][1] for minor in sorted(newest)}


def tried(python: Path, minor: tuple[int, ...]) -> bool:
    """Whether the demo and the fast part of the tests pass on it."""
    name = ".".join(str(part) for part in minor)
    home = ROOT / "var" / f"demo-{name}"
    make = ["make", f"PYTHON={python}", f"VENV=.venv-{name}"]
    small = f"ARGS=--home {home} --customers 5 --months 3"
    began = time.monotonic()
    print(f"== Python {name}: {python}", flush=True)
    subprocess.run(["rm", "-rf", home], check=True)
    passed = all(
        subprocess.run([*make, *target], cwd=ROOT, check=False).returncode == 0
        # Without a word on ARGS, a make that called this hands down its own.
        for target in (["demo", small], ["fast", "ARGS="])
    )
    print(f"== Python {name}: {'passed' if passed else 'FAILED'}, {time.monotonic() - began:.0f} s")
    return passed


def main() -> None:
    """Try each, or the newest, or tell which there are."""
    parser = argparse.ArgumentParser(description="Try the Pythons that are installed.")
    parser.add_argument("--list", action="store_true", help="tell which there are, and end")
    parser.add_argument("--newest", action="store_true", help="try the newest one only")
    given = parser.parse_args()
    pythons = found()
    if given.list:
        for minor, python in pythons.items():
            print(".".join(str(part) for part in minor), python)
        return
    if not pythons:
        sys.exit("No Python from 3.11 on was found, on PATH or among pyenv's versions.")
    chosen = list(pythons)[-1:] if given.newest else list(pythons)
    results = {minor: tried(pythons[minor], minor) for minor in chosen}
    names = {minor: ".".join(str(part) for part in minor) for minor in results}
    print("Pythons:", ", ".join(f"{names[m]} {'passed' if ok else 'FAILED'}"
                                for m, ok in results.items()))  # fmt: skip
    sys.exit(not all(results.values()))


if __name__ == "__main__":
    main()
