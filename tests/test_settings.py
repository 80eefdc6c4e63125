import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lean_resources.errors import ConfigError
from lean_resources.settings import (
    HOSTS,
    LEGACY_HOSTS,
    VARIABLES,
    WEBHOOK_VARIABLES,
    LeanSettings,
    WebhookSettings,
)

SECRET = "hush-8f14e45f"
PAIR = {"LEAN_CLIENT_ID": "7a2c1d30", "LEAN_CLIENT_SECRET": SECRET}
CERTIFICATE = {"LEAN_CLIENT_CERT": "/certs/cert.pem", "LEAN_CLIENT_KEY": "/certs/key.pem"}
LEGACY = {
    "LEAN_APP_TOKEN": SECRET,
    "LEAN_LEGACY_HOST": "true",
    "LEAN_ENVIRONMENT": "production",
    **CERTIFICATE,
}


def _problem(values, **options):
    with pytest.raises(ConfigError) as caught:
        LeanSettings.load(values, **options)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


def test_two_variables_are_enough():
    """A client id and its secret make settings for the Saudi sandbox."""
    settings = LeanSettings.load(PAIR)

    assert (settings.region, settings.environment) == ("sa", "sandbox")
    assert settings.client_secret == SecretStr(SECRET)
    assert settings.timeout_seconds > 50


@pytest.mark.parametrize(("region", "environment"), HOSTS, ids=" ".join)
def test_region_and_environment_choose_the_hosts(region, environment):
    """Each region and environment has its API and its token endpoint, over https."""
    settings = LeanSettings.load(PAIR | {"LEAN_REGION": region, "LEAN_ENVIRONMENT": environment})

    assert (settings.api_url, settings.token_url) == HOSTS[region, environment]
    assert settings.api_url.startswith("https://")
    assert settings.token_url.endswith("/oauth2/token")


def test_every_host_is_one_of_a_kind():
    """No two environments share a host, so that sandbox and production never mix."""
    apis = [hosts.api for hosts in HOSTS.values()] + list(LEGACY_HOSTS.values())
    tokens = [hosts.token for hosts in HOSTS.values()]

    assert len(set(apis)) == len(apis)
    assert len(set(tokens)) == len(tokens)


def test_every_variable_is_read():
    """Each documented variable sets its field."""
    values = {
        "LEAN_REGION": "ae",
        "LEAN_ENVIRONMENT": "production",
        "LEAN_LEGACY_HOST": "true",
        "LEAN_API_URL": "https://lean.example/",
        "LEAN_TOKEN_URL": "https://lean.example/token",
        "LEAN_APP_TOKEN": "token",
        "LEAN_CLIENT_CERT": "/cert.pem",
        "LEAN_CLIENT_KEY": "/key.pem",
        "LEAN_CLIENT_KEY_PASSWORD": " pass ",
        "LEAN_TRUST_ROOT": "/chain.pem",
        "LEAN_MAX_CONCURRENCY": "3",
        "LEAN_REQUESTS_PER_SECOND": "2.5",
        "LEAN_PROCESSES": "2",
        "LEAN_TIMEOUT_SECONDS": "70",
        "LEAN_CONNECT_TIMEOUT_SECONDS": "3",
        "LEAN_RESPONSE_DEADLINE_SECONDS": "90",
        "LEAN_READ_DEADLINE_SECONDS": "600",
        "LEAN_MAX_RESPONSE_BYTES": "1000000",
        "LEAN_ATTEMPTS": "2",
        "LEAN_PENDING_DEADLINE_SECONDS": "60",
        "LEAN_PENDING_POLL_SECONDS": "5",
        "LEAN_VERBOSE": "never",
        "LEAN_PAGE_SIZE": "50",
        "LEAN_SHARED_LIMITS": "postgresql://host/name",
    }
    oauth2 = {"LEAN_CLIENT_ID", "LEAN_CLIENT_SECRET"}

    settings = LeanSettings.load(values)

    assert {variable.name for variable in VARIABLES} == set(values) | oauth2
    assert settings.model_fields_set == {
        variable.field for variable in VARIABLES if variable.name not in oauth2
    }
    assert settings.api_url == "https://lean.example"
    assert settings.requests_per_second == 2.5
    assert settings.client_key_password == SecretStr(" pass ")
    assert settings.is_legacy


def test_variables_document_themselves():
    """The table of variables holds names, sentences, defaults that load, and which are secret."""
    defaults = {variable.name: variable.default for variable in VARIABLES}

    assert all(variable.description.endswith(".") for variable in VARIABLES)
    assert {variable.name for variable in VARIABLES if variable.secret} == {
        "LEAN_CLIENT_SECRET",
        "LEAN_APP_TOKEN",
        "LEAN_CLIENT_KEY_PASSWORD",
        "LEAN_SHARED_LIMITS",
    }
    assert LeanSettings.load(defaults | PAIR) == LeanSettings.load(PAIR)


def test_blank_counts_as_unset():
    """Empty and blank values, and None, are as if the variable were not there."""
    blank = {variable.name: "" for variable in VARIABLES}
    blank |= {"LEAN_APP_TOKEN": "  \n", "LEAN_REGION": None}

    assert LeanSettings.load(blank | PAIR) == LeanSettings.load(PAIR)


def test_white_space_around_a_value_is_dropped():
    """A secret read from a file with a line end is the secret."""
    settings = LeanSettings.load(PAIR | {"LEAN_CLIENT_SECRET": f" {SECRET}\n"})

    assert settings.client_secret == SecretStr(SECRET)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        pytest.param({}, ["LEAN_CLIENT_ID", "LEAN_CLIENT_SECRET"], id="no credentials"),
        pytest.param(
            {"LEAN_CLIENT_ID": "a"}, ["LEAN_CLIENT_ID", "LEAN_CLIENT_SECRET"], id="id alone"
        ),
        pytest.param(
            {"LEAN_CLIENT_SECRET": SECRET},
            ["LEAN_CLIENT_ID", "LEAN_CLIENT_SECRET"],
            id="secret alone",
        ),
        pytest.param(
            PAIR | {"LEAN_APP_TOKEN": SECRET},
            ["LEAN_APP_TOKEN", "LEAN_CLIENT_ID", "remove LEAN_APP_TOKEN"],
            id="both kinds of credentials",
        ),
        pytest.param(
            {"LEAN_CLIENT_SECRET": SECRET, "LEAN_APP_TOKEN": SECRET},
            ["LEAN_APP_TOKEN"],
            id="half a pair beside an application token",
        ),
        pytest.param(
            PAIR | {"LEAN_CLIENT_CERT": "/c.pem"},
            ["LEAN_CLIENT_CERT", "LEAN_CLIENT_KEY"],
            id="certificate without key",
        ),
        pytest.param(
            PAIR | {"LEAN_CLIENT_KEY": "/k.pem"},
            ["LEAN_CLIENT_CERT", "LEAN_CLIENT_KEY"],
            id="key without certificate",
        ),
        pytest.param(
            PAIR | {"LEAN_CLIENT_KEY_PASSWORD": SECRET},
            ["LEAN_CLIENT_KEY_PASSWORD"],
            id="password without key",
        ),
        pytest.param(PAIR | {"LEAN_REGION": SECRET}, ["LEAN_REGION", "sa", "ae"], id="region"),
        pytest.param(
            PAIR | {"LEAN_ENVIRONMENT": "prod"},
            ["LEAN_ENVIRONMENT", "production"],
            id="environment",
        ),
        pytest.param(
            {"LEAN_APP_TOKEN": f"{SECRET}\nx: y"}, ["LEAN_APP_TOKEN", "header"], id="header"
        ),
        pytest.param(PAIR | {"LEAN_PAGE_SIZE": "101"}, ["LEAN_PAGE_SIZE", "1 to 100"], id="page"),
        pytest.param(PAIR | {"LEAN_PAGE_SIZE": SECRET}, ["LEAN_PAGE_SIZE", "number"], id="text"),
        pytest.param(
            PAIR | {"LEAN_TIMEOUT_SECONDS": "50"}, ["LEAN_TIMEOUT_SECONDS", "50"], id="timeout"
        ),
        pytest.param(
            PAIR | {"LEAN_REQUESTS_PER_SECOND": "nan"}, ["LEAN_REQUESTS_PER_SECOND"], id="nan"
        ),
        pytest.param(
            PAIR | {"LEAN_REQUESTS_PER_SECOND": "0"}, ["LEAN_REQUESTS_PER_SECOND"], id="zero"
        ),
        pytest.param(PAIR | {"LEAN_LEGACY_HOST": "maybe"}, ["LEAN_LEGACY_HOST"], id="boolean"),
        pytest.param(
            PAIR | {"LEAN_PENDING_DEADLINE_SECONDS": "10"},
            ["LEAN_PENDING_POLL_SECONDS", "LEAN_PENDING_DEADLINE_SECONDS"],
            id="polls later than the deadline",
        ),
        pytest.param(
            PAIR | {"LEAN_CLIENT_SECRT": SECRET},
            ["LEAN_CLIENT_SECRT", "LEAN_CLIENT_SECRET"],
            id="typo",
        ),
        pytest.param(
            PAIR | {"LEAN_API_URL": "https://api2.sa.leantech.me"},
            ["LEAN_API_URL", "LEAN_ENVIRONMENT", "production"],
            id="production host in the sandbox",
        ),
        pytest.param(
            PAIR | {"LEAN_REGION": "ae", "LEAN_TOKEN_URL": HOSTS["sa", "sandbox"].token},
            ["LEAN_TOKEN_URL", "LEAN_REGION"],
            id="token endpoint of another region",
        ),
        pytest.param(
            {
                name: value
                for name, value in LEGACY.items()
                if "CERT" not in name and "KEY" not in name
            },
            ["LEAN_CLIENT_CERT", "LEAN_CLIENT_KEY"],
            id="legacy host without certificate",
        ),
        pytest.param(
            {name: value for name, value in LEGACY.items() if name != "LEAN_APP_TOKEN"},
            ["LEAN_APP_TOKEN"],
            id="legacy host without application token",
        ),
        pytest.param(
            {name: value for name, value in LEGACY.items() if name != "LEAN_APP_TOKEN"} | PAIR,
            ["LEAN_APP_TOKEN", "LEAN_LEGACY_HOST"],
            id="legacy host with OAuth2",
        ),
        pytest.param(
            LEGACY | {"LEAN_ENVIRONMENT": "sandbox"},
            ["LEAN_LEGACY_HOST", "LEAN_ENVIRONMENT"],
            id="legacy host in the sandbox",
        ),
        pytest.param(
            PAIR | {"LEAN_REGION": "ae", "LEAN_API_URL": "https://mtls.sandbox.leantech.me"},
            ["LEAN_CLIENT_CERT"],
            id="host that enforces mTLS",
        ),
    ],
)
def test_a_problem_names_its_variables(values, named):
    """A missing, half set, contradicting or unfit value is a ConfigError that names it."""
    message = _problem(values)

    assert all(name in message for name in named)


def test_all_problems_come_at_once():
    """Three problems are told in one message."""
    message = _problem(PAIR | {"LEAN_REGION": "mars", "LEAN_PAGE_SIZE": "0", "LEAN_VERBSE": "auto"})

    assert all(name in message for name in ("LEAN_REGION", "LEAN_PAGE_SIZE", "LEAN_VERBOSE"))
    assert "LEAN_API_URL" not in message


def test_variables_of_other_parts_are_left_alone():
    """An unknown name with the prefix that resembles none is somebody else's."""
    others = {"LEAN_WEBHOOK_SECRET": SECRET, "LEAN_LAKE": "/lake", "LEANHOUSE_REGION": "mars"}

    assert LeanSettings.load(PAIR | others) == LeanSettings.load(PAIR)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000",
        "http://127.0.0.1:8000",
        "http://[::1]:8000",
        "http://lean.localhost",
        "https://lean.example:8443/base",
    ],
)
def test_url_may_be_plain_on_loopback_only(url):
    """http:// is accepted where the bytes do not leave the machine, https:// anywhere."""
    settings = LeanSettings.load(PAIR | {"LEAN_API_URL": url, "LEAN_TOKEN_URL": url})

    assert (settings.api_url, settings.token_url) == (url, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://sandbox.sa.leantech.me",
        "http://localhost.evil.example",
        "http://10.0.0.1",
        f"https://user:{SECRET}@lean.example",
        f"https://lean.example?key={SECRET}",
        "https:///v1",
        "https://lean.example:port",
        "sandbox.sa.leantech.me",
        "file:///etc/passwd",
        f"https://lean.example/\x00{SECRET}",
    ],
)
@pytest.mark.parametrize("name", ["LEAN_API_URL", "LEAN_TOKEN_URL"])
def test_unsafe_url_is_refused(name, url):
    """A URL that is plain, malformed or holds credentials is refused without being quoted."""
    message = _problem(PAIR | {name: url})

    assert name in message
    assert url not in message


def test_legacy_host_is_the_older_production():
    """The legacy switch and the legacy URL lead to the same host under the same rules."""
    by_switch = LeanSettings.load(LEGACY)
    by_url = LeanSettings.load(
        LEGACY | {"LEAN_LEGACY_HOST": "", "LEAN_API_URL": "https://api.sa.leantech.me"}
    )

    assert by_switch.api_url == by_url.api_url == "https://api.sa.leantech.me"
    assert by_switch.is_legacy
    assert by_url.is_legacy
    assert by_url.requires_certificate
    assert not LeanSettings.load(PAIR).requires_certificate


def test_settings_never_show_a_secret():
    """No form in which settings are usually printed or stored as text holds a secret."""
    oauth2 = LeanSettings.load(PAIR | CERTIFICATE | {"LEAN_CLIENT_KEY_PASSWORD": SECRET})
    legacy = LeanSettings.load(LEGACY)

    for settings in (oauth2, legacy):
        shown = [
            repr(settings),
            str(settings),
            f"{settings!r:>5}",
            settings.model_dump_json(),
            repr(settings.model_dump()),
            repr(settings.model_dump(mode="json")),
        ]
        assert not any(SECRET in text for text in shown)
    assert PAIR["LEAN_CLIENT_ID"] not in repr(oauth2)


@pytest.mark.parametrize(
    "values",
    [
        {"client_secret": SECRET},
        {"client_id": [SECRET], "client_secret": {"a": SECRET}},
        {"app_token": f"{SECRET}\n"},
        {"app_token": SECRET, "client_id": "a", "client_secret": SECRET},
        {"region": SECRET, "client_key_password": SECRET},
        {"bogus": SECRET},
    ],
    ids=["half", "types", "header", "both", "region", "unknown"],
)
def test_traceback_never_shows_a_secret(values):
    """A refused construction is a ConfigError whose traceback holds no value."""
    error, text = None, ""
    try:
        LeanSettings(**values)
    except ConfigError as caught:
        error, text = caught, traceback.format_exc()

    assert error is not None
    assert error.__context__ is None
    assert error.__cause__ is None
    assert SECRET not in text
    assert "ValidationError" not in text


def test_unknown_setting_is_named():
    """A keyword that is no setting is named."""
    with pytest.raises(ConfigError, match="bogus"):
        LeanSettings(app_token=SecretStr("t"), bogus=1)


def test_settings_are_frozen_and_travel():
    """Settings cannot be changed, and survive a process boundary."""
    settings = LeanSettings.load(PAIR)

    with pytest.raises(ValueError, match="frozen"):
        settings.region = "ae"
    assert pickle.loads(pickle.dumps(settings)) == settings


@given(
    st.dictionaries(
        st.sampled_from([variable.name for variable in VARIABLES]) | st.text().map("LEAN_".__add__),
        st.none() | st.text() | st.just(SECRET) | st.integers().map(str),
    )
)
def test_any_mapping_loads_or_is_a_config_error(values):
    """Whatever an environment holds, the outcome is settings or one ConfigError, never a leak."""
    error, settings = None, None
    try:
        settings = LeanSettings.load(values)
    except ConfigError as caught:
        error = caught

    if settings:
        assert settings.api_url.startswith("http")
    else:
        assert error.__context__ is None
        assert SECRET not in str(error) or any(SECRET in name for name in values)


def test_every_setting_of_the_receiver_has_a_variable_with_an_explanation():
    """Names, explanations and secrets are told like those of the client."""
    names = [variable.name for variable in WEBHOOK_VARIABLES]

    assert names == [f"LEAN_WEBHOOK_{field.upper()}" for field in WebhookSettings.model_fields]
    assert all(variable.description.endswith(".") for variable in WEBHOOK_VARIABLES)
    assert {variable.field for variable in WEBHOOK_VARIABLES if variable.secret} == {
        "secret",
        "next_secret",
        "app_token",
        "inbox",
    }


def test_the_receivers_variables_and_the_clients_leave_each_other_alone():
    """Each reads its own, and neither takes the other's for a misspelling."""
    both = PAIR | {"LEAN_WEBHOOK_SECRET": SECRET, "LEAN_WEBHOOK_APP_TOKEN": SECRET}

    assert LeanSettings.load(both) == LeanSettings.load(PAIR)
    assert WebhookSettings.load(both).secrets == (SECRET,)
    assert SECRET not in repr(WebhookSettings.load(both))


def test_networks_are_read_from_one_line():
    """Addresses and networks of both kinds, separated by commas."""
    settings = WebhookSettings.load({"LEAN_WEBHOOK_ALLOW": "203.0.113.7, 2001:db8::/32,"})

    assert [str(network) for network in settings.allow] == ["203.0.113.7/32", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"ALLOW": "203.0.113.7/24"}, ["ALLOW", "host bits"]),
        ({"ALLOW": "everybody"}, ["ALLOW"]),
        ({"PORT": "65536"}, ["PORT is out of range"]),
        ({"MAX_BYTES": "1"}, ["MAX_BYTES is out of range"]),
        ({"TRUSTED_HOPS": "two"}, ["TRUSTED_HOPS is not a whole number"]),
        ({"NEXT_SECRET": SECRET}, ["NEXT_SECRET is set without LEAN_WEBHOOK_SECRET"]),
        ({"TLS_CERT": __file__}, ["TLS_CERT is set without LEAN_WEBHOOK_TLS_KEY"]),
        ({"TLS_KEY": __file__}, ["TLS_KEY is set without LEAN_WEBHOOK_TLS_CERT"]),
        ({"TLS_CLIENT_AUTHORITY": __file__}, ["is set without LEAN_WEBHOOK_TLS_CERT"]),
        ({"TLS_CERT": "/none", "TLS_KEY": __file__}, ["TLS_CERT is not a file"]),
        ({"SECERT": SECRET}, ["LEAN_WEBHOOK_SECERT is unknown: did you mean LEAN_WEBHOOK_SECRET"]),
    ],
)
def test_a_problem_of_the_receivers_settings_names_the_variable(values, named):
    """Half set, out of range, misspelt or no file: one sentence without the value."""
    with pytest.raises(ConfigError) as problem:
        WebhookSettings.load({f"LEAN_WEBHOOK_{name}": value for name, value in values.items()})

    assert all(part in str(problem.value) for part in named)
    assert SECRET not in str(problem.value)
