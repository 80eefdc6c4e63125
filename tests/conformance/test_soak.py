"""The soak in its short form; `make soak` is the long one."""

import pytest
from laws import overspent, uncounted, wrong_rows
from soak import soak
from worlds import CHAIN

from pipelines.lake.digests import DamageError
from pipelines.sync.policy import Policy

SHORT = {"entities": 4, "days": 2, "kills": 1, "seed": 7, "names": ("banks", *CHAIN, "identity")}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What two days of faults and kills left."""
    return soak(tmp_path_factory.mktemp("soak"), **SHORT)


@pytest.mark.slow
def test_days_of_faults_and_kills_end_in_the_truth(ended):
    """No row is lost or doubled, no entity is refreshed too often, whatever went wrong."""
    assert ended.offenders == []
    assert ended.kills > 0
    assert ended.started
    assert ended.outcomes.keys() >= {"COMMITTED", "SKIPPED"}
    assert ended.rows > 500
    assert ended.naive > ended.naive_unkilled >= ended.naive_largest > 0


@pytest.mark.slow
def test_what_the_soak_looks_for_is_found(ended):
    """A file that is gone, a refresh too many and a truth that moved on each break a law."""
    per_day = Policy().refreshes_per_day
    assert overspent(ended.started + ended.started[:1] * per_day, per_day)

    ended.sandbox.revoke(ended.started[0][0])
    assert wrong_rows(ended.lake, ended.sandbox, ("entities", "consents"))

    max(ended.lake.folder.glob("transactions/*/*.parquet")).unlink()
    with pytest.raises(DamageError, match="is missing"):
        uncounted(ended.lake, ("transactions",))
