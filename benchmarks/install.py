"""What an installation brings along: every library with its size, plain and with each extra.

    python benchmarks/install.py

The wheel is built and installed into a fresh environment, with the versions of
`deploy/requirements.lock`. A size is that of the files that a library installs, without bytecode.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from harness import ROOT, machine, write

_SHOWN_MIB = 5.0
"""Smaller libraries are summed up."""
_LIST = """
import json
from importlib.metadata import distributions

def size(found):
    files = [found.locate_file(file) for file in found.files or () if file.suffix != ".pyc"]
    return sum(file.stat().st_size for file in files if file.is_file())

print(json.dumps({found.name: size(found) for found in distributions()}))
"""

Sizes = dict[str, float]


def sizes_of(python: Path) -> Sizes:
    """MiB of each installed library, by name."""
    listed = subprocess.run([python, "-c", _LIST], check=True, capture_output=True, text=True)
    return {name: size / 2**20 for name, size in json.loads(listed.stdout).items()}


def install(python: Path, what: str) -> None:
    """Install something in the versions of the lock."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    lock = ROOT / "deploy" / "requirements.lock"
    subprocess.run([*command, "--constraint", lock, what], check=True)


def main() -> None:
    """Install plainly, then one extra after the other, and write both tables."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*build, "-w", folder, ROOT], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        venv.create(Path(folder) / "plain")
        python = Path(folder) / "plain" / "bin" / "python"
        install(python, str(wheel))
        plain = sizes_of(python)
        seen, rows = dict(plain), []
        for extra in project["optional-dependencies"]:
            install(python, f"{wheel}[{extra}]")
            added = {n: size for n, size in sizes_of(python).items() if n not in seen}
            seen |= added
            names = ", ".join(sorted(added, key=str.lower))
            rows.append(f"| `[{extra}]` | {sum(added.values()):.0f} | {len(added)} | {names} |")
    large = {name: size for name, size in plain.items() if size >= _SHOWN_MIB}
    rest = sum(plain.values()) - sum(large.values())
    write(
        "install",
        [
            f"{len(plain)} libraries, {sum(plain.values()):.0f} MiB; {machine()}.",
            "",
            "| library | MiB |",
            "|---|---:|",
            *(
                f"| {name} | {size:.0f} |"
                for name, size in sorted(large.items(), key=lambda item: -item[1])
            ),
            f"| {len(plain) - len(large)} smaller ones | {rest:.0f} |",
        ],
        "install.md",
    )
    header = ["| extra | MiB more | libraries more | which |", "|---|---:|---:|---|"]
    write("extras", [*header, *rows], "install.md")


if __name__ == "__main__":
    main()
