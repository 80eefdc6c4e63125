"""Alerts: a message when a problem begins, and another when it has ended.

Each target has a record of the problems that were sent to it. The record is written after the
message was accepted, so a crash between the two sends the message a second time.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from filelock import FileLock, Timeout

from lean_resources.errors import ConfigError, UnavailableError
from pipelines.lake.folder import Folder
from pipelines.lake.storage import Key
from pipelines.operate.health import Health
from pipelines.operate.problems import RULES, Problem, check_rules, in_order

if TYPE_CHECKING:
    import apprise

    from pipelines.sync.policy import Alerts

_MOST_SHOWN = 20
"""Problems that a message names; it counts the others."""
_LOCK_SECONDS = 30


class _Sent(msgspec.Struct):
    """A problem that was sent to a target, until its end was sent too."""

    title: str
    sent_at: dt.datetime


class _Record(msgspec.Struct):
    """What was sent, by target; and since when each problem has been seen."""

    targets: dict[str, dict[str, _Sent]] = {}
    first_seen: dict[str, dt.datetime] = {}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to a target.

    Args:
        target: The service and the target's place in the list, without its address.
        is_delivered: Whether the target accepted it; if not, the next look sends it again.
    """

    target: str
    begun: int
    ended: int
    is_delivered: bool


class Alarm:
    """Sends alerts of one environment.

    Args:
        urls: Addresses of targets, as apprise reads them; they hold secrets.
        home: Folder of the state, where the record lies.

    Raises:
        ConfigError: apprise is not installed, it cannot read an address, or a rule does not exist.
    """

    def __init__(self, urls: Sequence[str], rules: Alerts, home: Path, environment: str) -> None:
        check_rules(rules.after_minutes, "after_minutes")
        self._targets = _targets(urls)
        self._rules = rules
        self._storage = Folder(home)
        self._key = Key(f"alerts/{environment}.json")
        self._environment = environment

    def test(self) -> list[Delivery]:
        """Send a test message to each target; changes no record."""
        title = f"leanhouse {self._environment}: test"
        body = "This is a test. A problem arrives like this, with its remedy."
        return [
            Delivery(name, 0, 0, is_delivered=bool(target.notify(body, title=title)))
            for name, target in self._targets
        ]

    def look(self, health: Health) -> list[Delivery]:
        """Send what has begun and what has ended since the last look.

        A problem that another explains, or that the policy accepts, has not ended. Nothing ends
        while the lake cannot be read.

        Args:
            health: How things stand now, with machine and runs looked at.

        Returns:
            A delivery per target that had something to hear; empty if nothing has changed.

        Raises:
            UnavailableError: Another process sends alerts and does not finish.
        """
        lock = self._storage.local(self._key.with_suffix(".lock"))
        self._storage.folder(self._key.parent)
        try:
            with FileLock(lock, timeout=_LOCK_SECONDS):
                return self._look(health)
        except Timeout:
            raise UnavailableError(
                f"another process has been sending alerts for {_LOCK_SECONDS} s: end it"
            ) from None

    def _look(self, health: Health) -> list[Delivery]:
        record = self._read()
        now = health.as_of
        found = _by_key(health.problems)
        lasting = found.keys() | _by_key([*health.explained, *health.accepted]).keys()
        if not health.is_whole:
            lasting |= {key for sent in record.targets.values() for key in sent}
        record.first_seen = {key: record.first_seen.get(key, now) for key in lasting}
        due = {
            key: problems
            for key, problems in found.items()
            if self._is_due(problems[0], now - record.first_seen[key])
        }
        known = record.targets
        record.targets = {_id(target): known.get(_id(target), {}) for _, target in self._targets}
        deliveries = []
        for name, target in self._targets:
            sent = record.targets[_id(target)]
            begun = {key: due[key] for key in due.keys() - sent.keys()}
            ended = {key: sent[key] for key in sent.keys() - lasting}
            if not begun and not ended:
                continue
            title, body = self._title(begun, ended), _body(begun, ended.values())
            is_delivered = bool(target.notify(body, title=title, notify_type=_type(begun)))
            deliveries.append(Delivery(name, len(begun), len(ended), is_delivered=is_delivered))
            if is_delivered:
                for key in ended:
                    del sent[key]
                sent.update({key: _Sent(_headline(begun[key][0]), now) for key in begun})
                self._write(record)
        self._write(record)
        return deliveries

    def _is_due(self, problem: Problem, lasted: dt.timedelta) -> bool:
        """Whether a problem is severe enough for an alert, and has lasted long enough."""
        if self._rules.severity == "error" and problem.severity != "error":
            return False
        return lasted >= dt.timedelta(minutes=self._rules.after_minutes.get(problem.rule, 0))

    def _title(self, begun: Mapping[str, object], ended: Mapping[str, object]) -> str:
        counts = ((len(begun), "began"), (len(ended), "ended"))
        said = ", ".join(f"{count} {verb}" for count, verb in counts if count)
        return f"leanhouse {self._environment}: problems: {said}"

    def _read(self) -> _Record:
        """The record; a new one if there is none, or if it cannot be read."""
        try:
            return msgspec.json.decode(self._storage.read(self._key), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return _Record()

    def _write(self, record: _Record) -> None:
        self._storage.put(self._key, msgspec.json.encode(record))


def _targets(urls: Sequence[str]) -> list[tuple[str, apprise.Apprise]]:
    """Each target with a name that can be shown."""
    try:
        import apprise  # noqa: PLC0415 - slow, and not needed without alerts
    except ImportError:
        raise ConfigError(
            "alerts need the package apprise: pip install 'leanhouse[alerts]'"
        ) from None
    for logger in ("apprise", "urllib3"):  # their messages hold addresses
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    targets = []
    for number, url in enumerate(urls, 1):
        target = apprise.Apprise()
        if not target.add(url):
            raise ConfigError(
                f"LEANHOUSE_ALERT_URLS: address {number} is not valid;"
                " docs/operate.md has an example of each kind"
            )
        targets.append((f"{target[0].service_name} ({number})", target))
    return targets


def _id(target: apprise.Apprise) -> str:
    """What identifies an address in the record, without its secret."""
    return str(target[0].url_id())  # type: ignore[no-untyped-call]


def _by_key(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Problems by what identifies them; a bank may fail with several codes."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(f"{problem.rule} {problem.subject}", []).append(problem)
    return found


def _type(begun: Mapping[str, Sequence[Problem]]) -> str:
    severities = {problem.severity for problems in begun.values() for problem in problems}
    return "failure" if "error" in severities else "warning" if severities else "success"


def _headline(problem: Problem) -> str:
    return f"{problem.subject}: {RULES[problem.rule].title}"


def _body(begun: Mapping[str, Sequence[Problem]], ended: Iterable[_Sent]) -> str:
    """The message, errors first, at most so many problems of each kind."""
    started = in_order(problem for problems in begun.values() for problem in problems)
    entries = [_entry(problem) for problem in started[:_MOST_SHOWN]]
    over = [f"Ended: {sent.title}, begun {sent.sent_at:%Y-%m-%d %H:%M} UTC" for sent in ended]
    entries += sorted(over)[:_MOST_SHOWN]
    left = len(started) + len(over) - len(entries)
    if left:
        entries.append(f"{left:,} more: run leanhouse status.")
    return "\n\n".join(entries)


def _entry(problem: Problem) -> str:
    since = f", since {problem.since:%Y-%m-%d %H:%M} UTC" if problem.since else ""
    code = f" ({problem.code})" if problem.code else ""
    kind = "Error" if problem.severity == "error" else "Warning"
    return f"{kind}: {_headline(problem)}{code}{since}\n{problem.message}.\nDo: {problem.remedy}"
