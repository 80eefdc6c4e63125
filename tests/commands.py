"""Commands of leanhouse as real processes, forked from one that has imported everything.

As a script: reads one JSON object per line (arguments, environment, file of the output) and answers
with the process's number, or, given a number, with its exit code once it has ended.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Command:
    """A command that was started.

    Args:
        pid: Its process.
        output: File of what it says.
    """

    def __init__(self, commands, pid, output):
        self._commands = commands
        self.pid = pid
        self.output = output

    @property
    def said(self):
        """What it has said."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def kill(self, number=signal.SIGKILL):
        """Send it a signal, if it still runs."""
        os.kill(self.pid, number)

    def waits_for(self, text, seconds=60):
        """Wait until it has said something."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def end(self):
        """Its exit code, negative for a signal, and the seconds until it had ended."""
        started = time.monotonic()
        return self._commands.ask({"pid": self.pid}), time.monotonic() - started


class Commands:
    """Starts commands over a home; use it as a context manager.

    Args:
        environment: Of all commands.
        folder: Where their output lies.
    """

    def __init__(self, environment, folder):
        self._environment = dict(environment)
        self._folder = folder
        self._count = 0

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def ask(self, asked):
        """Ask the process that forks; its answer is a number."""
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, *arguments, code=None, **environment):
        """Start `leanhouse` with arguments, or some Python."""
        self._count += 1
        output = self._folder / f"output-{self._count}"
        output.touch()
        asked = {
            "arguments": ["leanhouse", *map(str, arguments)],
            "code": code,
            "environment": self._environment | environment,
            "output": str(output),
        }
        return Command(self, self.ask(asked), output)

    def run(self, *arguments, **more):
        """Run a command to its end: exit code, seconds, and what it said."""
        started = self.start(*arguments, **more)
        code, seconds = started.end()
        return code, seconds, started.said


def serve():
    """Fork commands until standard input ends; those that still run are killed then."""
    running = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "pid" in asked:
            _, status = os.waitpid(asked["pid"], 0)
            running.discard(asked["pid"])
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os._exit(command(asked))
        running.add(pid)
        print(pid, flush=True)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command(asked):
    """Be a command; its exit code."""
    output = os.open(asked["output"], os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = asked["arguments"]
    # Who runs the tests in the background may ignore them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        if asked["code"] is not None:
            exec(asked["code"], {"__name__": "command"})
        else:
            from pipelines.cli.main import main

            main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except Exception:  # noqa: BLE001 - whatever it is, it is said
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    # What all commands need, without `pipelines.definitions`, which reads the environment.
    for name in (
        "models.build",
        "cli.main",
        "lake.compaction",
        "sync.replay",
        "dagster_defs.schedules",
    ):
        importlib.import_module(f"pipelines.{name}")

    serve()
