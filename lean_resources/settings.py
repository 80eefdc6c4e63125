"""Settings of the client and of the receiver of webhooks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import httpx
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from lean_resources.variables import (
    FilePath,
    Switch,
    Variable,
    VariableSettings,
    variables_of,
)

Region = Literal["sa", "ae"]
Environment = Literal["sandbox", "production"]


class Hosts(NamedTuple):
    """Addresses of Lean for one region and environment."""

    api: str
    token: str


HOSTS: dict[tuple[Region, Environment], Hosts] = {
    ("sa", "sandbox"): Hosts(
        "https://sandbox.sa.leantech.me", "https://auth.sandbox.sa.leantech.me/oauth2/token"
    ),
    ("sa", "production"): Hosts(
        "https://api2.sa.leantech.me", "https://auth.sa.leantech.me/oauth2/token"
    ),
    ("ae", "sandbox"): Hosts(
        "https://sandbox.leantech.me", "https://auth.sandbox.leantech.me/oauth2/token"
    ),
    ("ae", "production"): Hosts(
        "https://api2.leantech.me", "https://auth.leantech.me/oauth2/token"
    ),
}

# The older production hosts require a client certificate and the application token.
LEGACY_HOSTS: dict[Region, str] = {
    "sa": "https://api.sa.leantech.me",
    "ae": "https://api.leantech.me",
}

_CERTIFICATE_HOSTS = frozenset(
    {*(httpx.URL(url).host for url in LEGACY_HOSTS.values()), "mtls.sandbox.leantech.me"}
)
_PREFIX = "LEAN_"
_WEBHOOK_PREFIX = "LEAN_WEBHOOK_"


def _url(value: str) -> str:
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL:
        raise PydanticCustomError("url", "is not a URL") from None
    if url.scheme not in {"https", "http"} or not url.host:
        raise PydanticCustomError("url", "must be a URL that begins with https://")
    if url.userinfo or url.query or url.fragment:
        raise PydanticCustomError("url", "must not contain credentials, a query or a fragment")
    if url.scheme == "http" and not is_loopback(url.host):
        raise PydanticCustomError(
            "url", "must begin with https://; http:// is for loopback hosts only"
        )
    return value


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parts = [part.strip() for part in value.split(",")]
        return tuple(ipaddress.ip_network(part) for part in parts if part)
    except ValueError:
        raise PydanticCustomError(
            "network", "must be addresses or networks such as 203.0.113.0/24, without host bits"
        ) from None


def _header_safe(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise PydanticCustomError(
            "header", "contains characters that an HTTP header cannot contain"
        )
    return value


def _database(value: SecretStr) -> SecretStr:
    if not re.match(r"(sqlite:///|postgresql(\+\w+)?://)\S", value.get_secret_value()):
        raise PydanticCustomError(
            "url", "is not the URL of an SQLite file or of a PostgreSQL database"
        )
    return value


def _postgres(value: SecretStr) -> SecretStr:
    if not re.match(r"postgresql://\S", value.get_secret_value()):
        raise PydanticCustomError("url", "is not the URL of a PostgreSQL database")
    return value


def _number(default: float, above: int, most: int, description: str) -> Any:
    """A field whose description says its range in place of `{}`."""
    text = description.format(f"above {above} and up to {most}")
    return Field(default=default, gt=above, le=most, description=text)


def _whole(default: int | None, least: int, most: int, description: str) -> Any:
    """A field of a whole number."""
    return Field(default=default, ge=least, le=most, description=description)


def _unset(description: str) -> Any:
    """A field that is unset by default."""
    return Field(default=None, description=description)


_Secret = Annotated[SecretStr, Field(min_length=1)]
_Token = Annotated[_Secret, AfterValidator(_header_safe)]


def _default_api_url(data: dict[str, Any]) -> str:
    if data.get("legacy_host"):
        return LEGACY_HOSTS[data["region"]]
    return HOSTS[data["region"], data["environment"]].api


def _default_token_url(data: dict[str, Any]) -> str:
    return HOSTS[data["region"], data["environment"]].token


class LeanSettings(VariableSettings):
    """What a client needs to know: hosts, credentials, certificates and limits.

    Credentials are either `client_id` with `client_secret` or `app_token`, never both, because
    Lean refuses a request that carries both headers.

    Raises:
        ConfigError: A value is missing, incomplete, out of range or contradicts another. The
            message names every variable concerned and contains no value.
    """

    prefix: ClassVar[str] = _PREFIX
    verbatim: ClassVar[frozenset[str]] = frozenset({"client_key_password"})
    foreign: ClassVar[tuple[str, ...]] = (_WEBHOOK_PREFIX,)

    region: Region = Field(
        default="sa", description="Country of the application at Lean: sa (KSA) or ae (UAE)."
    )
    environment: Environment = Field(
        default="sandbox", description="Lean's environment: sandbox or production."
    )
    legacy_host: Switch = Field(
        default=False,
        description=(
            "Whether to call the older production host, which requires a client certificate and "
            "the application token: true or false."
        ),
    )
    api_url: Annotated[str, AfterValidator(_url), AfterValidator(lambda url: url.rstrip("/"))] = (
        Field(
            default_factory=_default_api_url,
            description="Base URL of the API; by default that of the region and environment.",
        )
    )
    token_url: Annotated[str, AfterValidator(_url)] = Field(
        default_factory=_default_token_url,
        description="URL of the OAuth2 token endpoint; by default that of the region and "
        "environment.",
    )

    client_id: str | None = Field(
        default=None,
        min_length=1,
        repr=False,
        description="Application id from Lean's dashboard (Integration), the OAuth2 client id.",
    )
    client_secret: _Secret | None = _unset(
        "OAuth2 client secret; shown once in Lean's dashboard, void when regenerated."
    )
    app_token: _Token | None = _unset("Application token, instead of the OAuth2 pair.")

    client_cert: FilePath | None = _unset(
        "Path of the client certificate in PEM: the leaf, then its issuers in order."
    )
    client_key: FilePath | None = _unset("Path of the client certificate's private key in PEM.")
    client_key_password: _Secret | None = _unset("Password of the private key, if it is encrypted.")
    trust_root: FilePath | None = _unset(
        "Path of Lean's certificate chain in PEM; when set, only servers with a "
        "certificate of that chain are trusted."
    )

    max_concurrency: int = _whole(16, 1, 1000, "Requests in flight at once, 1 to 1000.")
    requests_per_second: float = _number(
        20, 0, 10_000, "Requests per second, {}; a burst is at most one second's worth."
    )
    processes: int | None = _whole(
        None,
        1,
        64,
        "Processes that a large sync reads in, 1 to 64; together they keep the limits"
        " above. When unset, one for each 250 requests per second, at most one for each core.",
    )
    shared_limits: Annotated[SecretStr, AfterValidator(_postgres)] | None = _unset(
        "Database in which processes of several machines share the requests per second, pauses and "
        "paused banks: postgresql://user:password@host/database; when unset, each step that reads "
        "keeps to its part of the rate."
    )
    timeout_seconds: float = _number(
        65, 50, 600, "Seconds to wait for an answer, {}: after 50 Lean answers PENDING instead."
    )
    connect_timeout_seconds: float = _number(10, 0, 50, "Seconds to wait for a connection, {}.")
    response_deadline_seconds: float = _number(
        300, 0, 3600, "Seconds for a whole answer to arrive, {}."
    )
    read_deadline_seconds: float = _number(
        7200,
        0,
        86_400,
        "Seconds for all pages of a read to arrive, {}, with waits and repeated requests.",
    )
    max_response_bytes: int = _whole(
        32 * 1024 * 1024,
        64 * 1024,
        1024 * 1024 * 1024,
        "Largest answer that is read, in bytes decompressed, 65536 to 1073741824.",
    )
    attempts: int = _whole(5, 1, 20, "Attempts per request, including the first, 1 to 20.")
    pending_deadline_seconds: float = _number(
        1800, 0, 86_400, "Seconds to wait for the result of a PENDING answer, {}."
    )
    pending_poll_seconds: float = _number(
        30, 0, 3600, "Seconds between two requests for a PENDING result, {}."
    )
    verbose: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="When to ask for verbose records (regional_data): auto (where Lean answers "
        "with records of the older generation), always or never.",
    )
    page_size: int = _whole(100, 1, 100, "Records per page, 1 to 100 (Lean's maximum).")

    @property
    def is_legacy(self) -> bool:
        """Whether the host is an older production host, which requires the application token."""
        legacy = {httpx.URL(url).host for url in LEGACY_HOSTS.values()}
        return self.legacy_host or httpx.URL(self.api_url).host in legacy

    @property
    def requires_certificate(self) -> bool:
        """Whether the host refuses a client without a certificate."""
        return self.is_legacy or httpx.URL(self.api_url).host in _CERTIFICATE_HOSTS

    def contradictions(self) -> Iterator[str]:
        """Problems of values that are valid on their own."""
        pair = "LEAN_CLIENT_ID and LEAN_CLIENT_SECRET"
        if (self.client_id or self.client_secret) and self.app_token:
            yield (
                "LEAN_APP_TOKEN is set beside LEAN_CLIENT_ID or LEAN_CLIENT_SECRET, and Lean "
                f"refuses both at once: remove {pair if self.is_legacy else 'LEAN_APP_TOKEN'}"
            )
        elif bool(self.client_id) != bool(self.client_secret):
            yield self._halved("client_id", "client_secret")
        elif self.client_id and self.is_legacy:
            yield (
                "the legacy host takes no OAuth2 token: set LEAN_APP_TOKEN instead of "
                f"{pair}, or unset LEAN_LEGACY_HOST"
            )
        if bool(self.client_cert) != bool(self.client_key):
            yield self._halved("client_cert", "client_key")
        elif self.client_key_password and not self.client_key:
            yield (
                "LEAN_CLIENT_KEY_PASSWORD is set without LEAN_CLIENT_KEY: set LEAN_CLIENT_CERT and "
                "LEAN_CLIENT_KEY, or remove it"
            )
        yield from _host_problems(self)
        if self.pending_poll_seconds > self.pending_deadline_seconds:
            yield ("LEAN_PENDING_POLL_SECONDS is above LEAN_PENDING_DEADLINE_SECONDS: set it lower")

    def missing(self) -> Iterator[str]:
        """Problems of credentials and of a certificate that the host requires."""
        if not (self.client_id or self.client_secret or self.app_token):
            wanted = "LEAN_APP_TOKEN"
            if not self.is_legacy:
                wanted = f"LEAN_CLIENT_ID and LEAN_CLIENT_SECRET (or {wanted})"
            yield f"no credentials: set {wanted} from Lean's dashboard, Integration"
        if self.requires_certificate and not (self.client_cert or self.client_key):
            yield (
                "the host requires a client certificate: set LEAN_CLIENT_CERT and LEAN_CLIENT_KEY "
                "from Lean's dashboard, Integration, Certificates"
            )


class WebhookSettings(VariableSettings):
    """What the receiver of webhooks needs to know, and where its inbox is.

    Raises:
        ConfigError: As for `LeanSettings`.
    """

    prefix: ClassVar[str] = _WEBHOOK_PREFIX

    secret: _Secret | None = _unset(
        "Webhook secret from Lean's dashboard (Integration); without it, the receiver "
        "does not start."
    )
    next_secret: _Secret | None = _unset(
        "Second webhook secret, accepted too while the secret is changed."
    )
    app_token: _Token | None = _unset(
        "Application token that each webhook must have in lean-app-token; not checked when unset."
    )
    inbox: Annotated[SecretStr, AfterValidator(_database)] | None = _unset(
        "Database of the inbox, as sqlite:////folder/inbox.db or "
        "postgresql://user:password@host/database; an SQLite file beside the lake when unset."
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; behind a proxy, loopback."
    )
    port: int = _whole(8650, 0, 65535, "Port to listen on; 0 for any free port.")
    allow: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = Field(
        default=(),
        description="Addresses or networks that may send webhooks, separated by commas; all when "
        "unset.",
    )
    trusted_hops: int = _whole(
        0,
        0,
        10,
        "Number of your proxies before the receiver. The sender's address is that many "
        "entries from the end of X-Forwarded-For; with 0 it is that of the connection.",
    )
    max_bytes: int = _whole(
        1024 * 1024,
        1024,
        64 * 1024 * 1024,
        "Largest webhook that is read, in bytes, 1024 to 67108864.",
    )
    head_seconds: float = _number(
        5, 0, 60, "Seconds for the head of a request to arrive, {}; a slower connection is closed."
    )
    body_seconds: float = _number(
        5, 0, 10, "Seconds for a body to arrive, {}; Lean gives up after 10."
    )
    tls_cert: FilePath | None = _unset(
        "Path of the receiver's certificate chain in PEM; without it, plain HTTP "
        "behind a proxy that ends TLS."
    )
    tls_key: FilePath | None = _unset("Path of that certificate's private key in PEM.")
    tls_client_authority: FilePath | None = _unset(
        "Path of Lean's certificate chain in PEM; when set, only clients with a "
        "certificate of that chain may connect."
    )

    @property
    def secrets(self) -> tuple[str, ...]:
        """The active secrets."""
        given = (self.secret, self.next_secret)
        return tuple(secret.get_secret_value() for secret in given if secret is not None)

    def contradictions(self) -> Iterator[str]:
        """Problems of values that are valid on their own."""
        if bool(self.tls_cert) != bool(self.tls_key):
            yield self._halved("tls_cert", "tls_key")
        elif self.tls_client_authority and not self.tls_cert:
            yield (
                "LEAN_WEBHOOK_TLS_CLIENT_AUTHORITY is set without LEAN_WEBHOOK_TLS_CERT: set both, "
                "with LEAN_WEBHOOK_TLS_KEY"
            )
        if self.next_secret and not self.secret:
            yield self._halved("next_secret", "secret")

    def missing(self) -> Iterator[str]:
        """Files of TLS that are not there."""
        for field in ("tls_cert", "tls_key", "tls_client_authority"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                yield f"{self.variable(field)} is not a file: set the path of a file"


def _host_problems(settings: LeanSettings) -> Iterator[str]:
    for name, value in (("API", settings.api_url), ("TOKEN", settings.token_url)):
        labels = httpx.URL(value).host.split(".")
        if labels[-2:] != ["leantech", "me"]:
            continue
        region = "sa" if "sa" in labels else "ae"
        environment = "sandbox" if "sandbox" in labels else "production"
        if (region, environment) != (settings.region, settings.environment):
            yield (
                f"LEAN_{name}_URL (or LEAN_LEGACY_HOST) leads to Lean's host for {region} "
                f"{environment}, but LEAN_REGION and LEAN_ENVIRONMENT say {settings.region} "
                f"{settings.environment}: make them agree"
            )


VARIABLES: tuple[Variable, ...] = variables_of(LeanSettings)
WEBHOOK_VARIABLES: tuple[Variable, ...] = variables_of(WebhookSettings)
