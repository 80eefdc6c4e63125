"""Proxies between this machine and Lean, from the environment.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` have their usual meaning, in upper or lower
case. A loopback host is never reached through a proxy, because its address there means a different
machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.request import getproxies_environment

import httpx
import yarl

from lean_resources.errors import ConfigError
from lean_resources.settings import is_loopback


def proxy_of(url: str, given: Mapping[str, str] | None = None) -> yarl.URL | None:
    """The proxy for a URL, including its credentials; None for a direct connection.

    Args:
        url: The URL; only its scheme, host and port matter.
        given: Proxies by scheme, also `all` and `no`; by default those of the environment.

    Raises:
        ConfigError: The variable does not hold the address of an HTTP proxy; the message does not
            show its value.
    """
    given = getproxies_environment() if given is None else given
    target = httpx.URL(url)
    name = target.scheme if given.get(target.scheme) else "all"
    value = (given.get(name) or "").strip()
    if not value or is_loopback(target.host) or _is_direct(target, given.get("no", "")):
        return None
    variable = f"{name.upper()}_PROXY"
    try:
        proxy = yarl.URL(value if "://" in value else f"http://{value}")
        is_whole = bool(proxy.host) and proxy.port is not None
    except ValueError:
        raise ConfigError(
            f"{variable} is not the address of a proxy: write it as http://host:port"
        ) from None
    if proxy.scheme not in {"http", "https"} or not is_whole:
        raise ConfigError(
            f"{variable} is not the address of an HTTP proxy: write it as http://host:port"
        )
    return proxy


def shown(proxy: yarl.URL) -> str:
    """A proxy's address without its credentials."""
    return f"{proxy.scheme}://{proxy.host}:{proxy.port}"


def _is_direct(target: httpx.URL, excepted: str) -> bool:
    """Whether NO_PROXY names the host, its domain or its network, with or without its port."""
    host = target.host.lower().rstrip(".")
    port = str(target.port or {"https": 443, "http": 80}.get(target.scheme))
    for entry in excepted.lower().replace(",", " ").split():
        if entry == "*" or _is_in_network(host, entry):
            return True
        name, colon, only_port = entry.rpartition(":")
        if not colon or not only_port.isdecimal():
            name, only_port = entry, port
        name = name.strip("[]").removeprefix("*").strip(".")
        if name and only_port == port and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _is_in_network(host: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
