"""The body of an answer, unpacked within a limit: a small body never becomes a huge one."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, cast

import httpx

from lean_resources.errors import SchemaError

if TYPE_CHECKING:
    from zlib import _Decompress

__all__ = ["ENCODING", "body_of"]

ENCODING = "gzip"
"""What requests ask for; zlib's format is understood too, and nothing else is unpacked."""

_PLAIN = {"", "identity"}
_PACKED = {ENCODING, "x-gzip", "deflate"}
_EITHER_FORMAT = zlib.MAX_WBITS | 32


async def body_of(response: httpx.Response, limit: int) -> bytes:
    """Read the whole body of an answer, which is not read any further once it is too large.

    Args:
        response: An answer whose stream was not read yet.
        limit: The most bytes of it, as sent and as unpacked; no more than that is held.

    Raises:
        SchemaError: It is larger, packed more than once, or packed in a way nobody asked for.
        httpx.DecodingError: It cannot be unpacked.
    """
    unpacker = _unpacker(response.headers)
    chunks = []
    sent = size = 0
    # httpx unpacks without a limit, and what it does to each chunk of a plain body is dear.
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
    """What unpacks a body; None where it is sent as it is."""
    if "content-encoding" not in headers:
        return None
    named = headers.get_list("content-encoding", split_commas=True)
    packed = [name for name in (one.strip().lower() for one in named) if name not in _PLAIN]
    if not packed:
        return None
    if len(packed) > 1 or packed[0] not in _PACKED:
        raise SchemaError(f"an answer is packed otherwise than once by {ENCODING}")
    return zlib.decompressobj(_EITHER_FORMAT)
