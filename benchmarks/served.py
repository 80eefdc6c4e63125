"""A server that costs next to nothing: answers that were rendered to files, sent as they are.

The benchmarks start it as a process of its own, so that what it costs is not counted as the cost of
what is measured. It speaks just enough HTTP/1.1 for GET and POST with keep-alive, tells its port on
standard output, and ends when its standard input does or its time is up, whichever comes first.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import uvloop

__all__ = ["copy_of", "key_of"]

_ACCOUNT = re.compile(rb"(?<=/accounts/)[0-9a-f]{8}(-[0-9a-f-]{27})")
_GZIP_LEVEL = 6

_TOKEN = json.dumps(
    {"access_token": "made-up", "scope": "api", "token_type": "Bearer", "expires_in": 3599}
).encode()


def copy_of(account_id: str, number: int) -> str:
    """The id of a copy of an account, from 1: its first eight digits are the number."""
    return f"{number:08x}{account_id[8:]}"


def key_of(target: str) -> str:
    """What tells one answer from another: the path and the parameters, in whatever order."""
    parts = urlsplit(target)
    return f"{parts.path.rstrip('/')}?{urlencode(sorted(parse_qsl(parts.query)))}"


def _answer(body: bytes, date: str, status: str = "200 OK", *, is_gzip: bool = False) -> bytes:
    body = gzip.compress(body, _GZIP_LEVEL) if is_gzip else body
    encoding = "content-encoding: gzip\r\n" if is_gzip else ""
    head = (
        f"HTTP/1.1 {status}\r\n{encoding}"
        f"date: {date}\r\n"
        "content-type: application/json\r\n"
        "lean-trace-id: 0af7651916cd43dd8448eb211c80319c\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Answers:
    """What is sent for each request target, headers included."""

    def __init__(self, folder: Path, *, is_gzip: bool) -> None:
        index = json.loads((folder / "index.json").read_text())
        date = index["date"]
        self.token = _answer(_TOKEN, date)
        self._unknown = _answer(b"{}", date, "404 Not Found")
        self._by_key = {
            key: _answer((folder / name).read_bytes(), date, is_gzip=is_gzip)
            for key, name in index["answers"].items()
        }
        self._by_target: dict[bytes, bytes] = {}
        self._ids = {
            match[1]: match[0] for key in self._by_key for match in _ACCOUNT.finditer(key.encode())
        }

    def of(self, target: bytes) -> bytes:
        """The answer to a target; its key is worked out once, then remembered."""
        found = self._by_target.get(target)
        if found is not None:
            return found
        found = self._by_key.get(key_of(target.decode()))
        if found is None:
            return self._copied(target)
        self._by_target[target] = found
        return found

    def _copied(self, target: bytes) -> bytes:
        """The answer for a copy of an account, which is the account's with another id in it."""
        match = _ACCOUNT.search(target)
        account_id = self._ids.get(match[1]) if match else None
        if match is None or account_id is None or account_id == match[0]:
            return self._unknown
        return self.of(target.replace(match[0], account_id)).replace(account_id, match[0])


class _Served(asyncio.Protocol):
    def __init__(self, answers: _Answers, delay_seconds: float) -> None:
        self._answers = answers
        self._delay_seconds = delay_seconds
        self._pending = b""

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while True:
            head, end, rest = self._pending.partition(b"\r\n\r\n")
            if not end:
                return
            method, target, _ = head.split(b" ", 2)
            length = _length(head) if method == b"POST" else 0
            if len(rest) < length:
                return
            self._pending = rest[length:]
            is_token = method == b"POST"
            answer = self._answers.token if is_token else self._answers.of(target)
            if self._delay_seconds:
                loop = asyncio.get_running_loop()
                loop.call_later(self._delay_seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def _serve(folder: Path, seconds: float, *, is_gzip: bool, delay_seconds: float) -> None:
    answers = _Answers(folder, is_gzip=is_gzip)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    loop.call_later(seconds, ended.set)
    server = await loop.create_server(lambda: _Served(answers, delay_seconds), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float, help="ends after so many seconds at the latest")
    parser.add_argument("--gzip", action="store_true", help="send bodies compressed")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer is sent")
    asked = parser.parse_args()
    uvloop.run(_serve(asked.folder, asked.seconds, is_gzip=asked.gzip, delay_seconds=asked.delay))
