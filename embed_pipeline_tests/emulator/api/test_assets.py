from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from embed_pipeline.emulator import EmulatorSettings, Sizes, Timing
from embed_pipeline.emulator.state.uploads import URL_SEC
from embed_pipeline_tests.emulator.conftest import TASKS, Caller

SETTINGS = EmulatorSettings(engine="instant", timing=Timing(on_command=True), workers=1, sizes=Sizes(chunk=10_000))
UPLOADS = "/assets/multipart-uploads"


def settled(emulator: Caller, asset_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        asset = emulator.http.get(f"/assets/{asset_id}").json()
        if asset["status"] != "processing":
            return asset
        time.sleep(0.01)
    raise AssertionError(f"asset {asset_id} did not settle")


def upload(emulator: Caller, path, **fields: str) -> httpx.Response:
    with path.open("rb") as file:
        return emulator.http.post("/assets", data={"method": "direct", **fields}, files={"file": (path.name, file)})


def task_of(emulator: Caller, asset_id: str) -> httpx.Response:
    video = {"media_source": {"asset_id": asset_id}}
    return emulator.http.post(TASKS, json={"input_type": "video", "model_name": "marengo3.0", "video": video})


def test_an_uploaded_file_becomes_ready_and_is_embedded(start, media_folder):
    emulator = start(SETTINGS)
    answer = upload(emulator, media_folder / "silent film.mp4", user_metadata='{"shelf": 3}')
    created = answer.json()
    assert (answer.status_code, created["status"], created["method"]) == (201, "processing", "direct")
    asset = settled(emulator, created["_id"])
    assert asset["status"] == "ready"
    assert asset["duration"] == pytest.approx(12.0, abs=0.1)
    assert asset["size"] == (media_folder / "silent film.mp4").stat().st_size
    assert asset["technical_metadata"]["video_width"] == 480
    assert (asset["file_type"], asset["user_metadata"]) == ("video/mp4", {"shelf": 3})
    done = emulator.finished(task_of(emulator, created["_id"]).json()["_id"])
    assert done["status"] == "ready"
    assert done["metadata"]["input_filename"] == "silent film.mp4"


def test_a_file_that_is_no_media_fails_with_a_reason(start, media_folder):
    emulator = start(SETTINGS)
    asset = settled(emulator, upload(emulator, media_folder / "text.mp4").json()["_id"])
    assert asset["status"] == "failed"
    assert asset["error"]["message"]
    assert task_of(emulator, asset["_id"]).status_code == 400


def test_an_asset_is_not_embedded_before_it_is_ready(start, media_folder):
    emulator = start(replace(SETTINGS, timing=Timing(asset_after_sec=60)))
    asset_id = upload(emulator, media_folder / "tone.wav").json()["_id"]
    refused = task_of(emulator, asset_id)
    assert refused.status_code == 400
    assert "must be ready" in refused.text
    emulator.emulator.advance(61)
    assert settled(emulator, asset_id)["status"] == "ready"
    assert task_of(emulator, asset_id).status_code == 202
    assert task_of(emulator, "0" * 24).status_code == 400


def test_assets_are_listed_newest_first_and_filtered(start, media_folder):
    emulator = start(SETTINGS)
    film = upload(emulator, media_folder / "silent film.mp4").json()["_id"]
    tone = upload(emulator, media_folder / "tone.wav").json()["_id"]

    def ids(**query: Any) -> list[str]:
        return [asset["_id"] for asset in emulator.http.get("/assets", params=query).json()["data"]]

    assert ids() == [tone, film]
    assert ids(filename="FILM") == [film]
    assert ids(asset_types=["audio"]) == [tone]
    assert ids(asset_ids=[film, tone], page_limit=1, page=2) == [film]
    assert emulator.http.get("/assets", params={"asset_types": "song"}).json()["code"] == "parameter_invalid"


def test_an_asset_is_deleted_unless_a_task_still_reads_it(start, media_folder):
    emulator = start(SETTINGS)
    asset_id = settled(emulator, upload(emulator, media_folder / "tone.wav").json()["_id"])["_id"]
    emulator.emulator.platform.workers.stop()
    task_of(emulator, asset_id)
    assert emulator.http.delete(f"/assets/{asset_id}").status_code == 409
    gone = emulator.http.delete(f"/assets/{asset_id}", params={"force": "true"})
    assert (gone.status_code, gone.content) == (204, b"")
    assert emulator.http.get(f"/assets/{asset_id}").status_code == 404
    assert emulator.http.delete(f"/assets/{asset_id}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "file"),
    [
        ({}, True),
        ({"method": "carrier pigeon"}, True),
        ({"method": "direct"}, False),
        ({"method": "url"}, False),
        ({"method": "url", "url": "ftp://a/b"}, False),
        ({"method": "url", "url": "http://127.0.0.1/b"}, False),
        ({"method": "direct", "filename": "x" * 256}, True),
        ({"method": "direct", "user_metadata": "[1]"}, True),
        ({"method": "direct", "user_metadata": "{"}, True),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_and_leaves_nothing(start, fields, file):
    emulator = start(SETTINGS)
    files = {"file": ("a.mp4", b"x")} if file else {"other": ("a.mp4", b"x")}
    answer = emulator.http.post("/assets", data=fields, files=files)
    assert (answer.status_code, "message" in answer.json()) == (400, True)
    assert emulator.http.get("/assets").json()["data"] == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nnope"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"),
    ],
)
def test_a_body_that_is_no_form_is_refused(start, content_type, body):
    answer = start(SETTINGS).http.post("/assets", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400


def test_a_direct_upload_has_a_size_limit(start):
    emulator = start(replace(SETTINGS, sizes=Sizes(direct_upload=1000)))
    answer = emulator.http.post("/assets", data={"method": "direct"}, files={"file": ("a.mp4", b"x" * 1001)})
    assert answer.status_code == 400
    assert "multipart" in answer.json()["message"]


def opened(emulator: Caller, size: int, **fields: Any) -> dict[str, Any]:
    answer = emulator.http.post(UPLOADS, json={"filename": "a.mp4", "type": "video", "total_size": size, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def put(emulator: Caller, url: str, body: bytes) -> httpx.Response:
    # Presigned URLs carry their own proof: no key is sent.
    return httpx.Client(transport=emulator.emulator.transport()).put(url, content=body)


def test_a_file_in_chunks_becomes_the_same_file(start, media_folder):
    emulator = start(replace(SETTINGS, sizes=Sizes(chunk=500)))
    media = (media_folder / "silent film.mp4").read_bytes()
    session = opened(emulator, len(media))
    total = session["total_chunks"]
    assert total == -(-len(media) // 500)
    urls = {entry["chunk_index"]: entry["url"] for entry in session["upload_urls"]}
    start_at = len(urls) + 1
    while len(urls) < total:
        more = emulator.http.post(
            f"{UPLOADS}/{session['upload_id']}/presigned-urls", json={"start": len(urls) + 1, "count": 50}
        ).json()
        assert more["start_index"] == len(urls) + 1
        urls |= {entry["chunk_index"]: entry["url"] for entry in more["upload_urls"]}
    assert start_at == 11
    reports = []
    for number in range(total, 0, -1):
        chunk = media[(number - 1) * 500 : number * 500]
        answer = put(emulator, urls[number], chunk)
        assert answer.headers["etag"].strip('"') == hashlib.md5(chunk).hexdigest()
        proof = {"proof": answer.headers["etag"], "proof_type": "etag", "chunk_size": len(chunk)}
        reports.append({"chunk_index": number, **proof})
    path = f"{UPLOADS}/{session['upload_id']}"
    first = emulator.http.post(path, json={"completed_chunks": reports[:1]}).json()
    assert (first["processed_chunks"], first["total_completed"], "url" in first) == (1, 1, False)
    status = emulator.http.get(path).json()
    assert (status["status"], status["chunks_completed"], status["chunks_pending"]) == ("active", 1, total - 1)
    assert [entry["upload_id"] for entry in emulator.http.get(UPLOADS).json()["data"]] == [session["upload_id"]]
    for begin in range(0, total, 50):
        last = emulator.http.post(path, json={"completed_chunks": reports[begin : begin + 50]}).json()
    assert (last["total_completed"], "url" in last) == (total, True)
    assert emulator.http.get(path).json()["status"] == "completed"
    assert emulator.http.get(UPLOADS).json()["data"] == []
    asset = settled(emulator, session["asset_id"])
    assert (asset["status"], asset["size"], asset["method"]) == ("ready", len(media), "multipart")
    assert emulator.emulator.platform.assets.path(session["asset_id"]).read_bytes() == media
    repeated = emulator.http.post(path, json={"completed_chunks": reports[:2]}).json()
    assert (repeated["processed_chunks"], repeated["duplicate_chunks"]) == (0, 2)


def test_a_presigned_url_serves_once_for_one_chunk_and_one_hour(start):
    emulator = start(SETTINGS)
    session = opened(emulator, 15_000)
    first, second = (entry["url"] for entry in session["upload_urls"])
    assert put(emulator, first, b"x" * 9_999).status_code == 400
    assert put(emulator, first, b"x" * 10_001).status_code == 400
    assert put(emulator, first, b"x" * 10_000).status_code == 200
    assert put(emulator, first, b"x" * 10_000).status_code == 403
    assert put(emulator, second.replace("/2?", "/1?"), b"x" * 10_000).status_code == 403
    assert put(emulator, second.replace("expires=", "expires=9"), b"x" * 5_000).status_code == 403
    emulator.emulator.advance(URL_SEC + 1)
    assert put(emulator, second, b"x" * 5_000).status_code == 403


def test_a_session_ends_after_a_day(start):
    emulator = start(SETTINGS)
    session = opened(emulator, 100)
    emulator.emulator.advance(24 * 3600 + 1)
    path = f"{UPLOADS}/{session['upload_id']}"
    assert emulator.http.get(path).json()["status"] == "expired"
    assert emulator.http.post(f"{path}/presigned-urls", json={"start": 1, "count": 1}).status_code == 400


def test_a_report_is_held_to_what_arrived(start):
    emulator = start(SETTINGS)
    session = opened(emulator, 100)
    path = f"{UPLOADS}/{session['upload_id']}"
    good = {"chunk_index": 1, "proof": hashlib.md5(b"x" * 100).hexdigest(), "proof_type": "etag", "chunk_size": 100}
    assert emulator.http.post(path, json={"completed_chunks": [good]}).status_code == 400
    put(emulator, session["upload_urls"][0]["url"], b"x" * 100)
    for wrong in ({"proof": "0"}, {"chunk_size": 99}, {"proof_type": "sha"}, {"chunk_index": 2}, {"chunk_index": 0}):
        assert emulator.http.post(path, json={"completed_chunks": [good | wrong]}).status_code == 400, wrong
    assert emulator.http.post(path, json={"completed_chunks": [good, good]}).json()["duplicate_chunks"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"filename": ""},
        {"type": "document"},
        {"type": "song"},
        {"total_size": 0},
        {"total_size": 11 * 1024**3},
        {"x": 1},
    ],
)
def test_a_session_that_makes_no_sense_is_refused(start, wrong):
    body = {"filename": "a.mp4", "type": "video", "total_size": 100, **wrong}
    assert start(SETTINGS).http.post(UPLOADS, json=body).status_code == 400


def test_streams_and_thumbnails_may_be_asked_for_and_are_not_made(start, media_folder):
    emulator = start(SETTINGS)
    asked = {"enable_thumbnail": "true", "enable_hls": "false"}
    asset = settled(emulator, upload(emulator, media_folder / "silent film.mp4", **asked).json()["_id"])
    assert asset["status"] == "ready"
    assert not {"thumbnail", "hls"} & set(asset)
    assert upload(emulator, media_folder / "tone.wav", enable_thumbnail="maybe").status_code == 400


def test_user_metadata_is_replaced_merged_and_deleted(start, media_folder):
    emulator = start(SETTINGS)
    asset_id = upload(emulator, media_folder / "tone.wav", user_metadata='{"a": 1, "b": "x"}').json()["_id"]

    def change(method: str, given: Any = None) -> Any:
        body = None if given is None else {"user_metadata": given}
        answer = emulator.http.request(method, f"/assets/{asset_id}/user-metadata", json=body)
        assert (answer.status_code, answer.content) == (204, b""), answer.text
        return emulator.http.get(f"/assets/{asset_id}").json().get("user_metadata")

    # As the platform has it: null deletes a key when merging, and what is empty is ignored.
    assert change("PATCH", {"a": None, "b": "", "c": ["t"]}) == {"b": "x", "c": ["t"]}
    assert change("PUT", {"d": True, "e": None, "f": []}) == {"d": True}
    assert change("DELETE") is None
    assert [entry["status"] for entry in emulator.emulator.journal("asset_metadata")] == [204] * 3


@pytest.mark.parametrize("given", ['{"a": {"b": 1}}', '{"a": [1]}', "[]", "{"])
def test_user_metadata_of_another_kind_is_refused(start, media_folder, given):
    emulator = start(SETTINGS)
    assert upload(emulator, media_folder / "tone.wav", user_metadata=given).status_code == 400
    asset_id = upload(emulator, media_folder / "tone.wav").json()["_id"]
    address, body = f"/assets/{asset_id}/user-metadata", f'{{"user_metadata": {given}}}'
    assert emulator.http.put(address, content=body).status_code == 400
    assert emulator.http.patch(address.replace(asset_id, "0" * 24), json={"user_metadata": {}}).status_code == 404
