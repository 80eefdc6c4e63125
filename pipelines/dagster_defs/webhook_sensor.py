"""The sensor of webhooks: it turns events into runs that read what the events announce.

An event says where to look, never what is there. So the order, the age and the number of events do
not matter: a run reads what Lean has now, and to read it once more changes nothing.
"""

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from lean_resources.errors import IncompleteError, LeanError, UnavailableError
from lean_resources.streams import STREAMS
from lean_resources.webhooks import Event
from pipelines.dagster_defs.processes import end_dead_runs
from pipelines.dagster_defs.resources import InboxResource, LakeResource
from pipelines.dagster_defs.webhook_job import JOB, PULLS
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES

if TYPE_CHECKING:
    from pipelines.webhooks.inbox import Inbox

BATCH_TAG = "leanhouse/claim"
"""Tag of a run with the id of the batch of events that it reads."""

_BATCH = 500
_AT_ONCE = 2
"""Most runs at once; events that come meanwhile make up the next batch."""
_WAIT_SECONDS = 4.0
"""How long a tick waits for events, because Dagster's daemon ticks every five seconds only."""
_LOOK_SECONDS = 0.25
_ORPHANED_SECONDS = 60
"""How long a batch may have no run: a tick asks for its run, which exists before the next tick."""

LISTED = ("customers", "entities")
"""Read again when an entity or its consent changed; consents come along with their entities."""
REFRESHED = tuple(
    name
    for name, stream in STREAMS.items()
    if stream.is_of_entities and stream.exploded_from is None
)
"""Read when Lean's bank data copy of an entity has something new."""

_known: dict[str, set[str]] = {}


def webhook_sensor(job: dg.JobDefinition, *, is_on: bool) -> dg.SensorDefinition:
    """The sensor.

    Args:
        is_on: Whether it runs unless somebody stops it in Dagster.
    """

    @dg.sensor(
        name=JOB,
        job=job,
        minimum_interval_seconds=1,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED
        ),
        description="Starts runs that read what Lean's webhooks announce, a batch at a time.",
    )
    def read_announced(
        context: dg.SensorEvaluationContext,
        lake: dg.ResourceParam[LakeResource],
        inbox: dg.ResourceParam[InboxResource],
    ) -> dg.RunRequest | dg.SkipReason:
        try:
            box = inbox.inbox()
            if box is None:
                return dg.SkipReason("Webhooks are not set up: set LEAN_WEBHOOK_SECRET.")
            batch_id = new_id()
            events = batch(context.instance, box, lake.lake(), batch_id)
        except LeanError as error:
            raise dg.Failure(f"{error.message}. {error.remedy}") from None
        if not events:
            return dg.SkipReason("No event asks for work.")
        return request_of(events, batch_id, lake.lake())

    return read_announced


def batch(
    instance: dg.DagsterInstance, inbox: "Inbox", lake: Lake, batch_id: str
) -> Sequence[Event]:
    """Lease the next batch of events, or wait a few seconds for one.

    It is empty if no event came, or while as many batches are read as may be at once.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        if acknowledge(instance, inbox, lake) < _AT_ONCE and inbox.has_work():
            # A new connection is several events: they come within moments and make one batch.
            time.sleep(_LOOK_SECONDS)
            if events := inbox.lease(batch_id, _BATCH):
                return events
        if time.monotonic() > deadline:
            return []
        time.sleep(_LOOK_SECONDS)


def acknowledge(instance: dg.DagsterInstance, inbox: "Inbox", lake: Lake) -> int:
    """Acknowledge batches whose run has ended or was never made; how many are still being read.

    Events of entities for which Lean or a bank did not answer are given back, and so is a whole
    batch whose run failed.
    """
    running = 0
    end_dead_runs(instance)
    for batch_id, leased_at in inbox.leases().items():
        runs = instance.get_runs(dg.RunsFilter(tags={BATCH_TAG: batch_id}), limit=1)
        if runs and runs[0].status is dg.DagsterRunStatus.SUCCESS:
            failed = _failed_entities(lake, runs[0].run_id)
            inbox.acknowledge(batch_id, is_done=True, failed_entities=failed)
        elif (
            runs[0].is_finished if runs else time.time() - leased_at.timestamp() > _ORPHANED_SECONDS
        ):
            inbox.acknowledge(batch_id, is_done=False)
        else:
            running += 1
    return running


def _failed_entities(lake: Lake, run_id: str) -> set[str]:
    """Entities of which a run could not read everything, and of which another run may."""
    remedies = [UnavailableError.remedy, IncompleteError.remedy]
    with lake.connect(()) as connection:
        found = connection.execute(
            QUERIES["retryable_entities"], {"run_id": run_id, "remedies": remedies}
        ).fetchall()
    return {entity_id for (entity_id,) in found}


def request_of(events: Sequence[Event], batch_id: str, lake: Lake) -> dg.RunRequest:
    """The run that reads what events announce.

    Args:
        events: A batch; order, age and duplicates make no difference.
        lake: Says which entities are known; the others are listed first.
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
        run_key=batch_id,
        run_config={"ops": {PULLS: {"config": config}}},
        tags={BATCH_TAG: batch_id},
    )


def _unknown(lake: Lake, entity_ids: Collection[str]) -> set[str]:
    """Which of these entities the lake does not know; a known entity stays known."""
    known = _known.setdefault(lake.storage.place, set())
    asked = set(entity_ids) - known
    if asked:
        with lake.planning(("entities",)) as connection:
            found = connection.execute(
                "select distinct entity_id from entities where list_contains($asked, entity_id)",
                {"asked": sorted(asked)},
            ).fetchall()
        known |= {entity_id for (entity_id,) in found}
    return set(entity_ids) - known
