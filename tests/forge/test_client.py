"""How a forge is spoken to: what is tried again, what is given up, and what nobody learns."""

import asyncio
import json

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Forge
from reconciler.forge.answers import ForgeUser, LabelAnswer
from reconciler.forge.client import Declined, Forbidden, ForgeClient
from reconciler.forge.dialect import FORGEJO
from reconciler.forge.tokens import SecretToken
from tests.forge.conftest import REPO, TOKEN
from tests.forge.double import outage


class Line:
    """A client whose pauses are counted instead of waited for."""

    def __init__(self, forge: Forge, token: str) -> None:
        self.pauses: list[float] = []
        self.asked = 0
        self.token = token
        self.client = ForgeClient(forge, SecretToken(self._token), self._pause)

    async def _token(self) -> str:
        self.asked += 1
        return self.token

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
async def line(double):
    line = Line(double.spec(REPO, TOKEN), double.token)
    yield line
    await line.client.close()


@pytest.fixture
async def raw_forge():
    """Return a function that starts a server that answers everything with the same bytes."""
    servers = []

    async def serve(answer: bytes) -> Line:
        async def handle(reader, writer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        line = Line(Forge(api=f"http://127.0.0.1:{port}/api/v1", repo="a/b", token=TOKEN), "t0ken")
        servers.append((server, line.client))
        return line

    yield serve
    for server, client in servers:
        await client.close()
        server.close()
        await server.wait_closed()


def reply(body: bytes, head: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {head}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def requests(double, method: str) -> int:
    return sum(verb == method for verb, _ in double.requests)


@pytest.mark.parametrize("total", ["9" * 5000, "\u0663", "-1", "many"])
async def test_a_total_that_is_no_number_ends_a_list(raw_forge, total):
    line = await raw_forge(reply(b'[{"id": 1, "name": "a"}]', "200 OK", f"X-Total-Count: {total}"))

    assert [label.name async for label in line.client.pages("labels", LabelAnswer)] == ["a"]


async def test_an_outage_is_waited_out_a_few_times(double, line):
    with outage(double, "502"), pytest.raises(Unavailable, match="502"):
        await line.client.get("/user", ForgeUser)
    with outage(double, "refused"), pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        await line.client.get("/user", ForgeUser)

    after = await line.client.get("/user", ForgeUser)

    assert line.pauses == [0.5, 2.0] * 2
    assert after.login == "bot"


async def test_a_forge_that_comes_back_is_not_noticed_to_have_been_away(double, line):
    double.broken["GET /user"] = (503, {})

    assert (await line.client.get("/user", ForgeUser)).login == "bot"


async def test_a_post_is_never_repeated(double, line):
    double.broken[f"POST /repos/{REPO}/issues"] = (502, {})

    with pytest.raises(Unavailable):
        await line.client.send("POST", "issues", {"title": "x"})

    assert (line.pauses, requests(double, "POST")) == ([], 1)
    assert double.repos[REPO].tickets == {}


async def test_a_short_quiet_that_is_asked_for_is_kept(double, line):
    double.broken["GET /user"] = (429, {"Retry-After": "3"})

    await line.client.get("/user", ForgeUser)

    assert line.pauses == [3.0]


async def test_a_long_quiet_that_is_asked_for_is_kept_without_another_request(double, line):
    double.broken["GET /user"] = (429, {"Retry-After": "600"})

    for _ in range(2):
        with pytest.raises(Unavailable):
            await line.client.get("/user", ForgeUser)

    assert (line.pauses, len(double.requests)) == ([], 1)


async def test_a_token_that_is_refused_is_looked_up_again(double, line):
    line.token = "0ld"
    with pytest.raises(Unavailable, match=r"renew what `forge\.token` points to"):
        await line.client.get("/user", ForgeUser)

    line.token = double.token

    assert (await line.client.get("/user", ForgeUser)).login == "bot"
    assert line.asked == 2


async def test_a_token_without_the_right_scopes_is_told_of(double, line):
    double.broken["GET /user"] = (403, {})

    with pytest.raises(Unavailable, match="write:repository"):
        await line.client.get("/user", ForgeUser)


@pytest.mark.parametrize("token", ["", "two words", "line\nend", "käse"])
async def test_what_is_no_token_is_not_sent(double, line, token):
    line.token = token

    with pytest.raises(Unavailable) as caught:
        await line.client.get("/user", ForgeUser)

    assert double.requests == []
    assert not token or token not in str(caught.value)


async def test_what_the_forge_declines_is_a_result_for_who_asked(double, line):
    with pytest.raises(Declined, match="couldn't be found") as caught:
        await line.client.get("issues/4711", ForgeUser)

    assert caught.value.status == 404
    assert line.pauses == []


async def test_a_list_is_read_to_its_end_however_small_the_pages_are(double, line):
    double.largest_page = 3
    for number in range(10):
        double.add_label(REPO, f"label-{number}")

    names = [label.name async for label in line.client.pages("labels", LabelAnswer)]

    assert names == [f"label-{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply(b"<html>"), "not JSON"),
        (reply(b"[" * 100_000), "not JSON"),
        (reply(b"[]"), "not as expected"),
        (reply(b'{"login": 3}'), "login"),
        (reply(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:1/"), "it has moved"),
        (reply(b"no", "500 Internal Server Error"), "500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "127"),
        (b"garbage\r\n\r\n", "127"),
    ],
)
async def test_a_strange_answer_is_an_outage_that_says_where(raw_forge, answer, why):
    line = await raw_forge(answer)

    with pytest.raises(Unavailable, match=why):
        await line.client.get("/user", ForgeUser)


async def test_an_answer_without_end_is_cut_off(raw_forge):
    line = await raw_forge(reply(b" " * (17 * 2**20)))

    with pytest.raises(Unavailable, match="larger than"):
        await line.client.get("/user", ForgeUser)


async def test_a_forge_that_repeats_the_token_or_paints_the_terminal_is_not_repeated(raw_forge):
    body = json.dumps({"message": "bad \x1b[31mtoken t0ken"}).encode()
    line = await raw_forge(reply(body, "422 Unprocessable Entity"))

    with pytest.raises(Declined) as caught:
        await line.client.get("/user", ForgeUser)

    assert "t0ken" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "bad token ***" in str(caught.value)


async def test_an_authority_that_cannot_be_read_is_told_with_the_forge(tmp_path):
    spec = Forge(api="https://127.0.0.1:1/api/v1", repo="a/b", token=TOKEN, ca=str(tmp_path / "none.pem"))

    with pytest.raises(Unavailable, match=r"forge a/b at .*none.pem cannot be used: No such file"):
        Line(spec, "t0ken")


@pytest.fixture
def time(monkeypatch):
    """Return the monotonic time of the client, which stands still."""
    now = [1000.0]
    monkeypatch.setattr("reconciler.forge.client.time.monotonic", lambda: now[0])
    return now


def asked(double):
    return len(double.requests)


async def test_a_right_that_is_lost_is_named_and_not_tried_again_at_once(double, line, time):
    double.scopes = {"write:repository", "read:issue", "read:user"}
    with pytest.raises(Forbidden, match="it lacks write:issue"):
        await line.client.send("POST", "issues/1/comments", {"body": "x"})
    before = asked(double)

    for _ in range(50):
        with pytest.raises(Forbidden, match="it lacks write:issue"):
            await line.client.send("POST", "issues/1/comments", {"body": "x"})
    await line.client.get("/user", ForgeUser)

    assert asked(double) == before + 1
    assert len(line.client.denials) == 1
    time[0] += 31
    with pytest.raises(Forbidden):
        await line.client.send("POST", "issues/1/comments", {"body": "x"})
    assert asked(double) == before + 2


async def test_a_lost_right_and_a_revoked_token_heal_with_the_token_that_comes_in_their_place(
    double, line, time
):
    double.open_issue(REPO, "Mend it")
    double.scopes = {"read:issue"}
    with pytest.raises(Forbidden):
        await line.client.send("POST", "issues/1/comments", {"body": "x"})
    double.scopes = None
    line.token = double.add_user("bot2")
    await line.client.send("POST", "issues/1/comments", {"body": "x"})
    assert line.client.denials == []

    del double.tokens[line.token]
    for _ in range(3):
        with pytest.raises(Unavailable, match="the token is refused"):
            await line.client.get("/user", ForgeUser)
    time[0] += 6
    line.token = double.token

    assert (await line.client.get("/user", ForgeUser)).login == "bot"
    assert line.client.denials == []


async def test_what_is_forbidden_about_one_thing_is_tried_for_another(double, line):
    double.open_issue(REPO, "Mend it")
    double.broken[f"POST /repos/{REPO}/issues/1/comments"] = (403, {})
    with pytest.raises(Forbidden):
        await line.client.send("POST", "issues/1/comments", {"body": "x"})

    await line.client.send("POST", "issues/1/comments", {"body": "x"})

    assert line.client.denials == []


async def test_a_write_that_is_forbidden_is_told_until_one_of_its_kind_goes_well(line, double):
    number = double.open_issue(REPO, "Mend it", "Please.")
    double.broken[f"POST /repos/{REPO}/issues/{number}/comments"] = (403, {})

    with pytest.raises(Forbidden):
        await line.client.send("POST", f"issues/{number}/comments", {"body": "Begun."})
    [told] = line.client.denials
    await line.client.send("POST", f"issues/{number}/comments", {"body": "Begun."})

    assert "POST issues/1/comments: the token may not do this" in told
    assert "an account that may write" in told
    assert line.client.denials == []


async def test_what_may_not_be_read_is_no_right_that_is_missing(line, double):
    double.broken[f"GET /repos/{REPO}/issues/1"] = (403, {})

    with pytest.raises(Forbidden):
        await line.client.send("GET", "issues/1")

    assert line.client.denials == []


@pytest.mark.parametrize(
    "message",
    [
        "token does not have at least one of required scope(s): [write:issue]",
        "token does not have at least one of required scope(s), required=[write:issue], token scope=x",
    ],
)
def test_the_scope_that_a_token_lacks_is_read_from_the_words_of_either_forge(message):
    assert FORGEJO.missing_right(message, {}) == "it lacks write:issue"
