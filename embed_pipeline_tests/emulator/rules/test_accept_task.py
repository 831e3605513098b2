from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.accept import accept_task
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest, Segmentation

SOURCE = {"media_source": {"url": "https://media.example.com/a.mp4"}}
FIXED = {"strategy": "fixed", "fixed": {"duration_sec": 6}}
DYNAMIC = {"strategy": "dynamic", "dynamic": {"min_duration_sec": 4}}


def request(kind: str = "video", model: str = "marengo3.0", /, *, top: dict[str, Any] | None = None, **media: Any):
    return {"input_type": kind, "model_name": model, kind: {**SOURCE, **media}, **(top or {})}


def refusal(body: Any, switches: Switches | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        accept_task(body, switches or Switches())
    assert caught.value.status == 400
    assert caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("body", "options", "scopes", "segmentation"),
    [
        (request(), ("visual", "audio", "transcription"), ("clip", "asset"), Segmentation("dynamic", 4)),
        (request("audio"), ("audio", "transcription"), ("clip", "asset"), Segmentation("fixed", 6)),
        (request("video", "marengo3.5"), ("visual", "audio"), ("clip", "asset"), Segmentation("dynamic", 2)),
        (request("audio", "marengo3.5"), ("audio",), ("clip", "asset"), Segmentation("dynamic", 2)),
    ],
)
def test_what_is_left_out_has_the_default_of_its_model(body, options, scopes, segmentation):
    accepted = accept_task(body, Switches())
    assert (accepted.options, accepted.scopes, accepted.segmentation) == (options, scopes, segmentation)


def test_null_counts_as_absent():
    plain = accept_task(request(), Switches())
    nulls = dict.fromkeys(("start_sec", "end_sec", "segmentation", "embedding_option", "embedding_type"))
    assert accept_task(request(**nulls, top={"audio": None, "embedding_dimension": None}), Switches()) == plain


def test_a_model_that_is_not_named_is_the_older_one():
    body = request()
    del body["model_name"]
    assert accept_task(body, Switches()).model_name == "marengo3.0"


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ([], None, "parameter_invalid"),
        ({}, "input_type", "parameter_not_provided"),
        ({"input_type": "text"}, "input_type", "parameter_invalid"),
        ({"input_type": "video"}, "video", "parameter_not_provided"),
        (request("video", "marengo9"), "model_name", "parameter_invalid"),
        (request(top={"audio": SOURCE}), "audio", "parameter_invalid"),
        (request(top={"colour": 1}), "colour", "parameter_unknown"),
        (request(colour=1), "video.colour", "parameter_unknown"),
        (request(media_source=None), "video.media_source", "parameter_not_provided"),
        (request(media_source={}), "video.media_source", "parameter_invalid"),
        (
            request(media_source={"url": "https://a.example/b", "asset_id": "c"}),
            "video.media_source",
            "parameter_invalid",
        ),
        (request(media_source={"url": "ftp://a.example/b"}), "video.media_source.url", "parameter_invalid"),
        (request(media_source={"url": "http://[::1"}), "video.media_source.url", "parameter_invalid"),
        (request(media_source={"url": "https://a.example/b\r\nX: y"}), "video.media_source.url", "parameter_invalid"),
        (request(media_source={"url": "https://a.example/b\0.mp4"}), "video.media_source.url", "parameter_invalid"),
        (request(start_sec=-1), "video.start_sec", "parameter_invalid"),
        (request(start_sec=5, end_sec=5), "video.end_sec", "parameter_invalid"),
        (request(end_sec=0), "video.end_sec", "parameter_invalid"),
        (request(end_sec=True), "video.end_sec", "parameter_invalid"),
        (request(embedding_option=[]), "video.embedding_option", "parameter_invalid"),
        (request(embedding_option=["smell"]), "video.embedding_option", "parameter_invalid"),
        (request(embedding_option=["audio", "audio"]), "video.embedding_option", "parameter_invalid"),
        (request("audio", embedding_option=["visual"]), "audio.embedding_option", "parameter_invalid"),
        (
            request("video", "marengo3.5", embedding_option=["transcription"]),
            "video.embedding_option",
            "parameter_invalid",
        ),
        (request(embedding_scope=["local"]), "video.embedding_scope", "parameter_invalid"),
        (request(embedding_type=["both"]), "video.embedding_type", "parameter_invalid"),
        (request("audio", segmentation=DYNAMIC), "audio.segmentation.strategy", "parameter_invalid"),
        (request(segmentation={"temporal": FIXED}), "video.segmentation.temporal", "parameter_invalid"),
        (
            request("video", "marengo3.5", segmentation=FIXED),
            "video.segmentation.strategy",
            "parameter_invalid",
        ),
        (request(segmentation={"strategy": "fixed"}), "video.segmentation.fixed", "parameter_not_provided"),
        (request(segmentation={**FIXED, **DYNAMIC}), "video.segmentation.fixed", "parameter_invalid"),
        (request(top={"embedding_dimension": 256}), "embedding_dimension", "parameter_invalid"),
        (request(top={"embedding_uncertainty": True}), "embedding_uncertainty", "parameter_invalid"),
        (request("video", "marengo3.5", top={"embedding_dimension": 100}), "embedding_dimension", "parameter_invalid"),
        (
            request("video", "marengo3.5", top={"embedding_uncertainty": True}),
            "video.embedding_scope",
            "parameter_invalid",
        ),
        (
            request("video", "marengo3.5", embedding_type=["fused_embedding"]),
            "video.embedding_type",
            "parameter_invalid",
        ),
        ({"input_type": "image", "model_name": "marengo3.5", "image": {}}, "input_type", "parameter_invalid"),
        ({"input_type": "document", "model_name": "marengo3.5", "document": {}}, "input_type", "parameter_invalid"),
    ],
)
def test_a_refusal_names_the_field_at_fault(body, field, code):
    refused = refusal(body)
    assert (refused.field, refused.code) == (field, code)


@pytest.mark.parametrize(
    ("strategy", "name", "highest"), [("fixed", "duration_sec", 10), ("dynamic", "min_duration_sec", 5)]
)
def test_segments_last_whole_seconds_within_the_bounds(strategy, name, highest):
    def cut(seconds: Any) -> dict[str, Any]:
        return request(segmentation={"strategy": strategy, strategy: {name: seconds}})

    for seconds in (2, highest, float(highest)):
        assert accept_task(cut(seconds), Switches()).segmentation == Segmentation(strategy, int(seconds))
    for seconds in (1, highest + 1, 2.5, "4", True, 0, -3):
        assert refusal(cut(seconds)).field == f"video.segmentation.{strategy}.{name}"


def test_switches_decide_where_the_documentation_is_silent():
    unknown, twice, short = request(colour=1), request(embedding_option=["audio", "audio"]), request(end_sec=3)
    one = request(embedding_option=["audio"], embedding_type=["separate_embedding"])
    assert accept_task(unknown, Switches(unknown_fields="ignore")) == accept_task(request(), Switches())
    assert accept_task(twice, Switches(duplicates="ignore")).options == ("audio",)
    assert accept_task(short, Switches()).end_sec == 3.0
    assert "at least 4 s" in refusal(short, Switches(min_window_sec=4)).message
    assert accept_task(one, Switches()).types == ("separate_embedding",)
    assert refusal(one, Switches(type_with_one_option="refuse")).field == "video.embedding_type"
    cut = request(segmentation={"strategy": "fixed", "fixed": {"duration_sec": 1}})
    assert accept_task(cut, Switches(min_segment_sec=1)).segmentation.seconds == 1


def test_a_refusal_does_not_repeat_a_signed_url():
    for url in ("ftp://a.example/b?Signature=s3cr3t", "http://[::1?Signature=s3cr3t", "not a url ?Signature=s3cr3t"):
        refused = refusal(request(media_source={"url": url}))
        assert "s3cr3t" not in f"{refused.message} {refused.value}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["media_source", "start_sec", "end_sec", "segmentation", "embedding_option", "embedding_scope", "embedding_type",
     "time_based_metadata"]
)  # fmt: skip


@given(
    st.dictionaries(names, json_values),
    st.sampled_from(["audio", "video", "image", "document"]),
    st.sampled_from(["marengo3.0", "marengo3.5"]),
)
def test_whatever_is_sent_is_accepted_or_refused_and_nothing_else(media, kind, model):
    body = {"input_type": kind, "model_name": model, kind: {**SOURCE, **media}}
    try:
        accepted = accept_task(body, Switches())
    except Refusal:
        assert refusal(body).field
    else:
        assert AcceptedRequest.from_json(accepted.to_json()) == accepted
