from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace

import httpx
import numpy as np
import pytest

from embed_pipeline.emulator import EmulatorSettings, Sizes, Switches, Timing
from embed_pipeline.testing import TEST_SETTINGS
from embed_pipeline_tests.emulator.conftest import TASKS, video_request

FIXED_FIVE = {"segmentation": {"strategy": "fixed", "fixed": {"duration_sec": 5}}}


def with_switches(**switches: object) -> EmulatorSettings:
    return replace(TEST_SETTINGS, switches=Switches(**switches))


def test_a_create_answers_202_with_an_explicit_null_and_a_location(emulator):
    answer = emulator.create()
    body = answer.json()
    assert answer.status_code == 202
    assert body == {"_id": body["_id"], "status": "processing", "data": None}
    assert len(body["_id"]) == 24
    assert answer.headers["location"] == f"{emulator.emulator.base_url}{TASKS}/{body['_id']}"


def test_the_newer_model_tells_its_dimension_at_once_and_its_usage_at_the_end(emulator):
    request = video_request() | {"model_name": "marengo3.5", "embedding_dimension": 128}
    created = emulator.http.post(TASKS, json=request).json()
    assert created["metadata"] == {"embedding_dimension": 128}
    done = emulator.finished(created["_id"])
    assert done["metadata"]["embedding_dimension"] == 128
    assert done["usage"]["input_tokens"]["video"] > 0
    assert {len(row["embedding"]) for row in done["data"]} == {128}


def test_a_ready_task_has_a_row_for_every_option_scope_and_window(emulator):
    task_id = emulator.created(**FIXED_FIVE, embedding_option=["visual", "audio"])
    assert emulator.retrieve(task_id)["data"] is None
    done = emulator.finished(task_id)
    assert done["status"] == "ready"
    assert done["metadata"] == {
        "input_type": "video",
        "input_url": "https://media.example.com/a.mp4",
        "clip_length": 5,
        "embedding_scopes": ["clip", "asset"],
        "embedding_options": ["visual", "audio"],
        "duration": 60.0,
        "embedding_engine": "instant-1",
    }
    assert len(done["data"]) == (12 + 1) * 2
    clips = [row for row in done["data"] if (row["embedding_option"], row["embedding_scope"]) == ("audio", "clip")]
    assert [(row["start_sec"], row["end_sec"]) for row in clips] == [(5.0 * n, 5.0 * n + 5) for n in range(12)]
    vectors = np.array([row["embedding"] for row in done["data"]], np.float32)
    assert vectors.shape == (26, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_vectors_come_back_to_the_last_bit_however_they_are_written(start):
    bodies = []
    for switches in ({}, {"wide_numbers": True}, {"gzip": True}):
        emulator = start(with_switches(**switches))
        bodies.append(emulator.finished(emulator.created())["data"])
    arrays = [np.array([row["embedding"] for row in body]).astype(np.float32) for body in bodies]
    assert np.array_equal(arrays[0], arrays[1])
    assert np.array_equal(arrays[0], arrays[2])


def test_bodies_are_compressed_only_where_the_switch_and_the_client_agree(start):
    emulator = start(with_switches(gzip=True))
    task_id = emulator.created()
    emulator.emulator.finish()
    with emulator.http.stream("GET", f"{TASKS}/{task_id}", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(b"".join(answer.iter_raw())))["status"] == "ready"
    plain = emulator.http.get(f"{TASKS}/{task_id}", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_a_long_result_streams_as_the_same_json(start):
    emulator = start(replace(TEST_SETTINGS, instant_duration_sec=3600.0))
    done = emulator.finished(emulator.created(embedding_option=["visual"], embedding_scope=["clip"]))
    assert len(done["data"]) == 900
    assert done["data"][-1]["end_sec"] == 3600.0


def test_the_list_is_newest_first_and_names_its_fields_as_the_list_does(emulator):
    first = emulator.created("https://media.example.com/1.mp4", **FIXED_FIVE)
    audio = {
        "input_type": "audio",
        "audio": {"media_source": {"url": "https://media.example.com/2.wav"}, "start_sec": 2},
    }
    second = emulator.http.post(TASKS, json=audio).json()["_id"]
    emulator.emulator.finish()
    page = emulator.http.get(TASKS).json()
    assert [item["_id"] for item in page["data"]] == [second, first]
    assert page["page_info"] == {"limit_per_page": 10, "page": 1, "total_page": 1, "total_results": 2}
    heard = page["data"][0]["audio_embedding"]["metadata"]
    # Older SDKs read the plural names, newer ones the singular.
    assert heard["audio_embedding_scope"] == heard["audio_embedding_scopes"] == ["clip", "asset"]
    assert heard["start_offset_sec"] == 2.0
    seen = page["data"][1]["video_embedding"]["metadata"]
    assert (seen["video_clip_length"], seen["duration"]) == (5, 60.0)
    assert "embedding" not in json.dumps(page).replace("_embedding", "").replace("embedding_", "")


def test_pages_are_bounded_and_one_beyond_the_end_is_empty(emulator):
    ids = [emulator.created(f"https://media.example.com/{number}.mp4") for number in range(5)]
    pages = [emulator.http.get(TASKS, params={"page": page, "page_limit": 2}).json() for page in (1, 2, 3, 4)]
    assert [[item["_id"] for item in page["data"]] for page in pages] == [ids[:2:-1], ids[2:0:-1], ids[:1], []]
    assert pages[3]["page_info"]["total_page"] == 3
    for bad in ({"page_limit": 51}, {"page_limit": 0}, {"page": 0}, {"page": "x"}, {"page": "²"}, {"status": "done"}):
        answer = emulator.http.get(TASKS, params=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "parameter_invalid"), bad


def test_the_list_is_filtered_by_status_and_time(emulator):
    old = emulator.created("https://media.example.com/old.mp4")
    emulator.emulator.finish()
    emulator.emulator.advance(3600)
    new = emulator.created("https://media.example.com/new.mp4")
    created = emulator.retrieve(new)["created_at"]

    def ids(**query: str) -> list[str]:
        return [item["_id"] for item in emulator.http.get(TASKS, params=query).json()["data"]]

    assert ids(status="ready") == [old]
    assert ids(status="processing") == [new]
    assert ids(started_at=created) == [new]
    assert ids(ended_at=created) == [new, old]
    assert ids(ended_at="2020-01-01T00:00:00Z") == []
    assert emulator.http.get(TASKS, params={"started_at": "yesterday"}).status_code == 400


def test_results_are_kept_for_seven_days(start):
    for reading, status in (("not_found", 404), ("failed", 200)):
        emulator = start(with_switches(expired_result=reading))
        task_id = emulator.created()
        emulator.emulator.finish()
        emulator.emulator.advance(7 * 24 * 3600 - 60)
        assert emulator.retrieve(task_id)["status"] == "ready"
        emulator.emulator.advance(120)
        answer = emulator.http.get(f"{TASKS}/{task_id}")
        assert answer.status_code == status
        assert "no longer available" in answer.text or "does not exist" in answer.text
        assert emulator.http.get(TASKS).json()["data"] == []


def test_a_task_nobody_made_is_not_found(start):
    emulator = start(with_switches(malformed_id=400))
    missing = emulator.http.get(f"{TASKS}/0123456789abcdef01234567")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "RESOURCE_NOT_EXIST")
    assert emulator.http.get(f"{TASKS}/not-an-id").status_code == 400


@pytest.mark.parametrize("shape", ["documented", "nested", "flat"])
def test_errors_have_the_shape_that_was_asked_for(start, shape):
    emulator = start(with_switches(error_shape=shape))
    create = emulator.http.post(TASKS, json={}).json()
    listed = emulator.http.get(TASKS, params={"page": 0}).json()
    assert ("error" in create) is (shape != "flat")
    assert ("error" in listed) is (shape == "nested")


def test_a_body_that_is_no_json_or_too_large_is_refused(start):
    emulator = start(replace(TEST_SETTINGS, sizes=Sizes(body=1000)))
    assert emulator.http.post(TASKS, content=b"{nope").status_code == 400
    assert emulator.http.post(TASKS, content=b" " * 1001).status_code == 413


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("", 401), ("wrong", 401), ("right", 200), ("rïght", 401)])
def test_only_the_named_key_is_let_in(start, key, status):
    emulator = start(replace(TEST_SETTINGS, api_key="right"))
    headers = {} if key is None else {"x-api-key": key.encode("latin-1")}
    bare = httpx.Client(base_url=emulator.emulator.base_url, transport=emulator.emulator.transport(), headers=headers)
    answer = bare.get(TASKS)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["code"] == "api_key_invalid"
        assert "wrong" not in answer.text


def test_the_url_comes_back_as_the_switch_says(start):
    url = "https://user:pass@media.example.com/a.mp4?Signature=s3cr3t"
    for echo, shown in (("verbatim", url), ("without_query", "https://media.example.com/a.mp4"), ("never", None)):
        emulator = start(with_switches(echo_url=echo))
        done = emulator.finished(emulator.created(url))
        assert done["metadata"].get("input_url") == shown


def test_a_window_may_count_from_the_file_or_from_itself(start):
    for reading, first in (("absolute", 20.0), ("relative", 0.0)):
        emulator = start(with_switches(window_times=reading))
        done = emulator.finished(emulator.created(**FIXED_FIVE, start_sec=20, end_sec=33))
        clips = [row for row in done["data"] if row["embedding_scope"] == "clip"]
        assert (clips[0]["start_sec"], max(row["end_sec"] for row in clips)) == (first, first + 13)


def test_a_short_tail_may_be_cut_off(start):
    for drop, count in ((False, 4), (True, 3)):
        emulator = start(with_switches(drop_short_tail=drop))
        options = {"embedding_option": ["visual"], "embedding_scope": ["clip"]}
        done = emulator.finished(emulator.created(**FIXED_FIVE, **options, end_sec=16))
        assert len(done["data"]) == count


def test_media_may_come_inside_the_request(start, media_folder):
    emulator = start(EmulatorSettings(engine="instant", timing=Timing(on_command=True)))
    text = base64.b64encode((media_folder / "tone.wav").read_bytes()).decode()
    audio = {"input_type": "audio", "audio": {"media_source": {"base64_string": text}}}
    first, second = (emulator.http.post(TASKS, json=audio).json()["_id"] for _ in range(2))
    done, again = emulator.finished(first), emulator.finished(second)
    assert done["metadata"]["duration"] == pytest.approx(8.0, abs=0.1)
    assert done["data"] == again["data"]
    assert list(emulator.emulator.platform.media.iterdir()) == []


@pytest.mark.parametrize("text", ["%%%", "abc", "", "é"])
def test_base64_that_is_none_is_refused(emulator, text):
    audio = {"input_type": "audio", "audio": {"media_source": {"base64_string": text}}}
    assert emulator.http.post(TASKS, json=audio).status_code == 400


def test_base64_has_a_size_limit(start):
    emulator = start(replace(TEST_SETTINGS, sizes=Sizes(base64_media=100)))
    audio = {"media_source": {"base64_string": base64.b64encode(b"x" * 101).decode()}}
    assert emulator.http.post(TASKS, json={"input_type": "audio", "audio": audio}).status_code == 400


def test_what_nobody_serves_is_told_in_json(emulator):
    assert emulator.http.get("/nothing-here").json()["code"] == "resource_not_exist"
    wrong = emulator.http.delete(TASKS)
    assert wrong.status_code == 405
    assert "POST" in wrong.headers["allow"] or "GET" in wrong.headers["allow"]
