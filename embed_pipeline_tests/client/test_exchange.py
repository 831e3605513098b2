"""What a read does when the other end misbehaves."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import time
from datetime import timedelta

import pytest

from embed_pipeline.client import (
    ApiError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    EmbedClient,
    ForbiddenError,
    InternalServerError,
    NotFoundError,
    RetryLaterError,
    RetryPolicy,
    TooManyRequestsError,
    UnauthorizedError,
    UnreadableResponseError,
)
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import (
    Handler,
    answering,
    resetting,
    resetting_within_body,
    silent_for,
)

READY = {
    "_id": "t1",
    "status": "ready",
    "data": [{"embedding": [0.5, 1.0], "embedding_option": "visual", "embedding_scope": "clip"}],
}
NESTED = {"error": {"code": "C", "message": "nested", "details": {"requestId": "req_9"}}}
FLAT = {"code": "C", "message": "flat", "docs_url": "https://docs.example"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (418, ApiError),
    ],
)
@pytest.mark.parametrize(
    ("body", "says"), [(NESTED, "nested"), (FLAT, "flat"), (b"", "answered"), (b"<html>", "HTML page")]
)
def test_a_refusal_is_one_error_with_all_that_was_told(client, platform, status, kind, body, says):
    platform.gets.append(answering(status, body, {"X-Request-Id": "r7"} if body is FLAT else None))
    with pytest.raises(kind, match=says) as raised:
        client.v_2.tasks.retrieve("t1")
    error = raised.value
    assert error.status_code == status
    assert error.code == ("C" if isinstance(body, dict) else None)
    assert error.request_id == {id(NESTED): "req_9", id(FLAT): "r7"}.get(id(body))
    assert error.headers["content-type"] == "application/json"
    assert "/embed-v2/tasks/t1" in str(error)
    assert len(platform.recorded) == 1


PASSING = {
    "408": answering(408),
    "429": answering(429),
    "429 with Retry-After": answering(429, NESTED, {"Retry-After": "0"}),
    "500": answering(500, NESTED),
    "502 with HTML": answering(502, b"<html>", content_type="text/html"),
    "503": answering(503),
    "reset before the body": resetting,
    "reset within the body": resetting_within_body,
    "silence": silent_for(0.6),
    "truncated JSON": answering(200, json.dumps(READY).encode()[:-9]),
    "empty": answering(200),
    "HTML with 200": answering(200, b"<html>", content_type="text/html"),
    "broken gzip": answering(200, b"no gzip", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_read_outlives_a_passing_fault(client, platform, fault):
    platform.bodies["t1"] = READY
    platform.gets.append(PASSING[fault])
    patience = {"timeout_in_seconds": 0.4} if fault == "silence" else None
    task = client.v_2.tasks.retrieve("t1", request_options=patience)
    assert task.segments.embedding.tolist() == [[0.5, 1.0]]
    assert len(platform.recorded) == 2
    assert client.stats.retries == 1


def test_a_fault_that_does_not_pass_is_raised_after_the_last_attempt(client, platform):
    platform.gets.extend([answering(500, NESTED)] * 9)
    with pytest.raises(InternalServerError):
        client.v_2.tasks.retrieve("t1")
    assert len(platform.recorded) == QUICK.max_attempts


def test_a_call_can_forbid_retries(client, platform):
    platform.gets.extend([answering(500)] * 9)
    with pytest.raises(InternalServerError):
        client.v_2.tasks.retrieve("t1", request_options={"max_retries": 0})
    assert len(platform.recorded) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_wait_beyond_the_bound_is_an_error_that_says_when_to_come_back(client, platform, form):
    from email.utils import format_datetime

    at = platform.now() + timedelta(hours=9)
    platform.gets.append(answering(429, FLAT, {"Retry-After": "32400" if form == "seconds" else format_datetime(at)}))
    began = time.monotonic()
    with pytest.raises(RetryLaterError, match="Come back at") as raised:
        client.v_2.tasks.retrieve("t1")
    assert time.monotonic() - began < 1
    assert isinstance(raised.value, TooManyRequestsError)
    assert abs(raised.value.retry_at - at) < timedelta(seconds=5)


def test_a_short_wait_is_kept(client, platform):
    platform.bodies["t1"] = READY
    platform.gets.append(answering(429, FLAT, {"Retry-After": "0.3"}))
    began = time.monotonic()
    client.v_2.tasks.retrieve("t1")
    assert time.monotonic() - began >= 0.3
    assert client.stats.waited_sec >= 0.3


def test_a_vector_that_is_wrong_is_not_asked_for_again(client, platform):
    platform.bodies["t1"] = {**READY, "data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]}
    with pytest.raises(UnreadableResponseError, match=r"t1.*Item 1"):
        client.v_2.tasks.retrieve("t1")
    assert len(platform.recorded) == 1


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
def test_gzip_and_a_wrong_content_type_do_not_matter(client, platform, content_type):
    content = gzip.compress(json.dumps(READY).encode())
    platform.gets.append(answering(200, content, {"Content-Encoding": "gzip"}, content_type=content_type))
    assert client.v_2.tasks.retrieve("t1").status == "ready"


def test_a_slow_body_is_read_to_its_end(client, platform):
    def drip(handler: Handler) -> None:
        content = json.dumps(READY).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for start in range(0, len(content), 20):
            handler.wfile.write(content[start : start + 20])
            handler.wfile.flush()
            time.sleep(0.1)

    platform.gets.append(drip)
    assert client.v_2.tasks.retrieve("t1", request_options={"timeout_in_seconds": 0.5}).status == "ready"


def test_a_refused_connection_names_the_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    client = EmbedClient(api_key="k", base_url=f"http://{address}/v1.3", retries=QUICK)
    with client, pytest.raises(ConnectionFailedError, match=address):
        client.v_2.tasks.retrieve("t1")


def test_an_id_cannot_name_another_resource(client, platform):
    with pytest.raises(NotFoundError):
        client.v_2.tasks.retrieve("../assets?x=1")
    assert platform.recorded[0].path.startswith("/v1.3/embed-v2/tasks/..%2F")


def test_no_log_line_holds_a_query_or_the_key(client, platform, video, caplog):
    with caplog.at_level(logging.DEBUG):
        client.v_2.tasks.find("https://bucket.example/a.mp4?X-Amz-Signature=topsecret")
        client.v_2.tasks.create(
            input_type="video",
            model_name="marengo3.0",
            video=video("https://bucket.example/a.mp4?X-Amz-Signature=topsecret"),
        )
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "/embed-v2/tasks" in logged
    assert "page_limit" not in logged
    assert "topsecret" not in logged
    assert "tlk_secret" not in logged


def test_a_client_without_key_says_what_to_set(monkeypatch):
    for name in ("EMBED_API_KEY", "TWELVE_LABS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="EMBED_API_KEY"):
        EmbedClient()


@pytest.mark.parametrize(
    "arguments", [{"api_key": "k", "base_url": ""}, {"api_key": ""}, {"api_key": "k", "base_url": "x"}]
)
def test_what_is_passed_in_empty_never_falls_back_to_the_platform(monkeypatch, arguments):
    monkeypatch.setenv("EMBED_API_KEY", "k")
    with pytest.raises(ConfigurationError):
        EmbedClient(**arguments)


def test_the_environment_is_read_in_the_documented_order(monkeypatch, platform):
    monkeypatch.setenv("TWELVE_LABS_API_KEY", "second")
    monkeypatch.setenv("TWELVELABS_BASE_URL", "http://nowhere.example")
    with EmbedClient() as client:
        assert client.base_url == "http://nowhere.example"
    monkeypatch.setenv("EMBED_API_KEY", "first")
    monkeypatch.setenv("EMBED_BASE_URL", f"{platform.base_url}/")
    with EmbedClient(retries=RetryPolicy.none()) as client:
        list(client.v_2.tasks.list())
        assert "first" not in repr(client)
    assert platform.recorded[0].headers["x-api-key"] == "first"
    assert platform.recorded[0].path == "/v1.3/embed-v2/tasks"
