"""Lean offline: an ASGI application with a world, a clock, faults, OAuth2 and optional mutual TLS.

    sandbox = Sandbox(customers=20, months=12, seed=7, today="2026-03-15")
    with serve(sandbox) as server:
        ...  # server.url, server.token_url, sandbox.client_id, sandbox.client_secret

It imitates behaviour: pages, refreshes, consents, refusals, faults and volume. It does not prove
the names of Lean's fields; for these, see Lean's published reference.
"""

from lean_resources.sandbox.sandbox import Sandbox
from lean_resources.sandbox.server import Server, run, serve

__all__ = ["Sandbox", "Server", "run", "serve"]
