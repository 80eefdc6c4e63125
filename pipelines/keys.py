"""The key of hashed account numbers: what may be one."""

from lean_resources.errors import ConfigError

SANDBOX_KEY = "sandbox"
"""Key where nothing is secret: the same for everybody, refused in production."""

_SHORTEST = 32
_LONGEST = 64


def checked_key(hash_key: str, environment: str) -> str:
    """The key, seen to fit.

    Raises:
        ConfigError: It is the one that everybody knows, or too weak, in production.
    """
    if environment == "production" and len(hash_key) < _SHORTEST:
        raise ConfigError(
            "LEANHOUSE_HASH_KEY is missing or too short for production: set it to"
            f" {_SHORTEST} to {_LONGEST} random characters, and keep a copy"
        )
    if len(hash_key.encode()) > _LONGEST:
        raise ConfigError(f"LEANHOUSE_HASH_KEY is longer than {_LONGEST} bytes: shorten it")
    return hash_key
