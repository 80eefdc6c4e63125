"""The environment of this process: no other file reads it. It is read once and validated whole.

It does not import Dagster, so that a command without Dagster starts at once.
"""

from __future__ import annotations

import functools
import grp
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from lean_resources.errors import ConfigError
from lean_resources.settings import VARIABLES, WEBHOOK_VARIABLES, LeanSettings, WebhookSettings
from lean_resources.variables import (
    FilePath,
    Switch,
    Variable,
    VariableSettings,
    misspelt,
    variables_of,
)
from pipelines.keys import SANDBOX_KEY
from pipelines.shipped import DEFAULT_HOME

AnySettings = TypeVar("AnySettings", bound=VariableSettings)

_UNSAFE = re.compile(r"[*?\[\]\\%\x00-\x1f\x7f]")
"""Characters that DuckDB or Dagster read as patterns or escapes in a path."""


def state_folder(path: Path, named: str = "the folder of the state") -> Path:
    """A folder for the state, as an absolute path that every part can use.

    Args:
        path: The folder, which need not exist.
        named: What a problem calls it.

    Raises:
        ConfigError: A character of its path has a special meaning for DuckDB or Dagster, or the
            path is a file.
    """
    if problem := _unfit(path):
        raise ConfigError(f"{named} {problem}")
    return path.resolve()


def _unfit(folder: Path) -> str | None:
    """Why a folder cannot hold the state, or None."""
    whole = folder.resolve()
    if unsafe := _UNSAFE.search(str(whole)):
        return (
            f"has {unsafe[0]!a} in its path, which DuckDB or Dagster reads as a pattern or an"
            " escape: choose a folder without it"
        )
    if whole.exists() and not whole.is_dir():
        return "is not a folder: choose one"
    return None


_URL = re.compile(r"(s3|gs|az)://[\w.-]+(/[\w.=+-]+)*/?")
"""An object store and a prefix in it, without credentials and without what DuckDB takes for a
pattern."""


def _lake(place: str) -> str:
    """A place of lakes: the URL of an object store, or a folder as an absolute path."""
    if "://" not in place:
        try:
            return str(_folder(Path(place).expanduser()))
        except RuntimeError:
            raise PydanticCustomError("path", "contains the home of an unknown user (~)") from None
    if not _URL.fullmatch(place):
        raise PydanticCustomError(
            "url",
            "is neither a folder nor s3://bucket/prefix, gs://bucket/prefix or"
            " az://container/prefix; credentials belong into the provider's own variables",
        )
    return place.rstrip("/")


def _folder(path: Path) -> Path:
    if problem := _unfit(path):
        raise PydanticCustomError("path", "{problem}", {"problem": problem})
    return path.resolve()


def _group(name: str) -> str:
    try:
        gid = grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise PydanticCustomError("group", "is not a group of this machine") from None
    if os.geteuid() and gid not in {os.getegid(), *os.getgroups()}:
        raise PydanticCustomError("group", "is a group that this process is not in")
    return name


class HouseSettings(VariableSettings):
    """Where the state lies, and how personal values are kept.

    Raises:
        ConfigError: A value is not valid; the message names its variable and holds no value.
    """

    prefix: ClassVar[str] = "LEANHOUSE_"

    home: Annotated[FilePath, AfterValidator(_folder)] = Field(
        default_factory=lambda: DEFAULT_HOME,
        validate_default=True,
        description="Folder of the lake and of everything else that is kept, without any of"
        " * ? [ ] \\ % in its path; when unset, var in the checkout, or ~/.leanhouse without one.",
    )
    lake: Annotated[str, AfterValidator(_lake)] | None = Field(
        default=None,
        description="Where the lake lies: s3://bucket/prefix, gs://bucket/prefix,"
        " az://container/prefix or a folder; the folder lake in the home when unset. docs/store.md"
        " says which variables have the credentials of an object store.",
    )
    cache: Annotated[FilePath, AfterValidator(_folder)] | None = Field(
        default=None,
        description="Folder of local copies of an object store's files, which may be deleted at any"
        " time; the folder cache in the home when unset.",
    )
    cache_gb: float = Field(
        default=20,
        gt=0,
        description="Size of these copies in GB; a process that reads more at once keeps more until"
        " it ends.",
    )
    hash_key: SecretStr | None = Field(
        default=None,
        description="Key of the hashes that stand for account numbers in the tables: 32 to 64"
        " random characters, required in production. Another key makes other hashes: see"
        " docs/personal-data.md.",
    )
    file_group: Annotated[str, AfterValidator(_group)] | None = Field(
        default=None,
        description="Group that may read the files of the state, beside their owner; nobody else"
        " may when unset.",
    )
    metrics_file: FilePath | None = Field(
        default=None,
        description="File of Prometheus' text format that each sync and build replaces, such as"
        " /var/lib/node_exporter/leanhouse.prom; none is written when unset.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="How logs are written to standard error: text, or json for an object per line.",
    )
    alert_urls: SecretStr | None = Field(
        default=None,
        description="Where alerts go: addresses as apprise reads them, separated by spaces, for"
        " Slack, e-mail or any URL; docs/operate.md has examples.",
    )
    iceberg: Switch = Field(
        default=False,
        description="Whether the nightly sync and leanhouse build publish the marts as Iceberg"
        " tables too: true or false. docs/engines.md says how to read them.",
    )
    iceberg_catalogue: SecretStr | None = Field(
        default=None,
        description="Catalogue of the Iceberg tables: postgresql://user:password@host/database, or"
        " a REST catalogue as https://host/path?credential=…&warehouse=…; an SQLite file in the"
        " lake when unset.",
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Steps in which the nightly sync reads the entities, 1 to 64, each a part of"
        " them; docs/operate.md says when it is worth it.",
    )
    executor: Literal["in_process", "multiprocess", "k8s", "celery_k8s"] = Field(
        default="in_process",
        description="What runs the steps of a sync in shards: in_process (one after the other),"
        " multiprocess, k8s (dagster-k8s) or celery_k8s (dagster-celery-k8s).",
    )
    pii: Switch = Field(
        default=False,
        description="Whether the warehouse has a schema pii with the personal columns: true or"
        " false.",
    )


HOUSE_VARIABLES: tuple[Variable, ...] = variables_of(HouseSettings)

KNOWN = frozenset(one.name for one in (*HOUSE_VARIABLES, *VARIABLES, *WEBHOOK_VARIABLES))
"""Names of all variables."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the environment, validated; every command and Dagster read them here.

    Args:
        lean: Lean's hosts, credentials and limits; `complete` checks that none is missing.
        webhooks: How webhooks are received; `complete` checks that its files exist.
    """

    house: HouseSettings
    lean: LeanSettings
    webhooks: WebhookSettings
    dagster_home: Path

    @property
    def environment(self) -> str:
        """`sandbox` or `production`."""
        return self.lean.environment

    @property
    def home(self) -> Path:
        """Folder of the state."""
        return self.house.home

    @property
    def lake(self) -> str:
        """Where the lakes of all environments lie: a folder, or the URL of an object store."""
        return self.house.lake or str(self.home / "lake")

    @property
    def cache(self) -> Path:
        """Folder of local copies of an object store's files."""
        return self.house.cache or self.home / "cache"

    @property
    def folders(self) -> list[Path]:
        """Local folders that hold the state, or a copy of it."""
        found = [self.home, self.cache]
        found += [] if "://" in self.lake else [Path(self.lake)]
        return [self.home, *(one for one in found if not one.is_relative_to(self.home))]

    def at(self, home: Path | None) -> Settings:
        """These settings for another home, which holds Dagster's runs; None changes nothing.

        A lake that is set stays where it is.

        Raises:
            ConfigError: As `state_folder`.
        """
        if home is None:
            return self
        folder = state_folder(home, "--home")
        house = self.house.model_copy(update={"home": folder})
        return replace(self, house=house, dagster_home=folder / "dagster")

    def each(self) -> Iterator[tuple[VariableSettings, str]]:
        """Each setting, as the group that has it and the name of its field."""
        for group in (self.house, self.lean, self.webhooks):
            for field in type(group).model_fields:
                yield group, field

    @property
    def readers(self) -> int:
        """Steps that may read Lean at once, in all runs; more only where they share one rate."""
        shards = self.house.shards
        return shards + 1 if shards > 1 and self.lean.shared_limits is not None else shards

    @property
    def hash_key(self) -> str:
        """Key of hashed account numbers; the sandbox's key if none is set."""
        given = self.house.hash_key
        return SANDBOX_KEY if given is None else given.get_secret_value()

    @property
    def alert_urls(self) -> list[str]:
        """Addresses of alerts; they hold secrets."""
        given = self.house.alert_urls
        return given.get_secret_value().split() if given is not None else []

    @property
    def iceberg_catalogue(self) -> str:
        """URL of the catalogue of Iceberg tables; empty for the file in the lake."""
        given = self.house.iceberg_catalogue
        return given.get_secret_value() if given is not None else ""

    @property
    def has_webhooks(self) -> bool:
        """Whether webhooks are set up."""
        return self.webhooks.secret is not None or self.webhooks.inbox is not None

    @property
    def inbox_url(self) -> str:
        """SQLAlchemy URL of the inbox of webhooks; empty if webhooks are not set up."""
        if self.webhooks.inbox is not None:
            return self.webhooks.inbox.get_secret_value()
        if not self.has_webhooks:
            return ""
        file = self.home / "inbox" / f"{self.environment}.db"
        return f"sqlite:///{urllib.parse.quote(str(file))}"

    @classmethod
    def load(cls, values: Mapping[str, str]) -> Settings:
        """Read all settings from a mapping like an environment.

        Raises:
            ConfigError: A name is misspelt, or a value is not valid or contradicts another value;
                the message has all problems.
        """
        given = {name: values[name] for name in KNOWN & values.keys()}
        problems = [*misspelt(values, KNOWN, ("LEANHOUSE_", "LEAN_WEBHOOK_"))]
        dagster_home = values.get("DAGSTER_HOME")
        if dagster_home and (problem := _unfit(Path(dagster_home))):
            problems.append(f"DAGSTER_HOME {problem}")
        house = _read(HouseSettings, given, problems)
        lean = _read(LeanSettings, given, problems)
        webhooks = _read(WebhookSettings, given, problems)
        if problems or house is None or lean is None or webhooks is None:
            raise ConfigError("; ".join(problems))
        return cls(house, lean, webhooks, Path(dagster_home or house.home / "dagster"))


def _read(
    kind: type[AnySettings], given: Mapping[str, str], problems: list[str]
) -> AnySettings | None:
    """Settings of a kind; None if there are problems, which are added to `problems`."""
    try:
        return kind.load(given, is_complete=False)
    except ConfigError as error:
        problems.append(error.message)
        return None


@functools.cache
def settings() -> Settings:
    """The settings of this process, read from its environment once.

    Raises:
        ConfigError: As `Settings.load`.
    """
    return Settings.load(os.environ)


def provider_variable(*names: str) -> str:
    """The first of some variables of a provider of object stores that is set, or nothing."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def log_format() -> str:
    """The format of logs, also where another setting is wrong; it may be no known format."""
    return os.environ.get("LEANHOUSE_LOG_FORMAT", "").strip()


def child_of(values: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment of a child process that uses the given settings and folders only.

    Args:
        values: Settings by field name; those of the receiver begin with `webhook_`.
        home: Folder of the state; Dagster's own lies in `dagster` inside it.
    """
    names = {variable.field: variable.name for variable in VARIABLES}
    names |= {f"webhook_{variable.field}": variable.name for variable in WEBHOOK_VARIABLES}
    return {
        **{name: value for name, value in os.environ.items() if name not in KNOWN},
        **{names[field]: value for field, value in values.items()},
        "LEANHOUSE_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
