"""What a lake needs of an object store, tried once against the real one.

The promise that a file is created only once rests on the store's conditional puts. Whether they
hold where writers meet is tried here by writers that meet.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from lean_resources.errors import MachineError
from pipelines.lake.ids import new_id
from pipelines.lake.objects import Objects

Result = TypeVar("Result")

_WRITERS = 8
_ROUNDS = 5
_READER, _WRITER = "the role Storage Blob Data Reader", "the role Storage Blob Data Contributor"
_RIGHTS = {
    "list": ("s3:ListBucket", "storage.objects.list", _READER),
    "put": ("s3:PutObject", "storage.objects.create", _WRITER),
    "head": ("s3:GetObject", "storage.objects.get", _READER),
    "get": ("s3:GetObject", "storage.objects.get", _READER),
    "delete": ("s3:DeleteObject", "storage.objects.delete", _WRITER),
}
"""The right that each verb needs, of S3, Google's storage and Azure's. Sources:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html,
https://cloud.google.com/storage/docs/access-control/iam-permissions,
https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory"""
_PROVIDERS = ("s3", "gs", "az")
_VARIABLES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
_REGION = re.compile(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>")
_REFUSED = re.compile(r"AccessDenied|403 Forbidden|AuthorizationPermissionMismatch")
_WORDS = (
    (r"RequestTimeTooSkewed", "this machine's clock differs too much from the store's",
     "Set the clock, and let it be kept by NTP."),
    ((r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|invalid_grant"
     r"|AuthenticationFailed"),
     "the store does not accept the credentials",
     "Check the variables {variables}…, and that a session has not expired."),
    (r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|301 Moved",
     "the region is not that of the bucket{region}",
     "Set AWS_REGION to the region of the bucket."),
    (r"NoSuchBucket|ContainerNotFound|bucket does not exist",
     "there is no such bucket", "Check LEANHOUSE_LAKE, or create the bucket."),
    (r"NotImplemented|501 ", "the store does not know conditional puts",
     "Use a store that creates an object only if it is absent (If-None-Match: *)."),
    (r"BadScheme",
     "the endpoint is not https", "Set AWS_ALLOW_HTTP=true if it is a store on this machine."),
    (r"169\.254|metadata|[Mm]issing.*(credential|key|token)",
     "there are no credentials for the store", ("Set the variables {variables}…, or give this"
     " machine a role.")),
    (r"HTTP error|error sending request|dns error|[Cc]onnect|timed out",
     "the store does not answer",
     "Check LEANHOUSE_LAKE, AWS_ENDPOINT_URL and the way out of this machine."),
)  # fmt: skip
"""Texts of errors, what they mean, and what to do; the texts are not shown."""


def check_store(objects: Objects) -> list[str]:
    """Try what a lake needs, and delete what was written for it.

    Args:
        objects: The store, at the lake's place.

    Returns:
        What was found, in sentences.

    Raises:
        MachineError: The store refuses a verb, does not answer, or lets two writers create one
            object.
    """
    store, place = objects.quick, objects.url
    folder = f".doctor/{new_id()}"
    keys = [f"{folder}/{number}" for number in range(_ROUNDS)]
    one = f"{folder}/one"
    _tried("list", place, lambda: list(obstore.list(store, prefix=folder).collect()))
    _tried("put", place, lambda: obstore.put(store, one, b"x" * 4096))
    try:
        head = _tried("head", place, lambda: obstore.head(store, one))
        _tried("get", place, lambda: bytes(obstore.get(store, one).bytes()))
        winners = [_winners(store, place, key) for key in keys]
    finally:
        _tried("delete", place, lambda: obstore.delete(store, [one, *keys]))
    if winners != [1] * _ROUNDS:
        raise MachineError(
            f"of {_WRITERS} writers that created one object at once, {max(winners)} succeeded: the"
            " store cannot hold a lake",
            code="STORE",
            remedy="Use a store that creates an object only if it is absent (If-None-Match: *).",
        )
    ahead = abs((head["last_modified"] - dt.datetime.now(dt.UTC)).total_seconds())
    return [
        "can be listed, read, written and deleted from",
        (
            f"of {_WRITERS} writers that create one object at once, one succeeds"
            f" ({_ROUNDS} of {_ROUNDS} times)"
        ),
        f"its clock differs from ours by {ahead:.0f} s",
    ]


def _winners(store: Any, place: str, key: str) -> int:
    """How many of some writers created an object."""
    barrier = Barrier(_WRITERS)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            obstore.put(store, key, f"{number}".encode(), mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except BaseError as error:
            # Whoever comes at the same moment may be asked to try again, and does not win here.
            if "Conflict" in str(error) or "409" in str(error):
                return False
            raise
        return True

    with ThreadPoolExecutor(_WRITERS) as pool:
        return sum(_tried("put", place, lambda: list(pool.map(create, range(_WRITERS)))))


def _tried(verb: str, place: str, act: Callable[[], Result]) -> Result:
    """The result of a verb.

    Raises:
        MachineError: It failed; the message has no text of the library, which may quote a secret.
    """
    try:
        return act()
    except BaseError as error:
        found = _explained(verb, place, error)
    raise found


def _explained(verb: str, place: str, error: BaseError) -> MachineError:
    provider, text = place.partition("://")[0], str(error)
    region = _REGION.search(text)
    for words, problem, remedy in _WORDS:
        if re.search(words, text):
            where = f", which is {region[1] or region[2]}" if region else ""
            return MachineError(
                f"{place}: {problem.format(region=where)} ({verb})",
                code="STORE",
                remedy=remedy.format(variables=_VARIABLES.get(provider, "")),
            )
    is_refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if is_refused or _REFUSED.search(text):
        right = _RIGHTS[verb][_PROVIDERS.index(provider)]
        left = ", so that objects of this check stay in .doctor" if verb == "delete" else ""
        return MachineError(
            f"{place}: the store refuses {verb}{left}",
            code="STORE",
            remedy=f"Grant these credentials {right}.",
        )
    if isinstance(error, NotFoundError):
        return MachineError(
            f"{place}: there is no such bucket, or what was just written is gone ({verb})",
            code="STORE",
            remedy="Check LEANHOUSE_LAKE, or create the bucket.",
        )
    return MachineError(
        f"{place}: {verb} failed ({type(error).__name__})",
        code="STORE",
        remedy="Check the variables of the provider, and the store's own log.",
    )
