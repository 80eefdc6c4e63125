"""Strangers who connect to the receiver: bounded in number, time and bytes, over real sockets."""

import contextlib
import logging
import socket
import time

import pytest
from receiving import SECRET, receiving
from test_receiver import HTTP, body_of, head, signed, stored

import pipelines.webhooks.connections as connecting
import pipelines.webhooks.receiver as receivers
from lean_resources.webhooks import sign
from pipelines.webhooks.receiver import PATH

PIECE = b"a" * 65_536


@contextlib.contextmanager
def receiver_of(tmp_path, **settings):
    """A receiver with an inbox of its own."""
    with receiving(f"sqlite:///{tmp_path / 'inbox.db'}", **settings) as served:
        yield served


@pytest.fixture
def crowd():
    """Opens connections, and closes them at the end."""
    wires = []

    def connect(receiver, count, *parts, address="127.0.0.1"):
        for _ in range(count):
            wire = socket.create_connection(
                ("127.0.0.1", receiver.port), timeout=10, source_address=(address, 0)
            )
            wires.append(wire)
            with contextlib.suppress(OSError):
                for part in parts:
                    wire.sendall(part)
        return wires[-count:]

    yield connect
    for wire in wires:
        wire.close()


def delivered(receiver, number=1, address="127.0.0.1"):
    """The status of a webhook that Lean sends from an address; None where it is cut."""
    body = body_of(number)
    request = head(f"lean-signature: {sign(body, SECRET)}", f"content-length: {len(body)}") + body
    wire = socket.create_connection(
        ("127.0.0.1", receiver.port), timeout=10, source_address=(address, 0)
    )
    with wire, contextlib.suppress(ConnectionError):
        wire.sendall(request)
        return int(wire.recv(65_536).split()[1])
    return None


def end_of(wire):
    """What a connection says before it ends, which has to be soon."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while chunk := wire.recv(65_536):
            said += chunk
    return said


def metric(receiver, outcome):
    """How many were answered, or cut, for a reason."""
    told = HTTP.get(receiver.url.replace(PATH, "/metrics")).text
    rows = [line for line in told.splitlines() if f'outcome="{outcome}"' in line]
    return sum(float(row.split()[-1]) for row in rows if "_total{" in row)


@pytest.mark.parametrize(
    "drops",
    [
        [],
        [b"P", b"O", b"S", b"T", b" ", b"/"] * 9,
        [b"\r\n"] * 60,
        [b"POST / HTTP/1.1\r\nhost: t\r\n", *[b"x-a: b\r\n"] * 60],
        [head("content-length: 0"), *[b"P"] * 60],
        [head("content-length: 9999"), *[b" "] * 60],
    ],
    ids=["nothing", "a line", "blank lines", "headers", "a second one", "a body after its answer"],
)
def test_a_slow_head_is_cut_however_often_a_byte_comes(tmp_path, crowd, drops):
    """The time counts from its beginning, and a byte does not begin it anew."""
    with receiver_of(tmp_path, head_seconds=0.3, body_seconds=0.3) as receiver:
        [wire] = crowd(receiver, 1)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for drop in drops:
                wire.sendall(drop)
                time.sleep(0.05)
                if time.monotonic() - began > 3:
                    break
        end_of(wire)

        assert time.monotonic() - began < 3
        assert delivered(receiver) == 200


def endless(first, piece, end=b""):
    """The pieces of a request without end: thirty megabytes of it."""
    return [first, *[piece] * 480, end]


ENDLESS = {
    "a URL": endless(b"POST /", PIECE),
    "a query": endless(f"POST {PATH}?".encode(), PIECE),
    "a name": endless(head("a: b")[:-2], PIECE),
    "a value": endless(head("a: b")[:-2] + b"x: ", PIECE),
    "headers": endless(head("a: b")[:-2], b"x: y\r\n" * 10_000),
    "a method": endless(b"", b"POST" * 16_000),
    "no request": endless(b"", b"\r\n" * 30_000),
    "trailers": endless(head("transfer-encoding: chunked") + b"0\r\n", b"x: y\r\n" * 10_000),
    "a trailer": endless(head("transfer-encoding: chunked") + b"0\r\nx: ", PIECE),
    "an extension": endless(head("transfer-encoding: chunked") + b"1;", PIECE),
    "small chunks": endless(head("transfer-encoding: chunked"), b"1\r\na\r\n" * 10_000),
    "a refused body": endless(head("content-length: 999999999999"), PIECE),
    "a body for another path": endless(
        b"POST /x HTTP/1.1\r\nhost: t\r\ncontent-length: 999999999999\r\n\r\n", PIECE
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_cut_before_it_is_kept(tmp_path, crowd, name):
    """Nobody signed it; the connection goes after two megabytes and what the sockets hold."""
    with receiver_of(tmp_path) as receiver:
        [wire] = crowd(receiver, 1)
        sent = 0
        with pytest.raises(ConnectionError):  # noqa: PT012 - somewhere among the pieces
            for part in ENDLESS[name]:
                wire.sendall(part)
                sent += len(part)

        assert sent < 16_000_000
        assert delivered(receiver) == 200
        assert stored(receiver) == ["event-1"]


def test_a_long_head_at_once_is_refused(tmp_path):
    """Thirty-two kilobytes are much more than Lean sends; its signature is not looked at."""
    with receiver_of(tmp_path) as receiver:
        body = body_of()
        for size, status_code in ((30_000, 200), (40_000, 431)):
            sent = HTTP.post(
                receiver.url, content=body, headers=signed(body, **{"x-long": "a" * size})
            )
            assert sent.status_code == status_code
        assert metric(receiver, "head") == 1


def test_a_crowd_of_one_address_keeps_out_nobody(tmp_path, crowd, monkeypatch):
    """Whoever waited longest goes: of the crowd first, whatever half of a request it sent."""
    monkeypatch.setattr(connecting, "_MOST", 100)
    with receiver_of(tmp_path) as receiver:
        for halves in ((), (b"POST /",), (head("a: b")[:-2],), (head("content-length: 9")[:-1],)):
            crowd(receiver, 80, *halves)
        mine = crowd(receiver, 1, address="127.0.0.2")

        assert delivered(receiver, 1) == 200
        assert delivered(receiver, 2, address="127.0.0.2") == 200
        assert HTTP.get(receiver.url.replace(PATH, "/healthz")).status_code == 200
        mine[0].sendall(head("content-length: 0"))
        assert mine[0].recv(100).startswith(b"HTTP/1.1 401"), "the crowd cut none but its own"
        assert metric(receiver, "crowded") > 200


def test_room_is_kept_for_the_allow_list(tmp_path, crowd, monkeypatch):
    """Strangers of many addresses fill their share, and who is allowed still gets in."""
    monkeypatch.setattr(connecting, "_MOST", 80)
    with receiver_of(tmp_path, allow="127.0.0.200/29") as receiver:
        for number in range(2, 12):
            crowd(receiver, 20, b"POST /", address=f"127.0.0.{number}")

        for number in range(5):
            assert delivered(receiver, number, address=f"127.0.0.{200 + number}") == 200
        assert delivered(receiver, 9, address="127.0.0.99") == 401
        assert stored(receiver) == [f"event-{number}" for number in range(5)]


def test_where_everybody_is_being_answered_a_newcomer_is_told(tmp_path, crowd, monkeypatch):
    """Nobody who works is cut; Lean tries again later."""
    monkeypatch.setattr(connecting, "_MOST", 64)
    with receiver_of(tmp_path, body_seconds=3) as receiver:
        began = head(f"lean-signature: {sign(b'x', SECRET)}", "content-length: 500")
        for number in range(2, 10):
            crowd(receiver, 8, began, address=f"127.0.0.{number}")
        deadline = time.monotonic() + 2
        while (code := delivered(receiver)) == 200 and time.monotonic() < deadline:
            time.sleep(0.01)

        assert code in {503, None}


def test_an_idle_connection_is_used_again(tmp_path):
    """Proxies keep theirs; many requests over one are as good as any."""
    with receiver_of(tmp_path, head_seconds=0.3) as receiver:
        for number in range(3):
            body = body_of(number)
            request = head(f"lean-signature: {sign(body, SECRET)}", f"content-length: {len(body)}")
            if number == 0:
                wire = socket.create_connection(("127.0.0.1", receiver.port), timeout=10)
            wire.sendall((request + body) * 3)
            answers = b""
            while answers.count(b"HTTP/1.1 200") < 3:
                answers += wire.recv(65_536)
            time.sleep(0.5)
        wire.close()
        assert stored(receiver) == ["event-0", "event-1", "event-2"]


def test_bodies_of_strangers_share_one_room(tmp_path, crowd, monkeypatch):
    """However many send at once, what waits for its signature is bounded."""
    monkeypatch.setattr(receivers, "_ROOM_BYTES", 0)
    with receiver_of(tmp_path, max_bytes=1024, body_seconds=1) as receiver:
        wires = crowd(receiver, 3, head("content-length: 1024"), b"a" * 1000)
        answers = sorted(end_of(wire)[:12] for wire in wires)

        assert answers == [b"HTTP/1.1 400", b"HTTP/1.1 400", b"HTTP/1.1 503"]
        assert delivered(receiver) == 200


def test_an_inbox_that_was_taken_away_is_noticed_and_said(tmp_path, caplog):
    """No 200 for what nobody would find; the log says it once, and the next event heals."""
    file = tmp_path / "inbox.db"
    caplog.set_level(logging.WARNING)
    with receiver_of(tmp_path) as receiver:
        assert delivered(receiver, 1) == 200
        file.rename(tmp_path / "taken.db")

        codes = {delivered(receiver, number) for number in range(2, 30)}
        ready = HTTP.get(receiver.url.replace(PATH, "/readyz")).status_code

        assert (codes, ready) == ({503}, 503)
        assert not file.exists()
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert "restore it" in said[0]
        (tmp_path / "taken.db").rename(file)
        assert delivered(receiver, 30) == 200
        assert HTTP.get(receiver.url.replace(PATH, "/readyz")).status_code == 200
        assert stored(receiver) == ["event-1", "event-30"]


def test_nonsense_leaves_no_line_in_the_log(tmp_path, crowd, capfd):
    """It is counted; a line for each would fill the disk."""
    with receiver_of(tmp_path) as receiver:
        for wire in crowd(receiver, 20, b"\x16\x03\x01 nonsense\r\n\r\n"):
            end_of(wire)
        crowd(receiver, 5, head("connection: upgrade", "upgrade: h2c"))

        assert metric(receiver, "http") == 20
    assert "Invalid" not in "".join(capfd.readouterr())
