from __future__ import annotations

from collections.abc import Iterator
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

from embed_pipeline.emulator.openapi import openapi_document
from embed_pipeline.emulator.server import Emulator
from embed_pipeline.emulator.settings import Timing
from embed_pipeline.testing import TEST_SETTINGS

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SOME = hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
KEY = {"x-api-key": "k"}
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with Emulator(replace(TEST_SETTINGS, timing=Timing())) as server:
        yield server.base_url


@SCHEMA.parametrize()
@SOME
def test_whatever_is_asked_the_answer_is_one_that_was_declared(case, origin):
    case.call_and_validate(base_url=origin, headers=KEY, checks=CHECKS)


def keep_what_a_schema_cannot_say(body: dict[str, Any]) -> None:
    """Ends lie after starts, timed text goes with fusion, uncertainty not with the asset; the source exists."""
    media = body[body["input_type"]]
    media["media_source"] = {"url": "https://media.example.com/a.mp4"}
    if media.get("end_sec", 1e9) <= media.get("start_sec", 0):
        del media["end_sec"]
    text = [entry for entry in media.pop("time_based_metadata", []) if entry["start"] <= entry["end"]]
    if "fused_embedding" in media.get("embedding_type", []) and body.get("model_name") == "marengo3.5":
        media["time_based_metadata"] = text or [{"start": 0, "end": 1, "text": "a"}]
    if body.get("embedding_uncertainty"):
        media["embedding_scope"] = ["clip"]


def test_what_the_document_allows_is_accepted_and_read_back(origin):
    creating = SCHEMA["/embed-v2/tasks"]["POST"]
    retrieving = SCHEMA["/embed-v2/tasks/{task_id}"]["GET"]

    @SOME
    @hypothesis.given(case=creating.as_strategy())
    def check(case):
        keep_what_a_schema_cannot_say(case.body)
        answer = case.call_and_validate(base_url=origin, headers=KEY, checks=CHECKS)
        assert answer.status_code == 202, answer.text
        task = retrieving.Case(path_parameters={"task_id": answer.json()["_id"]})
        task.call_and_validate(base_url=origin, headers=KEY, checks=CHECKS)

    check()
