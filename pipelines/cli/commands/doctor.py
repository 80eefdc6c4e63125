"""The command that checks what a sync needs, before the first sync or after a change."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from lean_resources.errors import LeanError
from pipelines.cli.app import fail, lake_of
from pipelines.cli.commands.status import look
from pipelines.cli.console import say
from pipelines.environment import settings

if TYPE_CHECKING:
    from lean_resources.client import LeanClient


def doctor() -> None:
    """Check settings, certificates, the way to Lean and the home, without reading bank data."""
    from lean_resources.certificates import ignored_roots
    from lean_resources.client import LeanClient
    from lean_resources.proxies import proxy_of, shown
    from pipelines.env_file import problems_of
    from pipelines.keys import checked_key

    if (file := Path(".env")).is_file() and (problems := problems_of(file)):
        raise fail("; ".join(problems))
    try:
        checked_key(settings().hash_key, settings().environment)
        client = LeanClient(settings().lean.complete())
        for reason in ignored_roots(client.settings):
            say(f"warning    {reason}; it is ignored")
        proxy = proxy_of(client.settings.api_url)
        way = f", through the proxy {shown(proxy)}" if proxy is not None else ""
        say(f"settings   valid, {client.settings.api_url}{way}")
        banks, server_time = asyncio.run(_ask(client))
    except LeanError as error:
        raise fail(f"{error.code}: {error.message}\n      {error.remedy}") from None
    ahead = dt.datetime.now(dt.UTC) - server_time
    seconds = abs(ahead.total_seconds())
    say(f"Lean       answers: {banks} banks; its clock differs from ours by {seconds:.0f} s")
    if "://" in settings().lake:
        storage = lake_of(None).storage
        # Only a lake in an object store needs obstore.
        from pipelines.lake.object_store import ObjectStore
        from pipelines.operate.store_check import check_store

        assert isinstance(storage, ObjectStore)  # noqa: S101 - it has a URL
        say(f"lake       {storage.place}")
        for found in check_store(storage.objects):
            say(f"store      {found}")
    else:
        lake = lake_of(None, is_written=True)
        say(f"lake       can be written: {lake.storage.place}")
    if (dagster_home := settings().dagster_home).exists():
        from pipelines.dagster_defs.in_process import instance_at

        with instance_at(dagster_home, say):
            say(f"runs       no run of a dead process is left: {dagster_home}")
    _show_warnings(ahead)


async def _ask(client: "LeanClient") -> tuple[int, dt.datetime]:
    async with client:
        read = await client.read("banks", {"account_type": "PERSONAL"})
        return read.answers[0].envelope.records, await client.server_time()


_RULES = {"certificate_ending", "consent_ending", "consent_expired", "bank_off", "disk_nearly_full"}
"""Rules that doctor shows; others are of syncs, or it has looked by itself."""
_CONSENT_DAYS = 30


def _show_warnings(ahead: dt.timedelta) -> None:
    """Print problems of this machine, of banks and of consents; Lean's clock was asked now."""
    from pipelines.cli.health_view import show_problems
    from pipelines.operate.bank_health import MOST_SKEW
    from pipelines.operate.health import clock_skew

    found = look(settings(), consent_days=_CONSENT_DAYS)
    skew = [clock_skew(ahead)] if abs(ahead) > MOST_SKEW else []
    show_problems([*skew, *(one for one in found.problems if one.rule in _RULES)])
