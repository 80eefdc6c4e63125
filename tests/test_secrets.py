"""No secret and no personal value in logs, errors, reports or the ledger."""

import asyncio
import io
import json
import logging
import pickle
import re
import traceback

import httpx
import pyarrow.parquet as pq
import pytest
from conftest import TODAY, Slept, settings_of, sync_everything
from oracle import find

from lean_resources import LeanClient, LeanSettings
from lean_resources.errors import LeanError
from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS, Kind
from pipelines.lake.lake import Lake

IBAN = re.compile(r"SA\d{2}[0-9A-Z]{20}")
FAULTS = [
    "401", "429", "500", "503", "html", "cut", "FAILED:BANK_ISSUE", "FAILED:UNSUPPORTED_BY_BANK",
    "CONSENT_EXPIRED", "RECONNECT_REQUIRED", "PENDING:1", "PENDING:9999", "refresh-drift",
    "total-drift", "repeat", "skip",
]  # fmt: skip
CHANNELS = ["logs", "errors", "tracebacks", "reports", "ledger"]


def personal(sandbox):
    """Everything personal that the offline Lean serves: account numbers, names, texts."""
    found = {"account numbers": set(), "names and texts": set()}
    for name, stream in STREAMS.items():
        columns = [column for column in stream.columns if column.pii]
        if name == "transactions":
            columns += [stream.column("transaction_information"), stream.column("merchant_name")]
        for one in sandbox.truth(name):
            record = one["record"]
            found["account numbers"].update(IBAN.findall(json.dumps(record, default=str)))
            for column in columns:
                value = find(record, column.paths)
                items = value if isinstance(value, list) else [value]
                inner = [f for f in column.fields if f.pii] if column.kind is Kind.ITEMS else []
                for item in items:
                    values = [find(item, f.paths) for f in inner] if inner else [item]
                    found["names and texts"].update(text for text in values if is_telling(text))
    return found


def is_telling(value):
    """Whether a value is text that could only have come from the body."""
    return isinstance(value, str) and len(value) >= 8 and not value.startswith(("2025", "2026"))


class Wire(httpx.AsyncBaseTransport):
    """The way to the offline Lean, with another answer in place of each of the API's."""

    def __init__(self, sandbox, status_code, body):
        self._inner = httpx.ASGITransport(sandbox.app)
        self._answer = status_code, body

    async def handle_async_request(self, request):
        if request.url.path == "/oauth2/token":
            return await self._inner.handle_async_request(request)
        status_code, body = self._answer
        return httpx.Response(status_code, content=body, headers={"lean-trace-id": "0" * 32})


class Told:
    """What a reader of logs, errors, reports and the ledger gets to see, by channel."""

    def __init__(self):
        self.secrets = {}
        self.texts = {channel: [] for channel in CHANNELS}

    def add(self, channel, text):
        self.texts[channel].append(text)

    def error(self, error):
        """Note an error in every form in which it is shown or kept."""
        self.add("errors", f"{error} {error!r} {error.args} {vars(error)}")
        self.add("tracebacks", "".join(traceback.format_exception(error)))
        again = pickle.loads(pickle.dumps(error))
        self.add("errors", f"{again} {again!r} {vars(again)}")

    async def tries(self, client, work):
        """Note the error of some work, which must not succeed."""
        try:
            async with client:
                await work(client)
        except (LeanError, RuntimeError) as error:
            self.error(error)
            logging.getLogger("leanhouse.test").exception("it failed")
        else:
            pytest.fail("it worked")


def _bodies(iban, name):
    """Answers of every shape that hold something personal where a code or a record belongs."""
    record = {"account_id": iban, "amount": {"amount": name}, "transaction_id": [name]}
    page = {"total_elements": 1, "total_pages": 1}
    yield 200, {"status": "FAILED", "message": name, "status_detail": {
        "granular_status_code": iban, "status_additional_info": name}}  # fmt: skip
    yield 200, {"status": "FAILED", "status_detail": {"granular_status_code": name}}
    yield 400, {"status": iban, "message": f"field: iban, value: {iban}"}
    yield 403, {"status": name, "message": name}
    yield 404, {"status": "UNKNOWN_ENTITY", "message": f"{name} {iban} is unknown"}
    yield 500, {"status": "INTERNAL_SERVER_ERROR", "message": iban, "metadata": {name: iban}}
    yield 200, {"status": "OK", "data": {"transactions": [record]}}
    yield 200, {"status": "OK", "data": {"transactions": record, "page": page}}
    yield 200, {"status": "OK", "data": {"transactions": [record], "page": {name: iban}}}
    yield 200, {"status": "OK", "data": {"transactions": [record] * 2, "page": page}}
    yield 200, {"status": "PENDING", "results_id": f"{iban}/{name}"}
    yield 200, f"<html>{name} {iban}</html>"
    yield 502, f"<html>{name} {iban}</html>"


async def _fail_in_every_way(told, sandbox, secrets):
    """Errors of the client, each with something secret within its reach."""
    iban = min(secrets["account numbers"])
    name = max(secrets["names and texts"], key=len)
    case = sandbox.example("newer_generation")
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][0]}
    inside = httpx.ASGITransport(sandbox.app)

    def client(transport=inside, **changes):
        given = {"attempts": 2} | changes
        return LeanClient(settings_of(sandbox, **given), transport=transport, sleep=Slept())

    for status_code, body in _bodies(iban, name):
        content = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        wire = Wire(sandbox, status_code, content.encode())
        await told.tries(client(wire), lambda lean: lean.read("transactions", request))
    for bad in (f"{iban}/..", name, f"{sandbox.client_secret}\n", f" {sandbox.app_token}"):
        odd = request | {"account_id": bad}
        await told.tries(client(), lambda lean, odd=odd: lean.read("transactions", odd))
        await told.tries(client(), lambda lean, odd=odd: lean.refresh(odd["account_id"]))
    wrong = sandbox.client_secret[::-1]
    secrets["credentials"].add(wrong)
    await told.tries(client(client_secret=wrong), lambda lean: lean.read("customers", {}))
    other = client(client_id=None, client_secret=None, app_token=wrong)
    await told.tries(other, lambda lean: lean.read("transactions", request))
    bare = Wire(sandbox, 200, json.dumps({"identifier": name}).encode())
    await told.tries(client(bare), lambda lean: lean.table("banks", account_type="PERSONAL"))
    unopened = client()
    try:
        await unopened.read("transactions", request)
    except RuntimeError as error:
        told.error(error)
    told.add("errors", f"{unopened!r} {unopened} {unopened.settings!r} {unopened.settings}")


def _misconfigure(told, sandbox):
    """Settings that are wrong, with secrets in them."""
    secret = sandbox.client_secret
    for values in (
        {"client_id": sandbox.client_id, "client_secret": secret, "app_token": sandbox.app_token},
        {"client_secret": secret},
        {"client_id": secret, "region": secret},
        {"client_id": sandbox.client_id, "client_secret": [secret]},
        {"api_url": f"https://{secret}@lean.example", "app_token": sandbox.app_token},
        {"app_token": f"{sandbox.app_token}\n"},
        {"client_id": "a", "client_secret": secret, "page_size": secret},
    ):
        try:
            LeanSettings(**values)
        except LeanError as error:
            told.error(error)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A whole sync over a real port with faults of every kind, everything logged."""
    sandbox = Sandbox(customers=20, months=1, seed=7, today=TODAY)
    lake = Lake(tmp_path_factory.mktemp("lake"), "sandbox")
    told = Told()
    secrets = personal(sandbox) | {
        "credentials": {sandbox.client_secret, sandbox.app_token},
        "tokens": set(),
    }
    app = sandbox.app

    async def noting(scope, receive, send):
        for name, value in scope.get("headers", ()):
            if name == b"authorization":
                secrets["tokens"].add(value.decode().removeprefix("Bearer "))
        await app(scope, receive, send)

    sandbox.app = noting
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.captureWarnings(capture=True)
    try:
        with serve(sandbox) as server:
            client = LeanClient(
                settings_of(sandbox, server.url, page_size=20, attempts=2), sleep=Slept(sandbox)
            )
            accounts = [one["parent"]["entity_id"] for one in sandbox.truth("identity")]
            for place, fault in enumerate(FAULTS):
                entity_id = accounts[place % len(accounts)]
                sandbox.fail("accounts/{account_id}", fault, 3, entity_id=entity_id)
                sandbox.fail("data/v2/identity", fault, 2, entity_id=entity_id)
            reports = asyncio.run(sync_everything(client, lake), debug=True)
        asyncio.run(_fail_in_every_way(told, sandbox, secrets))
        _misconfigure(told, sandbox)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    told.add("logs", written.getvalue())
    told.add("reports", f"{reports} {lake!r}")
    for file in (lake.folder / "pulls").glob("*/*.parquet"):
        told.add("ledger", str(pq.read_table(file, partitioning=None).to_pylist()))
    told.secrets = secrets
    return told


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("kind", ["credentials", "tokens", "account numbers", "names and texts"])
def test_nothing_secret_is_told(told, channel, kind):
    """Not one credential, token, account number, name or text is in what a reader may see."""
    text = "\n".join(told.texts[channel])

    leaked = [secret for secret in told.secrets[kind] if secret in text]

    assert len(leaked) == 0, f"{len(leaked)} of {len(told.secrets[kind])} leaked into {channel}"


@pytest.mark.parametrize("channel", CHANNELS)
def test_nothing_looks_like_an_account_number(told, channel):
    """No text holds anything of the shape of a Saudi IBAN."""
    assert IBAN.findall("\n".join(told.texts[channel])) == []


def test_there_was_something_to_tell(told):
    """Everything was listened to: requests, failures of many kinds, and thousands of secrets."""
    text = {channel: "\n".join(texts) for channel, texts in told.texts.items()}

    assert text["logs"].count("lean_resources.client DEBUG") > 300
    assert "asyncio DEBUG" in text["logs"]
    assert "Traceback" in text["logs"]
    for code in ("BANK_ISSUE", "CONSENT_EXPIRED", "RECONNECT_REQUIRED", "PENDING", "HTTP_401",
                 "NOT_JSON", "RATE_LIMIT_EXCEEDED", "UNSUPPORTED_BY_BANK"):  # fmt: skip
        assert code in text["ledger"], code
        assert code in text["reports"], code
    for kind in ("AuthError", "RequestError", "UnavailableError", "SchemaError", "ConfigError",
                 "IncompleteError", "RuntimeError"):  # fmt: skip
        assert kind in text["errors"], kind
        assert kind in text["tracebacks"], kind
    assert len(told.secrets["tokens"]) > 1
    assert len(told.secrets["account numbers"]) > 30
    assert len(told.secrets["names and texts"]) > 1000
