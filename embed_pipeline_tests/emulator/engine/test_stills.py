from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embed_pipeline.emulator.engine import (
    EmbedRequest,
    EngineLimits,
    Fixed,
    MediaFailure,
    close_workers,
    embed,
    embed_isolated,
    embed_query,
)
from embed_pipeline.emulator.engine.failure import TOO_LARGE, UNPROCESSABLE
from embed_pipeline.emulator.engine.features.text import embed_text
from embed_pipeline.emulator.engine.stills import embed_passages, image_format, read_picture
from embed_pipeline_tests.emulator.engine_media import SCENES, film, pictures, write
from embed_pipeline_tests.emulator.still_media import healthy_stills, hostile_stills, write_image

IMAGE = EmbedRequest("image", ("visual",), ("asset",))
TEXT = EmbedRequest("text", ("text",), ("asset",))
LIMITS = EngineLimits(wall_sec=30.0, stall_sec=15.0, memory_bytes=1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _no_workers_left():
    yield
    close_workers()


def keep(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A film of four scenes, and a picture out of the middle of each."""
    chosen = [SCENES[0], SCENES[3], SCENES[5], SCENES[7]]
    path = write(tmp_path_factory.mktemp("film") / "film.mp4", film([(scene, 4.0) for scene in chosen]))
    request = EmbedRequest("video", ("visual",), ("clip",), segmentation=Fixed(4.0))
    return embed(path, request).vectors, [pictures(scene, 0.1, skip=2.0)[0] for scene in chosen]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_still_finds_its_segment_of_the_film(tmp_path, scenes, ending):
    rows, stills = scenes
    found = []
    for number, still in enumerate(stills):
        result = embed(write_image(tmp_path / f"{number}.{ending}", still), IMAGE)
        assert (result.options, result.scopes) == (("visual",), ("asset",))
        assert np.isnan(result.start_sec).all()
        found.append(int(np.argmax(rows @ result.vectors[0])))
    assert found == [0, 1, 2, 3]


def test_a_text_is_embedded_as_a_transcript_of_the_same_words_is(tmp_path):
    words = "The harbour freezes over in January. Ships wait outside."
    result = embed(keep(tmp_path / "a.txt", words), TEXT)
    assert (result.options, result.scopes) == (("text",), ("asset",))
    assert result.vectors[0] == pytest.approx(embed_query(words), abs=1e-6)


def test_a_long_text_is_the_mean_of_its_passages(tmp_path):
    text = "harbour ice ships " * 40 + "bread flour oven " * 60
    vector = embed_passages(text, embed_text)
    assert vector @ embed_text("ships in the ice") > vector @ embed_text("opera singers")
    result = embed(keep(tmp_path / "long.txt", text), TEXT)
    assert result.vectors[0] == pytest.approx(vector, abs=1e-6)


def test_a_text_tells_how_far_its_halves_differ(tmp_path):
    request = EmbedRequest("text", ("text",), ("asset",), uncertainty=True, dimension=256)
    even = embed(keep(tmp_path / "even.txt", "ships wait " * 20), request)
    uneven = embed(keep(tmp_path / "uneven.txt", "ships wait " * 10 + "bread rises " * 10), request)
    assert uneven.uncertainty.shape == (1, 256)
    assert uneven.uncertainty.mean() > even.uncertainty.mean()


def test_an_image_tells_how_far_its_halves_differ(tmp_path):
    still = pictures(SCENES[3], 0.1)[0]
    request = EmbedRequest("image", ("visual",), ("asset",), uncertainty=True, dimension=128)
    uneven = np.concatenate([still, np.zeros_like(still)], axis=1)
    result = embed(write_image(tmp_path / "uneven.png", uneven), request)
    even = embed(write_image(tmp_path / "even.png", np.tile(still, (1, 2, 1))), request)
    assert result.vectors.shape == result.uncertainty.shape == (1, 128)
    assert result.uncertainty.mean() > even.uncertainty.mean()


def test_a_large_image_is_made_smaller_before_it_is_looked_at(tmp_path):
    picture = read_picture(write_image(tmp_path / "wide.jpg", np.full((40, 3000, 3), 90, np.uint8)), LIMITS)
    assert picture.shape == (14, 1024, 3)


def test_an_engine_that_knows_no_pictures_says_so(tmp_path):
    engine = "embed_pipeline_tests.emulator.engine_of_trouble:TroubleEngine"
    with pytest.raises(MediaFailure, match="trouble-1 has no method embed_picture"):
        embed(write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8)), IMAGE, engine=engine)


def outcome(path: Path, request: EmbedRequest) -> str:
    try:
        result = embed_isolated(path, request, limits=LIMITS)
    except MediaFailure as failure:
        return failure.message
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(1.0, abs=1e-4)
    return "ready"


def test_hostile_images_end_ready_or_failed_and_harm_nobody(tmp_path):
    outcomes = {path.name: outcome(path, IMAGE) for path in hostile_stills(tmp_path)}
    # A truncated image is not held to one outcome: a decoder may learn to mend more.
    assert outcomes.pop("truncated.png") in (UNPROCESSABLE, "ready")
    assert outcomes == dict.fromkeys(outcomes, UNPROCESSABLE)


def test_damaged_images_never_end_their_process_by_a_mistake_of_ours(tmp_path):
    rng = np.random.default_rng(7)
    originals = [path.read_bytes() for path in healthy_stills(tmp_path / "healthy")]
    outcomes = []
    for number in range(120):
        damaged = bytearray(originals[number % len(originals)])
        for place in rng.integers(0, len(damaged), int(2 ** rng.uniform(0, 7))):
            damaged[place] ^= int(rng.integers(1, 256))
        if number % 5 == 0:
            del damaged[int(rng.integers(1, len(damaged))) :]
        outcomes.append(outcome(keep(tmp_path / str(number), bytes(damaged)), IMAGE))
    assert set(outcomes) <= {UNPROCESSABLE, TOO_LARGE, "ready"}
    assert 10 <= outcomes.count("ready") < 120


def test_the_format_of_an_image_is_told_by_its_first_bytes():
    assert image_format(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") == "png"
    assert image_format(b"GIF89a") is None
    assert image_format(b"") is None
