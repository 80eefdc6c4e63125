"""Launches runs as Dagster does, and lets its daemon see when the process of a run is gone.

`dagster.yaml` names it. Without it the daemon believes for ever that a started run goes on, and
counts it among the runs that may go on at once.
"""

from typing import Any, Self

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext
from dagster._serdes.config_class import ConfigurableClassData

from pipelines.dagster_defs.processes import Process


class Launcher(DefaultRunLauncher):
    """Launches runs on the code server."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> Self:  # noqa: ARG003 - Dagster's
        """Make a launcher as Dagster does from dagster.yaml."""
        return cls(inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run, which counts as this process's run until its own process records itself."""
        run_id = context.dagster_run.run_id
        self._instance.add_run_tags(run_id, Process.current(self._instance).tags(run_id))
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether it knows when a run's process is gone: it does."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run still runs; if not, the slots of the run are freed."""
        process = Process.of(run)
        if process is None or not process.is_gone(self._instance):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"process {process.pid} is gone")
