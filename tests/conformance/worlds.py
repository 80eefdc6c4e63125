"""What the suite's stories are told with: an offline Lean, days that pass, and pulls."""

import asyncio
import datetime as dt

import httpx
from conftest import TODAY, Slept, client_of, settings_of

from lean_resources import LeanClient
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

DAY = dt.timedelta(days=1)
MINUTE = dt.timedelta(minutes=1)
EAGER = Policy(reread_hours={}, nightly_days=1000)
"""Every sync reads every stream, and open months whole."""
CHAIN = ("entities", "accounts", "balances", "transactions")
PULLED = tuple(name for name, stream in STREAMS.items() if stream.exploded_from is None)


class Wire(httpx.AsyncBaseTransport):
    """The way to the offline Lean: it may change answers, and keeps what it saw.

    Args:
        sandbox: The offline Lean.
        change: Given a request to the API and the bytes of its answer; returns what is sent.
    """

    def __init__(self, sandbox, change=lambda _request, body: body):
        self._inner = httpx.ASGITransport(sandbox.app)
        self._clock = sandbox.clock
        self._change = change
        self.seen = []
        """Each request with its answer's status, headers and body, and the instant by Lean."""

    async def handle_async_request(self, request):
        """Pass a request on."""
        response = await self._inner.handle_async_request(request)
        if request.url.path == "/oauth2/token":
            return response
        headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        body = self._change(request, await response.aread())
        self.seen.append((request, response.status_code, headers, body, self._clock.now()))
        return httpx.Response(response.status_code, headers=headers, content=body)


def new_sandbox(months=2):
    """An offline Lean with every awkward case, the same at every call."""
    return Sandbox(customers=20, months=months, seed=7, today=TODAY)


def wired(sandbox, wire, **changes):
    """A client over a wire."""
    return LeanClient(settings_of(sandbox, **changes), transport=wire, sleep=Slept(sandbox))


def pull(sandbox, lake, names=CHAIN, *, client=None, policy=None, **selected):
    """Sync some streams in order; the report of the last one."""

    async def work():
        async with client or client_of(sandbox, Slept(sandbox), page_size=30) as lean:
            return await pull_with(lean, lake, names, policy=policy, **selected)

    return asyncio.run(work())


async def pull_with(lean, lake, names=CHAIN, *, policy=None, **selected):
    """Sync some streams in order with an open client; the report of the last one."""
    for name in names:
        report = await sync(
            STREAMS[name],
            lean,
            lake,
            policy=policy or EAGER,
            selection=Selection(**({"insights": False} | selected)),
        )
    return report


def next_day(sandbox, *entity_ids, days=1):
    """Let days pass, then let the bank be asked again for some entities, or for all."""
    sandbox.clock.advance(days * DAY)
    wanted = set(entity_ids) or {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}

    async def work():
        async with client_of(sandbox) as lean:
            for entity_id in sorted(wanted):
                await lean.refresh(entity_id)

    asyncio.run(work())
    sandbox.clock.advance(MINUTE)
