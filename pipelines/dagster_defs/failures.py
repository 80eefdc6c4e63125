"""Expected failures, as Dagster acts on them and as people read them.

A stream that fails stops nothing else. Its step succeeds and reports the failed check
`is_complete`, with severity ERROR. Tables that read the stream say that they are stale, and the
asset `sync_outcome` fails the run. A run without that asset fails in the step of the stream.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from lean_resources.errors import ConfigError, LeanError, MachineError, UnavailableError
from lean_resources.machine import machine_error
from lean_resources.streams import STREAMS
from pipelines.lake.digests import DamageError, damage_error
from pipelines.operate.run_problems import values_of
from pipelines.sync.report import Report

COMPLETE = "is_complete"
"""The check of a stream, and of the refresh, that says whether everything was read."""
FRESH = "is_fresh"
"""The check of a table that says whether it was built, and whether its streams were read."""
OUTCOME = "sync_outcome"
"""The asset that fails a run in which a stream failed."""

_RETRIES = 2
_RETRY_SECONDS = 60
PROBLEM = "problem"
STREAM_CHECKS = [dg.AssetCheckKey(dg.AssetKey(name), COMPLETE) for name in (*STREAMS, "refresh")]
_MOST_SHOWN = 3

Context = dg.AssetExecutionContext | dg.OpExecutionContext


@dataclass(slots=True)
class Attempt:
    """How the work of a step ended.

    Args:
        problem: Why it failed, with the remedy; None if it did not fail.
        reason: The same without code and remedy.
        is_unreachable: Whether it failed because Lean cannot be reached.
    """

    problem: str | None = None
    reason: str = ""
    code: str = ""
    remedy: str = ""
    is_unreachable: bool = False

    def fail(self, reason: str, code: str, remedy: str, *, problem: str | None = None) -> None:
        """Note why it failed; `problem` is the whole sentence where it has another form."""
        self.reason, self.code, self.remedy = reason, code, remedy
        self.problem = problem or f"{reason} ({code}). {remedy}"

    def verdict(
        self, asset: str, metadata: Mapping[str, Any], *, is_complete: bool = True
    ) -> dict[str, Any]:
        """Arguments for the result of the check `is_complete`.

        Args:
            is_complete: Whether all that was tried succeeded, if the work did not fail.
        """
        is_failed = self.problem is not None
        return {
            "asset_key": dg.AssetKey(asset),
            "check_name": COMPLETE,
            "passed": is_complete and not is_failed,
            "severity": dg.AssetCheckSeverity.ERROR if is_failed else dg.AssetCheckSeverity.WARN,
            "metadata": {**(asdict(self) if is_failed else {}), **metadata},
        }


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn expected errors of a block into exceptions that Dagster acts on.

    Raises:
        RetryRequested: Lean cannot be reached.
        Failure: Any other expected error, with its remedy; also trouble of this machine.
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except UnavailableError as error:
        raise _retry(error) from _failure(error)
    except Exception as error:
        problem = _expected(error)
        if problem is None:
            raise
        raise _failure(problem) from None


@contextlib.contextmanager
def attempted(context: Context, what: str) -> Iterator[Attempt]:
    """Record why a block failed, and say it in the run's log, instead of failing the step.

    While Lean cannot be reached, the first step of a run that finds out is tried again.

    Raises:
        RetryRequested: Lean cannot be reached, and waiting may help.
        Failure: A setting is wrong, so nothing can be read.
    """
    attempt = Attempt()
    try:
        yield attempt
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        if isinstance(error, ConfigError) and not isinstance(error, DamageError):
            raise _failure(error) from None
        if isinstance(error, UnavailableError):
            attempt.is_unreachable = True
            if context.retry_number < _RETRIES and not _is_down(context):
                raise _retry(error) from _failure(error)
        expected = _expected(error)
        if expected is None:
            context.log.exception("an error that is not expected")
            reason = f"{type(error).__name__}, which is a defect"
            remedy = "Report it with the step's log, which says where."
            attempt.fail(reason, "DEFECT", remedy, problem=f"{reason}. {remedy}")
        else:
            attempt.fail(expected.message, expected.code, expected.remedy)
    if attempt.problem is not None:
        context.log.error("%s: %s", what, attempt.problem)


def _retry(error: UnavailableError) -> dg.RetryRequested:
    return dg.RetryRequested(
        max_retries=_RETRIES, seconds_to_wait=error.retry_after or _RETRY_SECONDS
    )


def _is_down(context: Context) -> bool:
    """Whether a step of this run has waited for Lean in vain already."""
    found = _failed_checks(context.instance, STREAM_CHECKS, [context.run.run_id])
    return any(metadata.get("is_unreachable") for metadata in found.values())


def _expected(error: Exception) -> LeanError | MachineError | None:
    if isinstance(error, LeanError):
        return error
    return machine_error(error) or damage_error(error)


def _failure(error: LeanError | MachineError) -> dg.Failure:
    # An answer of Lean explains itself; the message of these errors needs the remedy too.
    is_ours = isinstance(error, ConfigError | MachineError)
    metadata = {"remedy": error.remedy, "code": error.code}
    if isinstance(error, LeanError):
        metadata["correlation_id"] = error.correlation_id or "none"
        metadata["trace_id"] = error.trace_id or "none"
    return dg.Failure(
        f"{error.message}. {error.remedy}" if is_ours else error.message,
        metadata=metadata,
        allow_retries=False,
    )


def failure_text(report: Report) -> str:
    """What failed in a stream: by code, with the banks and the remedy, the most frequent first."""
    banks: dict[str, Counter[str]] = defaultdict(Counter)
    remedies: dict[str, str] = {}
    for (bank, code), failed in report.failures.items():
        banks[code][bank] += failed.count
        remedies[code] = failed.remedy
    tried = report.outcomes.total()
    texts = []
    for code, found in sorted(banks.items(), key=lambda item: -item[1].total())[:_MOST_SHOWN]:
        places = [f"{count:,} at {bank}" for bank, count in found.most_common(_MOST_SHOWN)]
        if len(found) > _MOST_SHOWN:
            places.append(f"the rest at {len(found) - _MOST_SHOWN:,} more banks")
        texts.append(
            f"{found.total():,} of {tried:,} pulls failed with {code}"
            f" ({', '.join(places)}): {remedies[code]}"
        )
    return " ".join(texts)


def grouped(failures: Mapping[str, str]) -> list[str]:
    """A line for each reason, with what failed for it."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in failures.items():
        names[reason].append(name)
    return [f"{', '.join(sorted(found))}: {reason}" for reason, found in names.items()]


def failures_of(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], run_ids: Iterable[str]
) -> dict[str, str]:
    """What failed in runs, with its remedy, by asset.

    Args:
        checks: The checks `is_complete` of streams and `is_fresh` of tables to look at.
        run_ids: Only failures in these runs; an empty list means the latest run of each check.
    """
    found = _failed_checks(instance, checks, run_ids)
    return {asset: str(one[PROBLEM]) for asset, one in found.items() if one.get(PROBLEM)}


def _failed_checks(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], run_ids: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Metadata of each check whose latest result is a failure, by asset."""
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
    chosen = set(run_ids)
    return {
        key.asset_key.to_user_string(): values_of(event.asset_check_evaluation_data.metadata)
        for key, record in found.items()
        if (not chosen or record.run_id in chosen)
        and record.event is not None
        and (event := record.event.dagster_event) is not None
        and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
        and not event.asset_check_evaluation_data.passed
    }


def waits_for_outcome(context: dg.AssetExecutionContext) -> bool:
    """Whether `sync_outcome` is part of the run, so that it fails the run in the end."""
    return dg.AssetKey(OUTCOME) in context.job_def.asset_layer.executable_asset_keys


def raise_failures(failures: Mapping[str, str]) -> None:
    """Fail if anything failed; what succeeded is committed by now.

    Raises:
        Failure: There is a failure; each reason stands once.
    """
    if failures:
        streams = {*STREAMS, "refresh"}
        tables = sorted(failures.keys() - streams)
        raise dg.Failure(
            "\n".join(grouped(failures)),
            metadata={
                "failed": dg.MetadataValue.json(sorted(failures.keys() & streams)),
                "remedy": "What succeeded is committed. The next sync reads the rest.",
                **({"stay as they were": dg.MetadataValue.json(tables)} if tables else {}),
            },
            allow_retries=False,
        )


def unmaterialized(output_name: str) -> dg.Output[None]:
    """An output of an asset's step that lets the next steps run, without a materialization.

    Dagster (1.13) has this for observations only; a test holds that it works here too.
    """
    return dg.Output(
        None, output_name, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
    )
