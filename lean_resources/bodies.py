"""The body of an answer, unpacked within a limit, so that a small body never becomes huge."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, cast

import httpx

from lean_resources.errors import SchemaError

if TYPE_CHECKING:
    from zlib import _Decompress

ENCODING = "gzip"
"""What requests ask for; zlib's format is understood too, and nothing else is unpacked."""

_PLAIN = {"", "identity"}
_PACKED = {ENCODING, "x-gzip", "deflate"}
_EITHER_FORMAT = zlib.MAX_WBITS | 32


async def body_of(response: httpx.Response, limit: int) -> bytes:
    """Read the whole body of an answer, up to a limit.

    Args:
        response: An answer whose stream was not read yet.
        limit: Most bytes, as sent and as unpacked.

    Raises:
        SchemaError: The body is larger, packed more than once, or in an unknown format.
        httpx.DecodingError: The body cannot be unpacked.
    """
    unpacker = _unpacker(response.headers)
    chunks = []
    sent = size = 0
    # httpx unpacks without a limit, and its work on each chunk of a plain body is expensive.
    async for chunk in cast(httpx.AsyncByteStream, response.stream):
        sent += len(chunk)
        try:
            piece = chunk if unpacker is None else unpacker.decompress(chunk, limit - size + 1)
        except zlib.error:
            raise httpx.DecodingError("the body cannot be unpacked") from None
        size += len(piece)
        if max(sent, size) > limit:
            raise SchemaError(f"an answer exceeds {limit} bytes")
        chunks.append(piece)
    return b"".join(chunks)


def _unpacker(headers: httpx.Headers) -> _Decompress | None:
    """The unpacker of a body; None where the body is not packed."""
    if "content-encoding" not in headers:
        return None
    named = headers.get_list("content-encoding", split_commas=True)
    packed = [name for name in (part.strip().lower() for part in named) if name not in _PLAIN]
    if not packed:
        return None
    if len(packed) > 1 or packed[0] not in _PACKED:
        raise SchemaError(f"an answer is not packed once by {ENCODING}")
    return zlib.decompressobj(_EITHER_FORMAT)
