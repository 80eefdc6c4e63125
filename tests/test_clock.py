"""What the lake holds to be now, and the order of what it knows: Lean's clock alone decides."""

import asyncio
import datetime as dt

import httpx
import pytest
import sqlglot
from conftest import Slept, rows_of, settings_of, sync_everything
from sqlglot import exp

from lean_resources import LeanClient
from pipelines.models.loader import load

DAY = dt.timedelta(days=1)
LISTED = {"banks", "entities"}


def client(sandbox, ahead=dt.timedelta()):
    """A client on a machine whose clock is ahead of the true one."""
    return LeanClient(
        settings_of(sandbox),
        transport=httpx.ASGITransport(sandbox.app),
        sleep=Slept(),
        now=lambda: dt.datetime.now(dt.UTC) + ahead,
    )


def sync(sandbox, lake, names=LISTED, ahead=dt.timedelta()):
    """Sync some streams."""
    asyncio.run(sync_everything(client(sandbox, ahead), lake, names))


def test_the_clock_goes_on_while_no_bank_is_asked(sandbox, lake):
    """A feed that died 203 days ago is that old: the newest listing says what day it is."""
    sync(sandbox, lake, {"banks", "entities", "accounts", "balances"})
    sandbox.clock.advance(203 * DAY)

    sync(sandbox, lake, LISTED)

    now = sandbox.clock.now().replace(microsecond=0)
    assert rows_of(lake, "select as_of from clock") == [(now,)]
    [(newest,)] = rows_of(lake, "select max(refreshed_at) from pulls")
    assert sandbox.clock.now() - newest > 200 * DAY


def test_a_first_sync_of_old_copies_tells_the_true_day(sandbox, lake):
    """Consents and ages are judged by Lean's day and not by that of the newest copy."""
    sandbox.clock.advance(203 * DAY)

    sync(sandbox, lake, {"banks", "entities", "accounts"})

    [(today,)] = rows_of(lake, "select as_of_date from clock")
    assert today == (sandbox.clock.now() + dt.timedelta(hours=3)).date()


@pytest.mark.parametrize("ahead", [2 * DAY, 30_000 * DAY, -400 * DAY], ids=str)
def test_a_machine_with_a_wrong_clock_hides_nothing_later(sandbox, lake, ahead):
    """What a later listing says counts, however wrong the clock was at the first one."""
    sync(sandbox, lake, ahead=ahead)
    [(entity,)] = rows_of(
        lake,
        "select entity_id from consents where consent_status = 'ACTIVE' order by all limit 1",
    )
    sandbox.clock.advance(dt.timedelta(hours=1))
    sandbox.revoke(entity)
    new = sandbox.connect(app_user_id="customer-of-today")
    sandbox.clock.advance(dt.timedelta(hours=1))

    sync(sandbox, lake)

    status = f"select distinct consent_status from consents where entity_id = '{entity}'"
    assert rows_of(lake, status) == [("REVOKED",)]
    shown = f"select count(*) from entities where entity_id = '{new['entity_id']}'"
    assert rows_of(lake, shown) == [(1,)]
    history = "select min(known_at), max(known_at) from entities_history"
    [(first, last)] = rows_of(lake, history)
    assert last - first == dt.timedelta(hours=2)


def _ordering(tree):
    """Columns that a statement orders by, or takes the first or the last of."""
    for node in tree.find_all(exp.Ordered, exp.Tuple):
        for one in node.expressions if isinstance(node, exp.Tuple) else [node.this]:
            if isinstance(one, exp.Column):
                yield one.name


def test_no_table_orders_by_the_id_of_a_pull():
    """It begins with the time of the machine that pulled."""
    bodies = {model.name: model.body for model in load()}
    bodies["mutant"] = "select arg_max(code, (known_at, pull_id)) from pulls"

    found = {
        name
        for name, body in bodies.items()
        if "pull_id" in _ordering(sqlglot.parse_one(body, dialect="duckdb"))
    }

    assert found == {"mutant"}
