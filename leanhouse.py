"""What a notebook imports: `from leanhouse import Warehouse`."""

from pipelines.publish.frames import Warehouse

__all__ = ["Warehouse"]
