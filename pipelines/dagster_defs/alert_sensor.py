"""The sensor of alerts: it looks at everything every few minutes, also when no run is under way."""

import dagster as dg

from lean_resources.errors import LeanError
from pipelines.dagster_defs.resources import LakeResource
from pipelines.environment import Settings
from pipelines.operate.alerts import Alarm
from pipelines.operate.health import health
from pipelines.operate.problems import check_rules
from pipelines.sync.policy import Alerts, Policy

_INTERVAL_SECONDS = 300


def alert_sensor(settings: Settings, rules: Alerts) -> dg.SensorDefinition:
    """The sensor, which runs where LEANHOUSE_ALERT_URLS has an address.

    Raises:
        ConfigError: `[alerts]` names a rule that does not exist.
    """
    check_rules(rules.after_minutes, "after_minutes")
    is_on = bool(settings.alert_urls)

    @dg.sensor(
        name="alerts",
        target=None,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED
        ),
        description="Sends a message when a problem begins, and when it has ended.",
    )
    def send_alerts(
        context: dg.SensorEvaluationContext,
        lake: dg.ResourceParam[LakeResource],
        policy: dg.ResourceParam[Policy],
    ) -> dg.SkipReason:
        if not is_on:
            return dg.SkipReason("Alerts are not set up: set LEANHOUSE_ALERT_URLS.")
        try:
            alarm = Alarm(settings.alert_urls, rules, settings.home, settings.environment)
            now = health(lake.lake(), policy, settings=settings, instance=context.instance)
            deliveries = alarm.look(now)
        except LeanError as error:
            raise dg.Failure(f"{error.message}. {error.remedy}") from None
        failed = [one.target for one in deliveries if not one.is_delivered]
        if failed:
            raise dg.Failure(
                f"{', '.join(failed)} did not accept the alert; the next tick sends it again."
                " leanhouse alert --test tries each address"
            )
        sent = "; ".join(
            f"{one.target}: {one.begun} began, {one.ended} ended" for one in deliveries
        )
        return dg.SkipReason(sent or f"Nothing changed: {len(now.problems)} problems.")

    return send_alerts
