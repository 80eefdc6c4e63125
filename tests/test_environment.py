"""The environment: every name and value is right, or every command says what is wrong with it."""

import grp
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lean_resources.errors import ConfigError
from lean_resources.settings import VARIABLES, WEBHOOK_VARIABLES
from pipelines.definitions import defs
from pipelines.env_file import problems_of
from pipelines.environment import HOUSE_VARIABLES, Settings, child_of, state_folder

ROOT = Path(__file__).resolve().parent.parent
GROUP = grp.getgrgid(os.getegid()).gr_name
SECRET = "hush-8f14e45f"
ALL = {one.name: one for one in (*HOUSE_VARIABLES, *VARIABLES, *WEBHOOK_VARIABLES)}
COMMANDS = [
    ("build",),
    ("status",),
    ("compact",),
    ("vacuum",),
    ("replay",),
    ("query", "select 1"),
    ("publish", "--for", "analysts", "copy"),
    ("sync",),
    ("webhooks",),
    ("doctor",),
    ("demo",),
    ("dev",),
    ("sandbox",),
    ("dictionary",),
]


def refused(values):
    """The problems of an environment."""
    with pytest.raises(ConfigError) as caught:
        Settings.load(values)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


def ran(*arguments, **environment):
    """A command that ended by itself, with nothing of this process's environment."""
    return subprocess.run(
        [sys.executable, "-c", "from pipelines.cli.main import main; main()", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={"PATH": os.environ["PATH"], **environment},
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_every_command_refuses_an_environment_that_lean_does_not_have(arguments, tmp_path):
    """`LEAN_ENVIRONMENT=prod` ends every command with one sentence, before anything is written."""
    home = tmp_path / "home"

    ended = ran(*arguments, LEAN_ENVIRONMENT="prod", LEANHOUSE_HOME=str(home))

    assert ended.returncode == 1
    assert ended.stderr.startswith("error LEAN_ENVIRONMENT is not an allowed value")
    assert "Traceback" not in ended.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    "place", ["s3://bucket/pre-fix/x", "gs://bucket", "az://container/a=b", "s3://bucket/x/"]
)
def test_a_lake_may_be_the_url_of_an_object_store(place):
    """Without a slash at its end; the cache is in the home unless it is set."""
    found = Settings.load({"LEANHOUSE_LAKE": place, "LEANHOUSE_HOME": "/srv/home"})

    assert found.lake == place.rstrip("/")
    assert found.cache == Path("/srv/home/cache")
    assert found.folders == [Path("/srv/home")]


@pytest.mark.parametrize(
    "place",
    [
        f"s3://key:{SECRET}@bucket/x",
        "https://bucket/x",
        "s3://",
        "s3://b/*",
        f"s3://b/x?a={SECRET}",
    ],
)
def test_another_url_is_no_place_of_a_lake(place):
    """The message shows no value: it may have credentials."""
    assert "LEANHOUSE_LAKE" in refused({"LEANHOUSE_LAKE": place})


def test_a_lake_may_be_another_folder():
    """It is brought in line with the home; one in the home is."""
    found = Settings.load({"LEANHOUSE_LAKE": "/srv/lake", "LEANHOUSE_HOME": "/srv/home"})

    assert (found.lake, found.folders) == ("/srv/lake", [Path("/srv/home"), Path("/srv/lake")])
    assert Settings.load({"LEANHOUSE_HOME": "/srv/home"}).lake == "/srv/home/lake"


def test_dagster_refuses_it_as_well(tmp_path):
    """The definitions do not load with a wrong environment."""
    ended = subprocess.run(
        [sys.executable, "-c", "import pipelines.definitions"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={"LEAN_ENVIRONMENT": "prod", "LEANHOUSE_HOME": str(tmp_path)},
    )

    assert ended.returncode == 1
    assert "LEAN_ENVIRONMENT is not an allowed value" in ended.stderr


@pytest.mark.parametrize(
    "value", ["production ", " production", "production\r", "\tproduction\r\n"]
)
def test_white_space_around_the_environment_changes_nothing(value):
    """A trailing blank or the line end of a CRLF file is dropped, and the key is asked for."""
    settings = Settings.load({"LEAN_ENVIRONMENT": value, "LEANHOUSE_HASH_KEY": f" {SECRET}\r"})

    assert settings.environment == "production"
    assert settings.hash_key == SECRET


@pytest.mark.parametrize("name", ALL)
def test_every_value_is_stripped_or_refused(name):
    """No setting keeps the carriage return of a CRLF file."""
    about = {"LEAN_WEBHOOK_SECRET": "x"}
    if "LEGACY" in name:
        about["LEAN_ENVIRONMENT"] = "production"
    if name.startswith("LEAN_CLIENT"):
        about |= {"LEAN_CLIENT_ID": "x", "LEAN_CLIENT_SECRET": "x"}
        about |= {"LEAN_CLIENT_CERT": "/x", "LEAN_CLIENT_KEY": "/x"}
    if "TLS" in name:
        about |= {"LEAN_WEBHOOK_TLS_CERT": "/x", "LEAN_WEBHOOK_TLS_KEY": "/x"}
    read = 0
    for sample in ("true", "sa", "auto", "json", "https://lean.example", "203.0.113.7", "9", "60",
                   "65536", GROUP, "sqlite:////x.db", "postgresql://x/y", "k8s"):  # fmt: skip
        try:
            plain = Settings.load(about | {name: sample})
        except ConfigError:
            continue
        read += 1
        assert Settings.load(about | {name: f"{sample}\r\n"}) == plain

    assert read or name == "LEAN_ENVIRONMENT"


@pytest.mark.parametrize("name", ["LEANHOUSE_PII", "LEAN_LEGACY_HOST"])
@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((word, True) for word in ("true", "True", "TRUE", "1", "yes", "YES", "on", "On")),
        *((word, False) for word in ("false", "False", "FALSE", "0", "no", "No", "off", "OFF")),
    ],
)
def test_a_switch_has_eight_spellings(name, value, meant):
    """true, 1, yes, on; false, 0, no, off; in any case."""
    read = Settings.load({name: value, "LEAN_ENVIRONMENT": "production"})

    assert (read.house.pii if name == "LEANHOUSE_PII" else read.lean.legacy_host) is meant


@pytest.mark.parametrize("name", ["LEANHOUSE_PII", "LEAN_LEGACY_HOST"])
@pytest.mark.parametrize(
    "value", ["t", "y", "n", "2", "-1", "enabled", "ja", "tru", "1.0", "true;"]
)
def test_a_switch_refuses_everything_else(name, value):
    """What is none of them is named, instead of being false in silence."""
    assert f"{name} is neither true nor false" in refused({name: value})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("LEANHOUSE_HASHKEY", "LEANHOUSE_HASH_KEY"),
        ("LEANHOUSE_HASH_KEYS", "LEANHOUSE_HASH_KEY"),
        ("LEANHOUSE_KEY", "LEANHOUSE_HASH_KEY"),
        ("LEANHOUSE_HOM", "LEANHOUSE_HOME"),
        ("LEANHOUSEHOME", "LEANHOUSE_HOME"),
        ("LEAN_HOUSE_HOME", "LEANHOUSE_HOME"),
        ("LEAN_HOME", "LEANHOUSE_HOME"),
        ("LEAN_PII", "LEANHOUSE_PII"),
        ("LEAN_HASH_KEY", "LEANHOUSE_HASH_KEY"),
        ("leanhouse_pii", "LEANHOUSE_PII"),
        ("LEANHOUSE_ENVIRONMENT", "LEAN_ENVIRONMENT"),
        ("LEANHOUSE_REGION", "LEAN_REGION"),
        ("LEAN_ENV", "LEAN_ENVIRONMENT"),
        ("LEAN_ENVIROMENT", "LEAN_ENVIRONMENT"),
        ("lean_environment", "LEAN_ENVIRONMENT"),
        ("LEAN-REGION", "LEAN_REGION"),
        ("LEANN_REGION", "LEAN_REGION"),
        ("LEAN_CLIENT_SECRT", "LEAN_CLIENT_SECRET"),
        ("LEAN_CLIENTID", "LEAN_CLIENT_ID"),
        ("LEAN_TIMEOUT", "LEAN_TIMEOUT_SECONDS"),
        ("LEAN_WEBHOOKS_SECRET", "LEAN_WEBHOOK_SECRET"),
        ("LEAN_WEBHOOK_SECERT", "LEAN_WEBHOOK_SECRET"),
        ("LEAN_WEBHOOK_INBOX_URL", "LEAN_WEBHOOK_INBOX"),
        ("LEANHOUSE_WEBHOOK_SECRET", "LEAN_WEBHOOK_SECRET"),
        ("LEAN_INBOX", "LEAN_WEBHOOK_INBOX"),
        ("\ufeffLEAN_REGION", "LEAN_REGION"),
    ],
)
def test_a_misspelt_name_is_refused_with_what_was_meant(wrong, meant):
    """A slip, a word too few or too many, another prefix or another case."""
    assert f"is unknown: did you mean {meant}" in refused({wrong: SECRET})


@pytest.mark.parametrize("name", ["LEANHOUSE_COLOUR", "LEAN_WEBHOOK_COLOUR"])
def test_every_unknown_name_of_this_project_is_refused(name):
    """Under the prefixes that are this project's own, nothing is ignored."""
    assert refused({name: SECRET}).startswith(f"{name} is unknown")


@pytest.mark.parametrize(
    "name",
    ["LEAN_PATH", "LEAN_SYSROOT", "LEAN_SRC_PATH", "LEAN_CC", "LEAN_NUM_THREADS", "LEAN_EXPORT",
     "LEAN_OPENAPI_DIR", "LEANNE_COLOUR", "CLEAN_REGION", "HOME", "LEANHOUSE_HASHKEY="],
)  # fmt: skip
def test_names_of_others_are_left_alone(name):
    """LEAN_ is a theorem prover's prefix too, and a blank value is no value."""
    assert Settings.load({name: "" if name.endswith("=") else SECRET}) == Settings.load({})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("quotes", ['""', "''", "``", "\u201c\u201d", "\u2018\u2019"])
def test_quotes_that_became_part_of_a_value_are_refused(name, quotes):
    """Whoever read the file left them there; the remedy is to remove them."""
    problem = refused({name: f"{quotes[0]}{SECRET}{quotes[1]}"})

    assert f"{name} is between quotes" in problem
    assert "remove them" in problem


@pytest.mark.parametrize(
    "value",
    ['"', "'", '"/data', "/data'", '/data"', "$HOME/data", "${X}/d", "$(pwd)/d",
     "~nobody-at-all/data", "/data\n/x", "/data\x07"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["LEANHOUSE_HOME", "LEAN_TRUST_ROOT"])
def test_a_path_that_a_shell_would_have_read_otherwise_is_refused(name, value):
    """A stray quote or a variable never becomes the name of a folder."""
    assert name in refused({name: value})


def test_a_tilde_is_the_users_home(monkeypatch, tmp_path):
    """As in a shell, also where dotenv read the file."""
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Settings.load({"LEANHOUSE_HOME": "~/data"}).home == tmp_path / "data"


def test_a_relative_home_is_the_same_wherever_a_process_goes(monkeypatch, tmp_path):
    """It is made absolute when it is read."""
    monkeypatch.chdir(tmp_path)

    assert Settings.load({"LEANHOUSE_HOME": "var/x"}).home == tmp_path / "var" / "x"


@given(st.dictionaries(st.sampled_from(sorted(ALL)) | st.text(), st.text() | st.just(SECRET)))
def test_any_environment_loads_or_is_one_config_error(values):
    """Whatever an environment holds, the outcome is settings or one error without a value."""
    error, read = None, None
    try:
        read = Settings.load(values)
    except ConfigError as caught:
        error = caught

    if read is not None:
        assert read.environment in {"sandbox", "production"}
    else:
        assert error.__context__ is None
        assert SECRET not in str(error)


def test_settings_show_no_secret():
    """Neither the settings nor what is made of them for Dagster prints one."""
    read = Settings.load(
        {
            "LEANHOUSE_HASH_KEY": SECRET,
            "LEAN_CLIENT_ID": "a",
            "LEAN_CLIENT_SECRET": SECRET,
            "LEAN_WEBHOOK_SECRET": SECRET,
            "LEAN_WEBHOOK_INBOX": f"postgresql://u:{SECRET}@h/d",
        }
    )

    assert read.hash_key == SECRET
    assert SECRET not in f"{read!r} {read} {read.house.model_dump()} {read.webhooks.model_dump()}"


def test_dagster_is_given_no_configuration_of_a_resource():
    """No resource has a field, so a page has none to show and a run none to replace."""
    job = defs.resolve_job_def("doorbell")
    for name, field in (("lean", "token_url"), ("lake", "pii"), ("lake", "root"), ("inbox", "url")):
        with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
            dg.validate_run_config(
                job,
                {
                    "resources": {name: {"config": {field: "https://elsewhere.example"}}},
                    "ops": {"doorbell_pulls": {"config": {"streams": [], "entity_ids": []}}},
                },
            )


@pytest.mark.parametrize("character", ["*", "?", "[", "]", "\\", "%", "\n"])
def test_a_folder_that_duckdb_or_dagster_would_misread_is_refused_by_name(character, tmp_path):
    """In the setting and in --home alike, before anything is written."""
    folder = tmp_path / f"a{character}b" / "home"

    with pytest.raises(ConfigError, match="choose a folder without it"):
        state_folder(folder)
    assert "LEANHOUSE_HOME" in refused({"LEANHOUSE_HOME": str(folder)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("build",),
        ("compact",),
        ("vacuum",),
        ("replay",),
        ("query", "select 1"),
        ("publish", "--for", "analysts", "copy"),
        ("demo",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_option_home_is_held_to_the_same(arguments, tmp_path):
    """Every command that takes a folder refuses an unsafe one, before anything is written."""
    ended = ran(*arguments, "--home", str(tmp_path / "a[x]"), LEANHOUSE_HOME=str(tmp_path / "b"))

    assert ended.returncode == 1
    assert ended.stderr.startswith("error --home has '['")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [f"{SECRET}", f"mysql://u:{SECRET}@h/d", f"postgres://u:{SECRET}@h/d", "sqlite://",
     "sqlite:///", f"/var/{SECRET}.db"],
)  # fmt: skip
def test_an_inbox_that_is_no_url_of_a_database_is_refused(url):
    """By every command, and without a password."""
    assert "LEAN_WEBHOOK_INBOX is not the URL" in refused({"LEAN_WEBHOOK_INBOX": url})


def test_a_home_that_is_a_file_is_refused(tmp_path):
    """One sentence, instead of a traceback from within."""
    (file := tmp_path / "file").write_text("")

    assert "LEANHOUSE_HOME is not a folder" in refused({"LEANHOUSE_HOME": str(file)})


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "LEAN_REGION=sa\nLEAN_ENVIRONMENT=sandbox        # then production\n",
        "LEAN_REGION=sa\r\nLEAN_ENVIRONMENT=production\r\n",
        "LEANHOUSE_HASH_KEY='a b#c$d\"e\\f`g&h;i(j)|k<l>m*n?o!p~q{r}s'\nLEAN_CLIENT_ID=\n",
        "export LEANHOUSE_PII='true'\n# a comment\n\nLEANHOUSE_HOME=\"/data/of us\"\n",
        "LEAN_TRUST_ROOT=/certs/a-b_c.d+e@f,g:h%20.pem\nOTHER=$HOME\n",
        (ROOT / ".env.example").read_text(),
    ],
    ids=["empty", "comment", "crlf", "single quotes", "export", "plain", "the example"],
)
def test_a_file_that_a_shell_and_dagster_read_alike_is_in_order(lines, tmp_path):
    """As .env.example says that values are written."""
    (file := tmp_path / ".env").write_bytes(lines.encode())

    assert problems_of(file) == []


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (f"LEANHOUSE_HASH_KEY={SECRET} {SECRET}", "LEANHOUSE_HASH_KEY in .env is another value"),
        (f"LEANHOUSE_HASH_KEY = {SECRET}", "a shell cannot read line 1 of .env"),
        (f"LEANHOUSE_HASH_KEY=a${SECRET[:4]}b", "LEANHOUSE_HASH_KEY in .env is another value"),
        (f"LEAN_CLIENT_ID=a\nLEAN_CLIENT_SECRET={SECRET}&x", "LEAN_CLIENT_SECRET in .env"),
        (f"\nLEAN_CLIENT_ID='{SECRET}", "a shell cannot read line"),
        (f"LEANHOUSE_HASH_KEY='{SECRET}\\\\x'", "LEANHOUSE_HASH_KEY in .env is another value"),
        (f"LEANHOUSE_HASH_KEY='{SECRET}${{HOME}}'", "LEANHOUSE_HASH_KEY in .env is another value"),
        (f"LEANHOUSE_HASHKEY={SECRET}", "did you mean LEANHOUSE_HASH_KEY"),
        ("LEAN_ENVIRONMENT=prod", ".env as Dagster reads it: LEAN_ENVIRONMENT"),
        ("LEANHOUSE_HOME=\"'/data'\"", "LEANHOUSE_HOME is between quotes"),
    ],
)
def test_a_file_that_is_read_in_two_ways_is_refused(lines, named, tmp_path):
    """The variable or the line is named, a value never."""
    (file := tmp_path / ".env").write_text(lines)

    problems = "; ".join(problems_of(file))

    assert named in problems
    assert SECRET not in problems


def test_doctor_compares_the_file_that_lies_there(tmp_path):
    """Before it asks Lean for anything."""
    (tmp_path / ".env").write_text("LEAN_CLIENT_ID=a b\n")

    ended = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "doctor"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={"PATH": os.environ["PATH"], "LEANHOUSE_HOME": str(tmp_path / "home")},
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("error LEAN_CLIENT_ID in .env is another value for a shell")
    assert not (tmp_path / "home").exists()


def test_a_child_gets_the_settings_that_it_is_given_and_no_others(monkeypatch, tmp_path):
    """The offline Lean of `dev` never meets the credentials or the inbox of a real application."""
    monkeypatch.setenv("LEAN_APP_TOKEN", SECRET)
    monkeypatch.setenv("LEAN_WEBHOOK_INBOX", f"postgresql://u:{SECRET}@h/d")
    monkeypatch.setenv("LEANHOUSE_PII", "true")

    child = child_of({"client_id": "a", "client_secret": "b"}, tmp_path)

    assert SECRET not in child.values()
    read = Settings.load(child)
    assert (read.home, read.house.pii, read.has_webhooks) == (tmp_path, False, False)
    assert child["DAGSTER_DISABLE_TELEMETRY"] == "yes"


def test_another_home_has_its_own_runs(tmp_path):
    """--home leaves DAGSTER_HOME aside; all else stays as it was set."""
    values = {"DAGSTER_HOME": str(tmp_path / "runs"), "LEANHOUSE_PII": "true"}
    given = Settings.load(values | {"LEANHOUSE_HOME": str(tmp_path / "here")})

    there = given.at(tmp_path / "there")

    assert given.at(None) is given
    assert (there.home, there.dagster_home) == (tmp_path / "there", tmp_path / "there" / "dagster")
    assert there.house.pii is True
    with pytest.raises(ConfigError, match="--home"):
        given.at(tmp_path / "a[x]")


def test_a_home_of_dagster_that_it_would_not_look_into_is_refused(tmp_path):
    """Dagster looks for dagster.yaml by a pattern, finds none and sends telemetry."""
    assert "DAGSTER_HOME has '['" in refused({"DAGSTER_HOME": str(tmp_path / "a[x]")})
