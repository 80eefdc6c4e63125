"""Golden files and the sandbox against what Lean's own OpenAPI files say.

The files are Lean's and are not shipped here; `lean_facts.json` holds what they say.
Where recordings of Lean's real answers differ from its files, the recordings are right; each such
difference is listed in `DEVIATIONS` with the section of the reference that says so, and the list
is held to what really occurs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openapi
import pytest
from openapi import Endpoint, Violation

from lean_resources.sandbox import Sandbox
from lean_resources.streams import PERMISSION_OF, STREAMS, Column, segments

GOLDEN = Path(__file__).parent / "golden"
_DATA, _OLDER, _CORE = "data", "ksa-bank-data", "ksa-core-resources"
_CUSTOMERS, _CONSENTS = "ksa-customers", "ksa-accounts-access-consents"
_STREAM_PATHS = {name: STREAMS[name].path for name in PERMISSION_OF}

ENDPOINTS = {
    "banks": Endpoint(_CORE, "/banks/v1/"),
    "customers": Endpoint(_CORE, "/customers/v1"),
    "customer": Endpoint(_CORE, "/customers/v1/{customer_id}"),
    "customer by app_user_id": Endpoint(_CORE, "/customers/v1/app-user-id/{app_user_id}"),
    "new customer": Endpoint(_CORE, "/customers/v1", "post"),
    "entities": Endpoint(_CUSTOMERS, "/customers/v1/entities"),
    "customer's entities": Endpoint(_CUSTOMERS, "/customers/v1/{customer_id}/entities"),
    "customer's entities, older": Endpoint(_OLDER, "/customers/v1/{customer_id}/entities"),
    "entity": Endpoint(_CUSTOMERS, "/customers/v1/{customer_id}/entities/{entity_id}"),
    "consents": Endpoint(_CONSENTS, "/customers/v1/{customerId}/consents"),
    "consent": Endpoint(_CONSENTS, "/customers/v1/{customerId}/consents/{consentId}"),
    "refreshes": Endpoint(_DATA, "/data/v2/refreshes"),
    "refresh": Endpoint(_DATA, "/data/v2/refreshes/{refresh_id}"),
    "new refresh": Endpoint(_DATA, "/data/v2/refreshes", "post"),
    "events": Endpoint("core-resources", "/events/v1"),
    **{f"{name}, newer": Endpoint(_DATA, path) for name, path in _STREAM_PATHS.items()},
    **{f"{name}, older": Endpoint(_OLDER, path) for name, path in _STREAM_PATHS.items()},
}
"""Where each answer is specified: the newer generation and the older one are two files."""

_REFRESHES = "/data/v2/refreshes"
_UNKNOWN = "7d9e3c14-5b08-4f6a-a2c7-90d1e4b85f36"


class Refusal(NamedTuple):
    """An answer without data, for which Lean's files hold an example and no schema.

    Args:
        endpoint: Where the example is, or the schema.
        example: Its name; empty where the file has a schema for the refusal.
        path: What to ask for; `{entity_id}` and `{account_id}` are filled.
        fault: Fault of the sandbox to ask for beforehand.
    """

    endpoint: Endpoint
    example: str
    path: str
    fault: str = ""


_ACCOUNTS, _TRANSACTIONS = _STREAM_PATHS["accounts"], _STREAM_PATHS["transactions"]
_OF_ENTITY = "?entity_id={entity_id}"

REFUSALS = {
    "a value of the wrong type": Refusal(
        Endpoint(_DATA, _ACCOUNTS, status="400"),
        "InvalidParametersExample",
        f"{_ACCOUNTS}?entity_id=17",
    ),
    "an unknown entity": Refusal(
        Endpoint(_DATA, _ACCOUNTS, status="404"),
        "UnknownEntityExample",
        f"{_ACCOUNTS}?entity_id={_UNKNOWN}",
    ),
    "an unknown account": Refusal(
        Endpoint(_DATA, _TRANSACTIONS, status="404"),
        "UnknownAccountExample",
        _TRANSACTIONS.replace("{account_id}", _UNKNOWN) + _OF_ENTITY,
    ),
    "an error inside Lean": Refusal(
        Endpoint(_DATA, _TRANSACTIONS, status="500"),
        "InternalServerErrorExample",
        _TRANSACTIONS + _OF_ENTITY,
        "500",
    ),
    "a problem of the bank": Refusal(
        Endpoint(_DATA, _TRANSACTIONS), "BankIssueExample", _TRANSACTIONS + _OF_ENTITY, "FAILED"
    ),
    "an answer that comes later": Refusal(
        Endpoint(_DATA, _TRANSACTIONS, status="202"),
        "GetTransactionsAsyncExample",
        f"{_TRANSACTIONS}{_OF_ENTITY}&async=true",
    ),
    "unknown results": Refusal(
        Endpoint(_DATA, "/data/v2/results/{results_id}", status="404"),
        "UnknownResultExample",
        f"/data/v2/results/{_UNKNOWN}",
    ),
    "an unknown consent": Refusal(
        ENDPOINTS["consent"]._replace(status="404"),
        "",
        "/customers/v1/{customer_id}/consents/" + _UNKNOWN,
    ),
    "a refresh of an unknown entity": Refusal(
        Endpoint(_DATA, _REFRESHES, "post", "404"), "UnknownEntityExample", _REFRESHES
    ),
    "a refresh without consent": Refusal(
        Endpoint(_DATA, _REFRESHES, "post", "403"), "ConsentExpiredExample", _REFRESHES
    ),
    "a second refresh": Refusal(
        Endpoint(_DATA, _REFRESHES, "post", "429"), "DuplicatedRequestExample", _REFRESHES
    ),
    "a refresh that needs the customer": Refusal(
        Endpoint(_DATA, _REFRESHES, "post"),
        "Reconnect_Required_Example",
        _REFRESHES,
        "RECONNECT_REQUIRED",
    ),
}
"""Refusals of the sandbox, each with the example in Lean's files that it has to look like."""

GOLDEN_ANSWERS = {
    "banks.newer": "banks",
    "banks.older": "banks",
    "customers.newer": "customers",
    "customers.older": "customers",
    "entities.newer": "entities",
    "entities.older": "customer's entities, older",
    "consents.newer": "entity",
    "consents.older": "consents",
    "refreshes.newer": "refreshes",
    "refreshes.detail": "refresh",
    "refreshes.older": "refresh",
    "identity.sparse": "identity, newer",
    **{
        f"{name}.{kind}": f"{name}, {kind}" for name in _STREAM_PATHS for kind in ("newer", "older")
    },
}
"""The answer that each golden file is an example of."""


class Deviation(NamedTuple):
    """A difference from Lean's files that is meant.

    Args:
        answer: Answers it occurs in; `*` stands for any text.
        place: Places in the body.
        rule: The rule that is broken: a JSON schema keyword, or null, unknown, missing.
        seen_in: Where it occurs: `golden`, `sandbox` or both.
        why: Section of the reference that knows better, and what it says.
    """

    answer: str
    place: str
    rule: str
    seen_in: str
    why: str

    def covers(self, answer: str, violation: Violation) -> bool:
        """Whether a violation is this deviation."""
        return (
            self.rule == violation.rule
            and _like(self.answer, answer)
            and _like(self.place, violation.place)
        )


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))))


def _like(pattern: str, text: str) -> bool:
    return _pattern(pattern).fullmatch(text) is not None


_HERE, _THERE, _BOTH = "sandbox", "golden", "golden and sandbox"
_SORT = "§4.6: sort is present and null in recordings"
_REGIONAL = "§0: the live server still sends regional_data on every object, null without verbose"
_ENVELOPE = "§4.7: all data answers of the server have one envelope"
_RECORDED_NULL = "recorded as null: "
_KNOB = "§10: null-heavy objects are a knob worth having"
_ENUM = "§10: values that no vocabulary has are a knob worth having"


def _deviations(answer: str, seen_in: str, why: str, rule: str, *places: str) -> list[Deviation]:
    return [Deviation(answer, place, rule, seen_in, why) for place in places]


_PARTY = "data.identities[]"
_TX = "data.transactions[]"
_TX_REGIONAL = f"{_TX}.regional_data.data"
_ORDER = "data.standing_orders[]"

DEVIATIONS = [
    # Lists and envelopes.
    *_deviations("*, newer", _BOTH, _SORT, "null", "data.page.sort"),
    *_deviations("entities", _BOTH, _SORT, "null", "page.sort"),
    *_deviations("refreshes", _BOTH, _SORT, "null", "page.sort"),
    *_deviations("customers", _BOTH, _SORT, "unknown", "page.sort"),
    *_deviations("consents", _HERE, _SORT, "unknown", "page.sort"),
    *_deviations("events", _HERE, _SORT, "unknown", "page.sort"),
    *_deviations("*, older", _HERE, _SORT, "unknown", "data.page.sort"),
    *_deviations("*, older", _HERE, _ENVELOPE, "unknown", "refreshed_at", "type"),
    *_deviations("*, older", _BOTH, "§4.7: null when OK", "null", "status_detail"),
    *_deviations("standing_orders, newer", _BOTH, _ENVELOPE, "unknown", "data.type"),
    *_deviations("*, newer", _BOTH, _REGIONAL, "unknown", "data.*[].regional_data"),
    *_deviations("*, older", _HERE, _REGIONAL, "null", "data.*[].regional_data"),
    # Banks, customers, entities, consents, refreshes, events.
    *_deviations(
        "banks",
        _BOTH,
        "§5.2: recorded, not in the files",
        "unknown",
        "[].commercial_name",
        "[].commercial_name_arabic",
        "[].connection_type",
        "[].mock",
        "[].swift_code",
    ),
    *_deviations(
        "banks",
        _BOTH,
        "§5.2: recorded as an array",
        "type",
        "[].supported_account_sub_types",
        "[].supported_account_types",
    ),
    *_deviations(
        "banks", _BOTH, "§5.2: recorded as an array", "enum", "[].supported_account_types"
    ),
    *_deviations("banks", _THERE, f"§5.2: {_RECORDED_NULL}arabic_name", "null", "[].arabic_name"),
    *(
        Deviation(answer, f"{at}consents[].{name}", "null", seen_in, "§5.4: null inside entities")
        for answer, at, seen_in in (
            ("entities", "data[].", _BOTH),
            ("entity", "", _BOTH),
            ("customer's entities", "[].", _HERE),
            ("customer's entities, older", "[].", _THERE),
        )
        for name in ("bank_identifier", "consent_type", "standard_consent_status")
    ),
    *_deviations(
        "customer's entities, older",
        _THERE,
        "§5.3: a docs page has it instead of bank_type",
        "unknown",
        "[].account_type",
    ),
    *_deviations(
        "consents", _BOTH, "§5.4: in the file's example only", "unknown", "data[].consent_type"
    ),
    *_deviations("consent", _HERE, "§5.4: in the file's example only", "unknown", "consent_type"),
    *_deviations(
        "consents",
        _BOTH,
        "§5.4: optional, null inside entities",
        "null",
        "data[].accounts[].secondary_identification",
    ),
    *_deviations(
        "consent",
        _HERE,
        "§5.4: optional, null inside entities",
        "null",
        "accounts[].secondary_identification",
    ),
    *_deviations(
        "consents",
        _THERE,
        "§5.4: nullable",
        "null",
        "data[].accounts[].name",
        "data[].transaction_from_date_time",
        "data[].transaction_to_date_time",
    ),
    *_deviations(
        "refresh",
        _THERE,
        "§5.13: the spelling of webhooks, to be accepted too",
        "unknown",
        "data_status.account_data[].transaction_availability",
    ),
    *_deviations(
        "events",
        _HERE,
        "§8.4: beside the payload in the KSA recording",
        "unknown",
        "data[].app_user_id",
    ),
    # Accounts and balances.
    *_deviations("accounts, newer", _BOTH, "§5.5: null for PAN", "null", "data.accounts[].*.name"),
    *_deviations("accounts, newer", _BOTH, "§5.5: nullable", "null", "data.accounts[].status"),
    *_deviations(
        "accounts, newer",
        _HERE,
        _KNOB,
        "null",
        "data.accounts[].account_holder_name",
        "data.accounts[].account_holder_short_name",
        "data.accounts[].servicer",
    ),
    *_deviations("accounts, newer", _HERE, _ENUM, "enum", "data.accounts[].account_sub_type"),
    *_deviations(
        "accounts, older",
        _BOTH,
        "§5.5: in the file's example only",
        "unknown",
        "data.accounts[].regional_data.standard",
    ),
    *_deviations(
        "balances, newer",
        _THERE,
        "§5.6: amount may be null",
        "null",
        "data.balances[].credit_line[].amount",
    ),
    *_deviations(
        "balances, older",
        _THERE,
        "§5.6: nullable",
        "null",
        "data.balances[].credit_line[].type",
    ),
    *_deviations(
        "balances, older",
        _HERE,
        "§12.14: PRE_AGREED and PREVIOUSLY_CLOSED_BOOKED in all examples",
        "enum",
        "data.balances[].type",
        "data.balances[].credit_line[].type",
        "data.balances[].regional_data.data.type",
        "data.balances[].regional_data.data.credit_line[].type",
    ),
    # Transactions.
    *_deviations(
        "transactions, newer",
        _BOTH,
        "§5.7, §13: null where it does not apply",
        "null",
        *(
            f"{_TX}.{name}"
            for name in (
                "balance",
                "card_instrument",
                "charge_amount",
                "creditor_account",
                "creditor_account.scheme_name",
                "creditor_agent",
                "currency_exchange",
                "debtor_account",
                "debtor_account.scheme_name",
                "debtor_agent",
                "debtor_agent.postal_address",
                "insights",
                "merchant_details",
                "payment_modes",
            )
        ),
    ),
    *_deviations(
        "transactions, newer",
        _THERE,
        "§13: null where it does not apply",
        "null",
        f"{_TX}.proprietary_bank_transaction_code",
    ),
    *_deviations(
        "transactions, newer",
        _HERE,
        "§13: null where it is not known",
        "null",
        f"{_TX}.creditor_agent.postal_address",
    ),
    *_deviations(
        "transactions, newer",
        _HERE,
        _KNOB,
        "null",
        f"{_TX}.sub_transaction_type",
        f"{_TX}.transaction_mutability",
        f"{_TX}.transaction_type",
    ),
    *_deviations(
        "transactions, newer",
        _HERE,
        _ENUM,
        "enum",
        f"{_TX}.payment_modes",
        f"{_TX}.sub_transaction_type",
        f"{_TX}.transaction_type",
    ),
    *_deviations(
        "transactions, older",
        _BOTH,
        "§3: an example is a number of nine digits",
        "format",
        f"{_TX_REGIONAL}.transaction_id",
    ),
    *_deviations(
        "transactions, older",
        _THERE,
        "§12.18: recorded as an offset",
        "format",
        f"{_TX_REGIONAL}.local_time_zone",
    ),
    *_deviations("transactions, older", _HERE, _KNOB, "null", f"{_TX}.balance"),
    *_deviations(
        "transactions, older",
        _HERE,
        _KNOB,
        "null",
        *(
            f"{_TX_REGIONAL}.{name}"
            for name in (
                "balance",
                "bill_details",
                "card_instrument",
                "charge_amount",
                "charge_amount_vat",
                "creditor_account",
                "creditor_agent",
                "currency_exchange",
                "debtor_account",
                "debtor_agent",
                "merchant_details",
                "supplementary_data",
                "terminal_id",
            )
        ),
    ),
    # Identities.
    *_deviations("identities, *", _BOTH, "§12.13: recorded as null", "null", "data.account_id"),
    *_deviations("identity, newer", _THERE, "§12.13: recorded as null", "null", "data.account_id"),
    *(
        Deviation(answer, f"{_PARTY}.{name}", "null", _BOTH, f"§5.8: {_RECORDED_NULL}{name}")
        for answer in ("identities, newer", "identity, newer")
        for name in (
            "legal_structure",
            "national_id",
            "address.building_name",
            "address.po_box",
        )
    ),
    *(
        Deviation(
            answer, f"{_PARTY}.address.*", "null", _THERE, f"§5.8: {_RECORDED_NULL}its fields"
        )
        for answer in ("identities, newer", "identity, newer")
    ),
    *(
        Deviation(answer, f"{_PARTY}.{name}", "null", _HERE, _KNOB)
        for answer in ("identities, newer", "identity, newer")
        for name in ("address", "email_address", "mobile_number")
    ),
    *(
        Deviation(answer, f"{_PARTY}.{name}", "null", _HERE, _KNOB)
        for answer in ("identities, older", "identity, older")
        for name in (
            "legal_structure",
            "regional_data.data.verified_claims[].claims.middle_name",
            "regional_data.data.verified_claims[].*.document_details.serial_number",
            "regional_data.data.verified_claims[].*.verifier.txn",
        )
    ),
    # Beneficiaries, direct debits, scheduled payments, standing orders.
    *_deviations(
        "beneficiaries, newer",
        _BOTH,
        f"§5.9: {_RECORDED_NULL}names and supplementary data",
        "null",
        "data.beneficiaries[].account_holder_name",
        "data.beneficiaries[].account_holder_short_name",
        "data.beneficiaries[].supplementary_data",
    ),
    *_deviations(
        "beneficiaries, newer",
        _HERE,
        _KNOB,
        "null",
        "data.beneficiaries[].creditor_account.name",
        "data.beneficiaries[].creditor_agent",
        "data.beneficiaries[].creditor_agent.postal_address",
        "data.beneficiaries[].reference",
    ),
    *_deviations(
        "beneficiaries, older",
        _HERE,
        _KNOB,
        "null",
        "data.beneficiaries[].creditor_agent.postal_address",
        "data.beneficiaries[].supplementary_data",
        "data.beneficiaries[].regional_data.data.reference",
        "data.beneficiaries[].regional_data.data.supplementary_data",
    ),
    *_deviations(
        "direct_debits, newer",
        _HERE,
        _KNOB,
        "null",
        "data.direct_debits[].previous_payment_amount",
        "data.direct_debits[].previous_payment_date_time",
    ),
    *_deviations(
        "scheduled_payments, newer",
        _BOTH,
        "§5.11, §12.16: recorded so",
        "unknown",
        "data.scheduled_payments[].creditor_agent.scheme_name",
        "data.scheduled_payments[].reference",
    ),
    *_deviations(
        "scheduled_payments, newer",
        _HERE,
        _KNOB,
        "null",
        "data.scheduled_payments[].creditor_agent.postal_address",
    ),
    *_deviations(
        "scheduled_payments, older",
        _HERE,
        f"§5.11: {_RECORDED_NULL}reference",
        "null",
        "data.scheduled_payments[].reference",
        "data.scheduled_payments[].regional_data.data.creditor_reference",
    ),
    *_deviations(
        "standing_orders, newer",
        _BOTH,
        "§12.16: recorded so",
        "unknown",
        f"{_ORDER}.creditor_agent.scheme_name",
    ),
    *_deviations(
        "standing_orders, newer",
        _BOTH,
        f"§5.12: {_RECORDED_NULL}creditor_account",
        "null",
        f"{_ORDER}.creditor_account",
    ),
    *_deviations(
        "standing_orders, newer",
        _THERE,
        f"§5.12: {_RECORDED_NULL}creditor_agent",
        "null",
        f"{_ORDER}.creditor_agent",
    ),
    *_deviations(
        "standing_orders, newer", _HERE, _KNOB, "null", f"{_ORDER}.creditor_agent.postal_address"
    ),
    *_deviations(
        "standing_orders, older",
        _HERE,
        "§5.12: nullable; an order without an end has no last payment",
        "null",
        f"{_ORDER}.creditor_account",
        f"{_ORDER}.reference",
        *(
            f"{_ORDER}.{at}{name}"
            for at in ("", "regional_data.data.")
            for name in (
                "final_payment_amount",
                "final_payment_date_time",
                "frequency.interval",
                "number_of_payments",
            )
        ),
    ),
]
"""Every difference between what is documented here or served by the sandbox, and Lean's files."""


@cache
def golden(file: str) -> Any:
    """A golden file."""
    return json.loads((GOLDEN / f"{file}.json").read_text(encoding="utf-8"))


_WORD = re.compile(r"[A-Z][A-Z_\-\t]*")


def _features(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What of a value matters to a schema: at each place its fields, word or format."""
    if isinstance(value, dict):
        yield place, tuple(value)
        for key, inner in value.items():
            yield from _features(inner, f"{place}.{key}")
    elif isinstance(value, list):
        yield place, bool(value)
        for inner in value:
            yield from _features(inner, f"{place}[]")
    elif isinstance(value, str):
        yield place, value if _WORD.fullmatch(value) else openapi.format_of(value)
    else:
        yield place, type(value)


def _telling(body: Any, seen: set[Any]) -> Any:
    """The body with those records alone that have something that no record before them had.

    Twenty thousand transactions are told by a few hundred, and a schema takes its time.
    """
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        return body
    kept: dict[str, Any] = {}
    for key, value in data.items():
        kept[key] = value
        if isinstance(value, list):
            kept[key] = []
            for record in value:
                features = set(_features(record, key))
                if not features <= seen:
                    kept[key].append(record)
                    seen |= features
    return body | {"data": kept}


class Walk:
    """A walk through everything that the sandbox serves."""

    def __init__(self, sandbox: Sandbox, http: httpx.AsyncClient) -> None:
        self.sandbox = sandbox
        self.http = http
        self.bodies: dict[str, list[Any]] = defaultdict(list)
        self.refused: dict[str, tuple[str, Any]] = {}
        self._seen: dict[str, set[Any]] = defaultdict(set)

    def keep(self, answer: str, body: Any) -> Any:
        """Note a body under the answer that it is an example of."""
        self.bodies[answer].append(_telling(body, self._seen[answer]))
        return body

    async def get(self, path: str, **query: Any) -> Any:
        """The body of a read, or None where the sandbox has a reason to refuse."""
        response = await self.http.get(path, params=query)
        body = response.json()
        is_refused = isinstance(body, dict) and body.get("status") in ("FAILED", "CONSENT_EXPIRED")
        return None if response.status_code != 200 or is_refused else body

    async def everything(self) -> None:
        """Walk."""
        await self.customers()
        days = {"start_date": "2020-01-01", "end_date": "2026-03-15"}
        entities = self.keep("entities", await self.get("/customers/v1/entities", **days))
        for entity in entities["data"]:
            for verbose in ("true", "false"):
                await self.entity({"entity_id": entity["id"], "verbose": verbose, "size": 100})
        await self.refreshes()
        await self.refusals()

    async def customers(self) -> None:
        """Banks, customers, and their entities and consents."""
        for account_types in ("PERSONAL", "BUSINESS"):
            self.keep("banks", await self.get("/banks/v1/", account_types=account_types))
        created = await self.http.post("/customers/v1/", json={"app_user_id": "walker"})
        self.keep("new customer", created.json())
        paging = {"page_number": 0, "page_size": 100}
        listed = self.keep("customers", await self.get("/customers/v1", **paging))
        for customer in listed["data"]:
            at = f"/customers/v1/{customer['customer_id']}"
            user = f"/customers/v1/app-user-id/{customer['app_user_id']}"
            self.keep("customer", await self.get(at))
            self.keep("customer by app_user_id", await self.get(user))
            for consent in self.keep("consents", await self.get(f"{at}/consents"))["data"]:
                self.keep("consent", await self.get(f"{at}/consents/{consent['id']}"))
            for entity in self.keep("customer's entities", await self.get(f"{at}/entities")):
                self.keep("entity", await self.get(f"{at}/entities/{entity['id']}"))

    async def entity(self, query: dict[str, Any]) -> None:
        """All data of an entity, in the generation that its bank speaks."""
        accounts = await self.get(_ACCOUNTS, **query)
        if accounts is None:
            return
        records = accounts["data"]["accounts"]
        generation = "newer" if "entity_id" in records[0] else "older"
        self.keep(f"accounts, {generation}", accounts)
        await self.pages(f"identity, {generation}", _STREAM_PATHS["identity"], query)
        for record in records:
            for name, path in _STREAM_PATHS.items():
                if "{account_id}" in path:
                    at = path.format(account_id=record["account_id"])
                    await self.pages(f"{name}, {generation}", at, query)

    async def pages(self, answer: str, path: str, query: dict[str, Any]) -> None:
        """Every page of one stream of one parent."""
        page, last = 0, 0
        while page <= last:
            body = await self.get(path, **query, insights=query["verbose"], page=page)
            if body is None:
                return
            self.keep(answer, body)
            page, last = page + 1, body["data"]["page"]["total_pages"] - 1

    async def refreshes(self) -> None:
        """A refresh from its start to its end, the ones before it, and the events it causes."""
        entity_id = self.sandbox.example("newer_generation")["entity_id"]
        started = await self.http.post(_REFRESHES, json={"entity_id": entity_id})
        self.keep("new refresh", started.json())
        for _ in range(3):
            at = f"{_REFRESHES}/{started.json()['refresh_id']}"
            self.keep("refresh", await self.get(at))
        for case in ("newer_generation", "partial_refresh"):
            of = {"entity_id": self.sandbox.example(case)["entity_id"]}
            for item in self.keep("refreshes", await self.get(_REFRESHES, **of))["content"]:
                self.keep("refresh", await self.get(f"{_REFRESHES}/{item['refresh_id']}"))
        self.sandbox.connect(bank_identifier="ALINMA_SAU")
        self.sandbox.switch_bank("SADU_SAU", active=False)
        self.keep("events", await self.get("/events/v1", page=0, size=100))

    async def refusals(self) -> None:
        """What the sandbox says when it gives no data."""
        of = self.sandbox.example("card_account")
        listed = self.bodies["entities"][0]["data"]
        owner = next(one["customer_id"] for one in listed if one["id"] == of["entity_id"])
        posted = {
            "a refresh of an unknown entity": _UNKNOWN,
            "a refresh without consent": self.sandbox.example("consent_expired")["entity_id"],
            "a refresh that needs the customer": of["entity_id"],
            "a second refresh": of["entity_id"],
        }
        for name, refusal in REFUSALS.items():
            if refusal.fault:
                self.sandbox.fail("", refusal.fault)
            path = refusal.path.format(**of | {"customer_id": owner})
            if name in posted:
                body = {"entity_id": posted[name]}
                if name == "a second refresh":
                    await self.http.post(path, json=body)
                response = await self.http.post(path, json=body)
            else:
                response = await self.http.get(path)
            self.refused[name] = str(response.status_code), response.json()
        later = self.refused["an answer that comes later"][1]["results_id"]
        results = await self.http.get(f"/data/v2/results/{later}")
        self.bodies["transactions, newer"].append(results.raise_for_status().json())


@pytest.fixture(scope="module")
def walk():
    """One walk through a small world, for all tests of this file."""

    async def walked() -> Walk:
        sandbox = Sandbox(customers=20, months=12, seed=7, today="2026-03-15")
        transport = httpx.ASGITransport(sandbox.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
            form = {
                "client_id": sandbox.client_id,
                "client_secret": sandbox.client_secret,
                "grant_type": "client_credentials",
                "scope": "api",
            }
            token = (await http.post("/oauth2/token", data=form)).json()["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            result = Walk(sandbox, http)
            await result.everything()
            return result

    return asyncio.run(walked())


@pytest.fixture(scope="module")
def served(walk):
    """Violations in what the sandbox serves, by answer."""
    return {
        answer: set().union(*(openapi.violations(ENDPOINTS[answer], body) for body in bodies))
        for answer, bodies in walk.bodies.items()
    }


def documented() -> dict[str, set[Violation]]:
    """Violations in the golden files, by answer."""
    found: dict[str, set[Violation]] = defaultdict(set)
    for file, answer in GOLDEN_ANSWERS.items():
        found[answer] |= openapi.violations(ENDPOINTS[answer], golden(file))
    return found


def unexplained(answer: str, violations: set[Violation], source: str) -> list[Violation]:
    """Violations that no deviation listed for the source covers."""
    listed = [deviation for deviation in DEVIATIONS if source in deviation.seen_in]
    return sorted(v for v in violations if not any(d.covers(answer, v) for d in listed))


MEND = "correct the field, or add it to DEVIATIONS with the reason"


@pytest.mark.parametrize("file", GOLDEN_ANSWERS)
def test_golden_answers_are_as_lean_specifies(file):
    """A golden answer differs from Lean's own files only where a recording is known to."""
    answer = GOLDEN_ANSWERS[file]

    violations = openapi.violations(ENDPOINTS[answer], golden(file))

    assert unexplained(answer, violations, "golden") == [], MEND


SERVED = [answer for answer in ENDPOINTS if answer != "customer's entities, older"]


@pytest.mark.parametrize("answer", SERVED)
def test_the_sandbox_serves_what_lean_specifies(served, answer):
    """The sandbox invents no field and breaks no rule of Lean's files, but where listed."""
    assert answer in served, "the walk did not come by"

    assert unexplained(answer, served[answer], "sandbox") == [], MEND


def test_the_walk_sees_records_in_every_answer(walk):
    """No answer passes for want of records."""
    empty = [answer for answer in SERVED if not any(map(_records, walk.bodies[answer]))]

    assert empty == [], "the walk must ask for something that has records"


def _records(body: Any) -> int:
    """How many records a body holds; an answer that is no list holds one."""
    if isinstance(body, dict):
        body = body.get("data", body.get("content", [body]))
    if isinstance(body, dict):
        return sum(len(value) for value in body.values() if isinstance(value, list))
    return len(body)


EXAMPLES = [name for name, refusal in REFUSALS.items() if refusal.example]


@pytest.mark.parametrize("name", EXAMPLES)
def test_refusals_look_like_leans_examples(walk, name):
    """A refusal has the HTTP status, the body status and the fields of Lean's own example."""
    refusal = REFUSALS[name]
    sample = openapi.example(refusal.endpoint, refusal.example)

    status, body = walk.refused[name]

    assert (status, body["status"]) == (refusal.endpoint.status, sample["status"])
    assert openapi.shape_violations(sample, body) == set()


@pytest.mark.parametrize("name", [name for name in REFUSALS if name not in EXAMPLES])
def test_refusals_are_as_lean_specifies(walk, name):
    """A refusal that has a schema in Lean's files is as the schema says."""
    refusal = REFUSALS[name]

    status, body = walk.refused[name]

    assert status == refusal.endpoint.status
    assert openapi.violations(refusal.endpoint, body) == set()


@pytest.mark.parametrize("source", ["golden", "sandbox"])
def test_every_deviation_occurs(request, source):
    """A deviation that no longer occurs is taken off the list."""
    violations = request.getfixturevalue("served") if source == "sandbox" else documented()

    stale = [
        deviation
        for deviation in DEVIATIONS
        if source in deviation.seen_in
        and not any(
            deviation.covers(answer, violation)
            for answer, found in violations.items()
            for violation in found
        )
    ]

    assert stale == [], "take these off DEVIATIONS: they no longer occur"


_RECORDS = {"identity": "identities"}


def _record_schemas(stream: str) -> Iterator[dict[str, Any]]:
    """Schemas of a stream's record, the newer generation's and the older one's."""
    for kind in ("newer", "older"):
        whole = openapi.schema(ENDPOINTS[f"{stream}, {kind}"])
        data = whole["properties"]["data"]["properties"]
        yield data[_RECORDS.get(stream, stream)]["items"]


def _words(schema: dict[str, Any], path: str) -> set[str]:
    """The vocabulary that a schema gives the field at a path, if any."""
    for step in segments(path):
        found = [schema, *schema.get("anyOf", [])]
        inner = [one["properties"] for one in found if "properties" in one]
        if not inner or step.name not in inner[0]:
            return set()
        schema = inner[0][step.name]
        if step.first:
            schema = schema.get("items", schema)
    return {word for word in schema.get("enum", []) if word is not None}


def _items(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of the elements of the list at a path, empty where there is none."""
    for step in segments(path):
        schema = schema.get("properties", {}).get(step.name, {})
    return schema.get("items", {})


def _unlisted(column: Column, schemas: list[dict[str, Any]]) -> set[str]:
    """Words of Lean's files that a column's vocabulary has not."""
    words = {word for s in schemas for path in column.paths for word in _words(s, path)}
    return {column.aliases.get(word, word) for word in words} - set(column.values)


@pytest.mark.parametrize("stream", _STREAM_PATHS)
def test_the_catalogue_knows_every_word_of_leans_files(stream):
    """A column that documents a vocabulary documents all words that Lean's files have for it."""
    schemas = list(_record_schemas(stream))

    for column in STREAMS[stream].columns:
        if column.values:
            assert _unlisted(column, schemas) == set(), column.name
        for inner in column.fields:
            items = [_items(schema, path) for schema in schemas for path in column.paths]
            if inner.values:
                assert _unlisted(inner, items) == set(), f"{column.name}.{inner.name}"


def test_golden_files_copy_nothing():
    """The values in golden files are our own: none of their ids is in Lean's files."""
    uuids = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    leans = set(openapi.facts()["ids"])

    ours = {found for file in GOLDEN_ANSWERS for found in uuids.findall(json.dumps(golden(file)))}

    assert ours
    assert {hashlib.sha256(one.encode()).hexdigest()[:12] for one in ours} & leans == set()
