"""The command that says what is wrong, and what the other commands show of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.app import Home, lake_of
from pipelines.cli.console import standard_output
from pipelines.cli.health_view import show_health
from pipelines.environment import Settings, settings

if TYPE_CHECKING:
    from pipelines.operate.health import Health

_JSON_VERSION = 1
"""Of the fields of `status --json`: it changes with any change but that of a further field."""


def status(
    home: Home = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object, as docs/status.md describes.")
    ] = False,
) -> None:
    """Show what is wrong, then banks and streams; the exit code is 1 if a person has to act.

    The exit code is 0 if nobody has to act. The lines below the table of banks
    explain its columns. docs/status.md explains all rules and columns.

    With --home, runs are read from the folder dagster of that home, and
    DAGSTER_HOME is ignored.
    """
    lake_of(home)
    found = look(settings().at(home))
    if as_json:
        standard_output()(f"{_json(found)}\n")
    else:
        show_health(found)
    if found.needs_a_person:
        raise typer.Exit(1)


def look(configured: "Settings", **more: Any) -> "Health":
    """The health of the home of settings; nothing is written and Lean is not asked.

    Args:
        configured: Settings whose home need not hold anything yet.

    Raises:
        ConfigError: The policy cannot be read, or the lake has a newer format.
    """
    from pipelines.lake.lake import Lake
    from pipelines.operate.health import health
    from pipelines.sync.policy import load

    lake = Lake(configured.lake, configured.environment)
    policy = load(configured.home / "policy.toml").policy
    if not configured.dagster_home.is_dir():
        return health(lake, policy, settings=configured, **more)
    from pipelines.operate.run_problems import recorded_runs

    with recorded_runs(configured.dagster_home) as instance:
        return health(lake, policy, settings=configured, instance=instance, **more)


def _json(health: "Health") -> str:
    """Health as JSON: the fields of `Health`, `version` and `needs_a_person`; instants are UTC."""
    import msgspec

    head = {"version": _JSON_VERSION, "needs_a_person": health.needs_a_person}
    whole = msgspec.json.encode(head | msgspec.to_builtins(health))
    return msgspec.json.format(whole).decode()
