"""The same pull by dlt: from the first request to loaded files, in a process of its own.

Runs in `.venv-bench`, which holds nothing of this project; a fourth argument, `tuned`, gives dlt
what helps it beyond sixteen workers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usage import Usage, share, size_of, together

__all__ = ["SETTINGS", "TUNED"]

SETTINGS = {
    # As many requests at once as leanhouse makes.
    "EXTRACT__WORKERS": "16",
    "EXTRACT__MAX_PARALLEL_ITEMS": "32",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
}

TUNED = {
    # Two processes, and files small enough that each has some of them to do.
    "NORMALIZE__WORKERS": "2",
    "SOURCES__DATA_WRITER__FILE_MAX_ITEMS": "10000",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "10000",
    "LOAD__WORKERS": "4",
    # Working files are read back at once; compressing them only costs time.
    "SOURCES__DATA_WRITER__DISABLE_COMPRESSION": "true",
    "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
}

NUMBERS = (
    "amount__amount",
    "balance__amount__amount",
    "charge_amount__amount",
    "currency_exchange__exchange_rate",
    "currency_exchange__instructed_amount__amount",
    "insights__category_confidence",
)
LISTS = ("flags", "statement_reference")
"""Numbers are told beforehand: otherwise one is of the type that a worker sees first, and half of
the amounts can end in a second column. Lists are told when tuned: otherwise each becomes a table of
its own, which costs more."""


def _pull(url: str, reads: list[dict[str, Any]], work: Path, *, is_tuned: bool) -> Usage:
    """Load the transactions of some accounts."""
    import dlt  # noqa: PLC0415 - reads its settings from the environment when imported
    from dlt.destinations import filesystem  # noqa: PLC0415
    from dlt.sources.helpers.rest_client import RESTClient  # noqa: PLC0415
    from dlt.sources.helpers.rest_client.auth import BearerTokenAuth  # noqa: PLC0415
    from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator  # noqa: PLC0415

    client = RESTClient(
        url,
        auth=BearerTokenAuth("made-up"),
        paginator=PageNumberPaginator(base_page=0, total_path="data.page.total_pages"),
        data_selector="data.transactions",
    )

    @dlt.resource(name="accounts", selected=False)
    def accounts() -> Iterator[dict[str, Any]]:
        yield from reads

    @dlt.transformer(
        data_from=accounts,
        name="transactions",
        write_disposition="append",
        parallelized=True,
        columns={
            **{name: {"data_type": "double"} for name in NUMBERS},
            **{name: {"data_type": "json"} for name in (LISTS if is_tuned else ())},
        },
    )
    def transactions(account: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        yield from client.paginate(account["path"], params=account["params"])

    pipeline = dlt.pipeline(
        "pull",
        pipelines_dir=str(work / "pipelines"),
        destination=filesystem(bucket_url=(work / "lake").as_uri()),
        dataset_name="lean",
    )
    together()
    start = Usage.start()
    pipeline.run(transactions(), loader_file_format="parquet").raise_on_failed_jobs()
    return Usage.since(start)


def _told(folder: Path) -> tuple[int, str]:
    """Rows and the sum of amounts; dlt keeps money as DOUBLE, so each is rounded first."""
    import pyarrow as pa  # noqa: PLC0415 - what dlt brings along
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.dataset as ds  # noqa: PLC0415

    amounts = ds.dataset(folder, format="parquet").to_table(["amount__amount"]).column(0)
    exact = pc.round(amounts, 9).cast(pa.decimal128(38, 9), safe=False)
    return len(amounts), str(pc.sum(exact).as_py())


def main(url: str, folder: Path, work: Path, *, is_tuned: bool) -> None:
    """Pull once and print what it cost and what came of it."""
    os.environ.update(SETTINGS | (TUNED if is_tuned else {}))
    reads = json.loads((folder / "reads.json").read_text())
    used = _pull(url, share(reads), work, is_tuned=is_tuned)
    rows, amount = _told(work / "lake" / "lean" / "transactions")
    print(
        json.dumps(
            {
                "rows": rows,
                "amount": amount,
                "seconds": used.seconds,
                "cpu_seconds": used.cpu_seconds,
                "peak_bytes": used.peak_bytes,
                "disk_bytes": size_of(work / "lake"),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), is_tuned="tuned" in sys.argv[4:])
