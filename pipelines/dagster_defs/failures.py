"""Expected failures, as Dagster acts on them and as people read them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dagster as dg

from lean_resources.errors import ConfigError, LeanError, MachineError, UnavailableError
from lean_resources.machine import machine_error
from pipelines.lake.digests import damage_error


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
        raise dg.RetryRequested(
            max_retries=2, seconds_to_wait=error.retry_after or 60
        ) from _failure(error)
    except LeanError as error:
        raise _failure(error) from None
    except Exception as error:
        problem = machine_error(error) or damage_error(error)
        if problem is None:
            raise
        raise _failure(problem) from None


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
