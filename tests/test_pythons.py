"""The product starts on every Python that is promised, with its docstrings stripped too."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SAYS = '#!/bin/sh\necho "$@" >> "$CALLS"\n'
REFUSES = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"


def run(*arguments, **environment):
    """What a process writes; it has to end well."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={"PATH": "", **environment},
    ).stdout


def test_the_dictionary_is_the_same_without_docstrings(tmp_path):
    """No meaning of data is read out of a docstring: 3.13 indents it otherwise, -OO drops it."""
    written = run(
        sys.executable, "-OO", "-m", "pipelines.cli", "dictionary", LEANHOUSE_HOME=str(tmp_path)
    )

    assert written == (ROOT / "docs" / "dictionary.md").read_text(encoding="utf-8")


def test_dagster_shows_the_same_meanings_without_docstrings(tmp_path):
    """Each asset's columns keep what they mean in Dagster's pages."""
    code = (
        "import json, dagster as dg\n"
        "from pipelines.definitions import defs\n"
        "specs = defs.resolve_all_asset_specs()\n"
        "print(json.dumps({spec.key.to_user_string(): [[c.name, c.description] for c in\n"
        "    spec.metadata['dagster/column_schema'].columns] for spec in specs\n"
        "    if 'dagster/column_schema' in spec.metadata}))\n"
    )
    plain = run(sys.executable, "-c", code, LEANHOUSE_HOME=str(tmp_path))
    stripped = run(sys.executable, "-OO", "-c", code, LEANHOUSE_HOME=str(tmp_path))

    assert len(plain) > 10_000
    assert json.loads(stripped) == json.loads(plain)


def test_a_python_counts_only_if_it_runs(tmp_path):
    """A shim that refuses is passed over, one behind it is found; so is one among pyenv's."""
    shims, behind, pyenv = (tmp_path / name for name in ("shims", "behind", "pyenv"))
    ours = f"python3.{sys.version_info.minor}"
    for folder in (shims, behind, pyenv / "versions" / "3.99.0" / "bin"):
        folder.mkdir(parents=True)
    for name in (ours, "python3.98"):
        (shims / name).write_text(REFUSES)
        (shims / name).chmod(0o755)
    (shims / "python3-config").write_text(REFUSES)
    (behind / "python3").symlink_to(sys._base_executable)

    listed = run(
        sys.executable, ".ci/pythons.py", "--list",
        PATH=f"{shims}:{behind}", PYENV_ROOT=str(pyenv),
    )  # fmt: skip
    nothing = run(sys.executable, ".ci/pythons.py", "--list", PATH=str(shims), PYENV_ROOT="/")
    (pyenv / "versions" / "3.99.0" / "bin" / ours).symlink_to(sys._base_executable)
    among = run(
        sys.executable, ".ci/pythons.py", "--list", PATH=str(shims), PYENV_ROOT=str(pyenv)
    )  # fmt: skip

    name = f"3.{sys.version_info.minor}"
    assert listed == f"{name} {behind / 'python3'}\n"
    assert nothing == ""
    assert among == f"{name} {pyenv / 'versions' / '3.99.0' / 'bin' / ours}\n"


def test_the_arguments_of_the_make_that_asks_are_for_it_alone(tmp_path):
    """`make pythons ARGS=--newest` chooses a Python; the demo and the tests do not hear of it."""
    behind, calls = tmp_path / "behind", tmp_path / "calls"
    behind.mkdir()
    (behind / "python3").symlink_to(sys._base_executable)
    (behind / "make").write_text(SAYS)
    (behind / "make").chmod(0o755)
    (behind / "rm").symlink_to(shutil.which("rm"))

    run(
        sys.executable, ".ci/pythons.py", "--newest",
        PATH=str(behind), PYENV_ROOT="/", CALLS=str(calls),
    )  # fmt: skip

    name = f"3.{sys.version_info.minor}"
    make = f"PYTHON={behind / 'python3'} VENV=.venv-{name}"
    assert calls.read_text(encoding="utf-8").splitlines() == [
        f"{make} demo ARGS=--home {ROOT}/var/demo-{name} --customers 5 --months 3",
        f"{make} fast ARGS=",
    ]
