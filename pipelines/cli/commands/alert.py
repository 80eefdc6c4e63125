"""The command that sends alerts."""

from typing import Annotated

import typer

from pipelines.cli.app import fail
from pipelines.cli.commands.status import look
from pipelines.cli.console import say
from pipelines.environment import settings


def alert(
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message to each address, and nothing else.")
    ] = False,
) -> None:
    """Send what has become wrong or right since the last alert to LEANHOUSE_ALERT_URLS."""
    from lean_resources.errors import ConfigError
    from pipelines.operate.alerts import Alarm
    from pipelines.sync.policy import load

    configured = settings()
    if not configured.alert_urls:
        raise ConfigError(
            "no address for alerts: set LEANHOUSE_ALERT_URLS; docs/operate.md has examples"
        )
    rules = load(configured.home / "policy.toml").alerts
    alarm = Alarm(configured.alert_urls, rules, configured.home, configured.environment)
    deliveries = alarm.test() if test else alarm.look(look(configured))
    for one in deliveries:
        what = "test" if test else f"{one.begun} began, {one.ended} ended"
        say(f"{one.target:<20} {'sent' if one.is_delivered else 'NOT SENT'}: {what}")
    if not deliveries:
        say("Nothing has changed since the last alert.")
    if not all(one.is_delivered for one in deliveries):
        raise fail("an address did not accept the message: check LEANHOUSE_ALERT_URLS and network")
