"""Support bundle: what a report of a fault needs, without a personal value and without a secret.

A part that cannot be made says why, so that a damaged home has a bundle too. The parts are made so
that they hold neither; a search before anything is written is the second barrier.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import platform
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

from lean_resources.errors import ConfigError, LeanError
from lean_resources.streams import Stream
from pipelines.environment import Settings
from pipelines.lake.digests import DamageError
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder
from pipelines.lake.folders import rows_of, superseded_of
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.places import walk
from pipelines.lake.queries import records
from pipelines.lake.schemas import lake_schema
from pipelines.lake.storage import Key, Storage
from pipelines.models.loader import load
from pipelines.models.manifest import current_manifest
from pipelines.operate.fsck import check
from pipelines.operate.run_problems import recorded_runs, run_problems
from pipelines.publish.leaks import leaking

_SHOWN = {"region", "environment", "verbose", "log_format", "api_url", "token_url"}
"""Text settings whose values are shown; of numbers and switches all are."""
_SHORTEST = 6
"""Characters from which a secret is searched for within texts; shorter ones are whole texts."""


class BundleError(ConfigError):
    """The bundle would hold a personal value or a secret; the message names its part only."""

    remedy = (
        "Nothing was written. Take the value out of policy.toml if that is the part; otherwise"
        " report the part's name to the maintainers."
    )


def write_bundle(file: Path, settings: Settings, status: Callable[[], object]) -> list[str]:
    """Write the bundle, whole or not at all, for its owner alone; nothing else is written.

    Args:
        file: The zip file, which does not exist yet, outside of the home.
        settings: Settings whose home may be empty or damaged.
        status: Gives what `leanhouse status --json` shows.

    Returns:
        Names of the parts.

    Raises:
        BundleError: A part holds a personal value or a secret.
        ConfigError: The file exists, or is in the home.
    """
    file = file.resolve()
    target, key = Folder(file.parent), Key(file.name)
    if target.head(key) is not None or file.is_relative_to(settings.home):
        raise ConfigError(f"{file} exists or is in the home: choose another file")
    lake = _Readable(settings.lake, settings.environment)
    paths = _paths(settings)
    parts = {"status.json": _text(status, paths)}
    parts |= {name: _text(make, paths) for name, make in _makers(lake, settings)}
    if found := [*_secrets_in(parts, settings), *_personal_in(parts, lake)]:
        raise BundleError(f"a secret or a personal value stands in {', '.join(sorted({*found}))}")
    head = {"made_at": dt.datetime.now(dt.UTC), "files_not_searched": lake.unreadable}
    parts["bundle.json"] = _pretty(head)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in parts.items():
            packed.writestr(name, text)

    def fill(staged: Path) -> None:
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content.getvalue())

    if not target.create(key, fill, f".{file.name}-{new_id()}"):
        raise ConfigError(f"{file} exists: choose another file")
    return list(parts)


class _Readable(Lake):
    """A lake whose history is every row of every file that can be opened, committed or not."""

    unreadable = 0

    def history(self, stream: Stream, months: object = None) -> str:  # noqa: ARG002 - as in Lake
        """The SELECT of these rows; `unreadable` counts the other files."""
        patterns = (f"{place(stream)}/*/*.parquet" for place in (rows_of, superseded_of))
        keys = [one.key for pattern in patterns for one in self.storage.list(pattern)]
        sound = [key for key in keys if _opens(self.storage, key)]
        self.unreadable += len(keys) - len(sound)
        return self._reading(sound, lake_schema(stream))


def _opens(storage: Storage, key: Key) -> bool:
    try:
        pq.read_table(storage.local(key), partitioning=None)
    except (OSError, pa.ArrowException, DamageError):
        return False
    return True


def _makers(lake: Lake, settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each part by its name, and what makes it: a text, or what becomes JSON."""
    yield "versions.json", _versions
    yield "settings.json", lambda: dict(_settings(settings))
    yield "runs.json", lambda: _runs(settings.dagster_home)
    yield "ledger.json", lambda: _ledger(lake)
    yield "tables.json", lambda: _tables(lake)
    yield "places.json", lambda: _places(settings.home, lake)
    yield "fsck.json", lambda: _fsck(lake)
    if (policy := settings.home / "policy.toml").is_file():
        yield "policy.toml", lambda: policy.read_text(encoding="utf-8")


def _paths(settings: Settings) -> dict[str, str]:
    """Paths that may name a person, the longest first, each with what stands for it."""
    paths = {Path.home(): "~"}
    paths |= {settings.dagster_home: "$DAGSTER_HOME", settings.home: "$LEANHOUSE_HOME"}
    for group, field in settings.each():
        if isinstance(path := getattr(group, field), Path):
            paths.setdefault(path, f"${group.variable(field)}")
    named = {settings.lake: "$LEANHOUSE_LAKE"} | {str(path): name for path, name in paths.items()}
    return {path: named[path] for path in sorted(named, key=len, reverse=True) if len(path) > 1}


def _text(make: Callable[[], object], paths: Mapping[str, str]) -> str:
    """A part as text; what could not be made is its error."""
    try:
        made = make()
    except Exception as error:  # noqa: BLE001 - whatever is broken, the rest is worth having
        # The text of an error that is not ours may quote a value.
        said = error.message if isinstance(error, LeanError) else None
        made = {"failed": type(error).__name__, "message": said}
    text = made if isinstance(made, str) else _pretty(made)
    for path, name in paths.items():
        text = text.replace(path, name)
    return text


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _versions() -> object:
    packages = {one.name: one.version for one in distributions()}
    return {
        "leanhouse": packages["leanhouse"],
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": dict(sorted(packages.items())),
    }


def _settings(settings: Settings) -> Iterator[tuple[str, object]]:
    """Each setting by its variable: whether it is set, and the value if it may be shown."""
    for group, field in settings.each():
        about: dict[str, object] = {"is_set": field in group.model_fields_set}
        value = getattr(group, field)
        if field in _SHOWN or isinstance(value, int | float):
            about["value"] = value
        yield group.variable(field), about


def _runs(dagster_home: Path) -> object:
    with recorded_runs(dagster_home) as instance:
        return msgspec.to_builtins(run_problems(instance) if instance is not None else [])


def _ledger(lake: Lake) -> object:
    with lake.connect((), is_checked=False) as connection:
        return records(connection, "bundle_pulls")


def _tables(lake: Lake) -> object:
    """Of the newest build: rows by table and offenders by check, without the rows shown."""
    manifest = current_manifest(lake)
    return {
        "build": manifest.number,
        "restores": manifest.restores,
        "rows": {
            name: sum(one.rows for one in parts.values()) for name, parts in manifest.parts.items()
        },
        "offenders": {
            f"{name}.{check_name}": result.offenders
            for name, checks in manifest.checks.items()
            for check_name, result in checks.items()
        },
    }


def _places(home: Path, lake: Lake) -> object:
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    found = walk(Folder(home))
    if not lake.folder.is_relative_to(home) or not isinstance(lake.storage, Folder):
        found = chain(found, walk(lake.storage, f"lake/{lake.environment}/"))
    for one in found:
        name = one.place.name if one.place is not None else "unknown"
        files[name] += 1
        sizes[name] += one.bytes
    return {name: {"files": files[name], "bytes": sizes[name]} for name in sorted(files)}


def _fsck(lake: Lake) -> object:
    report = check(lake)
    findings = Counter(f"{one.kind} {one.problem}" for one in report.findings)
    return {
        "verified": report.verified,
        "unverified": report.unverified,
        "findings": dict(sorted(findings.items())),
    }


def _secrets_in(parts: Mapping[str, str], settings: Settings) -> Iterator[str]:
    """Parts that hold a secret of the settings, or a word of one such as a URL's password."""
    values = (getattr(group, field) for group, field in settings.each())
    given = [settings.lean.client_id or ""]
    given += [one.get_secret_value() for one in values if isinstance(one, SecretStr)]
    secrets = {word for one in given for word in (one, *one.split())}
    secrets |= {
        part for one in secrets if "@" in one for part in one.rpartition("@")[0].split("/")[-1:]
    }
    secrets |= {one.rpartition(":")[2] for one in secrets if "://" not in one}
    for name, text in parts.items():
        leaves = {*_leaves(name, text)}
        for secret in filter(None, secrets):
            if secret in leaves or (
                len(secret) >= _SHORTEST and any(secret in leaf for leaf in (text, *leaves))
            ):
                yield name


def _personal_in(parts: Mapping[str, str], lake: Lake) -> list[str]:
    """Parts that hold a personal value of the lake.

    Raises:
        ConfigError: The lake cannot be searched.
    """
    rows = [(name, leaf) for name, text in parts.items() for leaf in {text, *_leaves(name, text)}]
    with open_duckdb() as connection:
        connection.execute("create temp table leaves (place varchar, text varchar)")
        connection.executemany("insert into leaves values ($1, $2)", rows)
        try:
            return leaking(connection, lake, load(), "select place, text from leaves")
        except duckdb.Error:
            raise ConfigError(
                "the lake's personal values cannot be read, so that nothing can be searched for"
                " them: run leanhouse fsck"
            ) from None


def _leaves(name: str, text: str) -> Iterator[str]:
    """Names and texts of a part's JSON, unescaped; the lines of another text."""
    if not name.endswith(".json"):
        yield from text.splitlines()
        return
    left: list[Any] = [msgspec.json.decode(text)]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif one is not None:
            yield str(one)
