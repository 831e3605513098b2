from __future__ import annotations

import pickle

import pytest

from embed_pipeline.client import (
    AsyncTemporalSegmentation,
    AudioInputRequest,
    AudioSegmentationFixed,
    DocumentInputRequest,
    DocumentSegmentation,
    DocumentSequentialSegmentation,
    InvalidRequestError,
    MediaSource,
    TimeBasedMetadataEntry,
    VideoInputRequest,
    VideoSegmentationDynamicDynamic,
    VideoSegmentationFixedFixed,
)

SOURCE = {"url": "https://media.example/a.mp4?X-Amz-Signature=topsecret"}
ENTRY = {"start": 0, "end": 1, "text": "goal"}
FIXED = {"strategy": "fixed", "fixed": {"duration_sec": 5}}


def video(**fields) -> dict:
    return {"input_type": "video", "video": {"media_source": SOURCE, **fields}}


def audio(**fields) -> dict:
    return {"input_type": "audio", "audio": {"media_source": SOURCE, **fields}}


def document(**fields) -> dict:
    return {"input_type": "document", "document": {"media_source": SOURCE, **fields}}


def image(**fields) -> dict:
    return {"input_type": "image", "image": {"media_source": SOURCE, **fields}}


REFUSED = [
    ("marengo3.0", {"input_type": "video"}, "video object is needed"),
    ("marengo3.0", {**video(), **audio(), "input_type": "video"}, "audio object does not go with"),
    ("marengo3.0", image(), "image input requires marengo3.5"),
    ("marengo3.0", document(), "document input requires marengo3.5"),
    ("marengo3.0", {**video(), "embedding_dimension": 512}, "embedding_dimension requires"),
    ("marengo3.0", {**video(), "embedding_uncertainty": True}, "embedding_uncertainty requires"),
    ("marengo3.0", video(segmentation={"temporal": FIXED}), "temporal wrapper"),
    ("marengo3.0", video(embedding_scope=["local"]), "'local' requires"),
    ("marengo3.0", video(time_based_metadata=[ENTRY]), "time_based_metadata requires marengo3.5"),
    ("marengo3.0", audio(segmentation={"strategy": "dynamic", "dynamic": {"min_duration_sec": 4}}), "segmentation"),
    ("marengo3.0", audio(embedding_option=["visual"]), "embedding_option"),
    ("marengo3.0", video(embedding_option=["visual", "visual"]), "twice"),
    ("marengo3.0", video(embedding_scope=[]), "embedding_scope"),
    ("marengo3.0", video(start_sec=5, end_sec=5), "greater than start_sec"),
    ("marengo3.0", video(start_sec=-1), "start_sec"),
    ("marengo3.0", video(colour="red"), "colour"),
    ("marengo3.0", {"input_type": "text"}, "input_type"),
    ("marengo3.5", video(segmentation=FIXED), "inside temporal"),
    ("marengo3.5", video(embedding_option=["visual", "transcription"]), "'transcription' requires marengo3.0"),
    ("marengo3.5", video(embedding_type=["fused_embedding"]), "requires time_based_metadata"),
    ("marengo3.5", video(time_based_metadata=[ENTRY]), "requires embedding_type 'fused_embedding'"),
    ("marengo3.5", {**video(), "embedding_uncertainty": True}, "does not go with embedding_scope 'asset'"),
    ("marengo3.5", {**audio(embedding_scope=["clip", "asset"]), "embedding_uncertainty": True}, "'asset'"),
    ("marengo3.5", {**video(), "embedding_dimension": 100}, "embedding_dimension"),
    ("marengo3.5", document(embedding_type=["fused_embedding"]), "refused for documents"),
    ("marengo3.5", document(embedding_option=["text"], embedding_scope=["local"]), "requires segmentation.sequential"),
    ("marengo3.5", {**document(), "embedding_uncertainty": True}, "embedding_scope \\['local'\\]"),
    (
        "marengo3.5",
        document(
            embedding_option=["visual"], segmentation={"sequential": {"strategy": "sentence", "max_sentences": 3}}
        ),
        "sequential segmentation is for text",
    ),
    ("marengo3.5", image(embedding_option=["text"]), "embedding_option"),
    ("marengo3.5", image(embedding_scope=["local"]), "embedding_scope"),
]


@pytest.mark.parametrize(("model", "fields", "reason"), REFUSED)
def test_what_the_platform_refuses_is_refused_before_a_request(client, platform, model, fields, reason):
    with pytest.raises(InvalidRequestError, match=reason) as raised:
        client.v_2.tasks.create(model_name=model, **fields)
    assert platform.recorded == []
    assert "topsecret" not in str(raised.value)


ALLOWED = [
    ("marengo3.0", video(segmentation=FIXED, embedding_option=["transcription"])),
    ("marengo3.0", video(embedding_type=["fused_embedding"])),
    ("marengo3.0", {**video(), "embedding_uncertainty": False}),
    ("marengo3.5", video(segmentation={"temporal": FIXED}, embedding_scope=["local", "asset"])),
    ("marengo3.5", {**video(embedding_scope=["clip"]), "embedding_uncertainty": True, "embedding_dimension": 128}),
    ("marengo3.5", video(embedding_type=["fused_embedding"], time_based_metadata=[ENTRY])),
    ("marengo3.5", {**image(), "embedding_uncertainty": True}),
    ("marengo9", video(segmentation=FIXED)),
]


@pytest.mark.parametrize(("model", "fields"), ALLOWED)
def test_what_only_the_platform_can_judge_is_sent(client, platform, model, fields):
    client.v_2.tasks.create(model_name=model, **fields)
    assert len(platform.tasks) == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MediaSource(), "exactly one"),
        (lambda: MediaSource(url="https://a.example/b", asset_id="1"), "exactly one"),
        (lambda: MediaSource(url=""), "empty"),
        (lambda: VideoSegmentationFixedFixed(duration_sec=11), "duration_sec"),
        (lambda: AudioSegmentationFixed(duration_sec=1), "duration_sec"),
        (lambda: VideoSegmentationDynamicDynamic(min_duration_sec=6), "min_duration_sec"),
        (lambda: VideoSegmentationFixedFixed(duration_sec=2.5), "duration_sec"),
        (
            lambda: DocumentSequentialSegmentation(strategy="sentence", max_sentences=2, overlap_sentences=2),
            "less than",
        ),
        (lambda: DocumentSegmentation(), "either"),
        (lambda: TimeBasedMetadataEntry(start=2, end=1, text="x"), "before it starts"),
        (lambda: VideoInputRequest(media_source=MediaSource(url="x"), end_sec=0), "end_sec"),
    ],
)
def test_an_object_that_breaks_a_rule_cannot_be_made(make, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        make()


def test_an_error_of_an_object_names_it_and_hides_what_was_given():
    with pytest.raises(InvalidRequestError, match=r"VideoInputRequest: segmentation.*fixed\.duration_sec") as raised:
        VideoInputRequest(media_source=SOURCE, segmentation={**FIXED, "fixed": {"duration_sec": 99}})
    assert isinstance(raised.value, ValueError)
    with pytest.raises(InvalidRequestError, match="MediaSource"):
        MediaSource.model_validate_json('{"url": "https://a.example/b?X-Amz-Signature=topsecret", "colour": 1}')
    assert "topsecret" not in str(raised.value)


def test_a_request_survives_pickle_and_json():
    video = VideoInputRequest(media_source=MediaSource(**SOURCE), segmentation=FIXED, embedding_option=["visual"])
    assert pickle.loads(pickle.dumps(video)) == video
    assert VideoInputRequest.model_validate_json(video.to_body()) == video


def test_no_repr_shows_a_signature_or_the_media_itself():
    shown = repr([VideoInputRequest(media_source=MediaSource(**SOURCE)), MediaSource(base_64_string="QUJD" * 9)])
    assert "topsecret" not in shown
    assert "QUJD" not in shown


def test_old_and_new_type_names_are_the_same_types():
    from embed_pipeline import client

    assert client.AsyncVideoInputRequest is VideoInputRequest
    assert client.AsyncAudioInputRequest is AudioInputRequest
    assert client.AsyncDocumentInputRequest is DocumentInputRequest
    assert AsyncTemporalSegmentation.model_validate({"temporal": FIXED}).to_wire() == {"temporal": FIXED}
