"""A server that costs next to nothing: answers that were rendered to files, sent as they are.

The benchmarks start it as a process of its own, so that what it costs is not counted as the cost of
what is measured. It speaks just enough HTTP/1.1 for GET and POST with keep-alive.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import uvloop

_TOKEN = json.dumps(
    {"access_token": "made-up", "scope": "api", "token_type": "Bearer", "expires_in": 3599}
).encode()


def key_of(target: str) -> str:
    """What tells one answer from another: the path and the page."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query))
    page = query.get("page") or query.get("page_number") or "0"
    asked = query.get("account_types") or (
        query.get("entity_id", "") if not parts.path.count("/") > 3 else ""
    )
    return f"{parts.path.rstrip('/')}?{asked}&{page}"


def _answer(body: bytes, *, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Served(asyncio.Protocol):
    def __init__(self, answers: dict[str, bytes]) -> None:
        self._answers = answers
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            head, _, rest = self._pending.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n")[1:]:
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if len(rest) < length:
                return
            self._pending = rest[length:]
            method, target, _ = head.split(b" ", 2)
            if method == b"POST":
                self._transport.write(_answer(_TOKEN))
                continue
            found = self._answers.get(key_of(target.decode()))
            self._transport.write(found or _answer(b"{}", status="404 Not Found"))


async def _serve(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    answers = {key: _answer((folder / name).read_bytes()) for key, name in index.items()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Served(answers), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with its parent: standard input closes when the benchmark ends, however it ends.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1])))
