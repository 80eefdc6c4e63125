"""Syncs over an object store that die at a request, in forks of a process that has made none."""

import datetime as dt
import subprocess
import sys
from contextlib import contextmanager

from conftest import settings_of, showing
from stores import variables
from test_kill import WAYS, ZYGOTE, Forks, refresh_all

from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.lake.objects import Objects

DAY = dt.timedelta(days=1)


def shown(root):
    """The resolved rows of the streams that are synced, in one order, without their origin."""
    with showing(Lake(root, "sandbox"), WAYS) as connection:
        return {
            name: connection.sql(
                f"select {', '.join(STREAMS[name].schema.names)} from {name} order by all"
            ).fetchall()
            for name in WAYS
        }


def copied(root, to):
    """Copy a lake, with the metadata of its objects."""
    source, target = (Objects(f"{one}/sandbox", is_http_allowed=True) for one in (root, to))
    for one in source.list("", is_deep=True):
        parts = []
        _, about = source.fetch(one.name, parts.append)
        own = {name: value for name, value in about.items() if name in {"token", "crc32"}}
        target.put(one.name, b"".join(parts), is_new=True, about=own)


@contextmanager
def kills(url, folder):
    """Syncs of a second day, killed and run again.

    Args:
        url: A prefix of an object store that this process reaches.
        folder: Where caches go.

    Yields:
        How many write boundaries a sync has, and whether a lake ends as if nothing had happened
        after a sync that was killed at one.
    """
    sandbox = Sandbox(customers=2, months=2, seed=7, today="2026-03-15")
    with (
        variables({"LEANHOUSE_CACHE": str(folder)}),
        serve(sandbox, port=0, mtls=False) as server,
        subprocess.Popen(
            [sys.executable, ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        settings = settings_of(sandbox, server.url).model_dump(exclude_unset=True)
        settings["client_secret"] = sandbox.client_secret
        forks = Forks(process, {k: v for k, v in settings.items() if v is not None})
        forks.sync(f"{url}/first", streams=WAYS)
        sandbox.clock.advance(DAY)
        refresh_all(sandbox, server.url)
        copied(f"{url}/first", f"{url}/whole")
        boundaries = forks.sync(f"{url}/whole", streams=WAYS)
        expected = shown(f"{url}/whole")
        assert expected != shown(f"{url}/first")

        def survives(boundary):
            root = f"{url}/killed-{boundary}"
            copied(f"{url}/first", root)
            assert forks.sync(root, streams=WAYS, boundary=boundary) == "killed"
            forks.sync(root, streams=WAYS)
            return shown(root) == expected

        yield boundaries, survives
        process.stdin.close()
        process.wait(timeout=30)
