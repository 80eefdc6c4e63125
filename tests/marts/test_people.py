"""Days, banks, customers, entities, consents, accounts and owners against the truth, in Python."""

import calendar
import datetime as dt
import itertools
import re
import unicodedata
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hijridate import Gregorian
from known import models, riyadh_date
from tiny import run
from truth import account_keys, number

_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_GONE = {"deleted", "removed", "absent"}
NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


def at(days, hours=0):
    """An instant so much after noon UTC of 1 March 2026."""
    return NOON + days * DAY + hours * HOUR


def listings(world, stream):
    """When each complete listing of a stream was asked for, with its id, oldest first."""
    rows = world.rows(
        f"select pull_id, known_at from pulls where stream = '{stream}' and outcome = 'COMMITTED'"
    )
    return sorted((row["known_at"], row["pull_id"]) for row in rows)


def as_of(world):
    """The lake's clock."""
    (row,) = world.rows("from clock")
    return row["as_of"]


def versions(world, stream, left_out=()):
    """What each listing told of a key, unchanged ones taken together: (start, end, pull, row)."""
    found = defaultdict(list)
    for (known_at, pull_id), day in zip(listings(world, stream), world.days, strict=True):
        for (key,), row in day[stream].items():
            told = {name: value for name, value in row.items() if name not in left_out}
            if found[key] and found[key][-1][3] == told:
                continue
            if found[key]:
                found[key][-1][1] = known_at
            found[key].append([known_at, None, pull_id, told])
    return found


def test_days_are_those_of_both_calendars():
    """Every day agrees with Python's calendar and, by Umm al-Qura, with hijridate."""
    held = {row["calendar_date"]: row for row in run("dim_dates")}

    first, last = dt.date(2014, 1, 1), dt.date(2049, 12, 31)
    assert len(held) == (last - first).days + 1
    before = None
    for place in range(len(held)):
        day = first + place * DAY
        row = held[day]
        hijri = Gregorian(day.year, day.month, day.day).to_hijri()
        iso = day.isocalendar()
        _, length = calendar.monthrange(day.year, day.month)
        assert (row["year"], row["month"], row["day_of_month"]) == (day.year, day.month, day.day)
        assert row["quarter"] == (day.month + 2) // 3
        assert row["month_date"] == day.replace(day=1)
        assert row["month_end_date"] == day.replace(day=length)
        assert row["is_month_end"] == (day.day == length)
        assert (row["iso_year"], row["iso_week"], row["weekday"]) == iso
        assert row["week_date"] == day - (iso.weekday - 1) * DAY
        assert row["weekday_name"] == day.strftime("%A")
        assert row["is_weekend"] == (row["weekday_name"] in {"Friday", "Saturday"})
        assert (row["hijri_year"], row["hijri_month"], row["hijri_day"]) == hijri.datetuple()
        assert row["hijri_text"] == hijri.isoformat()
        assert row["hijri_month_name"] == hijri.month_name()
        assert row["hijri_month_arabic"] == hijri.month_name("ar")
        assert row["hijri_month_date"] == day - (hijri.day - 1) * DAY
        assert row["hijri_month_end_date"] == day + (hijri.month_length() - hijri.day) * DAY
        assert row["is_hijri_month_end"] == (hijri.day == hijri.month_length())
        if before is not None:
            assert before["is_hijri_month_end"] == (row["hijri_day"] == 1)
        before = row


def test_the_seed_of_hijri_months_is_the_librarys():
    """Each first day of a month is that of hijridate, and no month is left out."""
    file = models().seeds["hijri_months"]
    rows = [line.split(",") for line in file.read_text().splitlines() if line[0].isdigit()]

    for (year, month, start, *_), (next_year, next_month, *_) in itertools.pairwise(rows):
        day = dt.date.fromisoformat(start)
        hijri = Gregorian(day.year, day.month, day.day).to_hijri()
        assert (int(year), int(month), 1) == hijri.datetuple()
        assert int(next_year) * 12 + int(next_month) == int(year) * 12 + int(month) + 1
    assert len(rows) > 440


def test_entities_have_a_version_per_state_that_was_listed(world):
    """Versions start where a listing differs from the one before, and nowhere else."""
    true = versions(world, "entities")
    held = world.table("dim_entities", "entity_id", "version")

    assert len(held) == sum(len(found) for found in true.values())
    assert sum(len(found) > 1 for found in true.values()) > 0, "nothing changed in this world"
    for entity_id, found in true.items():
        for place, (start, end, pull_id, row) in enumerate(found, 1):
            shown = held[entity_id, place]
            assert (shown["valid_from"], shown["valid_to"]) == (start, end)
            assert shown["is_current"] == (end is None)
            assert shown["pull_id"] == pull_id
            assert shown["state"] == row["status"].lower()
            assert shown["created_date"] == riyadh_date(row["created_at"])
            for name, value in row.items():
                assert shown[name] == value


def end_of(row, clock):
    """State and end of a consent at an instant, from its own words."""
    is_expired = row["expires_at"] is not None and row["expires_at"] <= clock
    if row["consent_status"] in {"REVOKED", "REJECTED"}:
        changed = row["status_updated_at"]
        if changed is None or row["expires_at"] is None or changed < row["expires_at"]:
            return row["consent_status"].lower(), changed
    if is_expired:
        return "expired", row["expires_at"]
    return ("active" if row["consent_status"] == "ACTIVE" else "unknown"), None


def test_consents_expire_by_their_own_end(world):
    """State, end and days left are computed against the clock, whatever Lean shows by then."""
    clock = as_of(world)
    true = versions(world, "consents", {"shared_accounts"})
    held = world.table("dim_consents", "consent_id", "version")

    assert len(held) == sum(len(found) for found in true.values())
    states = set()
    for consent_id, found in true.items():
        for place, (start, end, pull_id, row) in enumerate(found, 1):
            shown = held[consent_id, place]
            assert (shown["valid_from"], shown["valid_to"]) == (start, end)
            assert (shown["is_current"], shown["pull_id"]) == (end is None, pull_id)
            assert (shown["state"], shown["ended_at"]) == end_of(row, clock)
            assert shown["is_expired"] == (row["expires_at"] <= clock)
            left = riyadh_date(row["expires_at"]) - riyadh_date(clock)
            assert shown["days_to_expiry"] == left.days
            states.add(shown["state"])
            for name, value in row.items():
                assert shown[name] == value
    assert states == {"active", "expired", "revoked"}


def test_banks_count_who_is_connected(world):
    """Every bank that was listed or connected is there with its entities and accounts."""
    keys = account_keys(world)
    last = world.days[-1]
    held = world.table("dim_banks", "bank_identifier")
    entities = [row for row in last["entities"].values() if row["status"].lower() not in _GONE]
    accounts = defaultdict(set)
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            bank = day["entities"][(row["entity_id"],)]["bank_identifier"]
            accounts[bank].add(keys[account_id])

    assert {key for (key,) in held} == {bank for bank, _ in last["banks"]}
    for (bank,), shown in held.items():
        kinds = sorted(kind for name, kind in last["banks"] if name == bank)
        mine = [row for row in entities if row["bank_identifier"] == bank]
        assert shown["account_types"] == kinds
        assert shown["name"] == last["banks"][bank, kinds[0]]["name"]
        assert shown["entity_count"] == len(mine)
        assert shown["customer_count"] == len({row["customer_id"] for row in mine})
        assert shown["account_count"] == len(accounts[bank])
        assert shown["is_listed"]
        assert not shown["is_paused"]


def test_customers_are_told_by_what_they_connected(world):
    """Entities, banks, consents and accounts of each customer are counted as they are."""
    clock = as_of(world)
    keys = account_keys(world)
    last = world.days[-1]
    held = world.table("dim_customers", "customer_id")
    seen = sorted(one[0] for name in ("customers", "entities") for one in listings(world, name))

    assert set(held) == set(last["customers"])
    for (customer_id,), shown in held.items():
        mine = [row for row in last["entities"].values() if row["customer_id"] == customer_id]
        active = [row for row in mine if row["status"] == "ACTIVE"]
        consents = [
            row
            for row in last["consents"].values()
            if row["customer_id"] == customer_id and end_of(row, clock)[0] == "active"
        ]
        accounts = {
            keys[account_id]
            for day in world.days
            for (account_id,), row in day["accounts"].items()
            if day["entities"][(row["entity_id"],)]["customer_id"] == customer_id
        }
        assert shown["app_user_id"] == last["customers"][(customer_id,)]["app_user_id"]
        assert (shown["entity_count"], shown["active_entity_count"]) == (len(mine), len(active))
        assert shown["bank_identifiers"] == sorted({row["bank_identifier"] for row in active})
        assert shown["bank_count"] == len(shown["bank_identifiers"])
        assert shown["active_consent_count"] == len(consents)
        assert shown["next_expiry_date"] == min(
            (riyadh_date(row["expires_at"]) for row in consents), default=None
        )
        assert shown["account_count"] == len(accounts)
        assert shown["is_listed"]
        assert shown["first_seen_at"] == seen[0]
        assert shown["last_seen_at"] == (seen[-1] if mine else listings(world, "customers")[-1][0])


def people(world):
    """What was last read of each account, its parties and its entity's identity."""
    accounts, parties, identity = {}, {}, {}
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            accounts[account_id] = row
        by_account, by_entity = defaultdict(list), defaultdict(list)
        for (account_id, _), row in sorted(day["identities"].items()):
            by_account[account_id].append(row)
        for (entity_id, _), row in sorted(day["identity"].items()):
            by_entity[entity_id].append(row)
        parties |= by_account
        identity |= by_entity
    return accounts, parties, identity


def seen_of(world):
    """When listings first and last had each account id."""
    found = {}
    rows = world.rows("""
        select parent_id, known_at from pulls
        where stream = 'accounts' and outcome = 'COMMITTED' order by known_at, pull_id
    """)
    asked = defaultdict(list)
    for row in rows:
        asked[row["parent_id"]].append(row["known_at"])
    for place, day in enumerate(world.days):
        for (account_id,), row in day["accounts"].items():
            times = asked[row["entity_id"]]
            # An entity whose consent had ended by the second day was read on the first alone.
            found.setdefault(account_id, []).append(times[min(place, len(times) - 1)])
    return {account_id: (times[0], times[-1]) for account_id, times in found.items()}


def test_accounts_are_there_once_with_all_their_ids(world):
    """Ids, customers, state, jointness and times of each real account are the truth's."""
    clock = as_of(world)
    keys = account_keys(world)
    accounts, parties, _ = people(world)
    seen = seen_of(world)
    last = world.days[-1]
    held = world.table("dim_accounts", "account_key")
    permitted = {
        row["entity_id"] for row in last["consents"].values() if end_of(row, clock)[0] == "active"
    }
    customers = {key: row["customer_id"] for (key,), row in last["entities"].items()}

    assert {key for (key,) in held} == set(keys.values())
    joint = 0
    for (key,), shown in held.items():
        ids = sorted(one for one, of in keys.items() if of == key)
        rows = [accounts[one] for one in ids]
        ibans = [
            number(one["identification"])
            for one in rows[0]["identifications"]
            if _IBAN.fullmatch(number(one["identification"]))
        ]
        owners = {customers[row["entity_id"]] for row in rows}
        told = [party["party_type"] for one in ids for party in parties.get(one, [])]
        is_joint = len(owners) > 1 or ("JOINT" in told if told else None)
        assert shown["account_ids"] == ids
        assert shown["entity_ids"] == sorted({row["entity_id"] for row in rows})
        assert shown["customer_count"] == len(owners)
        assert shown["is_joint"] == is_joint
        assert shown["iban_masked"] == (f"****{min(ibans)[-4:]}" if ibans else None)
        assert shown["link_quality"] == ("iban" if ibans else "weak")
        assert shown["account_sub_type"] in {row["account_sub_type"] for row in rows}
        assert shown["currency"] in {row["currency"] for row in rows}
        assert shown["opening_date"] in {row["opening_date"] for row in rows}
        assert shown["state"] == ("open" if shown["status"] == "ENABLED" else "unknown")
        assert shown["closed_date"] is None
        assert shown["is_connected"] == any(row["entity_id"] in permitted for row in rows)
        assert shown["first_seen_at"] == min(seen[one][0] for one in ids)
        assert shown["last_seen_at"] == max(seen[one][1] for one in ids)
        joint += bool(is_joint)
    assert joint, "a world without a joint account proves little"


_PLAIN = str.maketrans("أإآٱىةؤئ", "اااايهوي")
_LINKS = {"AL", "EL", "BIN", "IBN", "BINT", "ال", "بن", "ابن", "بنت"}


def words(name):
    """The words of a name that tell people apart, by the words of the macro's comment."""
    text = unicodedata.normalize("NFKC", name or "").replace("\u0640", "").translate(_PLAIN)
    text = re.sub(r"[^A-Z0-9\u0621-\u064A]+", " ", text.upper())
    text = re.sub(r"(^| )(ABD|ABU|عبد|ابو) ", r"\1\2", text)
    return {word for word in text.split() if word not in _LINKS}


def is_latin(found):
    """Whether words are in Latin letters, by the first of them."""
    return bool(re.search("[A-Z0-9]", min(found)))


def score(ours, theirs):
    """The share of the shorter name's words that the other has, or None."""
    if not ours or not theirs or is_latin(ours) != is_latin(theirs):
        return None
    share = Decimal(len(ours & theirs)) / max(2, min(len(ours), len(theirs)))
    return share.quantize(Decimal("0.01"), ROUND_HALF_UP)


def is_same(party, person):
    """Whether a party of an account is the person who gave the consent."""
    if party["party_id"] and party["party_id"] == person["party_id"]:
        return True
    if party["national_id"] and party["national_id"] == person["national_id"]:
        return True
    return words(party["full_legal_name"]) == words(person["full_legal_name"]) != set()


def test_owners_have_the_role_that_the_bank_gives_them(world):
    """Role, source and score of each customer of each account follow from parties and names."""
    keys = account_keys(world)
    accounts, parties, identity = people(world)
    seen = seen_of(world)
    customers = {key: row["customer_id"] for (key,), row in world.days[-1]["entities"].items()}
    shares = defaultdict(list)
    for account_id, row in accounts.items():
        shares[keys[account_id], customers[row["entity_id"]]].append(account_id)
    held = world.table("bridge_account_owners", "account_key", "customer_id")

    assert set(held) == set(shares)
    for key, ids in shares.items():
        shown = held[key]
        persons = [one for i in ids for one in identity.get(accounts[i]["entity_id"], [])]
        matched = [
            party
            for i in ids
            for party in parties.get(i, [])
            for person in identity.get(accounts[i]["entity_id"], [])
            if is_same(party, person)
        ]
        source = "party" if matched else "identity" if persons else "consent"
        assert shown["source"] == source
        told = (matched or persons or [{"account_role": None, "party_type": None}])[0]
        assert (shown["role"], shown["party_type"]) == (told["account_role"], told["party_type"])
        names = [
            words(accounts[i][name])
            for i in ids
            for name in ("account_holder_name", "account_holder_short_name")
        ]
        scores = [
            found
            for ours in names
            for person in persons
            for theirs in (words(person["full_legal_name"]), words(person["name"]))
            if (found := score(ours, theirs)) is not None
        ]
        assert shown["name_match_score"] == max(scores, default=None)
        assert (shown["name_match_reason"] == "compared") == bool(scores)
        if not any(names):
            assert shown["name_match_reason"] == "no_holder_name"
        assert shown["first_seen_at"] == min(seen[i][0] for i in ids)
        assert shown["last_seen_at"] == max(seen[i][1] for i in ids)
    roles = {row["role"] for row in held.values()}
    assert {"PRINCIPAL", "SECONDARY_OWNER"} <= roles


def listed(place, **row):
    """A row of an entity in the listing of a day."""
    return {
        "entity_id": "e",
        "customer_id": "c",
        "bank_identifier": "B",
        "status": "ACTIVE",
        "pull_id": f"p{place}",
        "asked_at": at(place),
        **row,
    }


def pulled(stream, *places, **more):
    """Committed listings of some days."""
    return [
        {
            "stream": stream,
            "outcome": "COMMITTED",
            "pull_id": f"p{place}",
            "parent_id": "application",
            "asked_at": at(place),
            **more,
        }
        for place in places
    ]


def followed(stream, pulls, shown, *, changed=None, **more):
    """What listings make of an entity or a consent."""
    history = {f"{stream}_history": shown}
    listed_versions = run("int_listed_versions", pulls=pulls, changed=changed, **history)
    return run(f"dim_{stream}", int_listed_versions=listed_versions, **history, **more)


def sightings(pulls, shown):
    """When listings had each account id."""
    return run("int_account_listings", pulls=pulls, accounts_history=shown)


def test_an_entity_that_vanishes_is_absent_until_it_is_called_deleted():
    """Left out of a listing it is absent from that listing on; DELETED is what Lean says later."""
    shown = [listed(0), listed(1), listed(4, status="DELETED")]
    rows = followed("entities", pulled("entities", 0, 1, 2, 3, 4), shown)

    rows.sort(key=lambda row: row["version"])
    assert [(row["state"], row["valid_from"], row["valid_to"]) for row in rows] == [
        ("active", at(0), at(2)),
        ("absent", at(2), at(4)),
        ("deleted", at(4), None),
    ]
    assert [row["is_current"] for row in rows] == [False, False, True]
    assert rows[1]["pull_id"] == "p2"


def test_an_entity_that_stays_away_is_absent_now():
    """The newest listing without it makes an absent version that is current."""
    rows = followed("entities", pulled("entities", 0, 1), [listed(0, status=None)])

    assert sorted((row["state"], row["is_current"]) for row in rows) == [
        ("absent", True),
        ("unknown", False),
    ]


def test_versions_that_come_back_are_versions_again():
    """Only neighbours are taken together: on, off and on again are three versions."""
    statuses = ["ACTIVE", "ACTIVE", "DISABLED", "ACTIVE", "ACTIVE"]
    shown = [listed(i, status=status) for i, status in enumerate(statuses)]
    rows = followed("entities", pulled("entities", *range(5)), shown)

    rows.sort(key=lambda row: row["version"])
    assert [row["state"] for row in rows] == ["active", "disabled", "active"]


def consent(place, **row):
    """A row of a consent in the listing of a day."""
    shown = {"consent_id": "k", "consent_status": "ACTIVE", **listed(place), **row}
    del shown["status"]
    return shown


@pytest.mark.parametrize(
    ("row", "state", "ended_at", "days"),
    [
        ({"expires_at": at(0, -1)}, "expired", at(0, -1), 0),
        ({"expires_at": at(0)}, "expired", at(0), 0),
        ({"expires_at": at(0, 1)}, "active", None, 0),
        # Riyadh's midnight is at 21:00 UTC.
        ({"expires_at": at(0, 9)}, "active", None, 1),
        ({"expires_at": None}, "active", None, None),
        (
            {"expires_at": at(-1), "consent_status": "REVOKED", "status_updated_at": at(0, -12)},
            "expired",
            at(-1),
            -1,
        ),
        (
            {"expires_at": at(9), "consent_status": "REVOKED", "status_updated_at": at(-3)},
            "revoked",
            at(-3),
            9,
        ),
        (
            {"expires_at": at(9), "consent_status": "REJECTED", "status_updated_at": None},
            "rejected",
            None,
            9,
        ),
        ({"expires_at": at(9), "consent_status": "PAUSED"}, "unknown", None, 9),
    ],
    ids=[
        "expired-an-hour-ago-and-still-shown-active",
        "expired-this-instant",
        "expires-in-an-hour",
        "expires-after-midnight-in-riyadh",
        "without-an-end",
        "expired-and-swept-late",
        "revoked-before-its-end",
        "rejected-at-an-unknown-time",
        "in-words-never-seen",
    ],
)
def test_a_consent_ends_by(row, state, ended_at, days):
    """Whatever came first ended it; Lean's sweep after its own end does not."""
    (found,) = followed(
        "consents",
        pulled("consents", 0),
        [consent(0, **row)],
        clock=[{"as_of": at(0), "as_of_date": riyadh_date(at(0))}],
    )

    assert (found["state"], found["ended_at"], found["days_to_expiry"]) == (state, ended_at, days)


def account(account_id, place, **row):
    """A row of an account in the listing of a day."""
    return {
        "account_id": account_id,
        "entity_id": "e",
        "pull_id": f"p{place}",
        "asked_at": at(place),
        "status": "ENABLED",
        "currency": "SAR",
        **row,
    }


def bridge(account_id, key="a", **row):
    """A row of bridge_accounts."""
    return {
        "account_id": account_id,
        "account_key": key,
        "entity_id": "e",
        "customer_id": "c",
        "link_quality": "weak",
        "is_listed": True,
        **row,
    }


@pytest.mark.parametrize(
    ("row", "is_listed", "state", "closed_date"),
    [
        ({"status": "CLOSED", "status_updated_at": at(0, 9)}, True, "closed", dt.date(2026, 3, 2)),
        ({"status": "DORMANT"}, True, "inactive", None),
        ({"status": "UNSUPPORTED"}, True, "unknown", None),
        ({"status": None}, True, "unknown", None),
        ({}, False, "absent", None),
        ({}, True, "open", None),
    ],
    ids=["closed", "dormant", "unsupported", "not-told", "no-longer-listed", "open"],
)
def test_an_account_is(row, is_listed, state, closed_date):
    """The state of an account is the bank's newest word, or that it is listed no more."""
    shown = [account("1", 1, **row)]
    (found,) = run(
        "dim_accounts",
        int_account_listings=sightings(pulled("accounts", 1, parent_id="e"), shown),
        accounts_history=shown,
        bridge_accounts=[bridge("1", is_listed=is_listed)],
    )

    assert (found["state"], found["closed_date"]) == (state, closed_date)
    assert found["is_joint"] is None, "nobody asked for its parties"


def test_a_listing_found_unchanged_has_seen_its_accounts():
    """An unchanged listing brings no rows, and still says that the accounts are there."""
    pulls = pulled("accounts", 0, parent_id="e")
    again = pulled("accounts", 1, 2, parent_id="e", outcome="UNCHANGED")
    failed = pulled("accounts", 3, parent_id="e", outcome="FAILED")

    (found,) = sightings([*pulls, *again, *failed], [account("1", 0)])

    assert (found["first_seen_at"], found["last_seen_at"]) == (at(0), at(2))


@pytest.mark.parametrize(
    ("holder", "identity", "expected", "reason"),
    [
        ("Noura bint Omar Al Dossari", "NOURA OMAR ALDOSSARI", "0.67", "compared"),
        ("Noura Al Dossari", "NOURA BINT OMAR AL DOSSARI", "1.00", "compared"),
        ("أحمـــد عبد الله القحطاني", "احمد عبدالله القحطاني", "1.00", "compared"),
        ("Noura", "Noura Al Dossari", "0.50", "compared"),
        ("Fahad Al Harbi", "Noura Al Dossari", "0.00", "compared"),
        ("Fahad Al Harbi", "فهد الحربي", None, "other_script"),
        (None, "Noura Al Dossari", None, "no_holder_name"),
        ("Noura Al Dossari", None, None, "no_identity"),
    ],
    ids=[
        "article-joined",
        "without-the-father",
        "arabic-stretched-and-parted",
        "given-name-alone",
        "somebody-else",
        "other-script",
        "no-name-on-the-account",
        "no-identity",
    ],
)
def test_names_are_compared_as(holder, identity, expected, reason):
    """The score is a share of words, and null where nothing can be compared."""
    shown = [account("1", 0, account_holder_name=holder)]
    (found,) = run(
        "bridge_account_owners",
        int_account_listings=sightings(pulled("accounts", 0, parent_id="e"), shown),
        accounts_history=shown,
        bridge_accounts=[bridge("1")],
        stg_identity=[{"entity_id": "e", "party_index": 0, "full_legal_name": identity}]
        if identity
        else [],
    )

    assert found["name_match_score"] == (None if expected is None else Decimal(expected))
    assert found["name_match_reason"] == reason
    assert found["source"] == ("identity" if identity else "consent")


def test_the_oracles_catch_a_version_too_many():
    """A mutant that ends no version for an absence is told apart."""
    given = ("entities", pulled("entities", 0, 1), [listed(0)])

    whole = followed(*given)
    broken = followed(*given, changed={"sequence_no < listing_count and": "false and"})

    assert [row["state"] for row in broken] == ["active"]
    assert sorted(row["state"] for row in whole) == ["absent", "active"]
