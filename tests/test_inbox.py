"""The inbox, in SQLite and in PostgreSQL: each event once, durably, until it is acknowledged."""

import datetime as dt
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lean_resources.errors import ConfigError, UnavailableError
from lean_resources.webhooks import LISTED_DAYS, Event
from pipelines.webhooks.inbox import MOST_LEASES, Inbox

NOW = dt.datetime(2026, 3, 15, 7, 15, tzinfo=dt.UTC)


class Now:
    """A present that is set."""

    def __init__(self):
        self.at = NOW

    def __call__(self):
        return self.at


@pytest.fixture
def now():
    """The inbox's present."""
    return Now()


@pytest.fixture
def inbox(inbox_url, now):
    """An empty inbox."""
    inbox = Inbox(inbox_url, "sandbox", now=now)
    inbox.create()
    yield inbox
    inbox.close()


def refreshed(number, **changes):
    """The end of a refresh."""
    given = {
        "event_id": f"event-{number}",
        "type": "entity.data.refresh.updated",
        "entity_id": f"entity-{number}",
        "refresh_id": f"refresh-{number}",
        "status": "FINISHED",
        "sent_at": NOW - dt.timedelta(seconds=number),
    }
    return Event(**(given | changes))


def test_an_event_is_stored_once_however_often_it_comes(inbox):
    """In one batch, in two, from several sources: the first one stays, with all of its fields."""
    assert inbox.add([refreshed(1), refreshed(1)]) == 1
    assert inbox.add([refreshed(1), refreshed(2)], source="events") == 1
    assert inbox.add([]) == 0

    (first, second) = inbox.rows()
    assert {name: first[name] for name in Event.__slots__} == {
        name: getattr(refreshed(1), name) for name in Event.__slots__
    }
    assert (first["source"], second["source"]) == ("webhook", "events")
    assert (first["state"], first["received_at"]) == ("received", NOW)


def test_what_asks_for_nothing_is_stored_and_done(inbox):
    """Unknown types, refreshes under way and ready results are kept for the record."""
    inbox.add(
        [
            Event(event_id="1", type="payment.created"),
            refreshed(2, status="PENDING"),
            Event(event_id="3", type="results.ready", results_id="results-3"),
        ]
    )

    assert inbox.counts() == {"received": 0, "claimed": 0, "done": 3, "failed": 0}
    assert inbox.lease("run", 10) == []
    assert inbox.ready(["results-3", "results-4"]) == {"results-3"}


def test_events_are_leased_in_the_order_of_arrival_by_one_batch_only(inbox):
    """No event is in two batches, and none is left out."""
    inbox.add([refreshed(number) for number in range(7)])

    batches = [inbox.lease(f"run-{number}", 3) for number in range(4)]

    leased = [[event.event_id for event in batch] for batch in batches]
    assert leased == [
        ["event-0", "event-1", "event-2"],
        ["event-3", "event-4", "event-5"],
        ["event-6"],
        [],
    ]
    assert batches[0][0] == refreshed(0)
    assert set(inbox.leases()) == {"run-0", "run-1", "run-2"}
    assert set(inbox.leases().values()) == {NOW}


def test_a_batch_that_fails_is_given_back_until_its_attempts_are_used_up(inbox, now):
    """An event is tried after 1, 2, 4 and 8 minutes again, and ends as failed, or at a success."""
    inbox.add([refreshed(1), refreshed(2)])
    for attempt in range(MOST_LEASES):
        batch = inbox.lease(f"run-{attempt}", 1)
        assert [event.event_id for event in batch] == ["event-1"]
        inbox.acknowledge(f"run-{attempt}", is_done=False)
        if attempt == 0:
            assert [event.event_id for event in inbox.lease("other", 9)] == ["event-2"]
        now.at += dt.timedelta(seconds=60 * 2**attempt - 1)
        assert inbox.lease("early", 9) == []
        now.at += dt.timedelta(seconds=1)

    inbox.acknowledge("other", is_done=True)
    inbox.acknowledge("other", is_done=False)

    first, second = inbox.rows()
    assert (first["state"], first["attempts"]) == ("failed", MOST_LEASES)
    assert (second["state"], second["attempts"]) == ("done", 1)
    assert inbox.leases() == {}
    assert not inbox.has_work()


def test_of_a_batch_only_the_entities_that_failed_are_given_back(inbox):
    """One bank's trouble costs the others nothing."""
    inbox.add([refreshed(1), refreshed(2), Event(event_id="3", type="bank.availability.updated")])
    inbox.lease("run", 9)

    inbox.acknowledge("run", is_done=True, failed_entities=["entity-2", "entity-9"])

    assert [row["state"] for row in inbox.rows()] == ["done", "received", "done"]


def test_where_lists_were_read_to_is_remembered(inbox):
    """The instant of the last comparison stays until the next one."""
    assert inbox.read_to() is None
    inbox.was_read_to(NOW)
    inbox.was_read_to(NOW + dt.timedelta(hours=1))

    assert inbox.read_to() == NOW + dt.timedelta(hours=1)
    assert (inbox.first_received_at(), inbox.last_received_at()) == (None, None)
    inbox.add([refreshed(1)], source="events")
    assert (inbox.first_received_at(), inbox.last_received_at()) == (NOW, None)
    inbox.add([refreshed(2)])
    assert inbox.last_received_at() == NOW


def test_a_refresh_that_a_sync_waits_for_is_left_to_it(inbox, now):
    """Until it is over or the sync is gone, nobody else reads what it brought."""
    inbox.await_refresh("refresh-1", NOW + dt.timedelta(minutes=5))
    inbox.await_refresh("refresh-2", NOW + dt.timedelta(minutes=5))
    inbox.await_refresh("refresh-2", NOW + dt.timedelta(minutes=9))
    inbox.add([refreshed(1), refreshed(2), refreshed(3)])

    assert inbox.finished(["refresh-1", "refresh-9"], {"FINISHED", "OK"}) == {"refresh-1"}
    assert [event.event_id for event in inbox.lease("a", 9)] == ["event-3"]
    inbox.end_refreshes(["refresh-1"], is_over=True)
    assert inbox.lease("b", 9) == []
    now.at += dt.timedelta(minutes=10)
    assert [event.event_id for event in inbox.lease("c", 9)] == ["event-2"]
    assert inbox.counts()["done"] == 1


def test_events_are_kept_for_ninety_days_and_then_pruned_when_acknowledged(inbox, now):
    """A replay within ninety days is known; what still waits is never deleted."""
    inbox.add([refreshed(1), refreshed(2, status="PENDING")])
    now.at += dt.timedelta(days=LISTED_DAYS)
    assert inbox.prune() == 0
    assert inbox.add([refreshed(2, status="PENDING")]) == 0
    now.at += dt.timedelta(seconds=1)

    assert inbox.prune() == 1
    assert [row["event_id"] for row in inbox.rows()] == ["event-1"]


@pytest.mark.parametrize("sent_at", [NOW, None])
def test_the_same_message_is_known_for_as_long_as_its_signature_fits(inbox, now, sent_at):
    """After its event was pruned too: by its time, or by its id where it says none."""
    event = refreshed(1, status="PENDING", sent_at=sent_at)
    inbox.add([event])
    for days in (91, 92, 300):
        now.at += dt.timedelta(days=days)
        inbox.prune()

        assert inbox.add([event]) == 0
        assert list(inbox.rows()) == []
        assert inbox.add([refreshed(days, sent_at=sent_at and now.at, status="PENDING")]) == 1
        now.at += dt.timedelta(days=91)
        assert inbox.prune() == 1
    # Lean's own list is no replay: what it lists is read.
    assert inbox.add([event], source="events") == 1


def test_what_lean_stamped_in_the_future_does_not_hide_what_comes(inbox, now):
    """Pruning knows no time later than that of what it deleted."""
    ahead = refreshed(1, sent_at=NOW + dt.timedelta(days=400), status="PENDING")
    inbox.add([ahead])
    now.at += dt.timedelta(days=91)

    assert inbox.prune() == 0
    assert inbox.add([refreshed(2, sent_at=now.at)]) == 1
    assert inbox.add([ahead]) == 0


def test_where_lists_were_read_to_is_not_what_was_pruned(inbox, now):
    """Both are instants of one table."""
    inbox.add([refreshed(1, status="PENDING")])
    now.at += dt.timedelta(days=91)
    assert inbox.prune() == 1
    assert inbox.read_to() is None
    inbox.was_read_to(now.at)

    assert inbox.add([refreshed(1, status="PENDING")]) == 0
    assert inbox.add([refreshed(2, sent_at=now.at)]) == 1


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_file_that_was_taken_away_takes_no_event(tmp_path, end):
    """What is not in the place where everybody looks was not stored, and is not said to be."""
    file = tmp_path / "inbox.db"
    inbox = Inbox(f"sqlite:///{file}", "sandbox")
    inbox.create()
    inbox.add([refreshed(1)])
    taken = tmp_path / f"inbox.db{end}"
    taken.rename(tmp_path / "taken")

    if not end:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="restore it"):
                inbox.add([refreshed(2)])
            with pytest.raises(UnavailableError, match="restore it"):
                inbox.check()
            with pytest.raises(UnavailableError, match="restore it"):
                list(inbox.rows())
        assert not file.exists(), "nothing is made where there was nothing"
        (tmp_path / "taken").rename(taken)
    inbox.check()
    inbox.add([refreshed(3)])
    other = Inbox(f"sqlite:///{file}", "sandbox")

    assert {"event-1", "event-3"} <= {row["event_id"] for row in other.rows()}
    other.close()
    inbox.close()


def test_a_file_that_goes_during_a_commit_is_noticed(tmp_path, monkeypatch):
    """The look before a commit cannot see it, so there is one behind it too."""
    file = tmp_path / "inbox.db"
    inbox = Inbox(f"sqlite:///{file}", "sandbox")
    inbox.create()

    def taken(_, rows):
        file.rename(tmp_path / "taken")
        return rows

    monkeypatch.setattr(inbox, "_without_pruned", taken)
    with pytest.raises(UnavailableError, match="restore it"):
        inbox.add([refreshed(1)])
    inbox.close()


def test_another_file_in_its_place_is_used_if_it_is_an_inbox(tmp_path):
    """As after a restore; an empty one holds no tables until somebody creates them."""
    file = tmp_path / "inbox.db"
    inbox, other = (Inbox(f"sqlite:///{file}", "sandbox") for _ in range(2))
    inbox.create()
    inbox.add([refreshed(1)])
    restored = Inbox(f"sqlite:///{tmp_path / 'restored.db'}", "sandbox")
    restored.create()
    restored.close()
    (tmp_path / "restored.db").replace(file)

    assert inbox.add([refreshed(2)]) == 1
    assert "event-2" in {row["event_id"] for row in other.rows()}

    file.unlink()
    file.touch()
    with pytest.raises(UnavailableError):
        inbox.add([refreshed(3)])
    inbox.create()
    assert inbox.add([refreshed(3)]) == 1
    for one in (inbox, other):
        one.close()


def test_environments_share_nothing(inbox, inbox_url):
    """Sandbox and production may use one database, and never see each other's events."""
    other = Inbox(inbox_url, "production")
    other.create()
    other.create()
    inbox.add([refreshed(1)])

    assert list(other.rows()) == []
    assert other.add([refreshed(1)]) == 1
    other.close()


def test_writers_and_leasers_at_once_lose_and_double_nothing(inbox, inbox_url):
    """Four writers with overlapping events and two who lease, each with connections of its own."""

    def write(start):
        own = Inbox(inbox_url, "sandbox")
        added = [own.add([refreshed(n) for n in range(s, s + 5)]) for s in range(start, 200, 3)]
        own.close()
        return sum(added)

    def lease(name):
        own = Inbox(inbox_url, "sandbox")
        found = [one for turn in range(40) for one in own.lease(f"{name}-{turn}", 7)]
        own.close()
        return [event.event_id for event in found]

    with ThreadPoolExecutor(6) as pool:
        written = [pool.submit(write, start) for start in range(4)]
        leased = [pool.submit(lease, name) for name in "ab"]
    rest = [event.event_id for event in inbox.lease("rest", 1_000)]

    known = {row["event_id"] for row in inbox.rows()}
    everything = [one for part in leased for one in part.result()] + rest
    assert sum(part.result() for part in written) == len(known)
    assert sorted(everything) == sorted(known)


_KILLED = """
import sys
from pipelines.webhooks.inbox import Inbox
from lean_resources.webhooks import Event
inbox = Inbox(sys.argv[1], "sandbox")
for number in range(10**6):
    inbox.add([Event(event_id=f"event-{number}-{k}", type="t") for k in range(3)])
    print(number, flush=True)
"""


def test_what_was_added_survives_a_kill_and_half_a_batch_never_shows(inbox, inbox_url):
    """After SIGKILL every batch that was told is there, whole."""
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, inbox_url], stdout=subprocess.PIPE, text=True
    ) as process:
        told = [int(process.stdout.readline()) for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split("\n") if line]

    found = [row["event_id"] for row in inbox.rows()]
    for number in told:
        assert {f"event-{number}-{k}" for k in range(3)} <= set(found)
    assert len(found) % 3 == 0


def test_sqlite_commits_to_disk(tmp_path):
    """WAL with synchronous=FULL: an answer of 200 survives a power cut."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}", "sandbox")
    inbox.create()
    with inbox._engine.connect() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("pragma synchronous").scalar() == 2


@pytest.mark.parametrize(
    "url",
    ["", "sqlite://", "sqlite:///:memory:", "mysql://h/d", "nonsense", "postgresql://u:p@h:port/d"],
)
def test_a_url_that_holds_no_inbox_is_a_clear_error(url):
    """Memory is no place for what has to survive."""
    with pytest.raises(ConfigError):
        Inbox(url, "sandbox").create()


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    """A plain installation has SQLite only."""
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigError, match=r"'leanhouse\[postgres\]'"):
        Inbox("postgresql://u:pw_made_up@h/d", "sandbox")


def test_a_database_that_is_gone_is_told_without_its_password():
    """The error says that the inbox cannot be reached and quotes nothing."""
    inbox = Inbox("postgresql://leanhouse:pw_made_up@127.0.0.1:1/none", "sandbox")

    with pytest.raises(UnavailableError, match="inbox cannot be reached") as gone:
        inbox.add([refreshed(1)])

    assert "pw_made_up" not in f"{gone.value!r} {inbox!r}"


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "lease", "done", "back"]), st.integers(0, 12)),
        max_size=25,
    )
)
def test_whatever_happens_each_event_is_in_one_state(tmp_path_factory, steps):
    """States move only as they may: nothing is lost, and nothing is done before it was read."""
    now = Now()
    inbox = Inbox(f"sqlite:///{tmp_path_factory.mktemp('inbox') / 'inbox.db'}", "sandbox", now=now)
    inbox.create()
    expected, tries, batches = {}, {}, []
    for turn, (step, number) in enumerate(steps):
        now.at += dt.timedelta(hours=1)
        name = f"event-{number}"
        if step == "add":
            inbox.add([refreshed(number)])
            expected.setdefault(name, "received")
        elif step == "lease":
            batch = [event.event_id for event in inbox.lease(f"run-{turn}", number + 1)]
            assert all(expected[one] == "received" for one in batch)
            expected |= dict.fromkeys(batch, "claimed")
            batches.append((f"run-{turn}", batch))
        elif batches:
            batch_id, batch = batches.pop(0)
            inbox.acknowledge(batch_id, is_done=step == "done")
            for one in batch:
                tries[one] = tries.get(one, 0) + 1
                back = "received" if tries[one] < MOST_LEASES else "failed"
                expected[one] = "done" if step == "done" else back
    assert {row["event_id"]: row["state"] for row in inbox.rows()} == expected
    inbox.close()
