from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.accept import accept_query, category_of
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline_tests.emulator.rules.test_accept_task import json_values

SOURCES = "multi_input.media_sources"
IMAGE = {"media_type": "image", "url": "https://a.example/b.png"}
VIDEO = {"media_type": "video", "url": "https://a.example/b.mp4"}
SOURCE = {"media_source": {"url": "https://a.example/b.png"}}


def accept(kind: str, value: Any, model: str = "marengo3.0", **top: Any):
    return accept_query({"input_type": kind, "model_name": model, kind: value, **top}, Switches())


@pytest.mark.parametrize(
    ("kind", "value", "model", "top", "field"),
    [
        ("text", {}, "marengo3.0", {}, "text.input_text"),
        ("text", {"input_text": " "}, "marengo3.0", {}, "text.input_text"),
        ("text", {"input_text": 7}, "marengo3.0", {}, "text.input_text"),
        ("text", {"input_text": "a" * 2001}, "marengo3.0", {}, "text.input_text"),
        ("text", {"input_text": "a", "colour": 1}, "marengo3.0", {}, "text.colour"),
        ("text", {"input_text": "a"}, "marengo3.5", {}, "input_type"),
        ("text", {"input_text": "a"}, "marengo9", {}, "model_name"),
        ("text", {"input_text": "a"}, "marengo3.0", {"image": SOURCE}, "image"),
        ("text", {"input_text": "a"}, "marengo3.0", {"auto_truncate": True}, "auto_truncate"),
        ("text", {"input_text": "a"}, "marengo3.0", {"embedding_dimension": 256}, "embedding_dimension"),
        ("text", {"input_text": "a"}, "marengo3.0", {"colour": 1}, "colour"),
        ("document", SOURCE, "marengo3.5", {}, "input_type"),
        ("image", {}, "marengo3.0", {}, "image.media_source"),
        ("text_image", SOURCE, "marengo3.0", {}, "text_image.input_text"),
        ("video", SOURCE, "marengo3.5", {}, "input_type"),
        ("video", {**SOURCE, "embedding_scope": ["local"]}, "marengo3.0", {}, "video.embedding_scope"),
        ("multi_input", {}, "marengo3.5", {}, "multi_input"),
        ("multi_input", {"media_sources": [IMAGE] * 11}, "marengo3.5", {}, SOURCES),
        ("multi_input", {"media_sources": [VIDEO]}, "marengo3.0", {}, "multi_input.media_sources[0].media_type"),
        ("multi_input", {"media_sources": [{"media_type": "image"}]}, "marengo3.5", {}, f"{SOURCES}[0]"),
        ("multi_input", {"media_sources": [IMAGE, VIDEO]}, "marengo3.5", {}, "multi_input.input_text"),
        (
            "multi_input", {"media_sources": [{**IMAGE, "media_type": "document"}]}, "marengo3.5", {},
            "multi_input.media_sources[0].media_type",
        ),
        ("multi_input", {"media_sources": [IMAGE], "input_text": "<@a>"}, "marengo3.5", {}, SOURCES),
        (
            "multi_input", {"media_sources": [{**IMAGE, "name": "a"}] * 2}, "marengo3.5", {},
            "multi_input.media_sources[1].name",
        ),
        ("multi_input", {"input_text": "a" * 8001}, "marengo3.5", {}, "multi_input.input_text"),
        (
            "multi_input", {"media_sources": [IMAGE], "input_text": "a"}, "marengo3.5",
            {"embedding_uncertainty": True}, "embedding_uncertainty",
        ),
        ("multi_input", {"input_text": "a"}, "marengo3.5", {"auto_truncate": "yes"}, "auto_truncate"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_at_fault(kind, value, model, top, field):
    with pytest.raises(Refusal) as caught:
        accept(kind, value, model, **top)
    assert (caught.value.status, caught.value.field) == (400, field)


entries = st.dictionaries(st.sampled_from(["media_type", "url", "asset_id", "base64_string", "name"]), json_values)
media = st.dictionaries(
    st.sampled_from(["input_text", "media_source", "media_sources", "start_sec", "segmentation"]),
    json_values | st.lists(entries | st.just(IMAGE) | st.just(VIDEO), max_size=3) | st.just(SOURCE["media_source"]),
)


@given(
    st.sampled_from(["text", "image", "text_image", "audio", "video", "multi_input"]),
    st.sampled_from(["marengo3.0", "marengo3.5"]),
    media | json_values,
    st.dictionaries(st.sampled_from(["auto_truncate", "embedding_uncertainty", "embedding_dimension"]), json_values),
)
def test_whatever_is_sent_is_accepted_or_refused_and_nothing_else(kind, model, value, top):
    body = {"input_type": kind, "model_name": model, kind: value, **top}
    assert category_of(body) in ("embed", "text_image")
    with suppress(Refusal):
        request = accept_query(body, Switches())
        assert request.text or request.sources


def test_text_is_cut_where_that_was_asked_for():
    whole = accept("multi_input", {"input_text": "a" * 8000}, "marengo3.5")
    cut = accept("multi_input", {"input_text": "a" * 8001}, "marengo3.5", auto_truncate=True)
    assert (whole.truncated, cut.truncated, cut.text) == (False, True, whole.text)


def test_references_are_no_words():
    sources = {"media_sources": [{**IMAGE, "name": "hat"}]}
    assert accept("multi_input", {**sources, "input_text": "a man with <@hat>"}, "marengo3.5").text == "a man with"
    assert accept("multi_input", sources, "marengo3.5").text == ""
