"""Serves the sandbox on a loopback port, in a background thread or until it is interrupted."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from lean_resources.sandbox.certificates import Certificates
from lean_resources.sandbox.sandbox import Sandbox

_PATIENCE = 30.0


class Server:
    """A running sandbox server; with mutual TLS it has certificates for clients."""

    def __init__(self, sandbox: Sandbox, url: str, certificates: Certificates | None) -> None:
        self.sandbox = sandbox
        self.url = url
        self.certificates = certificates
        self.token_url = f"{url}/oauth2/token"
        self.requests = sandbox.requests


def _config(sandbox: Sandbox, certificates: Certificates | None) -> uvicorn.Config:
    secured = certificates is not None
    return uvicorn.Config(
        sandbox.app,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        # The sandbox sends the date of its own clock.
        date_header=False,
        backlog=2048,
        ssl_certfile=certificates.server_cert if certificates else None,
        ssl_keyfile=certificates.server_key if certificates else None,
        ssl_ca_certs=str(certificates.authority) if certificates else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if secured else ssl.CERT_NONE,
    )


@contextmanager
def serve(
    sandbox: Sandbox, port: int = 0, mtls: bool = False, host: str = "127.0.0.1"
) -> Iterator[Server]:
    """Serve a sandbox while the block runs, by default on loopback.

    Port 0 takes a free port; an `OSError` if the port is taken. With `mtls` the server uses TLS and
    only accepts clients with a certificate of the sandbox's chain.
    """
    with tempfile.TemporaryDirectory(prefix="lean-sandbox-") as folder:
        certificates = Certificates(Path(folder)) if mtls else None
        with socket.create_server((host, port), backlog=2048) as listener:
            bound = listener.getsockname()[1]
            url = f"https://localhost:{bound}" if mtls else f"http://{host}:{bound}"
            inner = uvicorn.Server(_config(sandbox, certificates))
            thread = threading.Thread(
                target=inner.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True
            )
            thread.start()
            try:
                _wait_until_started(inner, thread)
                yield Server(sandbox, url, certificates)
            finally:
                inner.should_exit = True
                inner.force_exit = True
                thread.join(_PATIENCE)


def _wait_until_started(inner: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not inner.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("The sandbox server did not start.")
        time.sleep(0.005)


def run(
    sandbox: Sandbox,
    host: str = "127.0.0.1",
    port: int = 8765,
    mtls: bool = False,
    announce: Callable[[Server], None] | None = None,
) -> None:
    """Serve a sandbox until it is interrupted.

    The rest is as for `serve`. `announce` is called with the server. With mutual TLS, the files of
    its certificates exist from then until the end.
    """
    with serve(sandbox, port, mtls, host) as server:
        if announce is not None:
            announce(server)
        threading.Event().wait()
