"""Single requests to an object store, by obstore. Each is made once; `object_store.py` repeats.

Errors of obstore are translated, and their texts are dropped: they have URLs, which may be signed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from lean_resources.errors import ConfigError, MachineError
from pipelines.lake.storage import Stored

_CHUNK_BYTES = 8 << 20
"""What is larger is sent in parts, and may take longer."""
_SECONDS = 30
_LONG_SECONDS = 900
_KINDS = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_AGAIN = {408, 409, 425, 429}
"""Refusals that another try can help."""
_NO_PLACE = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted")
_asked_by: list[int] = []
"""The process in which obstore's threads live; a fork does not have them."""


class UnansweredError(Exception):
    """There was no answer, or none that settles anything: the request may have been carried out."""


class Objects:
    """The objects below one prefix.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Credentials and
            endpoint come from the provider's own variables.
        is_http_allowed: Whether the endpoint may be one without TLS.

    Raises:
        ConfigError: A variable of the provider is missing.
    """

    def __init__(self, url: str, *, is_http_allowed: bool = False) -> None:
        self.url = url
        kind, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        try:
            # The shorter limit shows a dead connection, the longer one lets large bodies pass.
            self.quick, self._patient = (
                _KINDS[kind](
                    bucket,
                    prefix=prefix or None,
                    client_options={
                        "allow_http": is_http_allowed,
                        "timeout": dt.timedelta(seconds=seconds),
                        "read_timeout": dt.timedelta(seconds=_SECONDS),
                    },
                    retry_config={"max_retries": 0},
                )
                for seconds in (_SECONDS, _LONG_SECONDS)
            )
        except (BaseError, ValueError):
            raise self._refused("a variable is missing") from None

    def put(
        self, name: str, content: bytes | Path, *, is_new: bool, about: Mapping[str, str]
    ) -> int:
        """Write an object whole; returns its version.

        Args:
            name: Its name below the prefix.
            content: Its bytes, or the local file that has them.
            is_new: Whether nothing may lie there.
            about: Its own metadata.

        Raises:
            FileExistsError: Something lies there, or someone else writes it now.
            UnansweredError: It may have been written.
        """
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        is_small = size <= _CHUNK_BYTES
        if is_small and isinstance(content, Path):
            content = content.read_bytes()
        with self._translated(name, is_write=True, is_new=is_new):
            done = obstore.put(
                self.quick if is_small else self._patient,
                name,
                content,
                attributes=dict(about),
                mode="create" if is_new else "overwrite",
                chunk_size=_CHUNK_BYTES,
            )
            return _version(done["e_tag"])

    def head(self, name: str) -> tuple[Stored, Mapping[str, str]]:
        """What is known of an object, and its own metadata.

        Raises:
            FileNotFoundError: Nothing lies there.
            UnansweredError: Ask again.
        """
        with self._translated(name):
            found = obstore.get(self.quick, name, options={"head": True})
            return _stored(found.meta), found.attributes

    def fetch(self, name: str, take: Callable[[bytes], object]) -> tuple[Stored, Mapping[str, str]]:
        """Give away an object's bytes, a part at a time; returns what `head` does.

        Raises:
            FileNotFoundError: Nothing lies there.
            UnansweredError: Ask again; some of the bytes were given away.
        """
        with self._translated(name):
            found = obstore.get(self._patient, name)
            for chunk in found.stream(_CHUNK_BYTES):
                take(bytes(chunk))
            return _stored(found.meta), found.attributes

    def list(self, folder: str, *, is_deep: bool) -> Sequence[Stored]:
        """Objects whose names begin with a folder's.

        Args:
            folder: Whole parts of names, without a slash at the end; empty for all objects.
            is_deep: Whether those of folders below are among them.

        Raises:
            UnansweredError: Ask again.
        """
        with self._translated():
            if not is_deep:
                found = obstore.list_with_delimiter(self.quick, folder or None)["objects"]
                return [_stored(one) for one in found]
            pages = obstore.list(self.quick, folder or None, chunk_size=1000)
            return [_stored(one) for page in pages for one in page]

    def delete(self, names: Collection[str]) -> None:
        """Delete objects; what is gone already is no error.

        Raises:
            UnansweredError: Ask again.
        """
        with self._translated(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.quick, list(names))

    def copy(self, name: str, to: str) -> None:
        """Let the store copy an object, with its metadata; what lies there is replaced.

        Raises:
            FileNotFoundError: Nothing lies there.
            UnansweredError: Ask again.
        """
        with self._translated(name):
            obstore.copy(self._patient, name, to)

    @contextlib.contextmanager
    def _translated(
        self, name: str = "", *, is_write: bool = False, is_new: bool = False
    ) -> Iterator[None]:
        if _asked_by and _asked_by[0] != os.getpid():
            raise MachineError(
                "a forked process cannot ask an object store: the threads that do so stay behind",
                code="FORKED",
                remedy="Start a new process instead.",
            )
        _asked_by[:] = [os.getpid()]
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            if not is_new:
                # Another writes the object at this moment.
                raise UnansweredError(_reason(error) or "conflict") from None
            raise FileExistsError(
                errno.EEXIST, "lies there already", f"{self.url}/{name}"
            ) from None
        except FileNotFoundError as error:
            if is_write or any(word in str(error) for word in _NO_PLACE):
                raise self._refused("NoSuchBucket") from None
            reason = os.strerror(errno.ENOENT)
            raise FileNotFoundError(errno.ENOENT, reason, f"{self.url}/{name}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._refused(_reason(error) or type(error).__name__) from None
        except BaseError as error:
            status = _STATUS.search(str(error))
            reason = _reason(error) or (f"status {status[1]}" if status else "no connection")
            is_final = status and 300 <= int(status[1]) < 500 and int(status[1]) not in _AGAIN
            if is_final or reason in _NO_PLACE:
                raise self._refused(reason) from None
            raise UnansweredError(reason) from None

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{self.url} refuses what leanhouse asks ({reason}): check the name, that it exists,"
            " and the provider's variables with region, endpoint, account and credentials; they"
            " have to allow listing, reading, writing and deleting"
        )


def _reason(error: Exception) -> str:
    code = _CODE.search(str(error))
    return code[1] if code else ""


def _stored(found: obstore.ObjectMeta) -> Stored:
    written_at = found["last_modified"].timestamp()
    return Stored(found["path"], found["size"], written_at, _version(found["e_tag"]))


def _version(tag: str | None) -> int:
    return int.from_bytes(hashlib.blake2b((tag or "").encode(), digest_size=7).digest())
