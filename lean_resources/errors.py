"""Errors of Lean, chosen by what the reader has to do.

    LeanError
    ├── ConfigError        fix the deployment
    ├── AuthError          fix the credentials
    ├── RequestError       fix our code, or list the entity's accounts again
    ├── ConsentError       ask the customer
    │   └── NotGrantedError  leave this stream alone: the customer did not grant it
    ├── UnavailableError   wait
    │   ├── BankPausedError  wait until the bank is announced active
    │   └── NetworkError     look at this machine's network, then wait
    ├── IncompleteError    read again: the pages did not make one whole
    ├── SchemaError        read the changelog of Lean
    ├── UnfitError         look at the quarantine: too many records do not fit
    └── SignatureError     drop the message
    MachineError           fix this machine: its disk, memory, files or time zones

Messages hold names of fields, codes and counts; never a value, a body or a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

__all__ = [
    "AuthError",
    "BankPausedError",
    "ConfigError",
    "ConsentError",
    "IncompleteError",
    "LeanError",
    "MachineError",
    "NetworkError",
    "NotGrantedError",
    "RequestError",
    "SchemaError",
    "SignatureError",
    "UnavailableError",
    "UnfitError",
    "causes",
]


class LeanError(Exception):
    """Anything that keeps a pull from being whole.

    Args:
        message: One sentence without personal values.
        stream: Name of the stream that was read, if any.
        status_code: HTTP status of the answer, if there was one.
        code: Lean's own code: the granular status code where there is one, else the body status.
        results_id: Lean's receipt of the answer.
        correlation_id: The id this client sent, which Lean echoes.
        trace_id: The id Lean's support asks for.
    """

    remedy: str = "Read the message; if it persists, give Lean the trace id."

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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.stream = stream
        self.status_code = status_code
        self.code = code or self.default_code
        self.results_id = results_id
        self.correlation_id = correlation_id
        self.trace_id = trace_id

    default_code: ClassVar[str] = "LEAN_ERROR"

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a process boundary with every field."""
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))


def _rebuild(cls: type[LeanError], message: str, state: dict[str, object]) -> LeanError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class ConfigError(LeanError):
    """A setting is missing, half set, unreadable or contradicts another."""

    remedy = "Fix the setting that the message names and start again."
    default_code = "CONFIG"


class AuthError(LeanError):
    """Lean refuses the credentials, the certificate or the application itself."""

    remedy = "Check the application's credentials, certificate and access level at Lean."
    default_code = "UNAUTHORIZED"


class RequestError(LeanError):
    """Lean does not understand or does not know what was asked."""

    remedy = "List the customer's entities and accounts again; if it persists it is a bug here."
    default_code = "INVALID_REQUEST"


class ConsentError(LeanError):
    """The customer's consent has ended, or the bank wants the customer again."""

    remedy = "Ask the customer to connect the bank again."
    default_code = "CONSENT_EXPIRED"


class NotGrantedError(ConsentError):
    """The consent stands, but does not cover this stream or these days."""

    remedy = "Nothing to repair; ask the customer for a wider consent if the data is needed."
    default_code = "USER_PERMISSIONS_NOT_GRANTED"


class UnavailableError(LeanError):
    """Lean or the bank cannot answer now.

    Args:
        retry_after: Seconds that the server asked to wait, if it did.
        (The others are those of `LeanError`.)
    """

    remedy = "Wait; the next sync asks again."
    default_code = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        stream: str | None = None,
        status_code: int | None = None,
        code: str | None = None,
        results_id: str | None = None,
        correlation_id: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(
            message,
            stream=stream,
            status_code=status_code,
            code=code,
            results_id=results_id,
            correlation_id=correlation_id,
            trace_id=trace_id,
        )
        self.retry_after = retry_after


class BankPausedError(UnavailableError):
    """Lean or the application's owner has switched this bank's data off."""

    remedy = "Wait until the bank is announced active, or enable it in Lean's dashboard."
    default_code = "DISABLED_BY_LEAN"


class NetworkError(UnavailableError):
    """This machine or its network is in the way of Lean, not Lean or a bank."""

    remedy = "Check this machine's network, proxy and limits; the next sync asks again."
    default_code = "NETWORK"


class IncompleteError(LeanError):
    """The pages of one read do not make one whole: the store moved while it was read."""

    remedy = "The next sync reads it again; if it fails each time, give Lean the trace id."
    default_code = "INCOMPLETE"


class SchemaError(LeanError):
    """An answer is not of the documented shape."""

    remedy = "Read Lean's changelog and compare the catalogue in lean_resources/streams/."
    default_code = "UNEXPECTED_SHAPE"


class UnfitError(LeanError):
    """So many records of a read do not fit that it replaces nothing."""

    remedy = (
        "Read the view quarantine: it names the columns and the reasons. What was known stays, and"
        " each sync reads it again. Where the catalogue has to learn, mend it and replay."
    )


class SignatureError(LeanError):
    """A webhook was not signed by Lean."""

    remedy = "Drop the message; check the webhook secret if it keeps happening."
    default_code = "BAD_SIGNATURE"


class MachineError(Exception):
    """This machine is in the way, and neither Lean nor a bank: its disk, memory or time zones.

    Args:
        message: What is wrong, without personal values.
        code: One of `DISK_FULL`, `READ_ONLY`, `OUT_OF_MEMORY` and the like.
        remedy: What to do about it.
    """

    def __init__(self, message: str, *, code: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a process boundary with every field."""
        return (_machine_error, (self.message, self.code, self.remedy))


def _machine_error(message: str, code: str, remedy: str) -> MachineError:
    return MachineError(message, code=code, remedy=remedy)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and whatever caused it, each once, the members of groups included."""
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
        # What was under way when another error came is no cause of it, unless that one says so.
        waiting += [link.__cause__, None if link.__suppress_context__ else link.__context__]
