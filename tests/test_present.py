"""Present pulls: what is known now is the same with them, with old ones, and without any."""

import datetime as dt
import itertools
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lean_resources.quarantine import QUARANTINE_SCHEMA
from lean_resources.streams import STREAMS
from pipelines.lake.compaction import keep_present
from pipelines.lake.digests import DamageError
from pipelines.lake.folders import LOST
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import LOST_SCHEMA, Outcome, Pull
from pipelines.lake.ledger_files import Tail
from pipelines.lake.present import reveal
from pipelines.lake.queries import QUERIES
from pipelines.operate.fsck import check, repair
from pipelines.operate.vacuum import vacuum
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection, tasks_of

NOW = dt.datetime(2026, 3, 20, tzinfo=dt.UTC)
LATER = dt.date(2026, 3, 30)
HOUR = dt.timedelta(hours=1)
RELATIONS = (
    *("clock", "paused_banks", "account_depths", "offered_now", "coverage"),
    *("stale_entities", "unread_entities", "quarantine", "readable_accounts"),
)
ASKED = {
    "claims": "from all_coverage",
    "clock": "from clock",
    "paused": "from paused_banks",
    "depths": "from account_depths",
    "offered": "from offered_now",
    "coverage": "from coverage($now)",
    "stale": "from stale_entities(map(['accounts', 'transactions'], [24.0, 48.0]), $now)",
    "unread": "from unread_entities($now)",
    "quarantine": "from quarantine",
    "last read": "select stream, parent_id, max(known_at) from pulls"
    " where outcome not in ('FAILED', 'LOST') and month is null and known_at is not null"
    " group by all",
}
MONTHS = {"2026-02": dt.date(2026, 2, 1), "2026-03": dt.date(2026, 3, 1)}


def instants(first, last):
    """Some hours of March, few enough to meet."""
    return st.integers(first, last).map(
        lambda n: dt.datetime(2026, 3, 10, tzinfo=dt.UTC) + n * HOUR
    )


@st.composite
def a_pull(draw):
    """A pull as any version of any format may have written it."""
    stream = draw(st.sampled_from(["transactions"] * 4 + ["accounts", "refreshes", "entities"]))
    outcome = draw(st.sampled_from(["COMMITTED"] * 4 + ["UNCHANGED", "FAILED", "SKIPPED"]))
    entity = draw(st.sampled_from(["e0", "e1"]))
    known_at = draw(st.none() | instants(0, 6))
    given = {"entity_id": entity, "bank_identifier": f"B{entity}", "parent_id": entity}
    if stream == "entities":
        given = {"parent_id": "application"}
    if stream == "transactions":
        month = draw(st.sampled_from(list(MONTHS)))
        days = sorted(draw(st.tuples(st.integers(0, 27), st.integers(0, 27))))
        first, last = (MONTHS[month] + dt.timedelta(days=n) for n in days)
        given |= {"parent_id": f"a{entity[1]}", "month": month}
        if outcome == "COMMITTED":
            unfit = draw(st.none() | st.just([first]))
            given |= {"covered_from": first, "covered_to": last, "unfit_dates": unfit}
    codes = ["RECORDS_UNFIT", "DISABLED_BY_LEAN", "TIMEOUT"]
    return Pull(
        pull_id=new_id(),
        series_id=draw(st.sampled_from(["s0", "s1", "s2"])),
        stream=stream,
        outcome=Outcome(outcome),
        code=draw(st.sampled_from(codes)) if outcome == "FAILED" else None,
        asked_at=draw(instants(0, 6)),
        finished_at=NOW,
        known_at=known_at,
        refreshed_at=draw(st.none() | instants(0, 4)) if outcome[0] in "CU" else None,
        quarantined=draw(st.sampled_from([0, 0, 1])) if outcome == "COMMITTED" else 0,
        generation=draw(st.none() | st.integers(1, 2)),
        **given,
    )


STEPS = st.lists(
    st.lists(a_pull(), min_size=1, max_size=3)
    | st.sampled_from(["keep", "keep", "merge", "vacuum", "lose", "forget"]),
    min_size=2,
    max_size=12,
)


def rows(name, found):
    """Rows of a stream; what is left out is null."""
    return pa.Table.from_pylist(
        found, STREAMS[name].schema.append(pa.field("pull_id", pa.string()))
    )


def commit(lake, pulls, day=10):
    """A commit of pulls, with rows for those that have any."""
    batch = lake.batch(dt.datetime(2026, 3, day, tzinfo=dt.UTC))
    # A series is a read, and all its pulls are of one commit.
    pulls = [replace(pull, series_id=f"{batch.id}{pull.series_id}") for pull in pulls]
    for pull in pulls:
        if pull.quarantined or pull.code == "RECORDS_UNFIT":
            one = {"series_id": pull.series_id, "page_number": 0, "record_number": 0}
            one |= {"column_name": "amount", "reason": "odd", "is_lost": True}
            batch.quarantine(STREAMS[pull.stream], pa.Table.from_pylist([one], QUARANTINE_SCHEMA))
        if pull.outcome is not Outcome.COMMITTED:
            continue
        number = pull.parent_id[1:]
        at = pull.refreshed_at or pull.asked_at
        brought = {
            "entities": [
                {"entity_id": f"e{n}", "bank_identifier": f"Be{n}", "status": "ACTIVE"}
                for n in (0, 1)
            ],
            "banks": [{"bank_identifier": f"Be{n}"} for n in (0, 1)],
            "accounts": [{"account_id": f"a{number}", "entity_id": pull.parent_id}],
            "refreshes": [
                {
                    "refresh_id": f"r{at}",
                    "entity_id": pull.parent_id,
                    "created_at": at,
                    "account_statuses": [
                        {
                            "account_id": f"a{number}",
                            "transactions_from_date": at.date() if at.hour % 2 else None,
                        }
                    ],
                }
            ],
        }.get(pull.stream, [])
        for one in brought:
            batch.rows(STREAMS[pull.stream], rows(pull.stream, [one | {"pull_id": pull.pull_id}]))
    batch.commit(pulls)


@pytest.fixture
def lake(tmp_path):
    """A lake with two entities that may be read, and their accounts."""
    return known(tmp_path)


def known(folder):
    """A new lake with two entities that may be read, and their accounts."""
    lake = Lake(folder, "sandbox")
    early = dt.datetime(2026, 3, 9, tzinfo=dt.UTC)
    made = {
        "asked_at": early,
        "finished_at": early,
        "known_at": early,
        "outcome": Outcome.COMMITTED,
    }
    commit(
        lake,
        [
            Pull(pull_id=new_id(), series_id="s", stream=stream, parent_id=parent, **made)
            for stream, parent in (
                *(("entities", "application"), ("accounts", "e0"), ("accounts", "e1")),
                ("banks", "PERSONAL"),
            )
        ],
    )
    consents = Pull(
        pull_id=new_id(), series_id="s", stream="consents", parent_id="application", **made
    )
    batch = lake.batch()
    for entity in ("e0", "e1"):
        given = {"consent_id": entity, "entity_id": entity, "consent_status": "ACTIVE"}
        given |= {"permits_transactions": True, "permits_accounts": True, "created_at": early}
        given |= {"transactions_from_at": dt.datetime(2026, 2, 1, tzinfo=dt.UTC)}
        batch.rows(STREAMS["consents"], rows("consents", [given | {"pull_id": consents.pull_id}]))
    batch.commit([consents])
    return lake


def said(lake, tail=None):
    """All that is known now; with a tail of all commits, from the whole ledger."""
    with lake.planning((*RELATIONS, "quarantined_records"), tail) as connection:
        found = {
            name: connection.execute(
                f"from ({query}) order by all", {"now": NOW} if "$now" in query else {}
            ).fetchall()
            for name, query in ASKED.items()
        }
    tasks = [
        task
        for name in ("transactions", "accounts")
        for task in tasks_of(STREAMS[name], lake, NOW, Policy(), Selection())
    ]
    return found, tasks


def whole(lake):
    """All commits as the tail of nothing."""
    return Tail(None, lake.ledger.files(), {}, {}, None)


def differs(lake, monkeypatch):
    """What is known with present pulls, if that is not what the whole ledger says."""
    told = said(lake)
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.lake.ledger_files.newest", lambda _storage: None)
        true = said(lake, whole(lake))
    names = [name for name in ASKED if told[0][name] != true[0][name]]
    return names + (["tasks"] if told[1] != true[1] else [])


def take(lake, step, day):
    """One step of the life of a lake."""
    if isinstance(step, list):
        commit(lake, step, day)
    elif step == "keep":
        keep_present(lake)
    elif step == "merge":
        lake.ledger.merge(LATER)
    elif step == "vacuum":
        vacuum(lake, older_than_seconds=-1)
    elif step == "forget":
        for file in list(lake.storage.list("present/*.parquet"))[-1:]:
            lake.storage.delete(file.key)
    else:
        with lake.connect(()) as connection:
            found = connection.execute(
                "select pull_id from pulls where outcome = 'COMMITTED' order by pull_id desc"
            ).fetchone()
        lost = [{"file": "x", "pull_id": found[0], "lost_at": NOW}]
        lake.add(LOST / "lost_on=2026-03-20", pa.Table.from_pylist(lost, LOST_SCHEMA))


def law(folder, steps):
    """A lake goes through the steps; then both ways say the same."""
    lake = known(folder)
    for step, day in zip(steps, itertools.cycle((10, 11, 28)), strict=False):
        take(lake, step, day)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert differs(lake, monkeypatch) == []


@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(steps=STEPS)
def test_whatever_happened_the_present_is_the_same(tmp_path_factory, steps):
    """Commits, present pulls that are kept or deleted, merges, vacuums and losses, in any order."""
    law(tmp_path_factory.mktemp("lake"), steps)


@pytest.mark.conformance
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
@given(steps=STEPS)
def test_whatever_happened_in_many_orders_the_present_is_the_same(tmp_path_factory, steps):
    """The same, in many more of them."""
    law(tmp_path_factory.mktemp("lake"), steps)


NIGHT = Pull(
    pull_id="0" * 32,
    series_id="s",
    stream="transactions",
    parent_id="a0",
    entity_id="e0",
    bank_identifier="Be0",
    month="2026-03",
    outcome=Outcome.COMMITTED,
    covered_from=dt.date(2026, 3, 1),
    covered_to=dt.date(2026, 3, 9),
    refreshed_at=NOW,
    asked_at=NOW,
    finished_at=NOW,
)


def night(lake, number, **changed):
    """A night that reads a month again, a minute of Lean's clock later."""
    at = NOW + number * dt.timedelta(minutes=1)
    commit(lake, [replace(NIGHT, pull_id=new_id(), refreshed_at=at, known_at=at, **changed)], 20)


def kept(lake):
    """Files of present pulls."""
    return list(lake.storage.list("present/*.parquet"))


def planned(lake):
    """Pulls that a planner goes through."""
    with lake.planning(("entities",)) as connection:
        return connection.execute("select count(*) from pulls").fetchone()[0]


def test_nights_do_not_add_up(lake):
    """However often a month was read, the pull that covers it is left, and later ones count."""
    keep_present(lake)
    before = planned(lake)
    for number in range(4):
        night(lake, number)
        keep_present(lake)

    assert planned(lake) == before + 1
    night(lake, 5)
    assert planned(lake) == before + 2
    assert not keep_present(Lake(lake.folder.parent, "production")), "there is nothing to keep"


def test_unchanged_pulls_collapse_to_the_newest(lake):
    """The pull that they extend stays."""
    keep_present(lake)
    before = planned(lake)
    night(lake, 0)
    for number in range(1, 5):
        unread = {"covered_from": None, "covered_to": None, "outcome": Outcome.UNCHANGED}
        night(lake, number, **unread)
    keep_present(lake)

    assert planned(lake) == before + 2


@pytest.mark.parametrize(
    "how",
    ["flip", *(pytest.param(how, marks=pytest.mark.conformance) for how in ("delete", "cut"))],
)
def test_damaged_present_pulls_change_no_answer(lake, how, monkeypatch):
    """The file before is taken, and then the ledger; fsck names it and puts it aside."""
    for number in range(2):
        night(lake, number)
        keep_present(lake)
    for file in reversed(kept(lake)):
        path = lake.storage.local(file.key)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "flip" else content[:-9])
        if how == "delete":
            path.unlink()

        assert differs(lake, monkeypatch) == []
        assert [one.kind for one in check(lake).findings] == ["present"] * (how != "delete")
        repair(lake)
        assert not check(lake).findings


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_listed_commit_that_is_gone_is_a_loss(lake, is_merged):
    """Even the last commit of a writer, with its copy: its number leaves no gap."""
    night(lake, 0)
    if is_merged:
        lake.ledger.merge(LATER)
        vacuum(lake, older_than_seconds=-1)
    keep_present(lake)
    gone = max(lake.storage.list("pulls/*/*.parquet"), key=lambda file: file.version)
    for copy in lake.ledger.copies_of(gone.key):
        lake.storage.delete(copy)
    lake.storage.delete(gone.key)

    with pytest.raises(DamageError, match="is missing"):
        said(lake)
    assert [one.kind for one in check(lake).findings] == ["ledger"]
    repair(lake)
    assert not check(lake).findings
    keep_present(lake)
    said(lake)


def test_without_the_list_the_loss_is_not_seen(lake, monkeypatch):
    """A mutant: what present pulls list is compared with nothing."""
    monkeypatch.setattr("pipelines.lake.ledger_files._absent", lambda *_: ())

    with pytest.raises(pytest.fail.Exception):
        test_a_listed_commit_that_is_gone_is_a_loss(lake, is_merged=False)


def test_two_that_keep_at_once_do_no_harm(lake, monkeypatch):
    """Both have a file, and each lists what it holds, though a commit came between them."""
    night(lake, 0)

    def late(storage, staged):
        monkeypatch.setattr("pipelines.lake.compaction.reveal", reveal)
        night(lake, 1)
        keep_present(lake)
        return reveal(storage, staged)

    monkeypatch.setattr("pipelines.lake.compaction.reveal", late)
    keep_present(lake)

    assert len(kept(lake)) == 2
    assert differs(lake, monkeypatch) == []


def test_one_that_is_killed_leaves_nothing_that_counts(lake, monkeypatch):
    """What it staged is a leftover, which a vacuum deletes."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.lake.compaction.reveal", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_present(lake)

    assert kept(lake) == []
    assert [one.place for one in vacuum(lake, older_than_seconds=-1).deletions] == ["present"]


def test_the_newest_two_files_stay(lake):
    """A reader may have opened the one before."""
    for number in range(4):
        night(lake, number)
        keep_present(lake)
    before = kept(lake)
    vacuum(lake)
    assert kept(lake) == before
    vacuum(lake, older_than_seconds=-1)

    assert kept(lake) == before[-2:]


def test_a_run_that_is_resumed_knows_its_pulls(lake):
    """Present pulls leave out what others outdid, but not what a run has read already."""
    night(lake, 0, run_id="first")
    night(lake, 1)
    keep_present(lake)
    with lake.planning(("read_already",), runs_since=NOW - HOUR) as connection:
        found = connection.execute(
            "from read_already('transactions', ['first'], $since)", {"since": NOW - HOUR}
        ).fetchall()

    assert found == [("a0", ["2026-03"])]


RULES = {
    "the newest attempt": "outcome <> 'SKIPPED' and month is not null",
    "the newest bank data copy": "outcome in ('COMMITTED', 'UNCHANGED') and refreshed_at",
    "the refusal of a bank": "outcome = 'FAILED' and code in",
    "what a bank offered": "reports.one.account_id is not null",
}


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=() if place == 0 else pytest.mark.conformance)
        for place, rule in enumerate(RULES)
    ],
)
def test_without_a_rule_the_present_is_another(lake, rule, monkeypatch):
    """A mutant: pulls do not matter that do."""
    at = {"known_at": NOW + HOUR, "asked_at": NOW + HOUR, "refreshed_at": None}
    failed = at | {"outcome": Outcome.FAILED, "covered_from": None, "covered_to": None}
    night(lake, 0)
    reports = replace(NIGHT, stream="refreshes", parent_id="e1", entity_id="e1", month=None)
    for hours in (1, 2):
        later = {"refreshed_at": NOW + hours * HOUR, "known_at": NOW + hours * HOUR}
        commit(lake, [replace(reports, pull_id=new_id(), **later)], 20)
    refused = failed | {"code": "DISABLED_BY_LEAN", "stream": "accounts", "month": None}
    unread = {"outcome": Outcome.UNCHANGED, "refreshed_at": NOW + 9 * HOUR, "month": "2026-02"}
    for changed in (refused, unread, {"month": "2026-02", **failed, "code": "TIMEOUT"}):
        commit(lake, [replace(NIGHT, pull_id=new_id(), **changed)], 20)
    query = QUERIES["present_pulls"]
    mutant = query.replace(f"where {RULES[rule]}", f"where false and {RULES[rule]}")
    assert mutant != query
    monkeypatch.setattr("pipelines.lake.compaction.QUERIES", {**QUERIES, "present_pulls": mutant})
    keep_present(lake)

    assert differs(lake, monkeypatch)
