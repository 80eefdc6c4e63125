"""Bodies that would be huge once unpacked: refused within the limit, over a real socket."""

import asyncio
import contextlib
import gzip
import os
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from lean_resources.bodies import body_of
from lean_resources.errors import SchemaError

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 100_000


def answer(body, *encodings):
    """An answer whose body was not read yet."""
    headers = [("content-encoding", encoding) for encoding in encodings]
    return httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))


def read(body, *encodings, limit=LIMIT):
    """The body of an answer."""
    return asyncio.run(body_of(answer(body, *encodings), limit))


@pytest.mark.parametrize(
    ("encodings", "pack"),
    [
        ([], bytes),
        (["identity"], bytes),
        (["gzip"], gzip.compress),
        (["GZIP "], gzip.compress),
        (["x-gzip"], gzip.compress),
        (["deflate"], zlib.compress),
        (["identity, gzip"], gzip.compress),
    ],
)
def test_what_is_packed_once_is_unpacked(encodings, pack):
    """Up to the limit itself, and not a byte beyond."""
    body = os.urandom(1000) * (LIMIT // 1000)

    assert read(pack(body), *encodings) == body
    with pytest.raises(SchemaError, match=f"{LIMIT} bytes"):
        read(pack(body + b"x"), *encodings)
    assert read(b"", *encodings) == b""


@pytest.mark.parametrize(
    "encodings",
    [
        ["gzip, gzip"],
        ["gzip", "gzip"],
        ["gzip, identity, deflate"],
        ["br"],
        ["zstd"],
        ["compress"],
        ["gzip;q=1"],
        ["\u0661gzip"],
    ],
)
def test_any_other_packing_is_refused_unread(encodings):
    """Whatever the body is; its bytes are not looked at."""

    class Unread(httpx.AsyncByteStream):
        async def __aiter__(self):
            raise AssertionError("it was read")
            yield b""

    headers = [(b"content-encoding", encoding.encode()) for encoding in encodings]
    response = httpx.Response(200, headers=headers, stream=Unread())
    with pytest.raises(SchemaError, match="packed"):
        asyncio.run(body_of(response, LIMIT))


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"x" * 99)[:-30] + b"\xff" * 30])
def test_what_cannot_be_unpacked_is_a_decoding_error(body):
    """Which is tried again as a connection that broke."""
    with pytest.raises(httpx.DecodingError):
        read(body, "gzip")


def empty_blocks(count):
    """A gzip stream that unpacks to nothing, however long it is."""
    packer = zlib.compressobj(wbits=31)
    return packer.flush(zlib.Z_SYNC_FLUSH) + b"\x00\x00\x00\xff\xff" * count


def test_packed_bytes_count_too():
    """What unpacks to nothing is not read for ever."""
    with pytest.raises(SchemaError):
        read(empty_blocks(LIMIT), "gzip")


def bomb(levels):
    """Two gigabytes of zeros, packed so many times."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = head + block * 2048
    for _ in range(levels - 1):
        packed = gzip.compress(packed, 9)
    return packed


@contextlib.contextmanager
def answering(body, encoding):
    """Answers every request with one body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-encoding", encoding)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that the server calls

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_CLIENT = """
import asyncio, resource, sys
from conftest import settings_of
from lean_resources.client import LeanClient
from lean_resources.errors import LeanError
from lean_resources.sandbox import Sandbox

world = Sandbox(customers=1, months=1, seed=7, today="2026-03-15")
alone = {"app_token": "made-up", "client_id": None, "client_secret": None}

async def read(url, changes):
    async with LeanClient(settings_of(world, url, attempts=1, **changes)) as lean:
        await lean.read("customers", {})

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for url in sys.argv[1:]:
    for changes in ({}, alone):
        try:
            asyncio.run(read(url, changes))
        except LeanError as error:
            print(type(error).__name__)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_bomb_costs_no_memory():
    """Two gigabytes in five kilobytes: refused within 150 MiB, the limit of 32 included."""
    with answering(bomb(2), "gzip, gzip") as twice, answering(bomb(1), "gzip") as once:
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT, twice, once],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    *errors, mebibytes = done.stdout.split()
    assert errors == ["UnavailableError", "SchemaError"] * 2, done.stderr
    assert int(mebibytes) < 150
