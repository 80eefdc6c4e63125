"""The daily report: whole in both languages, true to the tables, and without a personal value."""

import asyncio
import datetime as dt
import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import dagster as dg
import pytest
from conftest import client_of, sync_everything
from typer.testing import CliRunner

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.cli.main import app
from pipelines.dagster_defs.resources import LakeResource, bound
from pipelines.dagster_defs.warehouse_assets import daily_report
from pipelines.keys import SANDBOX_KEY
from pipelines.lake.folder import Folder
from pipelines.lake.lake import Lake
from pipelines.lake.places import find
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.operate.page import _classes, page, texts_of
from pipelines.operate.problems import RULES, problem
from pipelines.operate.report import KEPT_DAYS, Language, keep, report
from pipelines.publish.leaks import leaking
from pipelines.publish.warehouse import connect, publish
from pipelines.sync.policy import Policy

CHROMIUM = shutil.which("chromium")
SECTIONS = {"verdict", "kpi", "problems", "banks", "charts", "changes", "reads"}
CHARTS = {"freshness", "coverage", "proof", "rows", "runs", "requests"}
MODELS = load()
BANK = "ALINMA_SAU"


class Read(HTMLParser):
    """A page as its elements, its texts, and its tables by the id of what they are in."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.tables, self.rows = [], [], {}, []
        self._ids, self._in = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag in {"section", "figure"}:
            self._ids.append(given.get("id"))
        if tag == "tr":
            self.rows.append((given, []))
            self.tables.setdefault(self._ids[-1], []).append(self.rows[-1][1])
        if tag in {"td", "th"} and self.rows:
            self.rows[-1][1].append("")
        self._in.append(tag)

    def handle_endtag(self, tag):
        if tag in {"section", "figure"}:
            self._ids.pop()
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._in:
            self.texts.append(data.strip())
            if {"td", "th"} & set(self._in):
                self.rows[-1][1][-1] += data.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lake with its tables, of which a bank has failed since, and the offline Lean behind it."""
    lake = Lake(tmp_path_factory.mktemp("home") / "lake", "sandbox")
    sandbox = Sandbox(customers=4, months=2, seed=7, today=dt.datetime.now(dt.UTC))
    asyncio.run(sync_everything(client_of(sandbox), lake))
    with lake.connect(("entities",)) as connection:
        failing = connection.execute(
            "select entity_id from entities where bank_identifier = $1", [BANK]
        ).fetchall()
    for (entity_id,) in failing:
        sandbox.fail("balances", "RECONNECT_REQUIRED", times=None, entity_id=entity_id)
    sandbox.clock.advance(dt.timedelta(seconds=5))
    asyncio.run(sync_everything(client_of(sandbox), lake, ["balances"]))
    build(lake, MODELS, hash_key=SANDBOX_KEY)
    publish(lake, MODELS)
    return lake, sandbox


@pytest.fixture(scope="module")
def found(made):
    """The report of that lake."""
    return report(made[0], Policy())


@pytest.fixture(scope="module")
def pages(found):
    """Its pages."""
    return {language: page(found, language) for language in Language}


def answer(lake, query):
    """What the warehouse says."""
    with connect(lake) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("language", Language)
def test_a_page_is_whole_and_needs_nothing_from_elsewhere(pages, language):
    """Every section is there; nothing is fetched, and nothing runs."""
    html = pages[language]
    read = Read(html)
    tags = [tag for tag, _ in read.elements]
    names = {name for _, given in read.elements for name in given}
    ids = Counter(given["id"] for _, given in read.elements if given.get("id"))

    [(_, root)] = [one for one in read.elements if one[0] == "html"]
    assert root == {"lang": language, "dir": "rtl" if language == "ar" else "ltr"}
    assert ids.keys() >= SECTIONS | {f"chart-{name}" for name in CHARTS}
    assert max(ids.values()) == 1
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(tags)
    assert not {"src", "href", "xlink:href", "srcset", "action"} & names
    assert not any(name.startswith("on") for name in names)
    assert not re.search(r"url\((?!#)|@import", html)
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert ("meta", "default-src 'none'; style-src 'unsafe-inline'") in [
        (tag, given.get("content")) for tag, given in read.elements
    ]


@pytest.mark.parametrize("language", Language)
def test_each_picture_has_words_and_a_table_of_its_figures(pages, language):
    """Who cannot see a chart reads both."""
    read = Read(pages[language])
    pictures = [given for _, given in read.elements if given.get("role") == "img"]

    assert [tag for tag, _ in read.elements].count("svg") == len(pictures) == 5
    assert all(len(given["aria-label"]) > 20 for given in pictures)
    assert len({given["aria-label"] for given in pictures}) == 5
    for name in CHARTS - {"runs"}:
        assert len(read.tables[f"chart-{name}"]) > 2


@pytest.mark.parametrize("language", Language)
def test_figures_are_those_of_the_tables(made, pages, language):
    """What came by bank and stream, known days and proved days, each counted by another way."""
    lake, read = made[0], Read(pages[language])
    came = {
        (given["data-bank"], given["data-stream"]): [int(one.replace(",", "")) for one in row[-9:]]
        for given, row in read.rows
        if "data-bank" in given
    }
    of_marts = answer(
        lake,
        "select replace(bank_identifier, 'application', ''), stream, sum(pull_count),"
        " sum(committed_count), sum(unchanged_count), sum(skipped_count), sum(failed_count),"
        " sum(row_count), 0, sum(quarantined_count), sum(request_count) from mart_sync_health"
        " where pull_count > 0 group by all",
    )
    coverage = answer(
        lake,
        "select bank_identifier, count(*) filter (where days.status = 'covered'),"
        " count(*) filter (where days.status = 'not_yet_pulled'),"
        " count(*) filter (where days.status = 'record_unfit'),"
        " count(*) filter (where days.status = 'bank_refused') from"
        " (select *, unnest(range(day_count)) from mart_coverage) as days inner join dim_accounts"
        " using (account_key) where days.status not in ('not_offered', 'not_permitted')"
        " group by all",
    )
    proof = answer(
        lake,
        "select bank_identifier, count(*) filter (where verdict = 'proved'),"
        " count(*) filter (where verdict = 'unprovable'), count(*) filter (where verdict = 'gap')"
        " from mart_balance_reconciliation inner join dim_accounts using (account_key)"
        " group by all",
    )

    assert came == {(bank, stream): [*map(int, rest)] for bank, stream, *rest in of_marts}
    assert came[BANK, "balances"][4] > 0
    for name, counted in (("coverage", coverage), ("proof", proof)):
        table = read.tables[f"chart-{name}"][1:]
        assert {tuple(row) for row in table} == {
            (bank, *(f"{one:,}" for one in rest)) for bank, *rest in counted
        }


def test_problems_are_those_of_health_with_what_to_do(found, pages):
    """In Arabic too, by the error behind them; the English sentence has the figures."""
    [one] = [one for one in found.health.problems if one.rule == "consent_refused"]
    english, arabic = (" ".join(Read(pages[language]).texts) for language in Language)
    words = texts_of(Language.ARABIC)

    assert one.subject == BANK
    assert one.message in english
    assert f"What to do: {one.remedy}" in english
    assert one.message in arabic
    assert words["rules"]["consent_refused"]["title"] in arabic
    assert words["remedies"]["ConsentError"] in arabic
    assert one.remedy not in arabic
    assert "Needs a person" in english
    assert words["wrong"] in arabic


def lacking(rules, words):
    """Rules without an Arabic title or remedy."""
    return {
        name
        for name in rules
        if not all(
            re.search("[\u0600-\u06ff]", words.get(name, {}).get(part, ""))
            for part in ("title", "remedy")
        )
    }


def test_every_rule_has_its_arabic_and_both_languages_have_the_same_words():
    """A new rule, word or kind of error is found here."""
    arabic, english = texts_of(Language.ARABIC), texts_of(Language.ENGLISH)

    assert lacking(RULES, arabic["rules"]) == set()
    assert lacking({**RULES, "moon_missing": None}, arabic["rules"]) == {"moon_missing"}
    assert arabic["rules"].keys() == RULES.keys()
    assert arabic["remedies"].keys() <= {one.__name__ for one in _classes(Exception)}
    for name, words in english.items():
        if isinstance(words, dict) and words:
            assert words.keys() == arabic[name].keys(), name
    assert english.keys() == arabic.keys()


def personal(lake, html):
    """Whether a page holds a personal value of a lake."""
    texts = [text for text in Read(html).texts if text]
    with lake.connect(()) as connection:
        connection.execute("create temp table page as select unnest($1) as text", [texts])
        return leaking(connection, lake, MODELS, "select 'page' as place, text from page")


def test_no_personal_value_and_no_secret_stands_in_it(made, found, pages):
    """A name in a problem's sentence would be found."""
    lake, sandbox = made
    with lake.connect(()) as connection:
        [(number,)] = connection.execute(
            "select unnest(identifications).identification"
            f" from ({lake.history(STREAMS['accounts'])}) limit 1"
        ).fetchall()
    leak = problem("run_failed", "accounts", f"the account {number} cannot be read", "Wait.")
    leaky = replace(found, health=replace(found.health, problems=[leak]))

    for language, html in pages.items():
        assert personal(lake, html) == []
        assert personal(lake, page(leaky, language)) == ["page"]
        for secret in (sandbox.client_id, sandbox.client_secret, sandbox.webhook_secret):
            assert secret not in html


@pytest.mark.parametrize("language", Language)
def test_before_the_first_sync_it_says_what_to_do(tmp_path, language):
    """No table, no pull and no run; nothing is made by looking."""
    found = report(Lake(tmp_path / "none" / "lake", "sandbox"), Policy())

    html = page(found, language)

    words = texts_of(language)
    assert [one.rule for one in found.health.problems] == ["no_sync_yet"]
    assert words["charts"]["no_tables"] in html
    assert words["charts"]["no_runs"] in html
    assert "<svg" not in html
    assert not (tmp_path / "none").exists()


def test_what_was_read_shows_before_tables_are_built(made, tmp_path):
    """Coverage and proof wait for them."""
    shutil.copytree(made[0].folder, tmp_path / "lake" / "sandbox")
    lake = Lake(tmp_path / "lake", "sandbox")
    lake.warehouse.unlink()

    found = report(lake, Policy())

    assert found.coverage is found.proof is found.changes is None
    assert sum(one["rows"] for one in found.reads) > 0
    assert texts_of(Language.ENGLISH)["charts"]["no_tables"] in page(found, Language.ENGLISH)


@pytest.mark.parametrize("language", Language)
def test_without_the_extra_the_figures_stand_alone(found, pages, monkeypatch, language):
    """A plain installation draws no chart, and says what would."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    html = page(found, language)

    assert "leanhouse[report]" in html
    assert "<svg" not in html
    assert html.count("<details open>") == pages[language].count("<details>")


def test_a_day_is_24_hours_and_what_changed_is_held_against_the_day_before(made):
    """A day later the same reads are those of the day before, and later still only a bar."""
    lake, now = made[0], dt.datetime.now(dt.UTC)

    def rows(**given):
        found = report(lake, Policy(), **given)
        return (
            sum(one["rows"] for one in found.reads),
            sum(one["rows_before"] for one in found.reads),
            [one["rows"] for one in found.days if one["rows"]],
            {one["change"]: (one["now"], one["before"]) for one in found.changes},
        )

    came, before, days, changes = rows(now=now)
    assert came > 100
    assert (before, days) == (0, [came])
    assert changes["accounts_added"][0] > 3
    later = rows(now=now + dt.timedelta(days=1))
    assert later[:3] == (0, came, [came])
    assert later[3]["accounts_added"] == changes["accounts_added"][::-1]
    assert rows(now=now + dt.timedelta(days=3))[:3] == (0, 0, [came])
    assert rows(now=now + dt.timedelta(days=14))[2] == []
    today = now.astimezone(dt.timezone(dt.timedelta(hours=3))).date()
    past = report(lake, Policy(), now=now + dt.timedelta(days=5), day=today)
    assert sum(one["rows"] + one["rows_before"] for one in past.reads) == came
    assert past.days[-1]["label"] == f"{today:%m-%d}"
    assert (past.day, past.until.hour) == (today, 21)


def test_dates_stand_in_both_calendars(found):
    """26 Ramadan 1447 by Umm al-Qura."""
    of_day = replace(found, day=dt.date(2026, 3, 15))

    assert "Sunday, 15 March 2026 · 26 Ramadan 1447 AH" in page(of_day, Language.ENGLISH)
    assert "الأحد، 15 مارس 2026 م · 26 رمضان 1447 هـ" in page(of_day, Language.ARABIC)


def test_what_is_not_whole_is_never_shown_as_whole(found):
    """Shares are rounded down."""
    part = {"label": BANK, "series": "covered", "value": 99_999, "place": 1}
    rest = {**part, "series": "bank_refused", "value": 1, "place": 4}

    html = page(replace(found, coverage=[part, rest]), Language.ENGLISH)

    assert "99.9%" in re.search(r"Days known.*?</li>", html, re.DOTALL)[0]


def test_the_command_writes_where_it_says_and_refuses_what_it_cannot(made, tmp_path, monkeypatch):
    """Into the home, or into a file."""
    home = made[0].folder.parent.parent

    def run(*arguments):
        return CliRunner().invoke(app, ["report", "--home", str(home), *arguments])

    day = f"{dt.datetime.now(dt.UTC) + dt.timedelta(hours=3):%Y-%m-%d}"
    first = run("--lang", "ar")
    file = home / "reports" / "sandbox" / f"{day}.ar.html"
    assert first.exit_code == 0, first.output
    assert 'dir="rtl"' in file.read_text(encoding="utf-8")
    assert run("--output", str(tmp_path / "here.html"), "--day", "2026-01-31").exit_code == 0
    assert "31 January 2026" in (tmp_path / "here.html").read_text(encoding="utf-8")
    for arguments, reason in (
        (("--lang", "fr"), "choose from en, ar"),
        (("--day", "yesterday"), "YYYY-MM-DD"),
        (("--day", "2999-01-01"), "choose such a day"),
        (("--output", str(tmp_path)), "name a file"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 1
        assert reason in " ".join(refused.output.split())


def test_old_reports_go_and_all_lie_in_their_place(tmp_path):
    """The registry of places knows them, staged or not."""
    home, today = Folder(tmp_path), (dt.datetime.now(dt.UTC) + dt.timedelta(hours=3)).date()
    pages = dict.fromkeys(Language, "page")
    for age in (KEPT_DAYS + 1, KEPT_DAYS, 1):
        keep(home, "sandbox", today - dt.timedelta(days=age), pages)

    keys = keep(home, "sandbox", today, pages)

    kept = sorted(str(one.key) for one in home.walk())
    ages = (KEPT_DAYS, 1, 0)
    assert kept == sorted(
        f"reports/sandbox/{today - dt.timedelta(days=age)}.{language}.html"
        for age in ages
        for language in Language
    )
    assert {find(str(key))[0].name for key in keys} == {"reports"}
    assert find(f"{keys[0]}.tmp")[1]


def test_dagster_writes_both_languages_and_shows_where(made, tmp_path):
    """After the warehouse of the nightly sync; the runs so far are in it."""
    from pipelines.definitions import defs

    lake = LakeResource(made[0].folder.parent, "sandbox")
    nightly = defs.resolve_job_def("nightly_sync").asset_layer.executable_asset_keys
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            ended = dg.materialize(
                [daily_report], instance=instance, resources=bound(lake=lake, policy=Policy())
            )
    [event] = ended.get_asset_materialization_events()
    metadata = event.materialization.metadata

    assert dg.AssetKey("daily_report") in nightly
    assert defs.resolve_asset_graph().get(dg.AssetKey("daily_report")).parent_keys == {
        dg.AssetKey("compaction")
    }
    assert metadata["needs a person"].value
    for language in Language:
        read = Read(Path(metadata[language].value).read_text(encoding="utf-8"))
        assert len(read.tables["chart-runs"]) == 3
        assert texts_of(language)["statuses"]["SUCCESS"] in read.tables["chart-runs"][1]


MEASURE = """<script>
const wide = document.documentElement.scrollWidth > innerWidth + 1;
const charts = [...document.querySelectorAll("svg")];
const boxes = (svg, what) => [...svg.querySelectorAll(what)].map(
    one => one.getBoundingClientRect());
const out = charts.filter(svg => {
    const all = svg.getBoundingClientRect();
    return boxes(svg, "text").some(box => box.left < all.left - 2 || box.right > all.right + 2);
}).length;
const over = charts.filter(svg => {
    const bars = boxes(svg, ".mark-rect path");
    return boxes(svg, ".role-axis-label text").some(box => bars.some(bar => bar.width
        && box.left < bar.right - 1 && bar.left < box.right - 1
        && box.top < bar.bottom - 1 && bar.top < box.bottom - 1));
}).length;
const seen = charts.filter(svg => svg.getBoundingClientRect().height > 60).length;
const side = getComputedStyle(document.body).direction;
document.title = JSON.stringify([side, wide, out, over, seen]);
</script>"""
"""Writes into the title how the page is laid out: its direction, whether it is wider than its
window, charts with words cut off or covered, and charts that can be seen."""


def browse(folder, html, *flags):
    """What a headless Chromium makes of a page that measures itself."""
    file = folder / "page.html"
    measured = re.sub("<meta http-equiv=[^>]*>", "", html).replace("</body>", f"{MEASURE}</body>")
    file.write_text(measured, encoding="utf-8")
    ended = subprocess.run(
        [
            *(CHROMIUM or "chromium", "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            *(f"--user-data-dir={folder / 'profile'}", *flags, file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search("<title>(.*?)</title>", ended.stdout)
    return None if title is None else title[1]


@pytest.mark.parametrize(
    "language",
    [pytest.param(one, marks=() if CHROMIUM else pytest.mark.conformance) for one in Language],
)
def test_a_browser_lays_it_out(pages, tmp_path, language):
    """Nothing is cut off or covered at any width, and it prints; a mirrored chart would be."""
    html, direction = pages[language], texts_of(language)["dir"]
    good = f'["{direction}",false,0,0,5]'

    for width in (1280, 500):
        flags = (f"--window-size={width},900", "--dump-dom")
        assert browse(tmp_path, html, *flags) == good
    broken = html.replace('<div dir="ltr" role="img"', '<div dir="rtl" role="img"')
    assert browse(tmp_path, broken, "--window-size=1280,900", "--dump-dom") != good
    browse(tmp_path, html, f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
