"""What --help, --version and the shell's completion say."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from pipelines.cli.examples import EXAMPLES
from pipelines.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = typer.main.get_group(app).commands
LEANHOUSE = Path(sys.executable).with_name("leanhouse")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_whose_options_exist(name):
    """Each is a line of its own, and parses: an option that was renamed is found."""
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout

    assert EXAMPLES[name]
    for example in EXAMPLES[name]:
        assert re.search(rf"^\W*{re.escape(example)}\W*$", shown, re.MULTILINE), example
        words = [word for word in shlex.split(example) if not re.match(r"[A-Z_]+=", word)]
        assert words[:2] == ["leanhouse", name]
        COMMANDS[name].make_context(name, words[2:], resilient_parsing=False)


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_flags_show_no_value(arguments):
    """`<bool>` behind a flag looks like a value to give; the type of a value is shown."""
    shown = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "200"}).stdout

    assert "--help" in shown
    assert "<bool>" not in shown
    if arguments == ["status"]:
        assert "<path>" in shown


def test_an_example_that_does_not_parse_is_found():
    """An option that no command has."""
    with pytest.raises(Exception, match="--nothing"):
        COMMANDS["status"].make_context("status", ["--nothing"])


def run(*arguments, **environment):
    """A real process of the command line."""
    return subprocess.run(
        arguments,
        env={"PATH": os.defpath, "LEANHOUSE_MISSPELT": "x"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_needs_no_settings():
    """Even wrong ones do not keep it from whoever reports a problem."""
    ended = run(LEANHOUSE, "--version")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"leanhouse \d+\.\d+\.\d+\n", ended.stdout)


def test_bash_completes_commands_and_options():
    """The script that is shown, in a real bash."""
    script = run(
        LEANHOUSE, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert script.returncode == 0, script.stderr
    asked = """
        COMP_WORDS=(leanhouse export --la)
        COMP_CWORD=2
        _leanhouse_completion leanhouse
        echo "${COMPREPLY[@]}"
    """
    path = f"{LEANHOUSE.parent}:{os.defpath}"
    ended = run("bash", "-c", f"{script.stdout}\n{asked}", PATH=path)

    assert ended.stdout.split() == ["--layer"]
    zsh = {"_LEANHOUSE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "leanhouse vac"}
    assert "vacuum" in run(LEANHOUSE, **zsh).stdout
