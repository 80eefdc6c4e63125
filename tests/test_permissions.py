"""What a consent grants: each permission of the catalogue by its own value, and nothing else."""

import itertools

import pytest
from conftest import TODAY

from lean_resources.streams import PERMISSIONS, STREAMS
from pipelines.lake.lake import Lake

NOW = f"timestamptz '{TODAY} 12:00:00+00'"
REFUSED = "USER_PERMISSIONS_NOT_GRANTED"
WORDS_OF_NOBODY = (
    "nonsense",
    "IDENTITY",
    "Accounts",
    " accounts",
    "",
    "%",
    "permits_identity",
    "_",
)


@pytest.fixture(scope="module")
def consented(tmp_path_factory):
    """Ask an empty lake what values of a consent and an entity grant: the code of the refusal."""
    columns = [f"permits_{name}" for name in PERMISSIONS]
    lake = Lake(tmp_path_factory.mktemp("lake"), "sandbox")
    with lake.connect(("readable_entities", "accounts")) as connection:

        def ask(of_consent, of_entity, wanted):
            for stream, given, more in (
                ("entities", of_entity, "'ACTIVE' as status"),
                (
                    "consents",
                    of_consent,
                    (
                        "'c' as consent_id, 'ACTIVE' as consent_status, null::timestamptz as"
                        " expires_at, null::timestamptz as transactions_to_at,"
                        " null::timestamptz as transactions_from_at"
                    ),
                ),
            ):
                values = ", ".join(
                    f"{value}::boolean as {name}"
                    for name, value in zip(columns, given, strict=True)
                )
                connection.execute(
                    f"create or replace view {stream} as select 'e' as entity_id,"
                    f" 'B' as bank_identifier, {NOW} as created_at, {more}, {values}"
                )
            (code,) = connection.execute(
                f"select skip_code from readable_entities($wanted, {NOW})", {"wanted": wanted}
            ).fetchone()
            return code

        yield ask


def only(name, value="true", otherwise="false"):
    """Values of which one differs."""
    return [value if one == name else otherwise for one in PERMISSIONS]


@pytest.mark.parametrize("wanted", PERMISSIONS)
def test_a_permission_is_granted_by_its_own_value_and_by_no_other(consented, wanted):
    """Each is granted alone, and all the others together do not grant it."""
    nothing = ["null"] * len(PERMISSIONS)

    assert consented(only(wanted), nothing, wanted) is None
    assert consented(only(wanted, "false", "true"), only(wanted), wanted) == REFUSED
    assert consented(nothing, only(wanted), wanted) is None
    assert consented(nothing, only(wanted, "null", "true"), wanted) == REFUSED
    for other in set(PERMISSIONS) - {wanted}:
        assert consented(only(wanted), nothing, other) == REFUSED


@pytest.mark.parametrize("wanted", WORDS_OF_NOBODY)
def test_a_word_that_is_no_permission_is_granted_to_nobody(consented, wanted):
    """Whatever the consent grants, and however near the word is to one of Lean's."""
    everything = ["true"] * len(PERMISSIONS)

    assert consented(everything, everything, wanted) == REFUSED


def test_a_value_that_is_not_told_grants_nothing(consented):
    """Neither by the consent nor by the entity, for every permission."""
    for wanted in PERMISSIONS:
        for of_consent, of_entity in itertools.product(("null", "false"), repeat=2):
            given = [[value] * len(PERMISSIONS) for value in (of_consent, of_entity)]
            assert consented(*given, wanted) == REFUSED


def test_what_needs_no_permission_is_read_without_one(consented):
    """A stream without a permission asks with null."""
    nothing = ["false"] * len(PERMISSIONS)

    assert consented(nothing, nothing, None) is None


def test_permissions_have_their_columns_from_one_list():
    """Entities and consents have a column for each permission, and no other of that kind."""
    for stream in ("entities", "consents"):
        columns = [column.name for column in STREAMS[stream].columns]
        assert [name for name in columns if name.startswith("permits_")] == [
            f"permits_{name}" for name in PERMISSIONS
        ]
