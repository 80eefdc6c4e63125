"""Errors, one class for each thing that the reader has to do.

    LeanError
    ├── ConfigError        fix the deployment
    ├── AuthError          fix the credentials
    ├── RequestError       list the entity's accounts again, or fix our code
    ├── ConsentError       ask the customer
    │   └── NotGrantedError  skip this stream: the customer did not permit it
    ├── UnavailableError   wait
    │   ├── BankPausedError  wait until the bank is announced active
    │   └── NetworkError     check this machine's network, then wait
    ├── IncompleteError    read again: the pages were not complete
    ├── SchemaError        read Lean's changelog
    ├── UnfitError         read the quarantine: too many records do not fit
    └── SignatureError     drop the message
    MachineError           fix this machine: its disk, memory, files or time zones

Messages contain names of fields, codes and counts, and never a value, a body or a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar


class LeanError(Exception):
    """Any reason why a pull is not complete.

    Args:
        message: One sentence without personal values.
        stream: Name of the stream that was read, if any.
        status_code: HTTP status of the answer, if there was one.
        code: Lean's own code: the granular status code where there is one, else the body status.
        results_id: Lean's receipt of the answer.
        correlation_id: The id that this client sent and Lean repeats.
        trace_id: The id that Lean's support asks for.
        retry_after: Seconds that the server asks to wait; None where it does not say.
    """

    remedy: str = "Read the message. If the error persists, give Lean the trace id."

    def __init__(
        self,
        message: str,
        *,
        stream: str | None = None,
        status_code: int | None = None,
        code: str | None = None,
        results_id: str | None = None,
        correlation_id: str | None = None,
        trace_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.stream = stream
        self.status_code = status_code
        self.code = code or self.default_code
        self.results_id = results_id
        self.correlation_id = correlation_id
        self.trace_id = trace_id
        self.retry_after = retry_after

    default_code: ClassVar[str] = "LEAN_ERROR"

    def __reduce__(self) -> tuple[object, ...]:
        """Keep every field when the error is pickled."""
        return (type(self), (self.message,), self.__dict__.copy())


class ConfigError(LeanError):
    """A setting is missing, incomplete, unreadable or contradicts another."""

    remedy = "Correct the setting that the message names, and start again."
    default_code = "CONFIG"


class AuthError(LeanError):
    """Lean refuses the credentials, the certificate or the application itself."""

    remedy = "Check the application's credentials, certificate and access level at Lean."
    default_code = "UNAUTHORIZED"


class RequestError(LeanError):
    """Lean does not understand the request, or does not know what it names."""

    remedy = "List the customer's entities and accounts again. If it persists, report a bug here."
    default_code = "INVALID_REQUEST"


class ConsentError(LeanError):
    """The customer's consent has ended, or the customer has to connect the bank again."""

    remedy = "Ask the customer to connect the bank again."
    default_code = "CONSENT_EXPIRED"


class NotGrantedError(ConsentError):
    """The consent is active, but does not cover this stream or these days."""

    remedy = "If the data is needed, ask the customer for a consent that covers it."
    default_code = "USER_PERMISSIONS_NOT_GRANTED"


class UnavailableError(LeanError):
    """Lean or the bank cannot answer now."""

    remedy = (
        "Wait: the next sync asks again. If it fails for a day, give Lean the code and the day."
    )
    default_code = "UNAVAILABLE"


class BankPausedError(UnavailableError):
    """Lean or the application's owner has disabled this bank."""

    remedy = (
        "Wait until Lean announces the bank as active. If you have switched it off in Lean's"
        " dashboard, enable it there."
    )
    default_code = "DISABLED_BY_LEAN"


class NetworkError(UnavailableError):
    """This machine or its network prevents the connection, not Lean or a bank."""

    remedy = "Check this machine's network, proxy and limits. The next sync asks again."
    default_code = "NETWORK"


class IncompleteError(LeanError):
    """The pages of a paged read are not complete: Lean's data changed during the read."""

    remedy = "The next sync reads it again. If it fails each time, give Lean the trace id."
    default_code = "INCOMPLETE"


class SchemaError(LeanError):
    """An answer does not have the documented shape."""

    remedy = "Read Lean's changelog and compare the catalogue in lean_resources/streams/."
    default_code = "UNEXPECTED_SHAPE"


class UnfitError(LeanError):
    """Too many records of a read do not fit, so the read replaces nothing."""

    remedy = (
        "leanhouse query 'from raw.quarantine' shows the columns and the reasons. Rows that were"
        " known stay, and the next sync reads again. If the catalogue of streams is wrong, correct"
        " it and run leanhouse replay."
    )


class SignatureError(LeanError):
    """Lean did not sign the webhook."""

    remedy = "Drop the message. If it happens again, check the webhook secret."
    default_code = "BAD_SIGNATURE"


class MachineError(Exception):
    """This machine prevents the work, not Lean or a bank: its disk, memory or time zones.

    The message has no personal values; the code is one of `DISK_FULL`, `READ_ONLY` and the like.
    """

    def __init__(self, message: str, *, code: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        """Keep every field when the error is pickled."""
        return (partial(MachineError, code=self.code, remedy=self.remedy), (self.message,))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, each once; the members of a group are causes of it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
        # An error that was being handled counts as a cause, unless `raise … from` says otherwise.
        waiting += [link.__cause__, None if link.__suppress_context__ else link.__context__]
