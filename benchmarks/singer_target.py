"""A Singer target that does the least a target of Parquet can: a batch, a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from singer_sdk import Target
from singer_sdk.sinks import BatchSink


def _type(schema: dict[str, Any]) -> pa.DataType:
    """The Arrow type of a JSON schema; the SDK reads numbers as decimals."""
    kinds = schema["type"]
    if "properties" in schema:
        return pa.struct([(key, _type(inner)) for key, inner in schema["properties"].items()])
    if "array" in kinds:
        return pa.list_(_type(schema["items"]))
    if "number" in kinds:
        return pa.decimal128(38, 18)
    return pa.bool_() if "boolean" in kinds else pa.string()


class ParquetSink(BatchSink):
    """Writes each batch as one file."""

    max_size = 10_000

    def process_batch(self, context: dict[str, Any]) -> None:
        table = pa.Table.from_pylist(context["records"], pa.schema(list(_type(self.schema))))
        pq.write_table(table, Path(self.config["folder"]) / f"{context['batch_id']}.parquet")


class Parquet(Target):
    """The target."""

    name = "target-parquet"
    config_jsonschema: ClassVar = {"type": "object", "properties": {}}
    default_sink_class = ParquetSink


if __name__ == "__main__":
    Parquet.cli()
