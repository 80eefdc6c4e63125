"""What a sync of one stream did, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.lake.ledger import Outcome, Pull

__all__ = ["Report"]


@dataclass(slots=True)
class Report:
    """What a sync of one stream did.

    Args:
        read_targets: How many read targets were looked at.
        fresh: How many were left alone, because what is known of them is new enough.
        outcomes: Pulls by outcome.
        codes: Pulls that did not commit, by code.
        rows: Rows that were committed, by stream; a stream may bring another along.
        quarantined: Records that did not fit and were left out.
        unfit: Records that were left out, and values that became null, by column and reason.
        requests: Requests made.
        received: Bytes of bodies, decoded.
        written: Bytes of files.
        seconds: Wall time.
        standing: Records that do not fit and still count, whenever they were read, by column and
            reason; also those of streams that come along.
        drift: Records with a field that the catalogue does not know, by path.
    """

    read_targets: int = 0
    fresh: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
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
        """Share of failed pulls, from 0 to 1, among pulls that were tried or are fresh."""
        failed = self.outcomes[Outcome.FAILED]
        tried = self.outcomes.total() - self.outcomes[Outcome.SKIPPED] + self.fresh
        return failed / tried if tried else 0.0

    def note_pull(self, pull: Pull, *, is_counted: bool) -> None:
        """Count a pull.

        Args:
            pull: The pull.
            is_counted: Whether it is one of the stream itself. Pulls of a stream that comes along
                add rows and quarantined records only.
        """
        self.quarantined += pull.quarantined
        self.rows[pull.stream] += pull.rows
        if is_counted:
            self.outcomes[pull.outcome] += 1
            self.received += pull.bytes
            if pull.code is not None:
                self.codes[pull.code] += 1

    def note_unfit(self, quarantine: pa.Table) -> None:
        """Count what went to quarantine, without a value."""
        names = quarantine["column_name"].to_pylist()
        reasons = quarantine["reason"].to_pylist()
        self.unfit.update(f"{name} {reason}" for name, reason in zip(names, reasons, strict=True))
