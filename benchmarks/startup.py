"""What commands, Dagster's code server and a run cost before they start to work, and the demo.

    python benchmarks/startup.py [--rounds 3]

Each figure is of processes of their own, one after the other, on files that were read before. Of
the demo the wall time is told by phase, by what Dagster recorded of its steps.
The last line is one of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import ROOT, machine, write

from pipelines.dagster_defs.in_process import instance_at

PYTHON = sys.executable
LEANHOUSE = str(Path(PYTHON).with_name("leanhouse"))
A_RUN = (
    "from pipelines.definitions import defs;"
    "from pipelines.dagster_defs.webhook_job import PULLS;"
    "from pipelines.environment import settings;"
    "from pipelines.dagster_defs.in_process import instance_at;"
    "config = {'ops': {PULLS: {'config': {'streams': [], 'entity_ids': []}}}};"
    "instance = instance_at(settings().home / 'dagster');"
    "job = defs.resolve_job_def('doorbell');"
    "assert job.execute_in_process("
    "instance=instance, run_config=config, op_selection=[PULLS]).success"
)
READY_SECONDS = 60.0


class Cost(NamedTuple):
    """What a process took."""

    cpu: float
    wall: float

    def beyond(self, other: Cost) -> Cost:
        """What it took more than another."""
        return Cost(self.cpu - other.cpu, self.wall - other.wall)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Settings of an application that nobody is asked about."""
    return {
        **os.environ,
        "LEANHOUSE_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "LEAN_REGION": "sa",
        "LEAN_ENVIRONMENT": "sandbox",
        "LEAN_CLIENT_ID": "made-up",
        "LEAN_CLIENT_SECRET": "made-up",
        "LEAN_WEBHOOK_SECRET": "made-up",
        **more,
    }


def process(home: Path, *command: str) -> Cost:
    """A process from its start to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command,
        check=True,
        cwd=ROOT,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def receiver(home: Path) -> Cost:
    """`leanhouse webhooks` until it takes connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    with subprocess.Popen(
        [LEANHOUSE, "webhooks"],
        cwd=ROOT,
        env=environment(home, LEAN_WEBHOOK_PORT=str(port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as started:
        try:
            while True:
                with socket.socket() as knock:
                    if knock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if started.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                    raise RuntimeError("the receiver did not start")
                time.sleep(0.005)
            wall = time.perf_counter() - began
            fields = Path(f"/proc/{started.pid}/stat").read_text().rsplit(")", 1)[1].split()
        finally:
            started.kill()
    return Cost((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), wall)


def median(rounds: int, one: Callable[[], Cost]) -> Cost:
    """The medians of some rounds, after one that does not count."""
    one()
    found = [one() for _ in range(rounds)]
    return Cost(
        statistics.median(cost.cpu for cost in found),
        statistics.median(cost.wall for cost in found),
    )


def measure(rounds: int, home: Path) -> dict[str, Cost]:
    """Everything there is to measure, by what it is."""

    def of(*command: str) -> Cost:
        return median(rounds, lambda: process(home, *command))

    bare = of(PYTHON, "-c", "pass")
    dagster = of(PYTHON, "-c", "import dagster")
    definitions = of(PYTHON, "-c", "import pipelines.definitions")
    return {
        "Python": bare,
        "`import dagster`": dagster,
        "the definitions, beyond that": definitions.beyond(dagster),
        "`leanhouse --help`": of(LEANHOUSE, "--help"),
        "`leanhouse webhooks`, until it takes connections": median(rounds, lambda: receiver(home)),
        "a run with nothing to do, beyond the definitions": of(PYTHON, "-c", A_RUN).beyond(
            definitions
        ),
    }


def demo(home: Path) -> dict[str, float]:
    """Seconds of each phase of a first demo, from the start of its process to the end."""
    began = time.time()
    process(home, LEANHOUSE, "demo", "--home", str(home / "demo"))
    ended = time.time()
    with instance_at(home / "demo" / "dagster") as instance:
        records = instance.get_run_records(ascending=True)
        steps = [
            {
                one.step_key: (one.start_time or 0.0, one.end_time or 0.0)
                for one in instance.get_run_step_stats(record.dagster_run.run_id)
            }
            for record in records
        ]
    first, last = steps[0], steps[-1]
    pulled = [times for times in first.values() if times[1] <= first["models"][0]]
    until = {
        "until the first step: imports, the offline Lean, definitions": min(
            start for start, _ in pulled
        ),
        "pulling, with the first refreshes": max(end for _, end in pulled),
        "models": first["models"][1],
        "the warehouse": first["warehouse"][1],
        "one more customer, by webhook": max(end for _, end in last.values()),
        "sample queries": ended,
    }
    edges = [began, *until.values()]
    return {name: end - start for name, start, end in zip(until, edges, edges[1:], strict=False)}


def demo_medians(rounds: int, home: Path) -> dict[str, float]:
    """The median of each phase."""
    found = [demo(home / f"demo-{number}") for number in range(rounds)]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def demo_table(phases: dict[str, float], rounds: int) -> Sequence[str]:
    """The demo's table of the page."""
    return [
        f"Median of {rounds}; {machine()}.",
        "",
        "| phase | seconds |",
        "|---|---:|",
        *(f"| {name} | {seconds:.1f} |" for name, seconds in phases.items()),
        f"| **all** | **{sum(phases.values()):.1f}** |",
    ]


def table(found: dict[str, Cost], rounds: int) -> Sequence[str]:
    """The table of the page."""
    return [
        f"Median of {rounds}; {machine()}, a load of {os.getloadavg()[0]:.0f}.",
        "",
        "| | CPU s | seconds |",
        "|---|---:|---:|",
        *(f"| {name} | {cost.cpu:.2f} | {cost.wall:.2f} |" for name, cost in found.items()),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        found = measure(args.rounds, Path(folder))
        phases = demo_medians(args.rounds, Path(folder))
    lines, demo_lines = table(found, args.rounds), demo_table(phases, args.rounds)
    print("\n".join([*lines, "", *demo_lines]))
    write("startup", lines)
    write("demo", demo_lines)
    print(
        json.dumps(
            {
                "benchmark": "startup",
                "rounds": args.rounds,
                "load_average": round(os.getloadavg()[0], 1),
                "demo": {name: round(seconds, 2) for name, seconds in phases.items()},
                "costs": {name: [round(one, 3) for one in cost] for name, cost in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
