"""The result of a stream's sync, in numbers."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import pyarrow as pa
from pydantic import BeforeValidator, PlainSerializer

from pipelines.lake.ledger import Outcome, Pull

APPLICATION = "application"
"""Stands for a bank in what is not read from a bank."""


@dataclass(slots=True)
class Failed:
    """Pulls of one bank that failed with one code.

    Args:
        first_at: When the first of them was asked for, by this machine's clock.
    """

    first_at: dt.datetime
    remedy: str
    count: int = 0


@dataclass(slots=True)
class BankReport:
    """What a sync read of one bank.

    Args:
        pulls: Pulls, whatever their outcome.
        oldest_at: When the bank was last asked, of the oldest bank data copy that was read, UTC;
            None where Lean sent no such instant.
    """

    pulls: int = 0
    failed: int = 0
    rows: int = 0
    requests: int = 0
    oldest_at: dt.datetime | None = None

    def note_pull(self, pull: Pull) -> None:
        """Count a pull."""
        self.pulls += 1
        self.failed += pull.outcome is Outcome.FAILED
        self.rows += pull.rows
        self.requests += pull.requests
        if pull.refreshed_at is not None:
            self.oldest_at = min(self.oldest_at or pull.refreshed_at, pull.refreshed_at)


@dataclass(slots=True)
class Report:
    """The result of a stream's sync, in numbers.

    Args:
        read_targets: Read targets that were considered.
        fresh: Read targets that were not read, because their data is recent enough.
        outcomes: Pulls by outcome.
        codes: Pulls that did not commit, by code.
        failures: Failed pulls by bank (`application` where there is none) and code.
        banks: What was read, by bank (`application` where there is none).
        months: Committed rows by month, for a stream with months.
        rows: Committed rows by stream, including streams that are exploded from it.
        quarantined: Omitted records, because they did not fit.
        unfit: Omitted records, and values that became null, by column and reason.
        requests: Requests made.
        received: Bytes of response bodies, after decompression.
        written: Bytes of files.
        seconds: Wall time.
        standing: Unfit records that still count, also of earlier syncs and exploded streams, by
            column and reason.
        drift: Records with a field that the catalogue does not know, by path.
    """

    read_targets: int = 0
    fresh: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: Annotated[
        dict[tuple[str, str], Failed],
        # JSON has no keys of two texts.
        PlainSerializer(lambda failures: list(failures.items())),
        BeforeValidator(lambda pairs: {tuple(key): failed for key, failed in pairs}),
    ] = field(default_factory=dict)
    banks: dict[str, BankReport] = field(default_factory=dict)
    months: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    standing: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    received: int = 0
    written: int = 0
    seconds: float = 0.0
    drift: Counter[str] = field(default_factory=Counter)

    @property
    def failed_share(self) -> float:
        """Share of failed pulls, from 0 to 1, among attempted pulls and fresh read targets."""
        failed = self.outcomes[Outcome.FAILED]
        tried = self.outcomes.total() - self.outcomes[Outcome.SKIPPED] + self.fresh
        return failed / tried if tried else 0.0

    def note_pull(self, pull: Pull, *, is_counted: bool) -> None:
        """Count a pull.

        Args:
            is_counted: Whether it is a pull of the stream itself. Pulls of exploded streams add
                only rows and quarantined records.
        """
        self.quarantined += pull.quarantined
        self.rows[pull.stream] += pull.rows
        if is_counted:
            bank = pull.bank_identifier or APPLICATION
            self.banks.setdefault(bank, BankReport()).note_pull(pull)
            self.outcomes[pull.outcome] += 1
            self.received += pull.bytes
            if pull.code is not None:
                self.codes[pull.code] += 1
            if pull.outcome is Outcome.FAILED:
                where = (bank, pull.code or "UNKNOWN")
                failed = self.failures.setdefault(where, Failed(pull.asked_at, pull.remedy or ""))
                failed.first_at = min(failed.first_at, pull.asked_at)
                failed.count += 1
            if pull.month is not None and pull.rows:
                self.months[pull.month] += pull.rows

    def add(self, other: Report) -> None:
        """Count what another process read of the same stream."""
        for name in ("outcomes", "codes", "months", "rows", "unfit", "drift"):
            getattr(self, name).update(getattr(other, name))
        for name in ("quarantined", "requests", "received", "written"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, failed in other.failures.items():
            mine = self.failures.setdefault(key, Failed(failed.first_at, failed.remedy))
            mine.first_at = min(mine.first_at, failed.first_at)
            mine.count += failed.count
        for name, bank in other.banks.items():
            own = self.banks.setdefault(name, BankReport())
            for count in ("pulls", "failed", "rows", "requests"):
                setattr(own, count, getattr(own, count) + getattr(bank, count))
            known = [at for at in (own.oldest_at, bank.oldest_at) if at is not None]
            own.oldest_at = min(known, default=None)

    def note_unfit(self, quarantine: pa.Table) -> None:
        """Count records in quarantine by column and reason; no value is kept."""
        names = quarantine["column_name"].to_pylist()
        reasons = quarantine["reason"].to_pylist()
        self.unfit.update(f"{name} {reason}" for name, reason in zip(names, reasons, strict=True))
