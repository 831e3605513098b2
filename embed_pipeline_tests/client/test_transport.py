"""Deadlines, bounds for bodies, proxies and certificates, with threads and with asyncio."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embed_pipeline.client import (
    AsyncEmbedClient,
    ConnectionFailedError,
    EmbedClient,
    InternalServerError,
    RetryPolicy,
    UnreadableResponseError,
    VideoInputRequest,
)
from embed_pipeline.client.transport import network
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.client.asyncio_client import AsyncioClient
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import Handler, answering, serving_on

READY = {"_id": "t1", "status": "ready", "data": [{"embedding": [0.5, 1.0], "embedding_scope": "clip"}]}
ONCE = RetryPolicy.none()
Make = Callable[..., Any]


@pytest.fixture(params=[EmbedClient, AsyncioClient], ids=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes clients of either kind, and closes them."""
    with contextlib.ExitStack() as made:
        yield lambda **settings: made.enter_context(request.param(**{"api_key": "k", "retries": ONCE, **settings}))


def drip(*, head_bytes_at_once: int, interval_sec: float = 0.05, count: int = 100) -> Callable[[Handler], None]:
    """Answer whole in the end, but a byte at a time: `count` bytes of it come slowly."""

    def run(handler: Handler) -> None:
        content = json.dumps(READY).encode().ljust(count)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        handler.wfile.write(head[:head_bytes_at_once])
        rest = head[head_bytes_at_once:] + content
        for number in range(count):
            handler.wfile.write(rest[number : number + 1])
            handler.wfile.flush()
            time.sleep(interval_sec)
        handler.wfile.write(rest[count:])

    return run


@pytest.mark.parametrize("head_bytes_at_once", [0, 9, 1000], ids=["from the first byte", "in the head", "in the body"])
def test_an_answer_that_drips_ends_with_the_deadline(make, platform, head_bytes_at_once):
    platform.gets.append(drip(head_bytes_at_once=head_bytes_at_once))
    client = make(base_url=platform.base_url, timeout=0.5)
    with pytest.raises(ConnectionFailedError, match=r"the deadline of 0\.5 s is over") as raised:
        client.v_2.tasks.retrieve("t1")
    assert raised.value.sent


def test_a_call_has_a_deadline_of_its_own(make, platform):
    platform.gets.append(drip(head_bytes_at_once=0))
    client = make(base_url=platform.base_url, timeout=30)
    with pytest.raises(ConnectionFailedError, match=r"the deadline of 0\.5 s is over"):
        client.v_2.tasks.retrieve("t1", request_options={"timeout_in_seconds": 0.5})


def test_a_body_that_drips_ends_with_the_deadline_over_a_client_of_ones_own(platform):
    platform.gets.append(drip(head_bytes_at_once=1000))
    with (
        httpx.Client(timeout=30) as http,
        EmbedClient(api_key="k", base_url=platform.base_url, timeout=0.5, http_client=http, retries=ONCE) as client,
        pytest.raises(ConnectionFailedError, match=r"the deadline of 0\.5 s is over"),
    ):
        client.v_2.tasks.retrieve("t1")


PAUSE_SEC, PIECES, PIECE = 0.1, 8, 200_000


def slowly(handler: Handler) -> None:
    """Answer at about two million bytes a second."""
    content = json.dumps(READY).encode().ljust(PIECES * PIECE)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for start in range(0, len(content), PIECE):
        handler.wfile.write(content[start : start + PIECE])
        time.sleep(PAUSE_SEC)


def test_a_large_answer_moves_its_deadline_on_as_long_as_it_is_not_too_slow(make, platform):
    settings = {"base_url": platform.base_url, "timeout": 0.6}
    platform.gets.append(slowly)
    assert make(**settings).v_2.tasks.retrieve("t1").status == "ready"
    platform.gets.append(slowly)
    with pytest.raises(ConnectionFailedError, match="deadline"):
        make(**settings, min_bytes_per_sec=1e9).v_2.tasks.retrieve("t1")


def test_an_upload_has_as_much_time_as_its_size_allows(make):
    def read_slowly(connection: socket.socket) -> None:
        for _ in range(200):
            if not connection.recv(20_000):
                return
            time.sleep(0.02)

    with listening(read_slowly) as address:
        settings = {"base_url": f"http://{address}/v1.3", "timeout": 0.5}
        with pytest.raises(ConnectionFailedError, match="deadline"):
            make(**settings, min_bytes_per_sec=1e12).assets.create(method="direct", file=bytes(20_000_000))
        quick = make(**settings, min_bytes_per_sec=1e6)
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError):
            quick.assets.create(method="direct", file=bytes(1_500_000))
        # The server hung up before the deadline of 0.5 s + 1.5 s, but after that of 0.5 s alone.
        assert time.monotonic() - began > 0.5


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server whose every connection is served by a function over the bare socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve_one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                serve(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve_one, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield "{}:{}".format(*server.getsockname())


def test_a_connection_that_does_not_come_about_is_known_not_to_be_sent(make):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        with pytest.raises(ConnectionFailedError) as raised:
            make(base_url="http://{}:{}/v1.3".format(*address), timeout=0.5).v_2.tasks.retrieve("t1")
        assert not raised.value.sent
        for each in waiting:
            each.close()


def test_connections_that_are_given_up_lose_no_request(platform, video, monkeypatch):
    monkeypatch.setattr(network, "_KEEPALIVE_SEC", 0.0)
    sources = [video() for _ in range(200)]
    with EmbedClient(api_key="k", base_url=platform.base_url, retries=ONCE) as client, ThreadPoolExecutor(8) as pool:

        def create(source: VideoInputRequest) -> bool:
            return client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=source).adopted

        assert not any(pool.map(create, sources))
    assert len(platform.recorded) == len(sources)


def answer_after(seconds: float) -> Callable[[Handler], None]:
    def run(handler: Handler) -> None:
        time.sleep(seconds)
        task = handler.create()
        handler.answer(202, {"_id": task["_id"], "status": "processing"})

    return run


def test_the_timeout_is_sent_with_each_request_of_a_client_of_ones_own(platform, video):
    platform.posts.append(answer_after(0.5))
    with (
        httpx.Client(timeout=0.1) as http,
        EmbedClient(api_key="k", base_url=platform.base_url, timeout=20, http_client=http) as client,
    ):
        task = client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video())
    assert not task.adopted
    assert len(platform.recorded) == 1


def test_without_a_timeout_that_of_ones_own_client_holds(platform):
    platform.gets.append(drip(head_bytes_at_once=0, interval_sec=0.4))
    with (
        httpx.Client(timeout=0.2) as http,
        EmbedClient(api_key="k", base_url=platform.base_url, http_client=http, retries=ONCE) as client,
        pytest.raises(ConnectionFailedError, match="ReadTimeout"),
    ):
        client.v_2.tasks.retrieve("t1")


def test_each_phase_of_an_httpx_timeout_is_kept_and_their_sum_is_the_deadline(make, platform):
    timeout = httpx.Timeout(connect=0.2, write=0.2, read=0.2, pool=0.2)
    platform.gets.append(drip(head_bytes_at_once=1000))
    with pytest.raises(ConnectionFailedError, match=r"the deadline of 0\.6 s is over"):
        make(base_url=platform.base_url, timeout=timeout).v_2.tasks.retrieve("t1")
    platform.gets.append(drip(head_bytes_at_once=1000, interval_sec=0.5))
    with pytest.raises(ConnectionFailedError, match="ReadTimeout"):
        make(base_url=platform.base_url, timeout=timeout).v_2.tasks.retrieve("t1")
    platform.gets.append(drip(head_bytes_at_once=1000, interval_sec=0.01))
    assert make(base_url=platform.base_url, timeout=httpx.Timeout(None)).v_2.tasks.retrieve("t1").id == "t1"


@pytest.mark.parametrize("timeout", [0, -1, "60", True, float("nan")])
def test_a_timeout_that_makes_no_sense_is_refused(timeout):
    for kind in (EmbedClient, AsyncEmbedClient):
        with pytest.raises(ConfigurationError, match="timeout"):
            kind(api_key="k", timeout=timeout)


BODY = json.dumps(READY).encode()
BOMB = gzip.compress(BODY + bytes(200_000_000), 1)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [(BODY.ljust(200_001), None), (BOMB, "gzip"), (zlib.compress(bytes(50_000_000)), "deflate")],
    ids=["plain", "gzip", "deflate"],
)
def test_a_body_beyond_the_bound_fails_early_and_once(make, platform, content, encoding):
    client = make(base_url=platform.base_url, max_body_bytes=200_000, retries=QUICK)
    list(client.v_2.tasks.list())
    platform.gets.append(answering(200, content, {"Content-Encoding": encoding} if encoding else None))
    tracemalloc.start()
    try:
        with pytest.raises(
            UnreadableResponseError, match=r"t1.* larger than 200000 bytes \(max_body_bytes\)"
        ) as raised:
            client.v_2.tasks.retrieve("t1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not raised.value.retryable
    assert len(platform.requests_to("GET", "/embed-v2/tasks/t1")) == 1
    assert peak < 8_000_000
    platform.bodies["t1"] = READY
    assert client.v_2.tasks.retrieve("t1").status == "ready"


def test_a_create_whose_answer_is_too_large_is_looked_for_and_not_sent_again(make, platform, video):
    def boast(handler: Handler) -> None:
        handler.create()
        handler.answer(202, bytes(300_000))

    platform.posts.append(boast)
    client = make(base_url=platform.base_url, max_body_bytes=200_000, retries=QUICK)
    assert client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video()).adopted
    assert len(platform.requests_to("POST")) == 1


def raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
    ],
    ids=["gzip", "x-gzip", "deflate", "raw deflate", "identity"],
)
def test_what_is_compressed_is_inflated(make, platform, encoding, content):
    platform.gets.append(answering(200, content, {"Content-Encoding": encoding}))
    assert make(base_url=platform.base_url).v_2.tasks.retrieve("t1").status == "ready"
    assert platform.recorded[0].headers["accept-encoding"] == "gzip, deflate"


def test_an_encoding_that_was_not_asked_for_is_named(make, platform):
    platform.gets.append(answering(200, BODY, {"Content-Encoding": "br"}))
    with pytest.raises(UnreadableResponseError, match="'br'"):
        make(base_url=platform.base_url, retries=QUICK).v_2.tasks.retrieve("t1")


@pytest.mark.parametrize("content", [gzip.compress(BODY)[:-9], b"no gzip"], ids=["cut off", "no gzip"])
def test_a_compressed_body_that_is_cut_off_is_asked_for_again(make, platform, content):
    platform.bodies["t1"] = READY
    platform.gets.append(answering(200, content, {"Content-Encoding": "gzip"}))
    client = make(base_url=platform.base_url, retries=QUICK)
    assert client.v_2.tasks.retrieve("t1").status == "ready"
    assert client.stats.retries == 1


def test_a_result_is_held_once_while_it_is_read(make, platform):
    vectors = np.random.default_rng(1).standard_normal((1500, 512)).tolist()
    body = json.dumps({"_id": "t1", "status": "ready", "data": [{"embedding": each} for each in vectors]}).encode()
    client = make(base_url=platform.base_url)
    platform.gets.extend([answering(200, body)] * 2)
    client.v_2.tasks.retrieve("t1")
    tracemalloc.start()
    try:
        client.v_2.tasks.retrieve("t1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(body)


class Proxy(BaseHTTPRequestHandler):
    """Answers like the platform for every address, and refuses to tunnel."""

    seen: list[str]
    status = 200

    def do_GET(self) -> None:
        self.seen.append(self.path)
        content = b'{"data": []}' if self.status == 200 else b"<html>no</html>"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_CONNECT(self) -> None:
        self.seen.append(self.path)
        self.send_error(407)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def proxy() -> Iterator[type[Proxy]]:
    """A proxy; its class has its address, what it has seen, and the status it answers with."""
    handler = type("BoundProxy", (Proxy,), {"seen": []})
    with serving_on(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        handler.address = address
        yield handler


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


FAR = "http://platform.example/v1.3"


def test_a_proxy_that_is_passed_in_serves_all_but_this_machine(make, platform, proxy):
    settings = {"proxy": f"http://{proxy.address}"}
    list(make(base_url=FAR, **settings).v_2.tasks.list())
    assert proxy.seen == ["http://platform.example/v1.3/embed-v2/tasks?page=1"]
    list(make(base_url=platform.base_url, **settings).v_2.tasks.list())
    list(make(base_url=platform.base_url.replace("127.0.0.1", "localhost"), **settings).v_2.tasks.list())
    assert (len(proxy.seen), len(platform.recorded)) == (1, 2)


def test_the_environments_proxy_serves_all_but_this_machine_and_what_is_exempt(make, platform, proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", proxy.address)
    monkeypatch.setenv("NO_PROXY", "other.example")
    list(make(base_url=FAR).v_2.tasks.list())
    assert len(proxy.seen) == 1
    list(make(base_url=platform.base_url).v_2.tasks.list())
    with pytest.raises(ConnectionFailedError) as raised:
        list(make(base_url="http://other.example/v1.3", timeout=1).v_2.tasks.list())
    assert "proxy" not in str(raised.value)
    assert (len(proxy.seen), len(platform.recorded)) == (1, 1)


@pytest.mark.parametrize("status", [403, 407, 502])
def test_an_error_that_came_through_a_proxy_names_it(make, proxy, monkeypatch, status):
    proxy.status = status
    monkeypatch.setenv("ALL_PROXY", f"http://user:topsecret@{proxy.address}")
    with pytest.raises(Exception, match=f"through the proxy http://{proxy.address}") as raised:
        list(make(base_url=FAR).v_2.tasks.list())
    assert isinstance(raised.value, InternalServerError) == (status == 502)
    assert "topsecret" not in f"{raised.value!r} {raised.value.headers} {raised.value.body}"


def test_a_proxy_that_is_down_or_refuses_is_named_and_nothing_was_sent(make, proxy):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = "user:topsecret@{}:{}".format(*unused.getsockname())
    for base_url, through in ((FAR, dead), ("https://platform.example/v1.3", f"user:topsecret@{proxy.address}")):
        shown = through.rpartition("@")[2]
        with pytest.raises(ConnectionFailedError, match=f"through the proxy http://{shown}") as raised:
            list(make(base_url=base_url, proxy=f"http://{through}").v_2.tasks.list())
        assert not raised.value.sent
        assert "topsecret" not in str(raised.value)
    assert proxy.seen == ["platform.example:443"]


@pytest.mark.parametrize("kind", [EmbedClient, AsyncEmbedClient])
def test_a_proxy_that_cannot_be_used_is_an_error_at_once(kind, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://user:topsecret@proxy.example:1080")
    with pytest.raises(ConfigurationError, match=r"socks5://proxy\.example:1080 .*httpx\[socks\]"):
        kind(api_key="k", base_url=FAR)
    kind(api_key="k", base_url="http://127.0.0.1:8765/v1.3")
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy.example")
    with pytest.raises(ConfigurationError, match="ALL_PROXY"):
        kind(api_key="k", base_url=FAR)
    monkeypatch.delenv("ALL_PROXY")
    with pytest.raises(ConfigurationError, match="http_client"):
        kind(api_key="k", proxy=FAR, http_client=httpx.Client() if kind is EmbedClient else httpx.AsyncClient())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that only its own file vouches for, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("authority")
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "ca.pem", folder / "key.pem"


@pytest.fixture
def encrypted(authority: tuple[Path, Path]) -> Iterator[str]:
    """The base URL of a platform that answers over TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundProxy", (Proxy,), {"seen": []}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving_on(server) as address:
        yield f"https://{address}/v1.3"


def test_own_certificates_are_trusted_when_they_are_named(make, encrypted, authority, monkeypatch):
    with pytest.raises(ConnectionFailedError, match=r"(?i)certificate") as raised:
        list(make(base_url=encrypted).v_2.tasks.list())
    assert not raised.value.sent
    context = ssl.create_default_context(cafile=authority[0])
    for verify in (authority[0], str(authority[0]), context, False):
        assert list(make(base_url=encrypted, verify=verify).v_2.tasks.list()) == []
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    assert list(make(base_url=encrypted).v_2.tasks.list()) == []


def test_certificates_that_cannot_be_read_are_an_error_at_once(tmp_path, monkeypatch):
    (tmp_path / "garbage.pem").write_text("garbage")
    for verify in (tmp_path / "absent.pem", tmp_path / "garbage.pem"):
        with pytest.raises(ConfigurationError, match=verify.name):
            EmbedClient(api_key="k", base_url="https://platform.example/v1.3", verify=verify)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "garbage.pem"))
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        EmbedClient(api_key="k", base_url="https://platform.example/v1.3")
