"""
The server under people who are slow, many, or sloppy; and how it ends.
"""

import asyncio
import shutil
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from reconciler.api import server
from reconciler.api.app import make_app
from reconciler.api.exposure import exposure_of
from reconciler.api.limits import Rate, RateLimits
from reconciler.api.listen import read_listen
from reconciler.api.server import serve_app
from reconciler.api.stream import PING_SECONDS
from reconciler.core.errors import Unavailable, UsageError
from reconciler.tls import CA_VARIABLES, Authorities
from reconciler.wire import MOST_WAIT
from reconciler.worker.client import ApiClient
from tests.api.world import TOKENS, FakeWorld, pulled

LISTEN = read_listen("127.0.0.1:0")
EXPOSURE = exposure_of(LISTEN, "", b"key")
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def dialled(address):
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def status_of(reader):
    return int((await reader.readline()).split()[1])


@pytest.mark.parametrize(
    "field",
    [b"X : y", b"X\t: y", b" X: y", b": y", b"X\x00: y"],
)
async def test_a_sloppy_field_name_is_refused(address, field):
    async with dialled(address) as (reader, writer):
        writer.write(REQUEST + field + b"\r\n\r\n")

        assert await status_of(reader) == 400


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Content-Length: +1",
        b"Content-Length: -1",
        "Content-Length: ٢".encode(),
        b"Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \u00a0chunked".encode(),
        b"X: y\nContent-Length: 1",
        b"X: y\rContent-Length: 1",
        b"X: y\x00",
    ],
)
async def test_a_length_that_can_be_read_in_two_ways_is_refused(address, field):
    async with dialled(address) as (reader, writer):
        writer.write(b"POST /api/v1/dequeue HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n")

        assert await status_of(reader) == 400


@pytest.mark.parametrize(
    "chunks", [b"0x2\r\n{}\r\n", b" 2\r\n{}\r\n", "٢\r\n{}\r\n".encode(), b"2\r\n{}XX", b"2\r\n{}}\r\n"]
)
async def test_a_chunk_that_can_be_read_in_two_ways_is_refused(address, chunks):
    head = b"POST /api/v1/dequeue HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer "
    async with dialled(address) as (reader, writer):
        writer.write(head + TOKENS["jeeves"].encode() + b"\r\n\r\n" + chunks + b"0\r\n\r\n")

        assert await status_of(reader) == 400


POST = b"POST /api/v1/dequeue HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHOST: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x/y@z\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: y\r\n\tz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GE\tT /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /healthz http/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Content-Length: 3, 3\r\n\r\n",
        POST + b"Content-Length: 1_0\r\n\r\n",
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_a_request_that_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(address, head):
    async with dialled(address) as (reader, writer):
        writer.write(head + REQUEST + b"\r\n")

        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_request_of_http_1_0_needs_no_host(address):
    async with dialled(address) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")

        assert await status_of(reader) == 200


@pytest.mark.parametrize("host", [b"", b"x", b"x:80", b"[::1]:80", b"a.b-c_d", b"  x\t"])
async def test_a_host_is_any_name_and_port(address, host):
    async with dialled(address) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost:" + host + b"\r\n\r\n")

        assert await status_of(reader) == 200


CHUNKED = POST + b"Transfer-Encoding: chunked\r\nAuthorization: Bearer "
BAD_CHUNKS = [
    b"2;x\n\r\n{}\r\n0\r\n\r\n",
    b"2;x\ny\r\n{}\r\n0\r\n\r\n",
    b"2\n{}\r\n0\r\n\r\n",
    b"2;x\ry\r\n{}\r\n0\r\n\r\n",
    b"2;x\x00\r\n{}\r\n0\r\n\r\n",
    b"2\x0b\r\n{}\r\n0\r\n\r\n",
    b"2;" + b"x" * 5000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0;\n\r\n\r\n",
    b"2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"2\r\n{}\r\n0\r\n\n",
    b"2\r\n{}\n0\r\n\r\n",
    b"00000000000000002\r\n{}\r\n0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n",
    b";x\r\n{}\r\n0\r\n\r\n",
    b"\r\n{}\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("chunks", BAD_CHUNKS)
async def test_a_chunk_line_that_can_be_read_in_two_ways_is_refused_in_any_pieces(address, chunks, size):
    async with dialled(address) as (reader, writer):
        writer.write(CHUNKED + TOKENS["jeeves"].encode() + b"\r\n\r\n")
        sending = asyncio.create_task(dribble(writer, chunks + REQUEST + b"\r\n", size))

        answer = await reader.read()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("size", [1, 3, 100_000])
@pytest.mark.parametrize("chunks", [b"2\r\n{}\r\n0\r\n\r\n", b'1;a="b;c"\r\n{\r\n1 ;x\r\n}\r\n0;y\r\n\r\n'])
async def test_chunks_as_they_should_be_are_read_in_any_pieces(address, chunks, size):
    async with dialled(address) as (reader, writer):
        writer.write(CHUNKED + TOKENS["jeeves"].encode() + b"\r\n\r\n")
        await dribble(writer, chunks + REQUEST + b"Connection: close\r\n\r\n", size)

        answer = await reader.read()

    assert b" 400 " not in answer.splitlines()[0]
    assert answer.count(b"HTTP/1.1 ") == 2


async def dribble(writer, data, size):
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["header", "body", "refused body", "large body", "too many"])
async def test_an_answer_arrives_though_the_client_still_sends(app, monkeypatch, kind):
    """A connection that is closed with bytes unread is reset, and takes the answer with it."""
    over = {"header": "HEADER_SECONDS", "body": "BODY_SECONDS"}.get(kind, "DROP_SECONDS")
    monkeypatch.setattr(server, over, 0.1)
    token = b"Authorization: Bearer " + TOKENS["jeeves"].encode() + b"\r\n"
    start, status = {
        "header": (REQUEST, 408),
        "body": (POST + token + b"Content-Length: 999999\r\n\r\n", 408),
        "refused body": (POST + b"Content-Length: 999999\r\n\r\n", 401),
        "large body": (POST + token + b"Content-Length: 99999999\r\n\r\n", 413),
        "too many": (REQUEST, 503),
    }[kind]
    async with serve_app(app, LISTEN, most=0 if kind == "too many" else 9) as address:
        for _ in range(10):
            async with dialled(address) as (reader, writer):
                sending = asyncio.create_task(drip(writer, b"X: y\r\n" * 100, start=start))
                await asyncio.sleep(0.15)  # what is unread piles up while nobody listens

                answer = await reader.read()
                sending.cancel()
            assert int(answer.split()[1]) == status


async def send_for_ever(writer):
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def test_who_goes_on_sending_after_the_answer_is_cut_off(address, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.1)
    monkeypatch.setattr(server, "LINGER_LIMIT", 100_000)
    async with dialled(address) as (reader, writer):
        writer.write(REQUEST)
        assert await status_of(reader) == 408
        with pytest.raises(ConnectionError):
            await send_for_ever(writer)


async def test_an_address_that_cannot_be_read_is_answered_and_not_logged(address, caplog):
    async with dialled(address) as (reader, writer):
        writer.write(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n")

        assert await status_of(reader) == 400

    assert caplog.records == []


async def test_no_other_address_is_recommended(nobody):
    answer = await nobody.get("/healthz")

    assert "alt-svc" not in answer.headers


async def test_a_header_that_is_too_long_is_refused(address):
    async with dialled(address) as (reader, writer):
        writer.write(REQUEST + b"X: " + b"y" * 10_000 + b"\r\n\r\n")

        assert await status_of(reader) == 413


async def test_a_header_that_drips_is_cut_off(address, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    async with dialled(address) as (reader, writer):
        dripping = asyncio.create_task(drip(writer, b"X: y\r\n", start=REQUEST))

        assert await status_of(reader) == 408
        rest = await reader.read()
        dripping.cancel()

    assert b"application/problem+json" in rest


async def test_a_body_that_drips_is_cut_off(address, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    token = TOKENS["jeeves"].encode()
    head = (
        b"POST /api/v1/dequeue HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 999\r\n\r\n"
    )
    async with dialled(address) as (reader, writer):
        dripping = asyncio.create_task(drip(writer, b" ", start=head % token))

        assert await status_of(reader) == 408
        dripping.cancel()


async def test_a_body_that_nobody_reads_is_not_waited_for(address, monkeypatch, caplog):
    monkeypatch.setattr(server, "DROP_SECONDS", 0.2)
    head = b"POST /api/v1/dequeue HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"
    async with dialled(address) as (reader, writer):
        dripping = asyncio.create_task(drip(writer, b" ", start=head))

        assert await status_of(reader) == 401
        await reader.read()
        dripping.cancel()

    assert caplog.records == []


async def drip(writer, piece, *, start):
    writer.write(start)
    while True:
        writer.write(piece)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_that_is_too_large_is_refused(address, framing):
    async def chunks():
        for _ in range(20):
            yield b"x" * 100_000

    content = b"x" * 2_000_000 if framing == "length" else chunks()
    async with httpx2.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {TOKENS['jeeves']}"}

        answer = await client.post(f"{address}/api/v1/dequeue", content=content, headers=headers)

    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("The request is too large")


async def test_a_body_is_not_read_before_it_is_known_who_asks(address):
    head = b"POST /api/v1/dequeue HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    async with dialled(address) as (reader, writer):
        writer.write(head)
        interim = await reader.readuntil(b"\r\n\r\n")
        rest = await reader.readuntil(b"\r\n\r\n") if b" 100 " in interim else interim

    assert b" 401 " in rest


async def test_connections_beyond_the_cap_are_turned_away(app):
    async with serve_app(app, LISTEN, most=2) as address:
        async with dialled(address) as (first, writer), dialled(address) as (_, _):
            writer.write(REQUEST + b"\r\n")
            assert await status_of(first) == 200

            async with dialled(address) as (third, _):
                assert await status_of(third) == 503
                assert b"Retry-After: 5" in await third.read()

        async with httpx2.AsyncClient(trust_env=False) as client:
            answers = [(await client.get(f"{address}/healthz")).status_code for _ in range(100)]

    assert answers[-1] == 200


def test_long_polls_and_streams_break_their_silence_in_time():
    assert max(MOST_WAIT, PING_SECONDS) < server.SILENCE_SECONDS / 2


# --- Errors of HTTP --------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/dequeue", 405),
        ("DELETE", "/api/v1/tasks/a", 405),
        ("GET", "/api/v1/tasks/", 404),
        ("GET", "/api/v1/tasks/..%2F..%2Fetc", 404),
        ("GET", "/api/v1/tasks/%00", 404),
        ("GET", "/api/v1/tasks/%ff%fe", 404),
    ],
)
async def test_http_errors_are_problems_too(clients, method, path, status):
    answer = await clients["boss"].request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert ("allow" in answer.headers) == (status == 405)


async def test_a_mistake_of_ours_is_logged_and_tells_nothing(world, jeeves, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("hunter2")

    monkeypatch.setattr(world.leases, "heartbeat", broken)

    answer = await jeeves.post("/api/v1/tasks/a/heartbeat", json={"epoch": 1})

    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


# --- Its end ---------------------------------------------------------------


async def test_it_stops_with_open_streams_and_long_polls_and_idle_connections(world, app):
    begun = asyncio.Event()
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        async with serve_app(app, LISTEN) as address:
            await client.get(f"{address}/healthz")
            polling = asyncio.create_task(
                client.post(
                    f"{address}/api/v1/dequeue",
                    json={"request_key": "k1", "wait": 25},
                    headers={"Authorization": f"Bearer {TOKENS['jeeves']}"},
                )
            )
            listening = asyncio.create_task(listen(client, address, begun))
            await world.waits()
            await begun.wait()

        answer, heard = await polling, await listening

    assert answer.status_code == 503
    assert "same request_key" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "2"
    assert heard.startswith("retry: 2000")  # and the stream came to a proper end


async def listen(client, address, begun):
    headers = {"Authorization": f"Bearer {TOKENS['watcher']}"}
    heard = ""
    async with client.stream("GET", f"{address}/api/v1/events", headers=headers) as stream:
        async for piece in stream.aiter_text():
            heard += piece
            begun.set()
    return heard


async def test_a_request_that_hangs_is_cut_off_in_the_end(world, app, monkeypatch):
    monkeypatch.setattr(server, "STOP_SECONDS", 0.1)
    heard = asyncio.Event()

    async def hang(_):
        heard.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.leases, "submit", hang)
    async with httpx2.AsyncClient(trust_env=False) as client:
        async with serve_app(app, LISTEN) as address:
            headers = {"Authorization": f"Bearer {TOKENS['jeeves']}"}
            asking = asyncio.create_task(
                client.post(f"{address}/api/v1/tasks/a/start", json={"epoch": 1}, headers=headers)
            )
            await heard.wait()

        assert (await asking).status_code == 503


async def test_many_can_live_in_one_process_and_be_started_again(tmp_path):
    async with httpx2.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            worlds = FakeWorld(), FakeWorld()
            apps = [
                make_app(
                    one.controller,
                    one.leases,
                    one.services,
                    clock=one.clock,
                    last_use=tmp_path / "used",
                    exposure=EXPOSURE,
                )
                for one in worlds
            ]
            async with serve_app(apps[0], LISTEN) as first, serve_app(apps[1], LISTEN) as second:
                answers = [await client.get(f"{address}/readyz") for address in (first, second)]

                assert first != second
                assert [answer.status_code for answer in answers] == [200, 200]


async def test_an_address_that_is_taken_is_told_in_words(address, tmp_path):
    world = FakeWorld()
    other = make_app(
        world.controller,
        world.leases,
        world.services,
        clock=world.clock,
        last_use=tmp_path / "used",
        exposure=EXPOSURE,
    )

    with pytest.raises(UsageError, match="choose another address with --listen"):
        async with serve_app(other, read_listen(urlsplit(address).netloc)):
            pass


# --- Who is there ----------------------------------------------------------


OPEN = "/api/v1/openapi.json"
"""What anybody may read, a limited number of times."""
FEW = RateLimits(peer=Rate(per_second=0.001, burst=3))


@pytest.mark.parametrize("limits", [FEW])
async def test_behind_a_proxy_the_peer_is_who_the_proxy_says(world, app):
    async def ask(client, peer):
        return (await client.get(OPEN, headers={"X-Forwarded-For": peer})).status_code

    async with (
        serve_app(app, read_listen("127.0.0.1:0", behind_proxy=True)) as address,
        httpx2.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        crowd = [await ask(client, "203.0.113.1") for _ in range(5)]
        other = await ask(client, "9.9.9.9, 203.0.113.2")
        forged = await ask(client, "9.9.9.9, 203.0.113.1")

    assert (crowd, other, forged) == ([200, 200, 200, 429, 429], 200, 429)


@pytest.mark.parametrize("limits", [FEW])
async def test_without_a_proxy_nobody_says_who_the_peer_is(nobody):
    answers = [
        (await nobody.get(OPEN, headers={"X-Forwarded-For": f"203.0.113.{number}"})).status_code
        for number in range(4)
    ]

    assert answers == [200, 200, 200, 429]


async def test_the_health_of_the_process_and_of_its_work(world, nobody):
    assert (await nobody.get("/healthz")).json()["status"] == "ok"
    assert (await nobody.get("/readyz")).json()["revision"] == world.desired.revision

    world.controller.desired = type(world.desired)()

    assert (await nobody.get("/healthz")).status_code == 200
    assert (await nobody.get("/readyz")).status_code == 503


async def test_it_speaks_tls_from_1_2_on(app, certificate):
    cert, key = certificate
    async with serve_app(app, read_listen("127.0.0.1:0", cert, key)) as address:
        trusting = ssl.create_default_context(cafile=str(cert))
        async with httpx2.AsyncClient(verify=trusting, trust_env=False) as client:
            assert (await client.get(f"{address}/healthz")).status_code == 200

    assert address.startswith("https://127.0.0.1:")


@pytest.fixture
def renewed(certificate, tmp_path):
    """A copy of the certificate, and what exchanges it for another one, or for nonsense."""
    files = [Path(shutil.copy(file, tmp_path)) for file in certificate]

    def renew(*contents: bytes) -> None:
        for file, content in zip(files, contents, strict=True):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.rename(file)

    return files, renew


async def shown_by(address):
    """Return the certificate that is shown to a new connection."""
    parts = urlsplit(address)
    return await asyncio.to_thread(ssl.get_server_certificate, (parts.hostname, parts.port))


async def test_a_certificate_that_is_renewed_is_shown_to_the_next_connection(app, renewed, other_certificate):
    (cert, key), renew = renewed
    before, after = cert.read_text(), other_certificate[0].read_text()
    async with serve_app(app, read_listen("127.0.0.1:0", cert, key)) as address:
        first = await shown_by(address)
        renew(b"not yet", key.read_bytes())
        meanwhile = await shown_by(address)
        renew(*(file.read_bytes() for file in other_certificate))
        last = [await shown_by(address) for _ in range(2)]

    assert first.split() == meanwhile.split() == before.split()
    assert [shown.split() for shown in last] == [after.split()] * 2


@pytest.mark.parametrize("named_by", ["ca", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_private_authority_is_trusted_where_it_is_named_and_exchanged_while_we_live(
    app, renewed, other_certificate, monkeypatch, named_by
):
    certificate, renew = renewed
    bundle = certificate[0].with_name("ca.pem")
    bundle.write_bytes(other_certificate[0].read_bytes())
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if named_by != "ca":
        monkeypatch.setenv(named_by, str(bundle))
    trusted = Authorities(str(bundle) if named_by == "ca" else None)
    async with (
        serve_app(app, read_listen("127.0.0.1:0", *certificate)) as address,
        ApiClient(address, TOKENS["jeeves"], authorities=trusted, tries=1) as client,
    ):
        with pytest.raises(Unavailable, match="certificate"):
            await client.tasks()

        bundle.write_bytes(certificate[0].read_bytes())
        assert await client.tasks() is not None

        bundle.write_bytes(other_certificate[0].read_bytes())
        with pytest.raises(Unavailable, match="certificate"):
            await client.tasks()

        renew(*(file.read_bytes() for file in other_certificate))
        assert await client.tasks() is not None


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_authorities_that_cannot_be_read_are_told(tmp_path, content):
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)

    with pytest.raises(UsageError, match=r"authorities in .*ca.pem cannot be used: .*SSL_CERT_FILE"):
        Authorities(str(tmp_path / "ca.pem"))


async def test_a_pulled_task_survives_a_stop(world, tmp_path):
    await world.ask(pulled("a"))
    keys = []
    for _ in range(2):
        app = make_app(
            world.controller,
            world.leases,
            world.services,
            clock=world.clock,
            last_use=tmp_path / "used",
            exposure=EXPOSURE,
        )
        async with serve_app(app, LISTEN) as address, httpx2.AsyncClient(trust_env=False) as client:
            headers = {"Authorization": f"Bearer {TOKENS['jeeves']}"}
            asked = {"request_key": "k1"}
            lease = (await client.post(f"{address}/api/v1/dequeue", json=asked, headers=headers)).json()
            keys.append(lease["lease"])

    assert keys[0] == keys[1]
