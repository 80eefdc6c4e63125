"""The page of a daily report: its figures in words, tables and charts of a language."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.util
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from hijridate import Gregorian
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lean_resources.errors import LeanError
from pipelines.operate.bank_health import RIYADH
from pipelines.operate.charts import COLOURS, draw
from pipelines.operate.problems import RULES, Problem
from pipelines.operate.report import Language, Report

_PAGES = Path(__file__).parent / "pages"


@functools.cache
def texts_of(language: Language) -> dict[str, Any]:
    """The words of a language."""
    return tomllib.loads((_PAGES / f"{language}.toml").read_text(encoding="utf-8"))


def page(report: Report, language: Language) -> str:
    """A report as HTML that needs nothing else: no script, and no file or font from elsewhere.

    Args:
        language: Its language; figures, instants and identifiers look the same in all.
    """
    words = texts_of(language)
    environment = Environment(
        loader=FileSystemLoader(_PAGES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": "{:,}".format,
        "share": _share,
        "instant": lambda at: _isolated(f"{at.astimezone(RIYADH):%Y-%m-%d %H:%M}"),
        "isolated": _isolated,
        "title": lambda rule: _title(rule, words),
        "remedy": lambda problem: _remedy(problem, words),
    }
    is_rtl = words["dir"] == "rtl"
    return environment.get_template("report.html").render(
        t=words,
        language=language,
        report=report,
        health=report.health,
        since=report.until - dt.timedelta(days=1),
        dates=_dates(report.day, language, words),
        ages=_ages(report),
        has_charts=importlib.util.find_spec("vl_convert") is not None,
        chart=lambda *given: Markup(draw(*given, is_rtl=is_rtl)),  # noqa: S704 - a library's SVG
        runs=[_run(number, run) for number, run in enumerate(report.runs or (), 1)],
        colours=COLOURS,
    )


def _isolated(text: str) -> Markup:
    """Text that runs from left to right, wherever it stands."""
    return Markup('<bdi dir="ltr">{}</bdi>').format(text)


def _share(part: int, whole: int) -> Markup:
    """A share in percent, rounded down: what is not whole is never shown as 100 %."""
    return _isolated(f"{math.floor(part * 1000 / whole) / 10:g}%")


def _dates(day: dt.date, language: Language, words: Mapping[str, Any]) -> list[str]:
    """A day in both calendars of Saudi Arabia."""
    gregorian, spoken = Gregorian.fromdate(day), cast("Any", language.value)
    return [
        words[name].format(
            weekday=gregorian.day_name(spoken),
            day=date.day,
            month=date.month_name(spoken),
            year=date.year,
        )
        for name, date in (("gregorian", gregorian), ("hijri", gregorian.to_hijri()))
    ]


def _ages(report: Report) -> list[dict[str, Any]]:
    found = []
    for bank in report.health.banks:
        if bank.bank_identifier and bank.refreshed_at is not None:
            hours = max(0.0, (report.health.as_of - bank.refreshed_at).total_seconds() / 3600)
            series = "late" if hours > report.fresh_hours else "good"
            about = {"label": bank.bank_identifier, "limit": report.fresh_hours}
            found.append({**about, "value": hours, "series": series})
    return found


def _run(number: int, run: Mapping[str, Any]) -> dict[str, Any]:
    took = dt.timedelta(seconds=round(run["seconds"]))
    return {**run, "label": number, "value": run["seconds"] / 60, "took": str(took)}


def _title(rule: str, words: Mapping[str, Any]) -> str:
    title = RULES[rule].title
    return str(words["rules"].get(rule, {}).get("title", title[:1].upper() + title[1:]))


def _remedy(problem: Problem, words: Mapping[str, Any]) -> str:
    """What to do: by the class of the error behind it, else by its rule, else in English."""
    for one in _classes(LeanError):
        if one.remedy == problem.remedy and one.__name__ in words["remedies"]:
            return str(words["remedies"][one.__name__])
    return str(words["rules"].get(problem.rule, {}).get("remedy", problem.remedy))


def _classes(parent: type[LeanError]) -> Iterator[type[LeanError]]:
    for one in parent.__subclasses__():
        yield one
        yield from _classes(one)
