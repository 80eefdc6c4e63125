"""The receiver over real sockets: 200 means stored, and nothing else is ever stored."""

import contextlib
import itertools
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receiving import SECRET, receiving

from lean_resources.settings import WebhookSettings
from lean_resources.webhooks import sign
from pipelines.environment import child_of
from pipelines.webhooks.inbox import Inbox
from pipelines.webhooks.receiver import PATH

# One client for all: each would read the system's authorities anew, which nobody is shown here.
HTTP = httpx.Client(
    verify=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0), timeout=20
)


def body_of(number=1, **changes):
    """The bytes of a webhook."""
    given = {
        "type": "entity.data.refresh.updated",
        "payload": {"entity_id": f"entity-{number}", "refresh_id": "r", "status": "FINISHED"},
        "event_id": f"event-{number}",
    }
    return json.dumps(given | changes).encode()


def signed(body, secret=SECRET, **headers):
    """The headers of a webhook that Lean signed."""
    return {"lean-signature": sign(body, secret), **headers}


def stored(receiver):
    """Ids of the events in the inbox."""
    return [row["event_id"] for row in receiver.inbox.rows()]


@pytest.fixture
def receiver(tmp_path):
    """A receiver with an empty inbox in SQLite, which waits for no body."""
    with receiving(f"sqlite:///{tmp_path / 'inbox.db'}", body_seconds=0.1) as served:
        yield served


@pytest.fixture
def patient(tmp_path):
    """A receiver that gives bodies their usual time, for many senders on few cores."""
    with receiving(f"sqlite:///{tmp_path / 'inbox.db'}") as served:
        yield served


def test_a_signed_webhook_is_stored_before_it_is_answered(inbox_url):
    """In either database; the same one again is answered alike and stored no second time."""
    with receiving(inbox_url) as receiver:
        answers = [
            HTTP.post(receiver.url, content=body_of(n), headers=signed(body_of(n)))
            for n in (1, 2, 1)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert all(answer.content == b"" for answer in answers)
        assert stored(receiver) == ["event-1", "event-2"]


def test_an_unknown_type_is_acknowledged_stored_and_done(receiver):
    """What Lean adds to its events is kept and disturbs nobody."""
    body = body_of(type="payment_intent.created")

    assert HTTP.post(receiver.url, content=body, headers=signed(body)).status_code == 200
    assert receiver.inbox.counts()["done"] == 1


REFUSED = {
    "no signature": (401, body_of(), {}),
    "another secret": (401, body_of(), signed(body_of(), "whsec_other")),
    "an altered body": (401, body_of() + b" ", signed(body_of())),
    "a truncated signature": (401, body_of(), {"lean-signature": sign(body_of(), SECRET)[:-2]}),
    "the signature of another header": (401, body_of(), {"x-lean-signature": "sha512=0"}),
    "no JSON": (400, b"hello", signed(b"hello")),
    "a list": (400, b"[]", signed(b"[]")),
    "nothing": (400, b"", signed(b"")),
    "no type": (400, b"{}", signed(b"{}")),
    "too deep": (400, b'{"type":"t","p":' + b"[" * 99 + b"]" * 99 + b"}", None),
    "too large": (413, b" " * (1024 * 1024 + 1), None),
    "compressed": (400, b"\x1f\x8b\x08\x00", signed(b"\x1f\x8b\x08\x00")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_is_refused_is_neither_stored_nor_echoed(receiver, name):
    """A message that is not whole, not signed or not an event leaves nothing behind."""
    status_code, body, headers = REFUSED[name]

    answer = HTTP.post(
        receiver.url, content=body, headers=signed(body) if headers is None else headers
    )

    assert answer.status_code == status_code
    assert answer.content == b""
    assert stored(receiver) == []


def test_a_signature_that_comes_twice_is_refused(receiver):
    """Which of two headers counts is not left to chance."""
    body = body_of()
    twice = [("lean-signature", sign(body, SECRET)), ("lean-signature", "sha512=" + "0" * 128)]

    for headers in (twice, twice[::-1]):
        assert HTTP.post(receiver.url, content=body, headers=headers).status_code == 401
    assert stored(receiver) == []


def test_two_secrets_are_good_while_the_secret_is_changed(tmp_path):
    """The next one is accepted beside the old one, and no third."""
    url = f"sqlite:///{tmp_path / 'inbox.db'}"
    with receiving(url, next_secret="whsec_next") as receiver:
        codes = [
            HTTP.post(
                receiver.url, content=body_of(n), headers=signed(body_of(n), secret)
            ).status_code
            for n, secret in enumerate((SECRET, "whsec_next", "whsec_third"))
        ]
        assert codes == [200, 200, 401]


def test_the_application_token_is_asked_for_where_it_is_set(tmp_path):
    """With it, without it and with another one."""
    with receiving(f"sqlite:///{tmp_path / 'inbox.db'}", app_token="token-made-up") as receiver:
        body = body_of()
        codes = [
            HTTP.post(receiver.url, content=body, headers=signed(body, **given)).status_code
            for given in ({}, {"lean-app-token": "other"}, {"lean-app-token": "token-made-up"})
        ]
        assert codes == [401, 401, 200]


@pytest.mark.parametrize(
    ("allow", "hops", "forwarded", "status_code"),
    [
        ("127.0.0.0/8", 0, None, 200),
        ("127.0.0.1, 203.0.113.7", 0, "198.51.100.1", 200),
        ("203.0.113.0/24", 0, None, 401),
        ("203.0.113.0/24", 0, "203.0.113.7", 401),
        ("203.0.113.0/24", 1, "203.0.113.7", 200),
        ("203.0.113.0/24", 1, "203.0.113.7, 198.51.100.1", 401),
        ("203.0.113.0/24", 2, "203.0.113.7, 198.51.100.1", 200),
        ("203.0.113.0/24", 2, "203.0.113.7", 401),
        ("203.0.113.0/24", 1, "nonsense", 401),
        ("203.0.113.0/24", 1, None, 401),
        ("203.0.113.0/24", 1, "::ffff:203.0.113.7", 200),
        ("2001:db8::/32", 1, "2001:db8::5", 200),
        ("203.0.113.0/24", 1, "203.0.113.7:51234", 200),
        ("203.0.113.0/24", 1, "198.51.100.1:51234", 401),
        ("203.0.113.0/24", 2, "203.0.113.7:51234 ,198.51.100.1:443", 200),
        ("203.0.113.0/24", 1, "198.51.100.1,\t  203.0.113.7", 200),
        ("203.0.113.0/24", 1, "[::ffff:203.0.113.7]:443", 200),
        ("::ffff:203.0.113.0/120", 1, "203.0.113.7", 200),
        ("::1", 1, "[::1]:443", 200),
        ("2001:db8::/32", 1, "[2001:db8::1]", 200),
        ("2001:db8::/32", 1, "[2001:db8::1]:443", 200),
        ("2001:db8::/32", 1, "[2001:db9::1]:443", 401),
        ("0.0.0.0/0, ::/0", 1, "203.0.113.7:", 401),
        ("0.0.0.0/0, ::/0", 1, "203.0.113.7:x", 401),
        ("0.0.0.0/0, ::/0", 1, "203.0.113.7:443:443", 401),
        ("0.0.0.0/0, ::/0", 1, "[203.0.113.7]:443", 401),
        ("0.0.0.0/0, ::/0", 1, "[2001:db8::1", 401),
        ("0.0.0.0/0, ::/0", 1, "[2001:db8::1]x", 401),
        ("0.0.0.0/0, ::/0", 1, "[]", 401),
        ("0.0.0.0/0, ::/0", 1, ":443", 401),
        ("0.0.0.0/0, ::/0", 1, "unknown", 401),
        ("0.0.0.0/0, ::/0", 1, "203.0.113.7,", 401),
    ],
)
def test_only_allowed_addresses_deliver(tmp_path, allow, hops, forwarded, status_code):
    """What a sender writes into X-Forwarded-For counts for nothing beyond our own proxies."""
    body = body_of()
    headers = signed(body) | ({"x-forwarded-for": forwarded} if forwarded else {})
    loaded = WebhookSettings.load({"LEAN_WEBHOOK_ALLOW": allow})

    url = f"sqlite:///{tmp_path / 'inbox.db'}"
    with receiving(url, allow=loaded.allow, trusted_hops=hops) as receiver:
        answer = HTTP.post(receiver.url, content=body, headers=headers)

        assert answer.status_code == status_code
        assert stored(receiver) == (["event-1"] if status_code == 200 else [])
        metrics = HTTP.get(f"{receiver.url.removesuffix(PATH)}/metrics").text
        outcome = "stored" if status_code == 200 else "address"
        assert f'outcome="{outcome}",status_code="{status_code}"}} 1.0' in metrics


@pytest.mark.parametrize(
    "path", [f"{PATH}/", f"/{PATH}", "/webhooks//lean", f"{PATH}//", f"//{PATH}//"]
)
def test_a_slash_too_many_loses_no_webhook(receiver, path):
    """The URL in Lean's dashboard is typed by hand."""
    body = body_of()

    url = f"{receiver.url.removesuffix(PATH)}{path}"
    answer = HTTP.post(url, content=body, headers=signed(body))

    assert answer.status_code == 200
    assert stored(receiver) == ["event-1"]
    assert HTTP.get(url).status_code == 405


@pytest.mark.parametrize("path", ["/", "", "/webhook/lean", "/webhooks/lean/x", "/WEBHOOKS/LEAN"])
def test_what_comes_to_an_unknown_path_is_counted(receiver, path):
    """A wrong URL in the dashboard shows in the metrics, and stores nothing."""
    body = body_of()
    base = receiver.url.removesuffix(PATH)

    answer = HTTP.post(f"{base}{path}", content=body, headers=signed(body))
    HTTP.put(receiver.url, content=body, headers=signed(body))
    metrics = HTTP.get(f"{base}/metrics").text

    assert answer.status_code == 404
    assert stored(receiver) == []
    assert 'leanhouse_webhooks_total{outcome="path",status_code="404"} 1.0' in metrics
    assert 'leanhouse_webhooks_total{outcome="method",status_code="405"} 1.0' in metrics


def spoken(receiver, *parts, patience=10.0, hang_up=False):
    """What the receiver answers to bytes that are sent as they are."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", receiver.port), timeout=patience) as wire,
        contextlib.suppress(ConnectionError, TimeoutError),
    ):
        for part in parts:
            wire.sendall(part)
        while not hang_up and b"\r\n\r\n" not in answer and (chunk := wire.recv(65536)):
            answer += chunk
    return answer


def head(*lines):
    """The beginning of a request."""
    return ("\r\n".join([f"POST {PATH} HTTP/1.1", "host: t", *lines]) + "\r\n\r\n").encode()


def test_a_body_that_does_not_come_in_time_is_refused(receiver):
    """A sender cannot hold a connection by sending less than it announced."""
    body = body_of()
    began = head(f"lean-signature: {sign(body, SECRET)}", f"content-length: {len(body)}")

    answer = spoken(receiver, began, body[:-1])

    assert answer.startswith(b"HTTP/1.1 400")
    assert stored(receiver) == []


def test_a_body_larger_than_allowed_is_refused_before_it_was_sent(receiver):
    """Both by what it announces and, without an announcement, by what comes."""
    announced = spoken(receiver, head("content-length: 999999999999"))
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    chunked = spoken(receiver, head("transfer-encoding: chunked"), *[chunk] * 17)

    assert announced.startswith(b"HTTP/1.1 413")
    assert chunked.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_is_as_good_as_any(receiver):
    """What is signed are the bytes, however they were cut."""
    body = body_of()
    chunks = [f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (body[:50], body[50:])]
    begin = head(f"lean-signature: {sign(body, SECRET)}", "transfer-encoding: chunked")

    assert spoken(receiver, begin, *chunks, b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert stored(receiver) == ["event-1"]


CUTS = st.lists(st.integers(0, 400), max_size=4)
WIRE = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda lines, body: head(*lines) + body,
        st.lists(
            st.sampled_from(
                [
                    f"lean-signature: {sign(body_of(), SECRET)}",
                    "lean-signature: sha512=" + "0" * 128,
                    "lean-signature: sha512=" + "é" * 64,
                    "content-length: 171",
                    "content-length: -1",
                    "content-length: 99999999999999999999999999",
                    "transfer-encoding: chunked",
                    "transfer-encoding: gzip, chunked",
                    "content-encoding: gzip",
                    "content-type: text/plain; charset=utf-16",
                    "x-forwarded-for: ,,,",
                    "expect: 100-continue",
                    "connection: upgrade",
                    "upgrade: h2c",
                ]
            ),
            max_size=5,
            unique=True,
        ),
        st.sampled_from(
            [
                b"",
                body_of() + b" ",
                body_of()[:-1],
                b"5\r\nhello\r\n0\r\n\r\n",
                b"5\r\nhel",
                b"zz\r\n",
                b"ffffffffffffffff\r\n",
                b"{" * 171,
            ]
        ),
    ),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(WIRE, CUTS, st.booleans())
def test_no_bytes_make_it_fail_or_store_a_forgery(receiver, wire, cuts, hang_up):
    """Broken heads, lengths, encodings and chunks, cut anywhere, end in a refusal or in nothing."""
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    parts = [wire[a:b] for a, b in itertools.pairwise(places)]

    answer = spoken(receiver, *parts, b"\r\n\r\n", patience=0.15, hang_up=hang_up)

    assert not answer.startswith(b"HTTP/1.1 5")
    assert not answer.startswith(b"HTTP/1.1 2")
    assert HTTP.get(receiver.url.replace(PATH, "/healthz")).status_code == 200
    assert stored(receiver) == []


BODIES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["type", "payload", "event_id", "timestamp", "id", "status", "x"]),
                inner,
                max_size=6,
            )
        ),
        max_leaves=15,
    ).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.text(max_size=60).map(lambda text: json.dumps({"type": "t", "event_id": text}).encode()),
    st.just(body_of()).map(lambda body: body.decode().encode("utf-16")),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(BODIES, st.booleans(), st.sampled_from([SECRET, "whsec_other", ""]), st.text(max_size=30))
def test_no_signed_body_makes_it_fail_and_no_unsigned_one_is_stored(
    receiver, body, is_upper, secret, other
):
    """Whoever has the secret is answered 200 or 400; whoever has not, 401."""
    before = stored(receiver)
    header = (
        sign(body, secret)
        if secret
        else "".join(filter(str.isprintable, other)).encode("ascii", "replace").decode()
    )
    header = header.upper() if is_upper else header

    answer = HTTP.post(receiver.url, content=body, headers={"lean-signature": header.strip()})

    # A header that HTTP cannot carry is refused before anybody looks at the signature.
    assert answer.status_code in ({200, 400} if secret == SECRET else {400, 401})
    if answer.status_code != 200:
        assert stored(receiver) == before


def test_a_full_disk_is_told_as_unavailable_and_healed_by_a_retry(receiver, tmp_path):
    """While the inbox cannot be written nothing is acknowledged; Lean's next attempt is."""
    body = body_of()
    blocker = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    blocker.execute("pragma max_page_count = 1")
    blocker.execute(
        "create trigger full before insert on webhook_events_sandbox"
        " begin select raise(abort, 'database or disk is full'); end"
    )

    refused = HTTP.post(receiver.url, content=body, headers=signed(body))
    blocker.execute("drop trigger full")
    accepted = HTTP.post(receiver.url, content=body, headers=signed(body))

    assert (refused.status_code, refused.content) == (503, b"")
    assert accepted.status_code == 200
    assert stored(receiver) == ["event-1"]


def test_health_readiness_and_metrics(receiver, tmp_path):
    """It lives whatever the database does, is ready while it can store, and counts answers."""
    base = receiver.url.removesuffix(PATH)
    body = body_of()
    HTTP.post(receiver.url, content=body, headers=signed(body))
    HTTP.post(receiver.url, content=body)

    metrics = HTTP.get(f"{base}/metrics").text
    ready = HTTP.get(f"{base}/readyz").status_code
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        connection.execute("drop table awaited_refreshes_sandbox")

    assert 'leanhouse_webhooks_total{outcome="stored",status_code="200"} 1.0' in metrics
    assert 'leanhouse_webhooks_total{outcome="signature",status_code="401"} 1.0' in metrics
    assert 'leanhouse_inbox_events{state="received"} 1.0' in metrics
    assert ready == 200
    assert HTTP.get(f"{base}/readyz").status_code == 503
    assert HTTP.get(f"{base}/healthz").status_code == 200
    assert HTTP.get(receiver.url).status_code == 405


def test_events_that_come_at_once_share_commits(patient):
    """Durability costs a commit per batch, not one per event."""
    bodies = [body_of(number) for number in range(200)]

    def deliver(part):
        with httpx.Client(verify=False) as client:
            codes.extend(
                client.post(patient.url, content=body, headers=signed(body)).status_code
                for body in part
            )

    codes = []
    threads = [threading.Thread(target=deliver, args=(bodies[n::16],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    metrics = HTTP.get(patient.url.replace(PATH, "/metrics")).text
    commits = float(metrics.split("leanhouse_inbox_commit_seconds_count ")[1].split()[0])
    assert codes == [200] * 200
    assert len(set(stored(patient))) == 200
    assert commits < 150


def test_with_leans_chain_only_its_clients_are_let_in(tmp_path):
    """Over TLS, a client without a certificate, or with one of another authority, is cut off."""
    ours, leans, others = trustme.CA(), trustme.CA(), trustme.CA()
    own = ours.issue_cert("localhost", "127.0.0.1")
    cert, key, chain = (tmp_path / name for name in ("cert.pem", "key.pem", "chain.pem"))
    cert.write_bytes(b"".join(blob.bytes() for blob in own.cert_chain_pems))
    key.write_bytes(own.private_key_pem.bytes())
    leans.cert_pem.write_to_path(chain)
    body = body_of()
    url = f"sqlite:///{tmp_path / 'inbox.db'}"

    def code(authority):
        context = ssl.create_default_context()
        ours.configure_trust(context)
        if authority is not None:
            authority.issue_cert("lean.test").configure_cert(context)
        with httpx.Client(verify=context) as client:
            try:
                target = receiver.url.replace("http:", "https:")
                return client.post(target, content=body, headers=signed(body)).status_code
            except httpx.TransportError:
                return None

    with receiving(url, tls_cert=cert, tls_key=key, tls_client_authority=chain) as receiver:
        assert [code(leans), code(others), code(None)] == [200, None, None]
        assert stored(receiver) == ["event-1"]


def test_killed_at_any_instant_it_has_stored_whatever_it_acknowledged(tmp_path):
    """The command, killed by SIGKILL under load and started again, misses no event that got 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"environment": "sandbox", "webhook_secret": SECRET, "webhook_port": str(port)}
    environment = child_of(values, tmp_path)
    acknowledged = []
    is_over = threading.Event()

    def deliver(start):
        number = start
        with httpx.Client(timeout=2, verify=False) as client:
            while not is_over.is_set():
                body = body_of(number)
                try:
                    answer = client.post(
                        f"http://127.0.0.1:{port}{PATH}", content=body, headers=signed(body)
                    )
                except httpx.TransportError:
                    time.sleep(0.02)
                    continue
                assert answer.status_code == 200
                acknowledged.append(f"event-{number}")
                number += 4

    threads = [threading.Thread(target=deliver, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    try:
        for seen in (100, 200):
            with subprocess.Popen(
                [Path(sys.executable).parent / "leanhouse", "webhooks"], env=environment
            ) as process:
                deadline = time.monotonic() + 30
                while len(acknowledged) < seen and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.kill(process.pid, signal.SIGKILL)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()

    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox' / 'sandbox.db'}", "sandbox")
    found = [row["event_id"] for row in inbox.rows()]
    inbox.close()
    assert len(acknowledged) >= 200
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
