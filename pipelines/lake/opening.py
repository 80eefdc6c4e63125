"""Which storage a place is: a folder, or an object store."""

from __future__ import annotations

from pathlib import Path

from lean_resources.errors import ConfigError
from pipelines.lake.folder import Folder
from pipelines.lake.storage import Storage

_GB = 1e9
_PROVIDERS = {"s3": ("AWS", "s3"), "gs": ("GOOGLE", "gcs"), "az": ("AZURE", "azure")}
"""The prefix of a provider's variables, and our extra."""


def open_storage(root: Path | str, environment: str) -> Storage:
    """The storage of one environment.

    Args:
        root: The folder of all environments, or its URL in an object store.
        environment: `sandbox` or `production`.

    Raises:
        ConfigError: The URL needs a library that is not installed, or a variable of the provider.
    """
    kind, is_url, _ = str(root).partition("://")
    if not is_url:
        return Folder(Path(root).resolve() / environment)
    variables, extra = _PROVIDERS[kind]
    try:
        # Only a lake in an object store needs obstore.
        from pipelines.environment import provider_variable, settings  # noqa: PLC0415
        from pipelines.lake.cache import Cache  # noqa: PLC0415
        from pipelines.lake.object_store import ObjectStore  # noqa: PLC0415
        from pipelines.lake.objects import Objects  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            f"a lake in {kind}:// needs a library: pip install 'leanhouse[{extra}]'"
        ) from None
    is_http_allowed = provider_variable(f"{variables}_ALLOW_HTTP").lower() in {"true", "1"}
    objects = Objects(f"{str(root).rstrip('/')}/{environment}", is_http_allowed=is_http_allowed)
    found = settings()
    return ObjectStore(objects, Cache.of(found.cache, int(found.house.cache_gb * _GB)))
