from __future__ import annotations

from dataclasses import replace

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


def test_what_is_known_of_an_asset_is_checked_at_creation(start, media_folder):
    film = media_folder / "silent film.mp4"
    for changes, code in (
        ({}, None),
        ({"min_duration_sec": 13.0}, "video_duration_too_short"),
        ({"max_duration_sec": 11.0}, "video_duration_too_long"),
        ({"sizes": Sizes(fetched=1000)}, "video_filesize_too_large"),
        ({"switches": Switches(picture_size="documented")}, "video_resolution_too_low"),
    ):
        emulator = start(replace(SETTINGS, **changes))
        assert refused(emulator, {"asset_id": asset_of(emulator, film)}) == code


def test_a_file_is_checked_at_creation_where_sources_are_and_else_fails_its_task(start, media_folder):
    film = {"url": (media_folder / "silent film.mp4").as_uri()}
    text = {"url": (media_folder / "text.mp4").as_uri()}
    settings = replace(SETTINGS, media_root=media_folder)
    strict = start(replace(settings, switches=Switches(picture_size="documented", source_check="create")))
    assert refused(strict, film) == "video_resolution_too_low"
    assert refused(strict, text) == "video_file_broken"
    later = start(replace(settings, switches=Switches(picture_size="documented")))
    answer = later.http.post(TASKS, json={"input_type": "video", "video": {"media_source": film}})
    done = later.finished(answer.json()["_id"])
    assert done["status"] == "failed"
    assert "Resolution (96x64) is below minimum limit of 360x360" in done["error"]["message"]
    usual = start(settings)
    answer = usual.http.post(TASKS, json={"input_type": "video", "video": {"media_source": film}})
    assert usual.finished(answer.json()["_id"])["status"] == "ready"


def test_a_video_within_the_bounds_is_embedded(start, tmp_path):
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for shade in range(6):
            picture = np.full((360, 640, 3), shade * 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    strict = Switches(picture_size="documented", source_check="create")
    emulator = start(replace(SETTINGS, media_root=tmp_path, switches=strict))
    task_id = emulator.created((tmp_path / "wide.mp4").as_uri())
    assert emulator.finished(task_id)["status"] == "ready"
    assert refused(emulator, {"asset_id": asset_of(emulator, tmp_path / "wide.mp4")}) is None
