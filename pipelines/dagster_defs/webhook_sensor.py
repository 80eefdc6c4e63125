"""What rings the bell: a sensor that turns events into runs that read what they announce.

An event says where to look, never what is there. So its order, its age and its number do not
matter: a run reads what Lean has now, and reading it once more changes nothing.
"""

import datetime as dt
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from lean_resources.errors import IncompleteError, LeanError, UnavailableError
from lean_resources.streams import STREAMS
from lean_resources.webhooks import Event
from pipelines.dagster_defs.processes import end_dead_runs
from pipelines.dagster_defs.resources import InboxResource, LakeResource
from pipelines.dagster_defs.webhook_job import JOB, PULLS
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import new_id

if TYPE_CHECKING:
    from pipelines.webhooks.inbox import Inbox

__all__ = ["CLAIM_TAG", "batch", "doorbell", "request_of", "settle"]

CLAIM_TAG = "leanhouse/claim"
"""Tag of a run with the batch of events that it reads."""

_BATCH = 500
_AT_ONCE = 2
"""Runs at once: while they go, further events make up the next batch."""
_WAIT_SECONDS = 4.0
"""A tick waits for events; the daemon's own loop comes by every five seconds only."""
_LOOK_SECONDS = 0.25
_ORPHANED_SECONDS = 60
"""How long a batch may have no run: a tick asks for its run, which is then made before the next."""

LISTED = ("customers", "entities", "consents")
"""Read again when an entity or its consent changed."""
REFRESHED = tuple(
    name
    for name, stream in STREAMS.items()
    if stream.parent in {"entities", "accounts"} and name != "consents"
)
"""Read when Lean's store of an entity holds something new."""

_known: dict[Path, set[str]] = {}


def doorbell(job: dg.JobDefinition, *, is_on: bool) -> dg.SensorDefinition:
    """The sensor.

    Args:
        job: What it starts.
        is_on: Whether it runs unless it is stopped by hand.
    """

    @dg.sensor(
        name=JOB,
        job=job,
        minimum_interval_seconds=1,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED
        ),
        description="Reads what Lean's webhooks announce, a batch at a time.",
    )
    def ring(
        context: dg.SensorEvaluationContext,
        lake: dg.ResourceParam[LakeResource],
        inbox: dg.ResourceParam[InboxResource],
    ) -> dg.RunRequest | dg.SkipReason:
        try:
            box = inbox.inbox()
            if box is None:
                return dg.SkipReason("Webhooks are not set up: set LEAN_WEBHOOK_SECRET.")
            claim_id = new_id()
            events = batch(context.instance, box, lake.lake(), claim_id)
        except LeanError as error:
            raise dg.Failure(f"{error.message}. {error.remedy}") from None
        if not events:
            return dg.SkipReason("No event that asks for work.")
        return request_of(events, claim_id, lake.lake())

    return ring


def batch(
    instance: dg.DagsterInstance, inbox: "Inbox", lake: Lake, claim_id: str
) -> Sequence[Event]:
    """Events to be read now, as soon as there are some, or none after a few seconds.

    None either while as many batches are read as may be at once.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        if settle(instance, inbox, lake) < _AT_ONCE and inbox.has_work():
            # What belongs together comes together: a connection is several events.
            time.sleep(_LOOK_SECONDS)
            if events := inbox.claim(claim_id, _BATCH):
                return events
        if time.monotonic() > deadline:
            return []
        time.sleep(_LOOK_SECONDS)


def settle(instance: dg.DagsterInstance, inbox: "Inbox", lake: Lake) -> int:
    """Settle batches whose run has ended or never came; how many are still being read.

    Events of entities that Lean or a bank could not answer for are given back, and so is a whole
    batch whose run failed.
    """
    running = 0
    end_dead_runs(instance)
    for claim_id, claimed_at in inbox.claims().items():
        runs = instance.get_runs(dg.RunsFilter(tags={CLAIM_TAG: claim_id}), limit=1)
        if runs and runs[0].status is dg.DagsterRunStatus.SUCCESS:
            failed = _failed_entities(lake, runs[0].run_id)
            inbox.settle(claim_id, is_done=True, failed_entities=failed)
        elif runs[0].is_finished if runs else _age(claimed_at) > _ORPHANED_SECONDS:
            inbox.settle(claim_id, is_done=False)
        else:
            running += 1
    return running


def _age(since: dt.datetime) -> float:
    return time.time() - since.timestamp()


def _failed_entities(lake: Lake, run_id: str) -> set[str]:
    """Entities of which a run could not read everything, and another may."""
    remedies = [UnavailableError.remedy, IncompleteError.remedy]
    with lake.connect(()) as connection:
        found = connection.execute(
            "select distinct entity_id from pulls"
            " where run_id = $run_id and outcome = 'FAILED' and list_contains($remedies, remedy)"
            " and entity_id is not null",
            {"run_id": run_id, "remedies": remedies},
        ).fetchall()
    return {entity_id for (entity_id,) in found}


def request_of(events: Sequence[Event], claim_id: str, lake: Lake) -> dg.RunRequest:
    """The run that reads what some events announce.

    Args:
        events: A batch; order, age and doubles make no difference.
        claim_id: The batch.
        lake: Says which entities are known; one that is not is listed first.
    """
    refreshed = {event.entity_id for event in events if event.is_refreshed and event.entity_id}
    changed = {event.entity_id for event in events if event.is_about_entity and event.entity_id}
    streams: list[str] = []
    if changed or _unknown(lake, refreshed):
        streams += LISTED
    if refreshed:
        streams += REFRESHED
    if any(event.is_about_bank for event in events):
        streams.append("banks")
    config = {"streams": streams, "entity_ids": sorted(refreshed | changed)}
    return dg.RunRequest(
        run_key=claim_id,
        run_config={"ops": {PULLS: {"config": config}}},
        tags={CLAIM_TAG: claim_id},
    )


def _unknown(lake: Lake, entity_ids: Collection[str]) -> set[str]:
    """Those of some entities that the lake does not know; what is known stays known."""
    known = _known.setdefault(lake.folder, set())
    asked = set(entity_ids) - known
    if asked:
        with lake.connect(("entities",)) as connection:
            found = connection.execute(
                "select distinct entity_id from entities where list_contains($asked, entity_id)",
                {"asked": sorted(asked)},
            ).fetchall()
        known |= {entity_id for (entity_id,) in found}
    return set(entity_ids) - known
