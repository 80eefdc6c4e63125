"""Lakes in real object stores: SeaweedFS for S3, Azurite for Azure; `make conformance` brings both.

The laws are those of `tests/test_object_store.py`, and syncs are killed at every write boundary.
"""

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import format_datetime
from pathlib import Path

import pytest
from stores import store_over, variables

from pipelines.lake.objects import Objects

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from killed_stores import kills
from test_object_store import (  # noqa: F401 - run here again
    test_a_lake_in_s3_is_that_of_a_folder,
    test_copies_and_moves_take_nothing_away,
    test_machines_share_one_budget,
    test_of_processes_that_create_a_key_one_does,
    test_of_threads_that_create_a_key_one_does,
    test_readers_see_whole_objects,
    test_what_is_written_is_there_whole,
    test_writers_on_two_machines_end_as_one,
)

pytestmark = pytest.mark.conformance
STORES = ROOT / "var" / "stores"
PARTS = 8
_SECONDS = 60
_KEY = base64.b64encode(b"made-up key of an Azurite for tests").decode()


def free_port():
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextlib.contextmanager
def served(command, made, folder, **more):
    """A server, once a request has made a bucket; stopped at the end."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | more
        )
        try:
            until = time.monotonic() + _SECONDS
            while True:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < until, (folder / "log").read_text()[-2000:]
                try:
                    urllib.request.urlopen(made(), timeout=10).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.2)
            yield
        finally:
            # Nothing has to be kept, and some take half a minute to end.
            process.kill()
            process.wait(timeout=_SECONDS)


@contextlib.contextmanager
def seaweedfs(folder):
    """SeaweedFS's S3; the URL of an empty bucket, and the variables of who uses it."""
    weed = STORES / "venv" / "bin" / "weed"
    if not weed.exists():
        pytest.skip("SeaweedFS is not installed: make conformance")
    ports = {name: free_port() for name in ("s3", "filer", "volume", "master")}
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += ["-filer", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={free_port()}" for name in ports]
    url = f"http://127.0.0.1:{ports['s3']}"

    def made():
        return urllib.request.Request(f"{url}/lake", method="PUT")

    with served(command, made, folder):
        yield (
            "s3://lake",
            {
                "AWS_ENDPOINT_URL": url,
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "made-up-secret",
                "AWS_REGION": "us-east-1",
            },
        )


@contextlib.contextmanager
def azurite(folder):
    """Azurite; the URL of an empty container, and the variables of who uses it."""
    script = STORES / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    node = shutil.which("node")
    if node is None or not script.exists():
        pytest.skip("Azurite is not installed: make conformance")
    port = free_port()
    command = [node, script, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", str(folder), "--silent", "--skipApiVersionCheck"]

    def made():
        headers = {
            "x-ms-date": format_datetime(dt.datetime.now(dt.UTC), usegmt=True),
            "x-ms-version": "2021-08-06",
        }
        signed = "\n".join(
            ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in sorted(headers.items()))]
        )
        signed += "\n/leanhouse/leanhouse/lake\nrestype:container"
        code = hmac.digest(base64.b64decode(_KEY), signed.encode(), hashlib.sha256)
        headers["authorization"] = f"SharedKey leanhouse:{base64.b64encode(code).decode()}"
        return urllib.request.Request(
            f"http://127.0.0.1:{port}/leanhouse/lake?restype=container",
            method="PUT",
            headers=headers,
        )

    with served(command, made, folder, AZURITE_ACCOUNTS=f"leanhouse:{_KEY}"):
        yield (
            "az://lake",
            {
                "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURE_ALLOW_HTTP": "true",
                "AZURE_STORAGE_ACCOUNT_NAME": "leanhouse",
                "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            },
        )


@pytest.fixture(scope="module", params=[seaweedfs, azurite], ids=lambda server: server.__name__)
def bucket(request, tmp_path_factory):
    """A bucket of each server, which this process and its children reach."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    with request.param(folder) as (url, given), variables(given):
        yield url


@pytest.fixture
def url(bucket):
    """A prefix of the test's own."""
    return f"{bucket}/{secrets.token_hex(6)}"


@pytest.fixture
def storage(url, tmp_path):
    """The storage that is tried."""
    return store_over(Objects(url, is_http_allowed=True), tmp_path)


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_write_boundary_of_an_object_store(url, tmp_path, part):
    """At each boundary in turn, over streams that are written in each way there is."""
    with kills(url, tmp_path) as (boundaries, survives):
        assert [n for n in range(1 + part, boundaries + 1, PARTS) if not survives(n)] == []
