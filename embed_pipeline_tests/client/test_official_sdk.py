"""What we put on the wire and what we read from it, side by side with the official SDK."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline import client as ours
from embed_pipeline.client import EmbedClient, decode_task
from embed_pipeline_tests.client.generated_requests import marengo_3_0, marengo_3_5, texts
from embed_pipeline_tests.client.official_sdk import OfficialSdk

VERSIONS = ("1.2.9", "1.3.6")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=VERSIONS)
def sdk(request: pytest.FixtureRequest) -> Iterator[OfficialSdk]:
    folder = Path(sys.prefix) / "sdk" / request.param
    if not folder.is_dir():
        pytest.skip(f"not installed: pip install --target {folder} --no-deps twelvelabs=={request.param}")
    worker = OfficialSdk(request.param, folder)
    yield worker
    worker.close()


def build(tree: Any) -> Any:
    if isinstance(tree, dict) and "$" in tree:
        return getattr(ours, tree["$"])(**{name: build(value) for name, value in tree["fields"].items()})
    if isinstance(tree, list):
        return [build(each) for each in tree]
    return tree


def our_request(
    call: str, arguments: dict[str, Any], body: bytes = b'{"_id":"1","status":"processing"}'
) -> httpx.Request:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(200, content=body, headers={"content-type": "application/json"})

    http = httpx.Client(transport=httpx.MockTransport(respond))
    client = EmbedClient(api_key="key", base_url="http://platform.example/v1.3", http_client=http)
    target: Any = client
    for step in call.split("."):
        target = getattr(target, step)
    target(**{name: build(value) for name, value in arguments.items()})
    return seen[0]


def as_sent(request: httpx.Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.url.path,
        "query": [list(pair) for pair in sorted(request.url.params.multi_items())],
        "key": request.headers.get("x-api-key"),
        "content_type": request.headers.get("content-type", "").partition(";")[0],
        "body": base64.b64encode(request.content).decode(),
    }


def canonical(sent: dict[str, Any]) -> dict[str, Any]:
    body = base64.b64decode(sent["body"])
    return {**sent, "body": json.dumps(json.loads(body), sort_keys=True) if body else ""}


@QUICK
@given(data=st.data())
def test_a_create_is_the_same_on_the_wire(sdk, data):
    arguments = data.draw(marengo_3_0() if sdk.version == "1.2.9" else marengo_3_0() | marengo_3_5())
    theirs = sdk.ask("embed.v_2.tasks.create", arguments)
    assert "error" not in theirs, theirs
    assert canonical(as_sent(our_request("embed.v_2.tasks.create", arguments))) == canonical(theirs["request"])


@QUICK
@given(
    arguments=st.fixed_dictionaries(
        {},
        optional={
            "started_at": st.none() | st.sampled_from(["2026-01-01T00:00:00Z", "2026-11-22T07:00:00Z"]),
            "ended_at": st.none() | st.just("2026-11-22T07:00:00Z"),
            "status": st.none() | st.sampled_from(["processing", "ready", "failed"]),
            "page": st.none() | st.integers(1, 9),
            "page_limit": st.none() | st.integers(1, 50),
        },
    )
)
def test_a_list_is_the_same_on_the_wire(sdk, arguments):
    body = b'{"data": [], "page_info": {}}'
    theirs = sdk.ask("embed.v_2.tasks.list", arguments, body)
    assert canonical(as_sent(our_request("embed.v_2.tasks.list", arguments, body))) == canonical(theirs["request"])


UPLOAD = b'{"upload_id":"1","asset_id":"2","chunk_size":5,"total_chunks":2}'


@pytest.mark.parametrize(
    ("call", "arguments", "body"),
    [  # the bodies are just enough for both to read
        ("embed.v_2.tasks.retrieve", {"task_id": "64f8"}, b'{"_id":"64f8","status":"processing"}'),
        ("assets.retrieve", {"asset_id": "64f8"}, b'{"_id":"1"}'),
        ("multipart_upload.create", {"filename": "a.mp4", "type": "video", "total_size": 9}, UPLOAD),
        ("multipart_upload.get_additional_presigned_urls", {"upload_id": "7", "start": 3, "count": 2}, b"{}"),
        ("multipart_upload.get_status", {"upload_id": "7", "page": 2, "page_limit": 50}, b'{"status":"active"}'),
    ],
)  # fmt: skip
def test_other_calls_are_the_same_on_the_wire(sdk, call, arguments, body):
    theirs = sdk.ask(call, arguments, body)
    assert canonical(as_sent(our_request(call, arguments, body))) == canonical(theirs["request"])


def test_an_asset_by_url_is_the_same_form(sdk):
    arguments = {"method": "url", "url": "https://media.example/a.mp4", "filename": "a.mp4"}
    body = b'{"_id":"1"}'
    theirs = sdk.ask("assets.create", arguments, body)["request"]
    request = our_request("assets.create", arguments, body)

    def parts(content_type: str, content: bytes) -> dict[str, bytes]:
        message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + content)
        return {
            part.get_param("name", header="content-disposition"): part.get_payload() for part in message.get_payload()
        }

    their_content = base64.b64decode(theirs["body"])
    boundary = their_content.split(b"\r\n", 1)[0][2:].decode()
    assert parts(f"multipart/form-data; boundary={boundary}", their_content) == parts(
        request.headers["content-type"], request.content
    )


numbers = st.floats(-1, 1, allow_nan=False, width=32) | st.integers(-1, 1)
stamps = st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)).map(  # noqa: DTZ001 - the Z is added below
    lambda moment: moment.isoformat(timespec="milliseconds") + "Z"
)


@st.composite
def task_bodies(draw: st.DrawFn, version: str) -> dict[str, Any]:
    status = draw(st.sampled_from(["processing", "ready", "failed", "queued"]))
    kind = draw(st.sampled_from(["audio", "video"] if version == "1.2.9" else ["audio", "video", "document", "image"]))
    dimension = draw(st.sampled_from([1, 4]))
    optional = {
        "embedding_option": st.none() | st.sampled_from(["visual", "audio", "transcription", "fused"]),
        "embedding_scope": st.none() | st.sampled_from(["clip", "asset"]),
        "start_sec": st.none() | st.floats(0, 100) | st.integers(0, 100),
        "end_sec": st.none() | st.floats(100, 200),
        "chunk_index": st.integers(0, 5),
        "novelty": texts,
    }
    item = st.fixed_dictionaries(
        {"embedding": st.lists(numbers, min_size=dimension, max_size=dimension)}, optional=optional
    )
    metadata: dict[str, Any] = {"input_type": kind}
    if kind in ("audio", "video"):
        metadata |= {"embedding_scopes": ["clip"], "embedding_options": ["audio"], "duration": draw(st.floats(0, 9))}
    metadata |= draw(st.fixed_dictionaries({}, optional={"input_url": texts, "input_filename": texts, "new": texts}))
    body: dict[str, Any] = {"_id": draw(texts), "status": status}
    body |= draw(
        st.fixed_dictionaries(
            {}, optional={"created_at": stamps, "updated_at": stamps, "metadata": st.just(metadata), "novelty": texts}
        )
    )
    if status == "ready":
        body["data"] = draw(st.lists(item, min_size=1, max_size=4))
    elif draw(st.booleans()):
        body["data"] = None
    if status == "failed":
        body["error"] = {"message": draw(texts)}
    names = draw(st.permutations(list(body)))
    return {name: body[name] for name in names}


def plain(value: Any) -> Any:
    """Without fields that hold nothing, and with vectors in single precision, which is what we keep."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@QUICK
@given(data=st.data())
def test_a_task_is_read_the_same(sdk, data):
    body = data.draw(task_bodies(sdk.version))
    raw = json.dumps(body).encode()
    theirs = sdk.ask("embed.v_2.tasks.retrieve", {"task_id": "1"}, raw)
    assert "error" not in theirs, theirs
    theirs = theirs["read"]
    task = decode_task(raw)
    for item in theirs.get("data") or ():
        item["embedding"] = [float(np.float32(number)) for number in item["embedding"]]
    assert plain(task.model_dump(mode="json")) == plain(theirs)
    assert plain([item.model_dump() for item in task.data or ()]) == plain(theirs.get("data") or [])


listed = st.fixed_dictionaries(
    {"_id": texts, "status": st.sampled_from(["processing", "ready", "failed"])},
    optional={
        "model_name": texts,
        "created_at": stamps,
        "updated_at": stamps,
        "video_embedding": st.fixed_dictionaries(
            {},
            optional={
                "metadata": st.fixed_dictionaries(
                    {},
                    optional={
                        "input_url": texts,
                        "input_filename": texts,
                        "duration": st.floats(0, 99),
                        "video_clip_length": st.integers(2, 10),
                        "video_embedding_scope": st.just(["clip"]),
                        "novelty": texts,
                    },
                )
            },
        ),
    },
)


@QUICK
@given(items=st.lists(listed, max_size=4, unique_by=lambda item: item["_id"]))
def test_a_listed_task_is_read_the_same(sdk, items):
    raw = json.dumps(
        {"data": items, "page_info": {"page": 1, "limit_per_page": 10, "total_page": 1, "total_results": len(items)}}
    ).encode()
    theirs = sdk.ask("embed.v_2.tasks.list", {}, raw)["read"]
    read: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=raw)

    with EmbedClient(
        api_key="k", base_url="http://p.example", http_client=httpx.Client(transport=httpx.MockTransport(respond))
    ) as client:
        read = [task.model_dump(mode="json") for task in client.v_2.tasks.list()]
    assert plain(read) == plain(theirs)
    assert not any(isinstance(each, float) and math.isnan(each) for each in read)
