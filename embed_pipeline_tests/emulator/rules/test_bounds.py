from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator import EmulatorSettings, Sizes, Switches, Timing
from embed_pipeline.emulator.rules.bounds import duration_fault, picture_fault, size_fault
from embed_pipeline_tests.emulator.conftest import TASKS

SETTINGS = EmulatorSettings(engine="instant", workers=1, timing=Timing(on_command=True))
PIXELS = st.integers(1, 8000)


@pytest.mark.parametrize(
    ("width", "height", "fault"),
    [
        (360, 360, None),
        (864, 360, None),
        (360, 864, None),
        (5184, 2160, None),
        (2160, 5184, None),
        (359, 360, "video_resolution_too_low"),
        (640, 320, "video_resolution_too_low"),
        (5186, 2162, "video_resolution_too_high"),
        (2200, 2200, "video_resolution_too_high"),
        (5186, 2160, "video_resolution_too_high"),
        (866, 360, "video_resolution_invalid_aspect_ratio"),
        (400, 1000, "video_resolution_invalid_aspect_ratio"),
    ],
)
def test_resolution_and_aspect_have_the_documented_bounds(width, height, fault):
    found = picture_fault(width, height)
    assert (None if found is None else found.code) == fault
    if found is not None:
        assert f"{width}x{height}" in found.message


@given(PIXELS, PIXELS)
def test_a_video_and_the_same_turned_by_a_quarter_are_judged_alike(width, height):
    upright, turned = picture_fault(width, height), picture_fault(height, width)
    assert (upright and upright.code) == (turned and turned.code)


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(3.99, "video_duration_too_short"), (4, None), (14400, None), (14400.5, "video_duration_too_long")],
)
def test_length_has_the_documented_bounds(seconds, code):
    fault = duration_fault(seconds, 4.0, 14400.0)
    assert (None if fault is None else fault.code) == code


def test_a_size_at_its_bound_is_taken():
    assert size_fault(1000, 1000) is None
    assert size_fault(1001, 1000).code == "video_filesize_too_large"


def asset_of(emulator, path) -> str:
    form = {"data": {"method": "direct"}, "files": {"file": (path.name, path.read_bytes())}}
    asset_id = emulator.http.post("/assets", **form).json()["_id"]
    for _ in range(1000):
        asset = emulator.http.get(f"/assets/{asset_id}").json()
        if asset["status"] != "processing":
            break
    assert asset["status"] == "ready", asset
    return asset_id


def refused(emulator, source: dict[str, str]) -> str | None:
    answer = emulator.http.post(TASKS, json={"input_type": "video", "video": {"media_source": source}})
    return answer.json()["error"]["code"] if answer.status_code == 400 else None


def write_film(path: Path, width: int, height: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for shade in range(6):
            picture = np.full((height, width, 3), shade * 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


ANY_SIZE = Switches(picture_size="any")


def test_what_is_known_of_an_asset_is_checked_at_creation(start, tmp_path):
    film, tiny = write_film(tmp_path / "film.mp4", 480, 360), write_film(tmp_path / "tiny.mp4", 96, 64)
    for changes, path, code in (
        ({}, film, None),
        ({"min_duration_sec": 13.0}, film, "video_duration_too_short"),
        ({"max_duration_sec": 5.0}, film, "video_duration_too_long"),
        ({"sizes": Sizes(fetched=1000)}, film, "video_filesize_too_large"),
        ({}, tiny, "video_resolution_too_low"),
        ({"switches": ANY_SIZE}, tiny, None),
    ):
        emulator = start(replace(SETTINGS, **changes))
        assert refused(emulator, {"asset_id": asset_of(emulator, path)}) == code


def test_a_file_is_checked_at_creation_where_sources_are_and_else_fails_its_task(start, tmp_path, media_folder):
    tiny = {"url": write_film(tmp_path / "tiny.mp4", 96, 64).as_uri()}
    text = {"url": (media_folder / "text.mp4").as_uri()}
    strict = replace(SETTINGS, switches=Switches(source_check="create"))
    assert refused(start(replace(strict, media_root=tmp_path)), tiny) == "video_resolution_too_low"
    assert refused(start(replace(strict, media_root=media_folder)), text) == "video_file_broken"
    for switches, status in ((Switches(), "failed"), (ANY_SIZE, "ready")):
        later = start(replace(SETTINGS, media_root=tmp_path, switches=switches))
        answer = later.http.post(TASKS, json={"input_type": "video", "video": {"media_source": tiny}})
        done = later.finished(answer.json()["_id"])
        assert done["status"] == status
        if status == "failed":
            assert "Resolution (96x64) is below minimum limit of 360x360" in done["error"]["message"]


def test_audio_has_a_smaller_bound_than_video(start, media_folder):
    tone = {"url": (media_folder / "tone.wav").as_uri()}
    emulator = start(replace(SETTINGS, media_root=media_folder, sizes=Sizes(audio=1000)))
    body = {"input_type": "audio", "audio": {"media_source": tone}}
    done = emulator.finished(emulator.http.post(TASKS, json=body).json()["_id"])
    assert done["error"]["message"].startswith("File size (0.1 MB) exceeds maximum limit")
    assert Sizes().of_source("audio") == Sizes().of_source("video") / 2 == 2 * 1024**3


def test_a_video_within_the_bounds_is_embedded(start, tmp_path):
    film = write_film(tmp_path / "wide.mp4", 864, 360)
    emulator = start(replace(SETTINGS, media_root=tmp_path, switches=Switches(source_check="create")))
    assert emulator.finished(emulator.created(film.as_uri()))["status"] == "ready"
    assert refused(emulator, {"asset_id": asset_of(emulator, film)}) is None
