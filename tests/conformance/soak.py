"""A soak: many entities, many days, faults in every twentieth answer, and a process that is killed.

Every simulated day the offline clock moves on, customers come and go, and a sync of everything,
refreshes first, is killed some times before it is let end. After the last day the faults are
healed, one more sync reads every stream, and the lake has to be the truth:

    make soak ARGS="--entities 500 --days 30 --kills 2 --seed 7"
"""

import argparse
import dataclasses
import datetime as dt
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from conftest import TODAY, settings_of
from laws import broken_keys, outside_consent, overspent, uncounted, wrong_rows
from worlds import PULLED

from lean_resources.sandbox import Sandbox, listings, serve
from lean_resources.sandbox.view import View
from lean_resources.streams import ACCOUNT_STREAMS, PERMISSION_OF
from pipelines.lake.lake import Lake
from pipelines.operate.vacuum import vacuum
from pipelines.sync.policy import Policy

DAY = dt.timedelta(days=1)
NIGHT = Path(__file__).with_name("night.py")
USUAL_PAGE = 50
"""Records of a page where none are asked for; §4.2 of the facts about Lean."""
LARGEST_PAGE = 100
RATES = {
    "429": 0.005,
    "429-bare": 0.003,
    "500": 0.005,
    "502": 0.003,
    "503": 0.003,
    "504": 0.003,
    "slow:6": 0.0005,
    "cut": 0.005,
    "html": 0.002,
    "FAILED:BANK_ISSUE": 0.005,
    "PENDING": 0.005,
    "PENDING-202": 0.0025,
    "total-drift": 0.002,
    "refresh-drift": 0.002,
    "repeat": 0.002,
    "skip": 0.002,
}
"""Share of answers that each fault hits: together one in twenty."""


UNNOTICED = {"total-drift", "refresh-drift", "repeat", "skip"}
"""Faults after which a careless reader asks nothing again."""


def log_refreshes(sandbox):
    """A list that grows by entity and instant with each refresh that Lean starts from now on."""
    started = []
    start = sandbox.store.start_refresh

    def noted(entity, *parts, **how):
        refresh = start(entity, *parts, **how)
        if refresh is not None:
            started.append((entity.id, sandbox.clock.now()))
        return refresh

    sandbox.store.start_refresh = noted
    return started


@dataclasses.dataclass
class Outcome:
    """How a soak ended.

    Args:
        lake: What it left.
        sandbox: The offline Lean after it.
        started: Entity and instant of each refresh that Lean was made to start.
        offenders: What breaks a law; empty when all hold.
        entities: Entities at the end, whatever their state.
        days: Days that passed.
        kills: Processes that were killed.
        requests: Requests that Lean saw in these days, tokens and repeated ones included.
        calls: The same by method and path.
        naive: Requests of one refresh and one reading of everything permitted on each day, in
            Lean's usual pages, what failed asked again, and begun anew after each kill, which came
            as far into it as into ours.
        naive_unkilled: The same, where nothing is killed.
        naive_largest: The same, where nothing is killed and each page is as large as Lean allows.
        rows: Rows that show at the end.
        outcomes: Pulls by outcome.
        seconds: Wall time.
    """

    lake: Lake
    sandbox: Sandbox
    started: list
    offenders: list
    entities: int
    days: int
    kills: int
    requests: int
    calls: Counter
    naive: int
    naive_unkilled: int
    naive_largest: int
    rows: int
    outcomes: dict
    seconds: float


@contextmanager
def nights(settings, lake):
    """Syncs in processes of their own; call it with the run, its done steps, and when to die."""
    given = settings.model_dump(exclude_unset=True, exclude_none=True)
    given["client_secret"] = settings.client_secret.get_secret_value()
    with subprocess.Popen(
        [sys.executable, NIGHT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def sync(run_id, done, *, seconds=None, eager=False):
            asked = {
                "lake": str(lake.folder.parent),
                "settings": given,
                "run_id": run_id,
                "done": done,
                "seconds": seconds,
                "eager": eager,
            }
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield sync
        process.stdin.close()
        process.wait(timeout=60)


def permitted(sandbox):
    """What one refresh and one reading of everything permitted takes.

    Returns:
        Requests that have no pages, and the records of each listing that has.
    """
    store = sandbox.store
    entities = [store.entity(store.entity_key_at(place)) for place in range(store.entity_total)]
    single, records = 2, [store.customer_total, len(entities)]
    for entity in entities:
        if entity.deleted > store.clock.nanos:
            records.append(len(entity.refreshes))
            single += 1
        if not entity.is_open(store.clock.nanos):
            continue
        single += 2  # its refresh and one look at it
        for name, permission in PERMISSION_OF.items():
            if permission not in entity.consent.permissions or name not in entity.marks:
                continue
            parents = store.shared(entity) if name in ACCOUNT_STREAMS else [None]
            views = [View(store, entity, entity.marks[name][0], one) for one in parents]
            records += [listings.listing(view, name).total for view in views]
    return single, records


def naive_requests(single, records, page_size):
    """Requests that this takes in pages of a size, what failed asked again."""
    whole = single + sum(max(1, -(-count // page_size)) for count in records)
    noticed = sum(rate for fault, rate in RATES.items() if fault not in UNNOTICED)
    return round(whole / (1 - noticed))


def customers_of(entities, seed):
    """How many customers have at least so many entities between them."""
    for customers in count(max(1, entities // 2)):
        if Sandbox(customers=customers, seed=seed, today=TODAY).store.entity_total >= entities:
            return customers
    raise AssertionError("unreachable")  # pragma: no cover


def come_and_go(sandbox, drawn):
    """What customers do of a day: one may connect, one connect again, one end the consent."""
    open_ = sorted({one["parent"]["entity_id"] for one in sandbox.truth("accounts")})
    if drawn.random() < 0.5:
        sandbox.connect()
    if drawn.random() < 0.5:
        sandbox.reconsent(drawn.choice(open_))
    if drawn.random() < 0.2:
        sandbox.revoke(drawn.choice(open_))


def soak(folder, *, entities, days, kills, seed, names=PULLED, tell=lambda _line: None):
    """Let days pass over an offline Lean and a lake.

    Args:
        folder: Where the lake is made.
        entities: Entities at the start, at least.
        days: Days that pass.
        kills: Processes that are killed each day.
        seed: Decides the world, the faults and the kills.
        names: The streams that are synced.
        tell: Is told a line per day.
    """
    begun = time.monotonic()
    drawn = random.Random(seed)
    sandbox = Sandbox(customers=customers_of(entities, seed), months=12, seed=seed, today=TODAY)
    started = log_refreshes(sandbox)
    lake = Lake(folder, "sandbox")
    naive = naive_unkilled = naive_largest = killed = 0
    usual = 0.5 + 0.03 * entities  # seconds of a sync, until there is one to go by
    morning = sandbox.clock.now()
    left_out = [name for name in PULLED if name not in names]
    with serve(sandbox) as server, nights(settings_of(sandbox, server.url), lake) as sync:
        for day in range(days):
            sandbox.fault_rates = RATES
            single, records = permitted(sandbox)
            full = naive_requests(single, records, USUAL_PAGE)
            naive += full
            naive_unkilled += full
            naive_largest += naive_requests(single, records, LARGEST_PAGE)
            done = left_out[:]
            for _ in range(kills):
                share = drawn.uniform(0.0, 0.9)
                ended, _, steps = sync(f"day {day}", done, seconds=share * usual)
                done += steps
                if ended == "killed":
                    killed += 1
                    naive += round(share * full)
                vacuum(lake, older_than_seconds=0)
            whole = time.monotonic()
            ended, pulls, _ = sync(f"day {day}", done)
            usual = max(time.monotonic() - whole, 0.8 * usual)
            tell(f"day {day}: {ended}, {pulls}, {sum(sandbox.calls.values())} requests so far")
            morning += DAY
            sandbox.clock.advance(max(morning - sandbox.clock.now(), dt.timedelta()))
            ours = len(started)
            come_and_go(sandbox, drawn)
            del started[ours:]  # Lean's own on connecting; they are not the budget's
        calls = Counter(sandbox.calls)
        sandbox.heal()
        tell(f"the end: {sync('the end', left_out, eager=True)[0]}")
    held = (*names, "consents")
    found = broken_keys(lake, held) + uncounted(lake, held) + outside_consent(lake)
    found += wrong_rows(lake, sandbox, held)
    found += overspent(started, Policy().refreshes_per_day)
    with lake.connect() as connection:
        outcomes = connection.execute("select outcome, count(*) from pulls group by all").fetchall()
        (rows,) = connection.execute(
            "select (select count(*) from transactions) + (select count(*) from balances)"
        ).fetchone()
    return Outcome(
        lake=lake,
        sandbox=sandbox,
        started=started,
        offenders=found,
        entities=sandbox.store.entity_total,
        days=days,
        kills=killed,
        requests=sum(calls.values()),
        calls=calls,
        naive=naive,
        naive_unkilled=naive_unkilled,
        naive_largest=naive_largest,
        rows=rows,
        outcomes=dict(outcomes),
        seconds=time.monotonic() - begun,
    )


def main():
    """Soak, print what it cost, and end with 1 where a law is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("entities", 500), ("days", 30), ("kills", 2), ("seed", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        ended = soak(Path(folder), **given, tell=lambda line: print(line, flush=True))
    print(
        f"{ended.entities} entities, {ended.days} days, {ended.kills} kills, {ended.rows} rows\n"
        f"pulls      {ended.outcomes}\n"
        f"refreshes  {len(ended.started)}\n"
        f"requests   {ended.requests}\n"
        f"naive      {ended.naive}, {ended.naive / ended.requests:.2f} times as many\n"
        f"  unkilled {ended.naive_unkilled}, {ended.naive_unkilled / ended.requests:.2f} times\n"
        f"  largest  {ended.naive_largest}, {ended.naive_largest / ended.requests:.2f} times\n"
        f"seconds    {ended.seconds:.0f}\n"
        f"offenders  {len(ended.offenders)} {Counter(str(one)[:60] for one in ended.offenders)}"
    )
    for name, requests in ended.calls.most_common():
        print(f"{requests:10} {name}")
    sys.exit(1 if ended.offenders else 0)


if __name__ == "__main__":
    main()
