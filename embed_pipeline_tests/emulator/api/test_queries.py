from __future__ import annotations

import base64
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_pipeline.emulator import EmulatorSettings, Switches
from embed_pipeline.emulator.engine import EmbedRequest, Fixed, embed, embed_query
from embed_pipeline.testing import TEST_SETTINGS
from embed_pipeline_tests.emulator.conftest import Caller
from embed_pipeline_tests.emulator.engine_media import SCENES, film, melody, pictures, write
from embed_pipeline_tests.emulator.still_media import write_image

SYNC = "/embed-v2"
IMAGE = {"media_type": "image", "url": "https://a.example/b.png"}
VIDEO = {"media_type": "video", "url": "https://a.example/b.mp4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sync")
    write(folder / "film.mp4", film([(SCENES[0], 4.0), (SCENES[3], 4.0)]), melody(8.0))
    write(folder / "short.wav", sound=melody(3.0), audio_codec="pcm_s16le")
    write(folder / "long.wav", sound=np.zeros(16_000 * 35, np.float32), audio_codec="pcm_s16le")
    for number, scene in enumerate((SCENES[0], SCENES[3])):
        write_image(folder / f"{number}.png", pictures(scene, 0.1, skip=2.0)[0])
    (folder / "notes.txt").write_text("The harbour freezes over.")
    return folder


@pytest.fixture
def emulator(start, folder) -> Caller:
    return start(EmulatorSettings(media_root=folder, workers=1, switches=Switches(picture_size="any")))


def ask(emulator: Caller, kind: str, value: dict[str, Any], model: str = "marengo3.0", /, **top: Any):
    return emulator.http.post(SYNC, json={"input_type": kind, "model_name": model, kind: value, **top})


def multi(emulator: Caller, text: str | None = None, *sources: dict[str, Any], **top: Any):
    value = {"media_sources": list(sources)} if sources else {}
    return ask(emulator, "multi_input", value | ({"input_text": text} if text else {}), "marengo3.5", **top)


def vector(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["data"]
    assert (row["embedding_option"], row["embedding_scope"], row["start_sec"], row["end_sec"]) == (None,) * 4
    found = np.asarray(row["embedding"], np.float32)
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)
    return found


def test_a_text_lies_where_transcripts_do_and_says_so(emulator):
    answer = ask(emulator, "text", {"input_text": "a frozen harbour"})
    assert vector(answer) == pytest.approx(embed_query("a frozen harbour"), abs=1e-6)
    body = answer.json()
    assert body["embedding_engine"] == "signal-2"
    assert body["embedding_comparable_with"] == ["transcription"]
    assert "metadata" not in body
    assert "usage" not in body


def test_an_image_finds_its_scene_and_a_text_beside_it_its_passage(emulator, folder):
    rows = embed(folder / "film.mp4", EmbedRequest("video", ("visual",), ("clip",), segmentation=Fixed(4.0))).vectors
    words = "a frozen harbour"
    for number in (0, 1):
        source = {"url": (folder / f"{number}.png").as_uri()}
        seen = ask(emulator, "image", {"media_source": source})
        assert int(np.argmax(rows @ vector(seen))) == number
        assert seen.json()["metadata"] == {
            "input_type": "image", "input_url": source["url"], "embedding_engine": "signal-2",
        }  # fmt: skip
        both = ask(emulator, "text_image", {"media_source": source, "input_text": words})
        assert int(np.argmax(rows @ vector(both))) == number
        assert vector(both) @ embed_query(words) > 0.6
        assert both.json()["embedding_comparable_with"] == ["visual", "transcription"]


def test_an_image_is_asked_about_from_every_kind_of_source(emulator, folder):
    path = folder / "0.png"
    with path.open("rb") as file:
        form = {"data": {"method": "direct"}, "files": {"file": ("0.png", file)}}
        asset_id = emulator.http.post("/assets", **form).json()["_id"]
    for _ in range(500):
        asset = emulator.http.get(f"/assets/{asset_id}").json()
        if asset["status"] != "processing":
            break
        time.sleep(0.02)
    assert (asset["status"], asset["technical_metadata"]["image_format"]) == ("ready", "png")
    assert "duration" not in asset
    assert emulator.http.get("/assets", params={"asset_types": "image"}).json()["page_info"]["total_results"] == 1
    answers = [
        ask(emulator, "image", {"media_source": source})
        for source in (
            {"url": path.as_uri()},
            {"asset_id": asset_id},
            {"base64_string": base64.b64encode(path.read_bytes()).decode()},
        )
    ]
    assert np.ptp([vector(answer) for answer in answers], axis=0).max() == 0
    assert answers[1].json()["metadata"]["input_filename"] == "0.png"


def test_a_film_is_embedded_as_a_task_would(emulator, folder):
    fixed = {"strategy": "fixed", "fixed": {"duration_sec": 4}}
    video = {"media_source": {"url": (folder / "film.mp4").as_uri()}, "segmentation": fixed}
    answer = ask(emulator, "video", {**video, "embedding_option": ["visual", "audio"]}).json()
    task_id = emulator.created(video["media_source"]["url"], segmentation=fixed, embedding_option=["visual", "audio"])
    for _ in range(500):
        task = emulator.retrieve(task_id)
        if task["status"] != "processing":
            break
        time.sleep(0.02)
    assert answer["data"] == task["data"]
    assert answer["metadata"] == task["metadata"]
    assert answer["embedding_comparable_with"] == ["audio", "visual"]


def test_several_media_are_one_vector_near_each_of_them(emulator, folder):
    stills = [{"media_type": "image", "url": (folder / f"{number}.png").as_uri()} for number in (0, 1)]
    alone = [vector(multi(emulator, None, still)) for still in stills]
    answer = multi(emulator, None, *stills)
    assert vector(answer) == pytest.approx((alone[0] + alone[1]) / np.linalg.norm(alone[0] + alone[1]), abs=1e-5)
    assert answer.json()["usage"] == {"input_tokens": {"image": 512}, "truncated": False}
    assert answer.json()["metadata"] == {
        "input_type": "multi_input", "embedding_dimension": 512, "embedding_engine": "signal-2",
    }  # fmt: skip
    sources = [
        {**stills[0], "name": "place"},
        {"media_type": "video", "url": (folder / "film.mp4").as_uri()},
        {"media_type": "audio", "base64_string": base64.b64encode((folder / "short.wav").read_bytes()).decode()},
    ]
    answer = multi(emulator, "ships in <@place>", *sources, embedding_dimension=128)
    assert vector(answer).shape == (128,)
    assert set(answer.json()["usage"]["input_tokens"]) == {"image", "video", "audio", "text"}
    assert set(answer.json()["embedding_comparable_with"]) == {"visual", "audio", "transcription"}


def test_uncertainty_comes_with_text_alone_and_with_media_alone(emulator, folder):
    still = {"media_type": "image", "url": (folder / "0.png").as_uri()}
    for answer in (
        multi(emulator, "a frozen harbour", embedding_uncertainty=True),
        multi(emulator, None, still, embedding_uncertainty=True),
        multi(emulator, None, still, still, embedding_uncertainty=True, embedding_dimension=256),
        multi(
            emulator, None, {"media_type": "video", "url": (folder / "film.mp4").as_uri()}, embedding_uncertainty=True
        ),
    ):
        (row,) = answer.json()["data"]
        assert len(row["embedding_uncertainty"]) == len(row["embedding"])
        assert min(row["embedding_uncertainty"]) >= 0


CODES = {("long.wav", "audio"): "video_duration_too_long", ("notes.txt", "video"): "video_file_broken"}


@pytest.mark.parametrize(
    ("name", "kind", "status", "message"),
    [
        ("long.wav", "audio", 400, "Duration (35.0 seconds) exceeds maximum limit of 30 seconds (0 minutes)"),
        ("notes.txt", "image", 400, "We could not process your media for embedding."),
        ("notes.txt", "video", 400, "We could not process your media for embedding."),
        ("absent.png", "image", 400, "failed to fetch or materialize source media"),
    ],
)
def test_what_a_medium_may_not_be_is_told_in_the_answer(emulator, folder, name, kind, status, message):
    answer = multi(emulator, None, {"media_type": kind, "url": (folder / name).as_uri()})
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)
    assert answer.json()["error"]["details"]["field"] == "multi_input.media_sources[0]"
    assert answer.json()["error"]["code"] == CODES.get((name, kind), "VALIDATION_ERROR")
    assert list(emulator.emulator.platform.media.iterdir()) == []


def test_a_medium_of_more_than_32_megabytes_is_too_large(emulator, folder, tmp_path):
    large = folder / "large.png"
    with large.open("wb") as file:
        file.truncate(32 * 1024**2 + 1)
    answer = multi(emulator, None, {"media_type": "image", "url": large.as_uri()})
    large.unlink()
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        413, "File size (32.0 MB) exceeds maximum limit of 32 MB",
    )  # fmt: skip


def test_what_is_paid_for_at_once_is_in_the_journal(emulator):
    for words in ("ships", "ships", "bread"):
        ask(emulator, "text", {"input_text": words})
    assert ask(emulator, "text", {}).status_code == 400
    summary = emulator.control("GET", "/journal/summary").json()
    assert summary["requests"]["embed"] == {"200": 3, "400": 1}
    assert (summary["embedded_at_once"], summary["tasks_created"]) == (3, 0)
    assert list(summary["repeated_sources"].values()) == [2]


def test_what_was_paid_for_outlives_a_kill(emulator):
    ask(emulator, "text", {"input_text": "ships"})
    rows = emulator.emulator.platform.store.reader.execute("SELECT source FROM paid").fetchall()
    assert len(rows) == 1  # before the journal's entries are written


def test_an_engine_that_fails_for_its_own_reasons_is_answered_in_the_platforms_shape(start, folder):
    engine = "embed_pipeline_tests.emulator.engine_of_trouble:TroubleEngine"
    emulator = start(EmulatorSettings(media_root=folder, workers=1, engine=engine))
    refused = ask(emulator, "text", {"input_text": "ships"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert "trouble-1 has no method embed_words" in refused.text
    engine = "embed_pipeline_tests.emulator.engine_of_trouble:MistakenEngine"
    mistaken = start(EmulatorSettings(media_root=folder, workers=1, engine=engine))
    broken = ask(mistaken, "text", {"input_text": "ships"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "INTERNAL_SERVER_ERROR")
    assert mistaken.control("GET", "/journal/summary").json()["embedded_at_once"] == 0


def test_a_fault_after_the_work_was_done_is_paid_for_all_the_same(emulator):
    rule = {"kind": "status", "status": 503, "when": "after", "on": "embed", "count": 1}
    assert emulator.control("PUT", "/faults", {"faults": [rule]}).status_code == 200
    assert [ask(emulator, "text", {"input_text": "ships"}).status_code for _ in range(2)] == [503, 200]
    assert emulator.control("GET", "/journal/summary").json()["embedded_at_once"] == 2


def test_words_and_pictures_have_a_budget_of_their_own(start):
    limits = {"text_image_requests_per_minute": 2, "requests_per_minute": 1}
    emulator = start(replace(TEST_SETTINGS, limits=limits, instant_duration_sec=20.0))
    answers = [ask(emulator, "text", {"input_text": "a"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-request-remaining"] == "1"
    assert answers[2].json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    # What moves or sounds draws on the budget of tasks.
    video = {"media_source": {"url": "https://a.example/b.mp4"}}
    assert [ask(emulator, "video", video).status_code for _ in range(2)] == [200, 429]
    assert multi(emulator, None, VIDEO).status_code == 429


def test_the_tokens_of_the_newer_model_are_limited_where_a_limit_is_set(start):
    emulator = start(replace(TEST_SETTINGS, limits={"tokens_per_minute": 300, "tokens_per_day": 10_000}))
    answer = multi(emulator, None, IMAGE)
    assert answer.headers["x-ratelimit-dimensions"] == "Token"
    assert (answer.headers["x-ratelimit-token-limit"], answer.json()["usage"]["input_tokens"]) == (
        "300",
        {"image": 256},
    )
    assert multi(emulator, "ships " * 60).status_code == 200
    refused = multi(emulator, None, IMAGE)
    assert (refused.status_code, refused.headers["x-ratelimit-token-remaining"]) == (429, "0")
    assert "300 tokens per minute" in refused.json()["error"]["message"]
    # A task of the older model counts none, but is held up by what was spent.
    assert emulator.create().status_code == 429
    emulator.emulator.advance(60)
    assert [emulator.create().status_code for _ in range(3)] == [202] * 3


def test_the_tokens_of_a_task_count_when_its_length_is_known(start):
    emulator = start(replace(TEST_SETTINGS, limits={"tokens_per_hour": 60 * 64, "requests_per_minute": 9}))
    body = {
        "input_type": "video",
        "model_name": "marengo3.5",
        "video": {"media_source": {"url": "https://a.example/b.mp4"}, "end_sec": 30},
    }
    answers = [emulator.http.post("/embed-v2/tasks", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[1].headers["x-ratelimit-dimensions"] == "Request,Token"
    assert answers[1].headers["x-ratelimit-token-remaining"] == str(30 * 64)
    task = emulator.finished(answers[0].json()["_id"])
    assert task["usage"]["input_tokens"] == {"video": 30 * 64}
