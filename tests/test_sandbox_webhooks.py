"""The offline Lean's webhooks: what is sent when, and what goes wrong on request."""

import asyncio
import datetime as dt
import json
import time

import httpx
import pytest
from conftest import client_of

from lean_resources.errors import RequestError
from lean_resources.sandbox import Sandbox
from lean_resources.webhooks import event_of, verify

URL = "http://receiver.test/webhooks/lean"


class Address:
    """Where webhooks arrive: answers as it is told and remembers what came.

    Args:
        sandbox: Whose clock and secret count.
        codes: Answers in order; 200 once they are used up, and 0 for none.
    """

    def __init__(self, sandbox, codes=()):
        self.came = []
        self._sandbox = sandbox
        self._codes = list(codes)
        self._start = sandbox.clock.now()

    def __call__(self, request):
        verify(request.content, request.headers["lean-signature"], [self._sandbox.webhook_secret])
        assert request.headers["lean-app-token"] == self._sandbox.app_token
        minutes = (self._sandbox.clock.now() - self._start) / dt.timedelta(minutes=1)
        self.came.append((minutes, json.loads(request.content)))
        code = self._codes.pop(0) if self._codes else 200
        if code == 0:
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(code)

    @property
    def types(self):
        """Types of the events that came, with the status where there is one."""
        told = [event_of(event) for _, event in self.came]
        return [f"{one.type} {one.status}" if one.status else one.type for one in told]


def delivering(sandbox, address):
    """Webhooks to an address without a network."""
    return sandbox.deliver(URL, transport=httpx.MockTransport(address))


def later(sandbox, webhooks, **by):
    """Let time pass, and wait until what came due is sent."""
    sandbox.clock.advance(dt.timedelta(**by))
    webhooks.flush()


@pytest.fixture
def one():
    """An offline Lean of few customers."""
    return Sandbox(customers=3, months=2, seed=7, today="2026-03-15")


def test_a_connection_is_announced_from_its_start_to_the_end_of_its_first_refresh(one):
    """Created, pending, accounts there, finished: each signed, in order, as Lean lists them."""
    address = Address(one)

    with delivering(one, address) as webhooks:
        made = one.connect(app_user_id="one-more")
        later(one, webhooks, seconds=6)
        later(one, webhooks, seconds=5)

    refreshed = "entity.data.refresh.updated"
    assert address.types == [
        "entity.created",
        f"{refreshed} PENDING",
        f"{refreshed} PENDING",
        f"{refreshed} FINISHED",
    ]
    events = [event for _, event in address.came]
    assert [one["payload"]["data_status"]["accounts"] for one in events[1:]] == [
        "PENDING", "OK", "OK",
    ]  # fmt: skip
    assert {one["payload"]["entity_id"] for one in events[1:]} == {made["entity_id"]}
    assert events == json.loads(json.dumps(one.events))


def test_revocation_deletion_and_availability_are_announced(one):
    """An entity is updated, a bank goes off and comes back."""
    address = Address(one)
    first = one.connect(app_user_id="one-more")["entity_id"]
    second = one.connect(app_user_id="another")["entity_id"]

    with delivering(one, address) as webhooks:
        one.revoke(first)
        one.delete(second)
        one.switch_bank("LEA1_SAMAOB_SAU", active=False)
        one.switch_bank("LEA1_SAMAOB_SAU", active=True)
        webhooks.flush()

    assert address.types == ["entity.updated"] * 2 + ["bank.availability.updated"] * 2


async def _promised(sandbox, entity_id):
    async with client_of(sandbox) as lean:
        asked = await lean._get(f"/data/v2/accounts?entity_id={entity_id}", None)
        return json.loads(asked.body)["results_id"]


def test_a_promised_answer_is_announced_when_it_is_ready(one):
    """Twenty seconds after the promise, though nobody looked."""
    address = Address(one)
    entity_id = next(one.truth("accounts"))["parent"]["entity_id"]
    one.fail("accounts", "PENDING:99")

    with delivering(one, address) as webhooks:
        results_id = asyncio.run(_promised(one, entity_id))
        later(one, webhooks, seconds=19)
        assert address.types == []
        later(one, webhooks, seconds=2)

    assert address.came[0][1]["payload"] == {"id": results_id}


@pytest.mark.parametrize("code", [0, 204, 302, 401, 500, 503])
def test_whatever_is_not_answered_with_200_is_sent_seven_times_in_three_hours(one, code):
    """At 0, 1, 2, 5, 10, 60 and 180 minutes, the same bytes, and then no more."""
    address = Address(one, [code] * 99)

    with delivering(one, address) as webhooks:
        one.switch_bank("LEA1_SAMAOB_SAU", active=False)
        webhooks.flush()
        for _ in range(240):
            later(one, webhooks, minutes=1)

    assert [round(minutes) for minutes, _ in address.came] == [0, 1, 2, 5, 10, 60, 180]
    assert all(event == address.came[0][1] for _, event in address.came)
    assert [attempt.number for attempt in webhooks.attempts] == list(range(7))


def test_an_answer_of_200_ends_the_attempts(one):
    """A receiver that is back after two attempts gets the third and no fourth."""
    address = Address(one, [503, 0])

    with delivering(one, address) as webhooks:
        one.switch_bank("LEA1_SAMAOB_SAU", active=False)
        later(one, webhooks, minutes=1)
        later(one, webhooks, minutes=1)
        later(one, webhooks, hours=5)

    assert [attempt.status_code for attempt in webhooks.attempts] == [503, 0, 200]


def test_events_go_astray_on_request(one):
    """Lost, doubled, late and swapped ones, each as a fault of its own; all stay listed."""
    address = Address(one)

    def switch(number):
        one.switch_bank(f"LEA{number}_SAMAOB_SAU", active=False)

    with delivering(one, address) as webhooks:
        one.fail("WEBHOOK bank", "webhook-lost")
        switch(1)
        one.fail("WEBHOOK bank", "webhook-twice")
        switch(2)
        one.fail("WEBHOOK bank", "webhook-late:10800")
        one.switch_bank("LEA1_SAMAOB_SAU", active=True)
        one.fail("WEBHOOK bank", "webhook-swapped")
        one.switch_bank("LEA2_SAMAOB_SAU", active=True)
        switch(1)
        webhooks.flush()
        now = [event_of(event).event_id for _, event in address.came]
        later(one, webhooks, hours=3)

    listed = [event["event_id"] for event in one.events]
    assert now == [listed[1], listed[1], listed[4], listed[3]]
    assert [event_of(event).event_id for _, event in address.came][len(now) :] == [listed[2]]


def test_faults_of_requests_and_of_webhooks_leave_each_other_alone(one):
    """A fault of any request does not use itself up on a webhook, nor the other way round."""
    address = Address(one)
    one.fail("", "500")
    one.fail("", "webhook-lost")

    with delivering(one, address) as webhooks:
        one.switch_bank("LEA1_SAMAOB_SAU", active=False)
        webhooks.flush()

    assert address.came == []
    assert len(one.faults._queue) == 1


def test_time_passes_where_it_is_let(one):
    """A running clock brings a refresh to its end without anybody looking."""
    sandbox = Sandbox(customers=3, months=2, refresh_seconds=0.5)
    address = Address(sandbox)

    with delivering(sandbox, address), sandbox.passing_time():
        sandbox.connect(app_user_id="one-more")
        for _ in range(200):
            if any("FINISHED" in told for told in address.types):
                break
            time.sleep(0.02)

    assert address.types[-1] == "entity.data.refresh.updated FINISHED"


def test_a_region_without_events_answers_as_for_any_unknown_path():
    """Whether Saudi Arabia lists events is not documented; without them it is a 404."""
    sandbox = Sandbox(customers=3, months=2, has_events=False)
    now = sandbox.clock.now()

    async def listed():
        async with client_of(sandbox) as lean:
            await lean.events(now, now)

    with pytest.raises(RequestError) as unknown:
        asyncio.run(listed())
    assert unknown.value.code == "INVALID_URL"
