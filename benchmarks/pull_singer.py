"""The same pull by a Singer tap piped into a target, from the first request to Parquet files.

Runs in `.venv-bench`. The tap asks for one page after the other, as the Singer SDK does; neither
answers nor a proof are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from usage import Usage, share, size_of, together

_HERE = Path(__file__).resolve().parent


def _schema(values: list[Any]) -> dict[str, Any]:
    """A JSON schema of some values, told beforehand so that it costs the tap nothing."""
    found = [value for value in values if value is not None]
    if any(isinstance(value, dict) for value in found):
        keys = sorted({key for value in found for key in value})
        properties = {key: _schema([value.get(key) for value in found]) for key in keys}
        return {"type": ["object", "null"], "properties": properties}
    if any(isinstance(value, list) for value in found):
        return {"type": ["array", "null"], "items": _schema([one for v in found for one in v])}
    if found and all(isinstance(value, bool) for value in found):
        return {"type": ["boolean", "null"]}
    if found and all(isinstance(value, int | float) for value in found):
        return {"type": ["number", "null"]}
    is_mixed = any(isinstance(value, int | float) for value in found)
    return {"type": ["string", *(["number"] if is_mixed else []), "null"]}


def main(url: str, folder: Path, work: Path) -> None:
    """Pull once and print what it cost and what came of it."""
    import pyarrow as pa  # noqa: PLC0415 - what dlt brings along
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    answers = json.loads((folder / "index.json").read_text())["answers"]
    targets = [t for t in answers if t.partition("?")[0].endswith("/transactions")]
    records = []
    for target in targets[:: max(1, len(targets) // 200)]:
        records += json.loads((folder / answers[target]).read_text())["data"]["transactions"]
    reads = share(json.loads((folder / "reads.json").read_text()))
    lake = work / "lake"
    lake.mkdir(parents=True)
    tap, target = work / "tap.json", work / "target.json"
    tap.write_text(json.dumps({"url": url, "reads": reads, "schema": _schema(records)}))
    target.write_text(json.dumps({"folder": str(lake)}))
    del records, answers
    together()
    start = Usage.start()
    with subprocess.Popen(
        [sys.executable, _HERE / "singer_tap.py", "--config", tap],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as source:
        subprocess.run(
            [sys.executable, _HERE / "singer_target.py", "--config", target],
            stdin=source.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    used = Usage.since(start)
    files = [pq.read_table(file, columns=["amount"]) for file in sorted(lake.glob("*.parquet"))]
    amounts = pa.chunked_array(
        [pc.struct_field(t["amount"], "amount").combine_chunks() for t in files]
    )
    exact = pc.round(amounts.cast(pa.float64()), 9).cast(pa.decimal128(38, 9), safe=False)
    print(
        json.dumps(
            {
                "rows": len(amounts),
                "amount": str(pc.sum(exact).as_py()),
                "seconds": used.seconds,
                "cpu_seconds": used.cpu_seconds,
                "peak_bytes": used.peak_bytes,
                "disk_bytes": size_of(lake),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
