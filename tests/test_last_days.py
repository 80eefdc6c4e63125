"""The last days nightly, whole open months weekly: what is read when, and that nothing is lost."""

import datetime as dt
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of

from lean_resources.streams import STREAMS

sys.path.insert(0, str(Path(__file__).parent / "conformance"))
from worlds import new_sandbox, pull

from pipelines.lake.compaction import compact
from pipelines.sync.replay import replay
from pipelines.sync.slots import moving_from

TRANSACTIONS = STREAMS["transactions"]
EXPECTED = """
    select
        pulls.pull_id,
        coalesce(
            min(rows.booked_at::date) filter (where rows.status <> 'BOOKED'), pulls.claimed_to + 1
        ) as expected
    from pulls
    left join transactions as rows on pulls.pull_id = rows.pull_id
    where pulls.stream = 'transactions' and pulls.outcome = 'COMMITTED'
    group by pulls.pull_id, pulls.claimed_to
"""


@pytest.mark.parametrize(
    ("status", "mutability", "moves"),
    [
        ("BOOKED", "IMMUTABLE", False),
        ("BOOKED", None, False),
        ("BOOKED", "MUTABLE", True),
        ("REJECTED", None, False),
        ("PENDING", "MUTABLE", True),
        ("PENDING", "IMMUTABLE", True),
        ("UNSUPPORTED", "IMMUTABLE", False),
        (None, "IMMUTABLE", False),
        (None, "UNSUPPORTED", True),
        (None, None, True),
    ],
)
def test_only_what_the_bank_calls_final_stays_on_its_day(status, mutability, moves):
    """A row that may be booked later, or of which nobody says so, moves."""
    rows = TRANSACTIONS.schema.empty_table().to_pydict()
    day = dt.datetime(2026, 3, 5, 21, 30, tzinfo=dt.UTC)
    rows |= {name: [None] for name in rows}
    rows |= {"status": [status], "transaction_mutability": [mutability], "booked_at": [day]}
    table = pa.table(rows, schema=TRANSACTIONS.schema)

    [found] = moving_from(TRANSACTIONS, table, np.zeros(1, np.int64), [dt.date(2026, 3, 31)])

    assert f"{found}" == ("2026-03-05" if moves else "2026-04-01")


def test_a_pull_says_from_which_day_on_its_rows_may_move(lake):
    """The first day with a row that is not booked, or the day after all; merged and typed again."""
    pull(new_sandbox(), lake)

    for again in (lambda: None, lambda: compact(lake), lambda: replay(TRANSACTIONS, lake)):
        again()
        told = rows_of(
            lake,
            f"select pulls.moving_from, expected, pulls.claimed_to + 1 from ({EXPECTED}) as wanted"
            " inner join pulls on wanted.pull_id = pulls.pull_id"
            " inner join claims on wanted.pull_id = claims.pull_id",
        )

        assert all(moving == expected for moving, expected, _ in told)
        assert any(moving < after for moving, _, after in told)
