"""Alerts: one message when a problem begins, one when it ends, to targets that really listen."""

import contextlib
import dataclasses
import datetime as dt
import http.server
import json
import logging
import socketserver
import sys
import threading

import dagster as dg
import pytest

from lean_resources.errors import ConfigError
from pipelines.dagster_defs.alert_sensor import alert_sensor
from pipelines.dagster_defs.resources import LakeResource, bound
from pipelines.environment import Settings
from pipelines.operate.alerts import Alarm
from pipelines.operate.health import Health
from pipelines.operate.problems import problem
from pipelines.sync.policy import Alerts, Policy, load

NOON = dt.datetime(2026, 3, 15, 12, tzinfo=dt.UTC)
AT_ONCE = Alerts(after_minutes={})
FAILING = problem(
    "bank_failing", "SNB", "3 of 3 reads of balances fail", "Wait for the bank.", code="BANK_ISSUE"
)  # fmt: skip
OFF = problem("bank_off", "ANB", "the bank is switched off for data", "Wait for the bank.")
STALE = problem("stale", "SNB", "balances are old", "Run leanhouse sync.")


def at(*problems, minutes=0, explained=(), accepted=(), is_whole=True):
    """Health with these problems, some minutes after noon."""
    now = NOON + dt.timedelta(minutes=minutes)
    return Health(
        now, now.date(), list(problems), list(explained), list(accepted), [], [], is_whole
    )


class Target:
    """An address that keeps what it is sent, and refuses it while `status` is not 200."""

    def __init__(self, url):
        self.url, self.status, self.received = url, 200, []

    @property
    def texts(self):
        return [f"{message['title']}\n{message['text']}" for message in self.received]


@contextlib.contextmanager
def serving(server):
    """Run a server of the standard library on a thread, and stop it."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def chat():
    """A chat that takes Slack's form: the text stands in `text`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if target.status == 200:
                target.received.append(json.loads(body))
            self.send_response(target.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    target = Target(f"json://127.0.0.1:{server.server_port}/made-up-token-000/?:message=text")
    with serving(server):
        yield target


@pytest.fixture
def mail():
    """A mail server that takes what it is sent."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 mail\r\n")
            while line := self.rfile.readline():
                verb = line[:4].upper()
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    target.received.append(b"".join(lines).decode())
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    address = f"127.0.0.1:{server.server_address[1]}"
    target = Target(
        f"mailto://{address}?from=leanhouse@bank.example&to=duty@bank.example&mode=insecure"
    )
    with serving(server):
        yield target


def alarm(tmp_path, *targets, rules=AT_ONCE):
    """What looks and sends, new each time, as each tick makes it."""
    return Alarm([target.url for target in targets], rules, tmp_path, "sandbox")


def test_a_problem_is_sent_when_it_begins_and_when_it_ends(tmp_path, chat):
    """Each once, by whichever process looks; the message has code and remedy."""
    alarm(tmp_path, chat).look(at(FAILING))
    alarm(tmp_path, chat).look(at(FAILING, minutes=5))
    alarm(tmp_path, chat).look(at(FAILING, OFF, minutes=10))
    alarm(tmp_path, chat).look(at(OFF, minutes=15))
    alarm(tmp_path, chat).look(at(OFF, minutes=20))

    begun, second, ended = chat.texts
    assert "1 began" in begun
    assert "Error: SNB: reads of a bank fail (BANK_ISSUE)" in begun
    assert "Do: Wait for the bank." in begun
    assert "ANB" in second
    assert "SNB" not in second
    assert "1 ended" in ended
    assert "Ended: SNB: reads of a bank fail" in ended
    assert "ANB" not in ended


def test_a_problem_that_comes_back_is_sent_again(tmp_path, chat):
    """Its end was sent, so its beginning is news."""
    for minutes, problems in enumerate([(FAILING,), (), (FAILING,)]):
        alarm(tmp_path, chat).look(at(*problems, minutes=minutes))

    assert ["began" in text for text in chat.texts] == [True, False, True]


def test_what_another_problem_explains_has_not_ended(tmp_path, chat):
    """Old data whose bank begins to fail is still old."""
    alarm(tmp_path, chat).look(at(STALE))
    alarm(tmp_path, chat).look(at(FAILING, explained=[STALE], minutes=5))
    alarm(tmp_path, chat).look(at(minutes=10))

    assert ["ended" in text for text in chat.texts] == [False, False, True]
    assert "2 ended" in chat.texts[-1]


def test_what_is_accepted_sends_nothing(tmp_path, chat):
    """Not when it begins, and no end of what was sent before."""
    alarm(tmp_path, chat).look(at(FAILING))
    alarm(tmp_path, chat).look(at(accepted=[FAILING, OFF], minutes=5))

    assert len(chat.received) == 1


def test_nothing_ends_while_the_lake_cannot_be_read(tmp_path, chat):
    """Damage hides how banks stand; it does not mend them."""
    damage = problem("damage", "lake", "a file is missing", "Run leanhouse fsck.")
    alarm(tmp_path, chat).look(at(FAILING))
    alarm(tmp_path, chat).look(at(damage, is_whole=False, minutes=5))

    assert "ended" not in chat.texts[-1]


def test_what_was_refused_is_sent_again(tmp_path, chat, mail):
    """One address that is down gets its message later, and no other gets it twice."""
    chat.status = 500
    first = alarm(tmp_path, chat, mail).look(at(FAILING))
    chat.status = 200
    second = alarm(tmp_path, chat, mail).look(at(FAILING, minutes=5))

    assert [one.is_delivered for one in first] == [False, True]
    assert [one.target for one in second] == ["JSON (1)"]
    assert len(chat.received) == len(mail.received) == 1
    assert "To: duty@bank.example" in mail.received[0]
    assert "BANK_ISSUE" in mail.received[0]


def test_rules_choose(tmp_path, chat):
    """One of a lesser severity, and one that has to last."""
    rules = Alerts(severity="error", after_minutes={"bank_failing": 10})
    looks = [
        alarm(tmp_path, chat, rules=rules).look(at(FAILING, STALE, minutes=minutes))
        for minutes in (0, 9, 10)
    ]

    assert [len(found) for found in looks] == [0, 0, 1]
    assert "balances are old" not in chat.texts[0]


def test_a_short_problem_sends_nothing(tmp_path, chat):
    """Where it must last, one that ends before is never sent, nor is its end."""
    rules = Alerts(after_minutes={"bank_failing": 10})
    for minutes, problems in ((0, [FAILING]), (5, []), (12, [FAILING]), (13, [])):
        assert not alarm(tmp_path, chat, rules=rules).look(at(*problems, minutes=minutes))
    assert not chat.received


def test_a_message_stays_short(tmp_path, chat):
    """A hundred problems are one message that names twenty."""
    many = [dataclasses.replace(FAILING, subject=f"BANK{number:03}") for number in range(100)]
    alarm(tmp_path, chat).look(at(*many))

    (text,) = chat.texts
    assert text.count("reads of a bank fail") == 20
    assert "80 more" in text


def test_a_spoilt_record_sends_again(tmp_path, chat):
    """Rather twice than never."""
    alarm(tmp_path, chat).look(at(FAILING))
    (tmp_path / "alerts/sandbox.json").write_text("{")
    alarm(tmp_path, chat).look(at(FAILING))

    assert len(chat.received) == 2


def test_no_address_is_shown(tmp_path, chat, capfd, caplog):
    """An address that is not valid or not reachable holds a secret all the same."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigError) as refused:
        Alarm(["slack://made-up-secret"], AT_ONCE, tmp_path, "sandbox")
    chat.status = 403
    deliveries = alarm(tmp_path, chat).look(at(FAILING))

    shown = f"{refused.value}{deliveries}{capfd.readouterr()}{caplog.text}"
    shown += (tmp_path / "alerts/sandbox.json").read_text()
    assert "address 1 is not valid" in shown
    assert "made-up" not in shown


def test_an_unknown_rule_is_refused(tmp_path):
    """A rule that nobody checks would be silent for ever."""
    (tmp_path / "policy.toml").write_text("[alerts]\nafter_minutes = { bank_of = 1 }\n")
    rules = load(tmp_path / "policy.toml").alerts

    with pytest.raises(ConfigError, match="there is no rule bank_of"):
        Alarm([], rules, tmp_path, "sandbox")


def test_without_the_extra_it_is_named(tmp_path, chat, monkeypatch):
    """A plain installation has no apprise."""
    monkeypatch.setitem(sys.modules, "apprise", None)

    with pytest.raises(ConfigError, match=r"leanhouse\[alerts\]"):
        alarm(tmp_path, chat)


def test_the_sensor_sends(tmp_path, chat):
    """The daemon looks by itself, with nothing but the settings."""
    environment = {"LEANHOUSE_HOME": str(tmp_path), "LEANHOUSE_ALERT_URLS": chat.url}
    sensor = alert_sensor(Settings.load(environment), AT_ONCE)
    resources = bound(lake=LakeResource(tmp_path / "lake", "sandbox"), policy=Policy())
    with dg.instance_for_test() as instance:
        for _ in range(2):
            with dg.build_sensor_context(instance=instance, resources=resources) as context:
                result = sensor(context)

    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert isinstance(result, dg.SkipReason)
    assert "Nothing changed" in result.skip_message
    (text,) = chat.texts
    assert "nothing was read from Lean yet" in text


def test_without_an_address_the_sensor_is_off(tmp_path):
    """It is there, and says what to set."""
    sensor = alert_sensor(Settings.load({"LEANHOUSE_HOME": str(tmp_path)}), AT_ONCE)

    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
