"""Lean without Dagster: the catalogue, the client, the gate and an offline Lean."""

from lean_resources.client import LeanClient
from lean_resources.settings import LeanSettings
from lean_resources.streams import STREAMS

__all__ = ["STREAMS", "LeanClient", "LeanSettings"]
