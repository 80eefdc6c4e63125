"""Webhooks: who signed a message, and what an event keeps of it."""

import datetime as dt
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lean_resources import webhooks
from lean_resources.errors import SchemaError, SignatureError
from lean_resources.sandbox import Sandbox
from lean_resources.webhooks import DEEPEST, event_of, read_event, sign, verify

SECRET = "whsec_test_0001"
BODY = (
    b'{"type":"entity.data.refresh.updated","payload":{"entity_id":'
    b'"0f6a1c52-7a39-4d0e-9f0b-2f6f4c6b1d11","status":"FINISHED"},'
    b'"event_id":"5d9b2a0e-41a7-4a53-8a70-0d2c6a0f9c01"}'
)
SIGNATURE = (
    "sha512=842ec0b04cc03d962fe63e7b25ea251e6cd1c8fa1fb43ff8c3767314f49cd0028d71f785c6caf4064aad55"
    "3706e899175ac52c00849e65a894dfe8a0ad9d987c"
)


def passes(body, header, secrets):
    """Whether a message is let in."""
    try:
        verify(body, header, secrets)
    except SignatureError:
        return False
    return True


def test_the_documented_vector_is_signed():
    """Body, secret and signature of the reference fit, whatever case the hex has."""
    assert sign(BODY, SECRET) == SIGNATURE
    assert passes(BODY, SIGNATURE, [SECRET])
    assert passes(BODY, SIGNATURE.upper(), [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha512=",
        SIGNATURE[:-1],
        SIGNATURE[:-2],
        SIGNATURE + "0",
        SIGNATURE[7:],
        SIGNATURE.replace("sha512", "sha256"),
        SIGNATURE[:-1] + "g",
        SIGNATURE[:-1] + "\u0661",
        SIGNATURE + "\n",
        " " + SIGNATURE,
        f"{SIGNATURE},{SIGNATURE}",
        "sha512=" + hashlib.sha512(BODY).hexdigest(),
        "sha512=" + hmac.new(b"", BODY, hashlib.sha512).hexdigest(),
    ],
)
def test_a_header_that_is_not_the_signature_is_refused(header):
    """Missing, truncated, longer, of another scheme or key: none is let in."""
    assert not passes(BODY, header, [SECRET])


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_any_altered_byte_is_noticed(place, change):
    """A message differs from the signed one in no byte."""
    altered = bytearray(BODY)
    altered[place] ^= change

    assert not passes(bytes(altered), SIGNATURE, [SECRET])


@given(st.integers(0, 127), st.integers(1, 15))
def test_any_altered_digit_is_noticed(place, change):
    """A signature fits in all of its 128 digits."""
    digits = list(SIGNATURE.removeprefix("sha512="))
    digits[place] = f"{int(digits[place], 16) ^ change:x}"

    assert not passes(BODY, "sha512=" + "".join(digits), [SECRET])


@given(st.binary(max_size=300), st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_what_is_signed_with_either_active_secret_passes_and_no_other(body, one, other):
    """While a secret is changed both are good; a secret that is not active is not."""
    header = sign(body, one)

    assert passes(body, header, [one])
    assert passes(body, header, [other, one])
    assert passes(body, header, [one, other])
    assert passes(body, header, [other]) == (one == other)
    assert not passes(body, header, [])


def test_no_message_of_the_error_tells_body_secret_or_signature():
    """A refusal says what is wrong and quotes nothing."""
    with pytest.raises(SignatureError) as refused:
        verify(BODY, SIGNATURE[:-1] + "0", ["whsec_made_up"])

    for told in ("whsec", "842ec0", "entity"):
        assert told not in str(refused.value)


MUTANTS = {
    "compares the beginning only": lambda body, header, secrets: any(
        header and sign(body, secret)[:20] == header[:20].lower() for secret in secrets
    ),
    "signs what it decoded": lambda body, header, secrets: any(
        header and sign(json.dumps(json.loads(body)).encode(), secret) == header
        for secret in secrets
    ),
    "is case sensitive": lambda body, header, secrets: any(
        sign(body, secret) == header for secret in secrets
    ),
    "knows one secret": lambda body, header, secrets: passes(body, header, secrets[:1]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_way_to_verify_wrongly_is_caught(name):
    """The claims above tell the checker from its usual mistakes."""
    mutant = MUTANTS[name]
    half = SIGNATURE[:40] + "0" * (len(SIGNATURE) - 40)
    spaced = BODY.replace(b":", b" : ", 1)
    cases = [
        (BODY, SIGNATURE, [SECRET], True),
        (BODY, SIGNATURE.upper(), [SECRET], True),
        (BODY, SIGNATURE, ["whsec_other", SECRET], True),
        (BODY, half, [SECRET], False),
        (spaced, sign(spaced, SECRET), [SECRET], True),
    ]

    assert all(passes(*case[:3]) == case[3] for case in cases)
    assert any(mutant(*case[:3]) != case[3] for case in cases)


def test_an_event_keeps_ids_and_status_and_nothing_else():
    """Names, accounts and whatever else the body tells stay in the body."""
    payload = {
        "id": "0f6a1c52-7a39-4d0e-9f0b-2f6f4c6b1d11",
        "customer_id": "5b0f2c1e-2b7b-4f62-8a3b-7a6d1e0c9f88",
        "app_user_id": "noura@example.test",
        "bank_details": {"identifier": "ALINMA_SAU", "name": "Alinma Bank"},
    }
    body = {
        "type": "entity.created",
        "payload": payload,
        "timestamp": "2026-01-10T09:21:34.000118233Z",
        "event_id": "b9d5f1c4-7a6e-4d1c-8f0a-3b2c1d0e9f11",
    }

    event = read_event(json.dumps(body).encode())

    assert event.event_id == body["event_id"]
    assert event.entity_id == payload["id"]
    assert event.customer_id == payload["customer_id"]
    assert event.sent_at == dt.datetime(2026, 1, 10, 9, 21, 34, 118, tzinfo=dt.UTC)
    assert event.is_about_entity
    assert event.asks_for_work
    assert "noura" not in repr(event)
    assert "Alinma Bank" not in repr(event)


def test_what_the_offline_lean_announces_is_understood():
    """Connecting, refreshing, revoking and switching a bank each ask for the right work."""
    sandbox = Sandbox(customers=3, months=2)
    connected = sandbox.connect(app_user_id="one-more")
    sandbox.clock.advance(dt.timedelta(seconds=30))
    sandbox.revoke(connected["entity_id"])
    sandbox.switch_bank("LEA1_SAMAOB_SAU", active=False)

    found = [event_of(one) for one in sandbox.events]

    about = {event.type: event for event in found}
    refreshed = [event for event in found if event.is_refreshed]
    assert about["entity.created"].entity_id == connected["entity_id"]
    assert about["entity.updated"].entity_id == connected["entity_id"]
    assert [event.refresh_id for event in refreshed] == [connected["refresh_id"]]
    assert about["bank.availability.updated"].bank_identifier == "LEA1_SAMAOB_SAU"
    assert [event.asks_for_work for event in found] == [True, False, True, True, True]


@pytest.mark.parametrize("status", ["FINISHED", "OK", "ok"])
def test_both_regions_words_for_a_finished_refresh_are_known(status):
    """Saudi Arabia says FINISHED, the Emirates say OK."""
    kind = "entity.data.refresh.updated"
    event = event_of({"type": kind, "payload": {"entity_id": "e-1", "status": status}})

    assert event.is_refreshed


def test_a_missing_id_is_made_of_type_and_payload():
    """The same announcement is the same event; another payload, order aside, is another."""
    one = {"type": "results.ready", "payload": {"id": "r-1", "n": 1}}
    again = {"payload": {"n": 1, "id": "r-1"}, "type": "results.ready", "message": "Ready."}
    other = {"type": "results.ready", "payload": {"id": "r-2", "n": 1}}

    assert event_of(one).event_id == event_of(again).event_id
    assert event_of(one).event_id.startswith("hash:")
    assert event_of(one).event_id != event_of(other).event_id


def nested(levels):
    """A message that nests so many levels."""
    return b'{"type":"t","payload":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_a_message_nests_as_deep_as_allowed_and_no_deeper():
    """The limit holds on both sides, and a megabyte of brackets is refused like the rest."""
    assert read_event(nested(DEEPEST)).type == "t"
    for levels in (DEEPEST + 1, 5_000, 500_000):
        with pytest.raises(SchemaError):
            read_event(nested(levels))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"type": JSON},
        optional=dict.fromkeys(("payload", "event_id", "timestamp"), JSON),
    ).map(lambda value: json.dumps(value).encode())
    | st.builds(lambda n: b'{"type":"t","payload":' + b"9" * n + b"}", st.integers(1, 6000))
)
def test_any_body_is_an_event_or_refused(body):
    """Whatever was signed, reading it ends in an event that can be stored or in one error."""
    try:
        event = read_event(body)
    except SchemaError:
        return
    assert event == read_event(body)
    for name in webhooks.Event.__slots__:
        value = getattr(event, name)
        assert value is None or isinstance(value, dt.datetime) or (value.isascii() and value)
