"""What a lake shows beside its streams, from the files of sql/lake alone."""

import pytest
from conftest import RELATIONS

from lean_resources.streams import STREAMS
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.relations import empty_lake, relations


@pytest.mark.parametrize("name", sorted(RELATIONS))
def test_each_relation_brings_what_it_reads(lake, name):
    """Whoever names a view, a macro or a history alone can read it."""
    with lake.connect((name,)) as connection:
        view = LAKE_VIEWS.get(name)
        if view is None or not (view.parameters or view.sql.startswith("create")):
            assert connection.execute(f"from {name}").fetchall() in ([], [(None, None)])
        else:
            found = connection.execute(
                "select 1 from duckdb_functions() where function_name = $1", [name]
            )
            assert found.fetchall()


def test_planning_brings_what_is_read_too(lake):
    """And `claims` tells of the streams alone that are shown."""
    with lake.planning(("readable_accounts",)) as connection:
        shown = connection.execute("select view_name from duckdb_views() where not internal")
        names = {name for (name,) in shown.fetchall()}

    assert names & set(STREAMS) == {"accounts", "banks", "consents", "entities"}


def test_models_may_read_what_has_columns():
    """A view without meanings of columns is for the lake itself."""
    with empty_lake((), {}) as connection:
        known = relations(connection, {})

    for name, view in LAKE_VIEWS.items():
        assert (name in known) == bool(view.columns)
    assert set(known["claims"].types) == set(known["claims"].docs)
    assert all(set(one.types) >= set(one.docs) for one in known.values())
