"""Logs: text as libraries write it, or a JSON object per line (LEANHOUSE_LOG_FORMAT=json)."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading

_LOG = logging.getLogger(__name__)
_DAGSTER = ("dagster", "dagster-webserver")
"""Loggers to which Dagster's commands give handlers of their own."""
_FIELDS = ("run_id", "job_name", "step_key")


class JsonLines(logging.Formatter):
    """A record as a line of JSON with `time` (UTC), `level`, `logger` and `message`.

    Where they are known, `error` is the class of an error, `traceback` is its text as in text
    logs, and `run_id`, `job_name` and `step_key` are those of Dagster. Nothing else of a record is
    written, because text logs do not show it either.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, in ASCII and without its end."""
        of_run = getattr(record, "dagster_meta", {})
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "message": of_run.get("orig_message") or record.getMessage(),
            **{name: of_run[name] for name in _FIELDS if of_run.get(name)},
        }
        event = of_run.get("dagster_event")
        failure = getattr(event and event.event_specific_data, "error", None)
        if failure is not None:
            line["traceback"] = failure.to_string()
            while failure.cause is not None:
                failure = failure.cause
            line["error"] = failure.cls_name
        elif record.exc_info and record.exc_info[0]:
            line |= {
                "error": record.exc_info[0].__name__,
                "traceback": self.formatException(record.exc_info),
            }
        elif error := getattr(record, "error_class", None):
            line["error"] = error
        return json.dumps(line)


def start(log_format: str) -> None:
    """Write this process's log to standard error as the setting says; text needs nothing."""
    if log_format != "json" or are_json():
        return
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(capture=True)
    threading.excepthook = lambda end: _LOG.critical(
        "a thread ended by an error", exc_info=end.exc_value
    )
    for logger in map(logging.getLogger, _DAGSTER):
        for own in logger.handlers:
            own.setFormatter(JsonLines())
        logger.propagate = not logger.handlers


def are_json() -> bool:
    """Whether this process writes its log as JSON."""
    return any(isinstance(one.formatter, JsonLines) for one in logging.getLogger().handlers)
