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
    InvalidRequestError,
    NotFoundError,
    RequestOptions,
    RetryLaterError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreadableResponseError,
)
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import (
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


RETRYABLE = {
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


@pytest.mark.parametrize("fault", RETRYABLE)
def test_a_read_outlives_a_fault_that_may_pass(client, platform, fault):
    platform.bodies["t1"] = READY
    platform.gets.append(RETRYABLE[fault])
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


def test_a_refused_connection_names_the_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    client = EmbedClient(api_key="k", base_url=f"http://{address}/v1.3", retries=QUICK)
    with client, pytest.raises(ConnectionFailedError, match=address):
        client.v_2.tasks.retrieve("t1")


def test_another_tasks_result_is_not_taken_for_ones_own(client, platform):
    platform.bodies["t2"] = READY
    with pytest.raises(UnreadableResponseError, match=r"t2 bears the id 't1'") as raised:
        client.v_2.tasks.retrieve("t2")
    assert raised.value.retryable
    assert len(platform.recorded) == QUICK.max_attempts
    platform.bodies["t2"] = {**READY, "_id": "t2"}
    platform.recorded.clear()
    platform.gets.append(answering(200, READY))
    assert client.v_2.tasks.retrieve("t2").id == "t2"


@pytest.mark.parametrize("identifier", ["", None, 7])
def test_an_id_that_is_none_is_refused(client, platform, identifier):
    with pytest.raises(InvalidRequestError, match="id"):
        client.v_2.tasks.retrieve(identifier)
    assert platform.recorded == []


def test_every_request_option_of_the_official_sdk_is_kept(client, platform, video):
    options = {
        "timeout_in_seconds": 5,
        "max_retries": 1,
        "additional_headers": {"X-Trace": 7},
        "additional_query_parameters": {"trace": "on"},
        "additional_body_parameters": {"novelty": {"a": 1}},
        "chunk_size": 10,
    }
    assert options.keys() <= RequestOptions.__annotations__.keys()
    task = client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video(), request_options=options)
    platform.bodies[task.id] = {**READY, "_id": task.id}
    assert client.v_2.tasks.retrieve(task.id, request_options=options).status == "ready"
    platform.assets["a"] = {"_id": "a"}
    platform.posts.append(answering(201, {"_id": "a"}))
    client.assets.create(method="url", url="https://media.example/a.mp4", request_options=options)
    created, retrieved, uploaded = platform.recorded
    for each in platform.recorded:
        assert (each.headers["x-trace"], each.query) == ("7", {"trace": "on"})
    assert created.json["novelty"] == {"a": 1}
    assert created.json["model_name"] == "marengo3.0"
    assert retrieved.method == "GET"
    assert b'name="novelty"\r\n\r\n{"a": 1}\r\n' in uploaded.body


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 5},
        {"max_retry": 1, "max_retries": 1},
        {"max_retries": -1},
        {"timeout_in_seconds": 0},
        {"timeout_in_seconds": "5"},
        {"chunk_size": 0},
        {"max_wait_sec": -1},
    ],
    ids=str,
)
def test_an_option_that_is_unknown_or_out_of_bounds_is_refused(client, platform, video, options):
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        client.v_2.tasks.retrieve("t1", request_options=options)
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video(), request_options=options)
    assert platform.recorded == []


def test_an_option_that_is_none_is_not_set(client, platform):
    platform.bodies["t1"] = READY
    options = {"timeout_in_seconds": None, "max_retries": None, "additional_headers": None}
    assert client.v_2.tasks.retrieve("t1", request_options=options).status == "ready"


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
