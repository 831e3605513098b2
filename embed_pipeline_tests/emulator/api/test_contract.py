from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from embed_pipeline.emulator.api.openapi import openapi_document
from embed_pipeline.emulator.control.behaviour import Timing
from embed_pipeline.emulator.server import Emulator
from embed_pipeline.testing import TEST_SETTINGS

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SOME = hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
KEY = {"x-api-key": "k"}
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    # Short enough to be embedded at once with either model.
    with Emulator(replace(TEST_SETTINGS, timing=Timing(), instant_duration_sec=20.0)) as server:
        yield server.base_url


@SCHEMA.parametrize()
@SOME
def test_whatever_is_asked_the_answer_is_one_that_was_declared(case, origin):
    case.call_and_validate(base_url=origin, headers=KEY, checks=CHECKS)


def keep_what_a_schema_cannot_say(body: dict[str, Any]) -> None:
    """Ends lie after starts, timed text goes with fusion, uncertainty not with the asset; the source exists."""
    media = body[body["input_type"]]
    for name in ("start_sec", "end_sec"):
        if media.get(name, 0) is None:
            del media[name]
    media["media_source"] = {"url": "https://media.example.com/a.mp4"}
    if media.get("end_sec", 1e9) <= media.get("start_sec", 0):
        del media["end_sec"]
    text = [entry for entry in media.pop("time_based_metadata", []) if entry["start"] <= entry["end"]]
    if "fused_embedding" in media.get("embedding_type", []) and body.get("model_name") == "marengo3.5":
        media["time_based_metadata"] = text or [{"start": 0, "end": 1, "text": "a"}]
    if body.get("embedding_uncertainty"):
        media["embedding_scope"] = ["clip"]


def keep_what_is_embedded_at_once(body: dict[str, Any]) -> None:
    """Sources exist and differ in their names, media of several types come with text, windows lie in the media."""
    kind, medium = body["input_type"], body[body["input_type"]]
    if kind in ("audio", "video"):
        keep_what_a_schema_cannot_say(body)
        medium.pop("start_sec", None)
        medium.pop("end_sec", None)
    if "media_source" in medium:
        medium["media_source"] = {"url": "https://media.example.com/a.mp4"}
    if "input_text" in medium:
        medium["input_text"] = f"a {medium['input_text']}".replace("<@", "")
    sources = medium.get("media_sources", [])
    for index, source in enumerate(sources):
        for name in ("url", "base64_string", "asset_id"):
            source.pop(name, None)
        source |= {"url": "https://media.example.com/a", "name": str(index)}
    if kind == "multi_input":
        medium["input_text"] = "words"
        body.pop("embedding_uncertainty", None)


def check_accepted(origin: str, path: str, status: int, keep: Callable[[dict[str, Any]], None]) -> None:
    retrieving = SCHEMA["/embed-v2/tasks/{task_id}"]["GET"]

    @SOME
    @hypothesis.given(case=SCHEMA[path]["POST"].as_strategy())
    def check(case):
        keep(case.body)
        answer = case.call_and_validate(base_url=origin, headers=KEY, checks=CHECKS)
        assert answer.status_code == status, answer.text
        if status == 202:
            task = retrieving.Case(path_parameters={"task_id": answer.json()["_id"]})
            task.call_and_validate(base_url=origin, headers=KEY, checks=CHECKS)

    check()


def test_what_the_document_allows_is_accepted_and_read_back(origin):
    check_accepted(origin, "/embed-v2/tasks", 202, keep_what_a_schema_cannot_say)


def test_what_the_document_allows_is_embedded_at_once(origin):
    check_accepted(origin, "/embed-v2", 200, keep_what_is_embedded_at_once)
