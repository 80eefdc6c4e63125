"""Typed decoding: JSON records become typed columns, and what does not fit goes to quarantine.

`reader` is the definition and decodes one record after the other. `fast` gives the same rows for
pages of the documented shape. `decoder` chooses between them for each page.
"""

from lean_resources.decoding.decoder import Decoder, fast_paths, preflight
from lean_resources.decoding.pages import Page, Preflight, records_in
from lean_resources.decoding.reader import DecodeResult, Reader

__all__ = [
    "DecodeResult",
    "Decoder",
    "Page",
    "Preflight",
    "Reader",
    "fast_paths",
    "preflight",
    "records_in",
]
