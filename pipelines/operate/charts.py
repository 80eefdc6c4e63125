"""Charts: small pictures of figures as SVG, which any browser shows without a script."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CHARTS = json.loads((Path(__file__).parent / "pages" / "charts.json").read_text(encoding="utf-8"))
COLOURS: Mapping[str, str] = _CHARTS["colours"]
"""The colour of each series, the same in every chart."""
_READ = {"label", "series", "limit", "place"}


def draw(
    kind: str, rows: Sequence[Mapping[str, Any]], value: str = "value", *, is_rtl: bool
) -> str:
    """A chart as an SVG element, without words but labels and numbers.

    Args:
        kind: `columns`, `bars` or `shares`, as pages/charts.json describes them in Vega-Lite.
        rows: Each with a `label` and a value, and `series`, a key of `COLOURS`, if there are more
            than one. Bars have a `limit`, which is marked; parts of shares have their `place`.
        is_rtl: Whether it is read from right to left.
    """
    import vl_convert  # noqa: PLC0415 - large, and only charts need it

    values = [
        {"series": "plain", "value": row[value]} | {name: row[name] for name in _READ & row.keys()}
        for row in rows
    ]
    spec = copy.deepcopy(_CHARTS["kinds"][kind])
    across, up = spec["encoding"]["x"], spec["encoding"]["y"]
    across.setdefault("scale", {})["reverse"] = is_rtl
    up.setdefault("axis", {})["orient"] = "right" if is_rtl else "left"
    coloured = spec["layer"][0]["encoding"] if "layer" in spec else spec["encoding"]
    coloured["color"]["scale"] = {"domain": list(COLOURS), "range": list(COLOURS.values())}
    spec |= {"config": _CHARTS["config"], "data": {"values": values}}
    svg: str = vl_convert.vegalite_to_svg(spec)
    return svg
