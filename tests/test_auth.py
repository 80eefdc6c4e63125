import asyncio
import gzip
import json
import socket
import traceback
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lean_resources.auth import AppToken, OAuth2, auth_for, exchange
from lean_resources.errors import AuthError, ConfigError, SchemaError, UnavailableError
from lean_resources.settings import LeanSettings

SECRET = "hush-a87ff679"
APPLICATION = "c9f0f895-fb98"
URL = "https://lean.test/banks/v1"
TOKEN_URL = "https://auth.lean.test/oauth2/token"
JWT = "eyJ-signed"


class _Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@dataclass
class _Lean:
    """A token endpoint and one path behind it, which accepts the tokens that are not revoked."""

    answers: list = field(default_factory=list)
    life_seconds: object = 3599
    token_seconds: float = 0
    forms: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    token_headers: list = field(default_factory=list)
    revoked: set = field(default_factory=set)
    refusal: bytes = b""
    delays: list = field(default_factory=list)

    def app(self):
        return Starlette(
            routes=[
                Route("/oauth2/token", self._token, methods=["POST"]),
                Route("/banks/v1", self._banks, methods=["GET", "POST"]),
            ]
        )

    async def _token(self, request: Request):
        self.forms.append(dict(parse_qsl((await request.body()).decode())))
        self.token_headers.append(request.headers)
        number = len(self.forms)
        await asyncio.sleep(self.token_seconds)
        if self.answers:
            answer = self.answers.pop(0)
            if answer is not None:
                return answer
        return JSONResponse(
            {
                "access_token": f"{JWT}-{number}",
                "scope": "api",
                "token_type": "Bearer",
                "expires_in": self.life_seconds,
            }
        )

    async def _banks(self, request: Request):
        self.headers.append(request.headers)
        await asyncio.sleep(self.delays.pop(0) if self.delays else 0)
        if request.headers.get("authorization", "").removeprefix("Bearer ") in self.revoked:
            return Response(self.refusal, status_code=401)
        return JSONResponse({"body": (await request.body()).decode()})


@pytest.fixture
def lean():
    """Lean's token endpoint and one path of its API."""
    return _Lean()


@pytest.fixture
def clock():
    """A clock that is set by hand."""
    return _Clock()


@pytest.fixture
def auth(clock):
    """The flow of an application with OAuth2 credentials."""
    return OAuth2(
        token_url=TOKEN_URL, client_id=APPLICATION, client_secret=SecretStr(SECRET), clock=clock
    )


class Signing(httpx.AsyncBaseTransport):
    """Sends each request with a credential, as the client of Lean does."""

    def __init__(self, auth, inner):
        self.auth, self.inner = auth, inner

    async def handle_async_request(self, request):
        return await exchange(self.auth, request, self.inner.handle_async_request)

    async def aclose(self):
        await self.inner.aclose()


def _client(lean, auth, transport=None, timeout=65):
    inner = transport or httpx.ASGITransport(lean.app())
    return httpx.AsyncClient(transport=Signing(auth, inner), timeout=timeout)


def _ask(lean, auth, times=1, **options):
    async def ask():
        async with _client(lean, auth) as client:
            return [await client.get(URL, **options) for _ in range(times)]

    return asyncio.run(ask())[-1]


def _json(body, status_code=200, **headers):
    return JSONResponse(body, status_code, headers)


def test_a_token_is_asked_for_by_client_credentials(lean, auth):
    """The form holds what Lean documents, and the request carries the token."""
    answer = _ask(lean, auth)

    assert answer.status_code == 200
    assert lean.forms == [
        {
            "grant_type": "client_credentials",
            "client_id": APPLICATION,
            "client_secret": SECRET,
            "scope": "api",
        }
    ]
    assert lean.token_headers[0]["content-type"] == "application/x-www-form-urlencoded"
    assert lean.token_headers[0]["accept"] == "application/json"
    assert lean.headers[0]["authorization"] == f"Bearer {JWT}-1"
    assert "lean-app-token" not in lean.headers[0]


def test_one_token_serves_many_requests(lean, auth):
    """Requests one after the other share a token."""
    _ask(lean, auth, times=5)

    assert len(lean.forms) == 1


def test_a_hundred_at_once_ask_for_one_token(lean, auth):
    """Requests that begin together wait for the same token."""
    lean.token_seconds = 0.05

    async def main():
        async with _client(lean, auth) as client:
            return await asyncio.gather(*(client.get(URL) for _ in range(100)))

    answers = asyncio.run(main())

    assert {answer.status_code for answer in answers} == {200}
    assert len(lean.forms) == 1


@pytest.mark.parametrize(
    ("life_seconds", "renewed_after"),
    [
        (3599, 3539),
        ("3599", 3539),
        (" 3599 ", 3539),
        ("3599.0", 3539),
        (3599.5, 3539.5),
        (300, 240),
        (60, 48),
        (5, 4),
    ],
)
def test_a_token_is_renewed_before_its_end(lean, auth, clock, life_seconds, renewed_after):
    """A minute before its end, or a fifth of a short life, the next request renews it."""
    lean.life_seconds = life_seconds

    _ask(lean, auth)
    clock.now += renewed_after - 0.5
    _ask(lean, auth)
    assert len(lean.forms) == 1

    clock.now += 1
    _ask(lean, auth)
    assert len(lean.forms) == 2
    assert lean.headers[-1]["authorization"] == f"Bearer {JWT}-2"


def test_a_refused_token_is_renewed_once(lean, auth):
    """After a 401 the request is sent again, whole, with a fresh token."""
    lean.revoked = {f"{JWT}-1"}

    async def main():
        async with _client(lean, auth) as client:
            return await client.post(URL, json={"entity_id": "e"})

    answer = asyncio.run(main())

    assert answer.status_code == 200
    assert json.loads(answer.json()["body"]) == {"entity_id": "e"}
    assert [headers["authorization"] for headers in lean.headers] == [
        f"Bearer {JWT}-1",
        f"Bearer {JWT}-2",
    ]


def test_a_second_refusal_is_the_clients(lean, auth):
    """If the fresh token is refused as well, the 401 is handed over and nothing loops."""
    lean.revoked = {f"{JWT}-1", f"{JWT}-2"}

    assert _ask(lean, auth).status_code == 401
    assert len(lean.forms) == 2
    assert len(lean.headers) == 2

    lean.revoked = {f"{JWT}-1"}
    assert _ask(lean, auth).status_code == 200
    assert len(lean.forms) == 2


def test_many_refused_at_once_renew_once(lean, auth):
    """A token that another request has renewed already is not renewed again."""
    lean.revoked = {f"{JWT}-1"}
    lean.token_seconds = 0.02

    async def main():
        async with _client(lean, auth) as client:
            return await asyncio.gather(*(client.get(URL) for _ in range(50)))

    answers = asyncio.run(main())

    assert {answer.status_code for answer in answers} == {200}
    assert len(lean.forms) == 2


def test_a_late_refusal_does_not_drop_the_new_token(lean, auth):
    """A 401 of the old token that arrives after the renewal is sent again with the new one."""
    lean.revoked = {f"{JWT}-1"}
    lean.delays = [0.1, 0]

    async def main():
        async with _client(lean, auth) as client:
            return await asyncio.gather(client.get(URL), client.get(URL))

    answers = asyncio.run(main())

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(lean.forms) == 2


def test_other_refusals_are_not_repeated(lean, auth):
    """Only a 401 is a matter of the token."""

    async def main():
        async with _client(lean, auth) as client:
            return await client.get("https://lean.test/absent")

    assert asyncio.run(main()).status_code == 404
    assert len(lean.forms) == 1


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER"])
def test_token_type_is_compared_without_case(lean, auth, token_type):
    """Lean prints the type in either case."""
    lean.answers = [_json({"access_token": "t", "token_type": token_type, "expires_in": 3599})]

    assert _ask(lean, auth).status_code == 200


@pytest.mark.parametrize("told", [{}, {"expires_in": None}, {"expires_in": ""}], ids=str)
def test_a_token_without_life_lives_briefly(lean, auth, clock, told):
    """A token whose life is not told is renewed within minutes."""
    lean.answers = [_json({"access_token": "t", "token_type": "Bearer"} | told)]

    _ask(lean, auth)
    clock.now += 300
    _ask(lean, auth)

    assert len(lean.forms) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (_json({"error": "invalid_client"}, 401), "invalid_client"),
        (_json({"error": "invalid_scope", "error_description": SECRET}, 400), "invalid_scope"),
        (_json({"status": "INVALID_CERTIFICATE"}, 403), "INVALID_CERTIFICATE"),
        (_json({"error": SECRET}, 401), "UNAUTHORIZED"),
        (_json({"error": {"a": SECRET}}, 400), "UNAUTHORIZED"),
        (_json([SECRET], 401), "UNAUTHORIZED"),
        (Response(b"", 401), "UNAUTHORIZED"),
    ],
)
def test_refused_credentials_are_an_auth_error(lean, auth, answer, code):
    """The error carries the OAuth2 code and nothing that was sent."""
    lean.answers = [answer]

    with pytest.raises(AuthError) as caught:
        _ask(lean, auth)

    assert caught.value.code == code
    assert caught.value.status_code == answer.status_code
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert not lean.headers


def test_an_echo_is_no_code(lean, clock):
    """A server that sends back what it was sent does not get it into the error."""
    lean.answers = [_json({"error": f"unknown_{APPLICATION}"}, 401), _json({"error": "hush"}, 401)]
    auth = OAuth2(
        token_url=TOKEN_URL, client_id="application", client_secret=SecretStr("hush"), clock=clock
    )

    for _ in range(2):
        with pytest.raises(AuthError) as caught:
            _ask(lean, auth)
        assert caught.value.code == "UNAUTHORIZED"
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (_json({}, 429, **{"Retry-After": "7"}), 7.0),
        (_json({"error": "slow"}, 503), None),
        (Response("<html>cf</html>", 502, {"Retry-After": "30"}), 30.0),
        (Response("<html>portal</html>", 200), None),
        (Response(b"", 200), None),
        (Response(b"null", 200), None),
        (_json({"error": "temporarily_unavailable"}, 400), None),
        (Response(b"x", 200, {"Content-Encoding": "gzip"}), None),
        (Response(b"x" * 100_000, 200), None),
        (Response(gzip.compress(b"[" * 100_000), 200, {"Content-Encoding": "gzip"}), None),
    ],
    ids=[
        "429",
        "503",
        "html 502",
        "html 200",
        "empty",
        "null",
        "temporarily",
        "broken gzip",
        "large",
        "deep",
    ],
)
def test_a_token_endpoint_that_cannot_answer_is_unavailable(lean, auth, answer, seconds):
    """Too many, broken or foreign answers ask for patience, as long as the server says."""
    lean.answers = [answer]

    with pytest.raises(UnavailableError) as caught:
        _ask(lean, auth)

    assert caught.value.retry_after == seconds
    assert _ask(lean, auth).status_code == 200


@pytest.mark.parametrize("status_code", [302, 404, 405])
def test_a_url_without_token_endpoint_is_a_config_error(lean, auth, status_code):
    """What is no token endpoint names the setting."""
    lean.answers = [Response(b"", status_code, {"location": "/"})]

    with pytest.raises(ConfigError, match="LEAN_TOKEN_URL"):
        _ask(lean, auth)


@pytest.mark.parametrize(
    ("changes", "field_name"),
    [
        ({"access_token": None}, "access_token"),
        ({"access_token": ""}, "access_token"),
        ({"access_token": "a\r\nx: y"}, "access_token"),
        ({"access_token": "عربي"}, "access_token"),
        ({"token_type": "mac"}, "token_type"),
        ({"token_type": None}, "token_type"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": 0}, "expired already"),
        ({"expires_in": "-5"}, "expired already"),
        ({"expires_in": "soon"}, "a number of seconds"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": "3_599"}, "expires_in"),
        ({"expires_in": "٣٥٩٩"}, "expires_in"),
        ({"expires_in": {}}, "expires_in"),
        ({"expires_in": "nan"}, "expires_in"),
        ({"expires_in": []}, "expires_in"),
        ({"expires_in": "inf"}, "expires_in"),
        ({"expires_in": 10**400}, "expires_in"),
    ],
)
def test_an_answer_without_usable_token_is_a_schema_error(lean, auth, changes, field_name):
    """The error names the field and not its value."""
    body = {"access_token": JWT, "token_type": "Bearer", "expires_in": 3599} | changes
    lean.answers = [Response(json.dumps(body), media_type="application/json")]

    with pytest.raises(SchemaError) as caught:
        _ask(lean, auth)

    assert field_name in str(caught.value)
    assert JWT not in "".join(traceback.format_exception(caught.value))


def test_those_who_wait_share_a_failure(lean, auth):
    """A refused call is not repeated by each of the requests that waited for it."""
    lean.token_seconds = 0.02
    lean.answers = [_json({"error": "invalid_client"}, 401)]

    async def main():
        async with _client(lean, auth) as client:
            failed = await asyncio.gather(
                *(client.get(URL) for _ in range(30)), return_exceptions=True
            )
            return failed, await client.get(URL)

    failed, later = asyncio.run(main())

    assert all(isinstance(error, AuthError) for error in failed)
    assert {error.code for error in failed} == {"invalid_client"}
    assert len({id(error) for error in failed}) == 30
    assert later.status_code == 200
    assert len(lean.forms) == 2


class _Unreachable(httpx.AsyncBaseTransport):
    """A network in which the token endpoint does not answer for a while."""

    def __init__(self, lean, error):
        self.inner, self.error, self.calls = httpx.ASGITransport(lean.app()), error, 0

    async def handle_async_request(self, request):
        if request.url.path == "/oauth2/token" and self.error:
            self.calls += 1
            await asyncio.sleep(0.02)
            raise self.error
        return await self.inner.handle_async_request(request)


@pytest.mark.parametrize("error", [httpx.ReadTimeout("late"), httpx.ConnectError("refused")])
def test_those_who_wait_share_a_timeout(lean, auth, error):
    """The caller gets the transport's error, the waiting ones an UnavailableError, none hangs."""
    network = _Unreachable(lean, error)

    async def main():
        async with _client(lean, auth, network) as client, asyncio.timeout(5):
            failed = await asyncio.gather(
                *(client.get(URL) for _ in range(30)), return_exceptions=True
            )
            network.error = None
            return failed, await client.get(URL)

    failed, later = asyncio.run(main())

    assert [type(each) for each in failed] == [type(error)] + [UnavailableError] * 29
    assert network.calls == 1
    assert later.status_code == 200


def test_a_cancelled_call_is_taken_over(lean, auth):
    """If the request that asks for the token is cancelled, another one asks."""
    lean.token_seconds = 0.05

    async def main():
        async with _client(lean, auth) as client, asyncio.timeout(5):
            first = asyncio.create_task(client.get(URL))
            await asyncio.sleep(0.01)
            others = [asyncio.create_task(client.get(URL)) for _ in range(5)]
            await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await asyncio.gather(*others)

    answers = asyncio.run(main())

    assert {answer.status_code for answer in answers} == {200}
    assert len(lean.forms) == 2


def test_a_waiting_request_can_be_cancelled(lean, auth):
    """Requests that give up waiting neither disturb the call nor keep the lock."""
    lean.token_seconds = 0.05

    async def main():
        async with _client(lean, auth) as client, asyncio.timeout(5):
            first = asyncio.create_task(client.get(URL))
            await asyncio.sleep(0.01)
            others = [asyncio.create_task(client.get(URL)) for _ in range(5)]
            await asyncio.sleep(0.01)
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            return [await first, await client.get(URL)]

    answers = asyncio.run(main())

    assert {answer.status_code for answer in answers} == {200}
    assert len(lean.forms) == 1


def test_the_token_call_has_the_timeout_of_its_request(auth):
    """A token endpoint that accepts and stays silent ends by the client's own timeout."""

    async def main():
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            auth._token_url = f"http://127.0.0.1:{silent.getsockname()[1]}/oauth2/token"
            network = httpx.AsyncHTTPTransport()
            async with _client(None, auth, network, 0.1) as client, asyncio.timeout(5):
                await client.get(URL)

    with pytest.raises(httpx.ReadTimeout):
        asyncio.run(main())


def test_the_token_call_can_be_traced(lean, auth):
    """The correlation id and the user agent of the request go along to the token endpoint."""
    _ask(lean, auth, headers={"lean-correlation-id": "abc", "user-agent": "leanhouse"})

    assert lean.token_headers[0]["lean-correlation-id"] == "abc"
    assert lean.token_headers[0]["user-agent"] == "leanhouse"
    assert "authorization" not in lean.token_headers[0]


def test_the_body_of_a_refusal_is_bounded(lean, auth):
    """A 401 with an endless body is not read to its end before the renewal."""
    lean.revoked, lean.refusal = {f"{JWT}-1"}, b"x" * 1_000_000

    with pytest.raises(UnavailableError, match="exceeds"):
        _ask(lean, auth)


def test_an_application_token_goes_alone(lean):
    """The application token is sent in its header, without bearer and without token call."""
    _ask(lean, AppToken(SecretStr(SECRET)), headers={"authorization": "Bearer x"})

    assert lean.headers[0]["lean-app-token"] == SECRET
    assert "authorization" not in lean.headers[0]
    assert not lean.forms


def test_a_bearer_goes_alone(lean, auth):
    """A request that brings an application token loses it under OAuth2."""
    _ask(lean, auth, headers={"lean-app-token": "x"})

    assert "lean-app-token" not in lean.headers[0]


def test_settings_choose_one_flow(lean, clock):
    """OAuth2 credentials make the one flow, an application token the other."""
    oauth2 = LeanSettings(
        client_id=APPLICATION, client_secret=SecretStr(SECRET), token_url=TOKEN_URL
    )
    app_token = LeanSettings(app_token=SecretStr(SECRET))

    _ask(lean, auth_for(oauth2, clock))
    _ask(lean, auth_for(app_token))

    assert [
        sorted({"authorization", "lean-app-token"} & set(headers)) for headers in lean.headers
    ] == [["authorization"], ["lean-app-token"]]
    with pytest.raises(ConfigError):
        auth_for(oauth2.model_copy(update={"client_secret": None}))


def test_flows_never_show_a_secret(lean, auth):
    """Neither the flows nor the local variables of a failing call print a secret or a token."""
    _ask(lean, auth)
    lean.revoked = {f"{JWT}-1"}
    lean.answers = [_json({"error": "invalid_client"}, 401)]

    with pytest.raises(AuthError) as caught:
        _ask(lean, auth)

    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = [f"{frame.line} {frame.locals}" for frame in frames.stack if frame.filename != __file__]
    shown += [repr(auth), repr(AppToken(SecretStr(SECRET))), str(caught.value)]
    assert "credential" in [frame.name for frame in frames.stack]
    assert not [text for text in shown if SECRET in text or JWT in text]
    assert APPLICATION not in repr(auth)
