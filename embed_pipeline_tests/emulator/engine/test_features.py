from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embed_pipeline.emulator.engine.captions import parse_captions, sidecar_captions, spoken_in
from embed_pipeline.emulator.engine.features.projection import project, shorten, unit
from embed_pipeline.emulator.engine.features.sound import (
    FRAME_SEC,
    HOP,
    KINDS,
    MELS,
    Spectrum,
    describe_moments,
    embed_sound,
)
from embed_pipeline.emulator.engine.features.text import embed_text
from embed_pipeline.emulator.engine.features.visual import describe_pictures, embed_pictures, without_bars
from embed_pipeline.emulator.engine.segments import THUMB_HEIGHT, THUMB_WIDTH, CutDetector, PauseDetector, Span
from embed_pipeline.emulator.engine.stream import Caption
from embed_pipeline_tests.emulator.engine_media import SCENES, melody, pictures

finite = st.floats(-1e6, 1e6, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=finite))
def test_unit_vectors_have_length_one_whatever_comes_in(vectors):
    assert np.linalg.norm(unit(vectors).astype(np.float64), axis=1) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_projection_keeps_angles(count, seed):
    rng = np.random.default_rng(seed)
    first = rng.standard_normal(count).astype(np.float32)
    second = (first + rng.standard_normal(count)).astype(np.float32)
    before = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    after = project(first, 1) @ project(second, 1)
    assert after == pytest.approx(before, abs=1e-4 if count <= 512 else 0.2)


def test_projection_is_the_same_as_ever():
    # These values must never change without a new version of the engine.
    vector = project(np.arange(1, 901, dtype=np.float32), 42)
    assert vector[:4] == pytest.approx([0.04623552, -0.01147643, 0.00203596, 0.05657455], abs=1e-6)


def test_a_shorter_vector_is_a_prefix_of_the_long_one():
    vector = project(np.random.default_rng(1).standard_normal(700).astype(np.float32), 3)[None, :]
    short = shorten(vector, 128)
    assert short.shape == (1, 128)
    assert short[0] == pytest.approx(vector[0, :128] / np.linalg.norm(vector[0, :128]), abs=1e-6)


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    return np.stack([small(pictures(scene, 0.5)[-1]) for scene in SCENES])


def small(picture: np.ndarray) -> np.ndarray:
    rows = np.linspace(0, picture.shape[0] - 1, 64).astype(int)
    columns = np.linspace(0, picture.shape[1] - 1, 64).astype(int)
    return picture[rows][:, columns]


def vectors(scenes: np.ndarray) -> np.ndarray:
    return np.stack([embed_pictures(features[None, :]) for features in describe_pictures(scenes)])


def test_a_mirrored_picture_has_the_same_vector(scenes):
    assert (vectors(scenes[:, :, ::-1]) * vectors(scenes)).sum(axis=1).min() > 0.999


@pytest.mark.parametrize(
    "alter",
    [
        lambda rgb: rgb @ np.full((3, 3), 1 / 3),
        lambda rgb: rgb * 0.7 + 40,
        lambda rgb: rgb + np.random.default_rng(0).normal(0, 12, rgb.shape),
    ],
    ids=["greyscale", "brightness", "noise"],
)
def test_an_altered_picture_is_nearest_to_its_original(scenes, alter):
    altered = np.clip(alter(scenes.astype(np.float64)), 0, 255).astype(np.uint8)
    nearest = (vectors(altered) @ vectors(scenes).T).argmax(axis=1)
    assert (nearest == np.arange(len(scenes))).sum() >= len(scenes) - 1


def test_bars_are_cut_off_and_dark_pictures_left_alone(scenes):
    boxed = np.zeros_like(scenes[0])
    boxed[8:56] = scenes[0][np.linspace(0, 63, 48).astype(int)]
    assert without_bars(boxed)[2].max() > 24
    night = np.zeros_like(scenes[0])
    night[30:34, 10:14] = 200
    assert without_bars(night) is night


def spectrum(sound: np.ndarray) -> np.ndarray:
    return Spectrum().add(sound.astype(np.float32))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_the_spectrum_does_not_depend_on_how_the_samples_come_in(sizes):
    sound = melody(sum(sizes) / 16000 + 0.2)
    parts, stream, position = [], Spectrum(), 0
    for size in [*sizes, len(sound)]:
        parts.append(stream.add(sound[position : position + size]))
        position += size
    joined = np.concatenate(parts)
    assert joined.shape == ((len(sound) - 512) // HOP + 1, MELS + 12)
    assert joined[:, :MELS] == pytest.approx(spectrum(sound)[:, :MELS], rel=1e-3, abs=1e-9)


def test_silence_has_one_vector_of_its_own():
    silence = embed_sound(spectrum(np.zeros(48000)))
    assert (silence == embed_sound(np.zeros((0, MELS + 12), np.float32))).all()
    assert abs(float(silence @ embed_sound(spectrum(melody(3))))) < 0.5


@pytest.mark.parametrize(
    "alter",
    [
        lambda sound: sound * 0.25,
        lambda sound: sound + np.random.default_rng(1).normal(0, sound.std() * 10**-0.5, len(sound)),
        lambda sound: np.convolve(sound, np.sinc(np.linspace(-8, 8, 65)) * np.hamming(65) / 4, "same"),
    ],
    ids=["gain -12 dB", "white noise 10 dB", "low-pass"],
)
def test_an_altered_passage_is_nearest_to_its_original(alter):
    passages = [melody(4, seed) for seed in range(12)]
    originals = np.stack([embed_sound(spectrum(passage)) for passage in passages])
    altered = np.stack([embed_sound(spectrum(alter(passage))) for passage in passages])
    assert ((altered @ originals.T).argmax(axis=1) == np.arange(12)).sum() >= 11


def broad_levels(sound: np.ndarray) -> np.ndarray:
    return np.log(spectrum(sound)[:, :MELS].reshape(-1, 16, MELS // 16).mean(axis=2) + 1e-4).astype(np.float32)


def test_passages_resemble_each_other_by_the_moments_they_share():
    tune, other = melody(12.0, 3), melody(8.0, 4)
    first = describe_moments(broad_levels(tune[:64_000]))

    def likeness(sound: np.ndarray) -> float:
        second = describe_moments(broad_levels(sound))
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    shares = [likeness(tune[round(shift * 16_000) :][:64_000]) for shift in (0.0, 1.0, 2.0, 3.0)]
    assert shares[0] == pytest.approx(1.0, abs=1e-5)
    assert all(earlier > later + 0.1 for earlier, later in itertools.pairwise(shares))
    assert shares[2] > likeness(other[:64_000]) + 0.1
    assert likeness(np.concatenate([tune[32_000:64_000], tune[:32_000]])) > 0.8  # in whatever order


def test_a_steady_tone_has_no_moments_and_the_shortest_sound_some():
    tone = np.sin(2 * np.pi * 440 * np.arange(64_000) / 16_000) * 0.3
    assert np.linalg.norm(describe_moments(broad_levels(tone))) < 0.1
    for seconds in (0.05, 0.5, 3.0):
        found = describe_moments(broad_levels(melody(seconds)))
        assert found.shape == (KINDS,)
        assert 0.1 < np.linalg.norm(found) < 1.0


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 90), st.just(16)), elements=st.floats(0, 20, width=32)))
def test_no_sound_is_too_strange_to_have_its_moments_described(broad):
    found = describe_moments(broad)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= 1.0


def test_texts_that_share_words_are_closer_than_those_that_do_not():
    query = embed_text("where does the old lighthouse stand")
    near = embed_text("The lighthouse, an old one, stands on the northern cliff.")
    far = embed_text("Bring the water to the boil and add a pinch of salt.")
    assert query @ near > query @ far + 0.2
    assert embed_text("") == pytest.approx(np.eye(512, dtype=np.float32)[0])


SRT = "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i> there\n\n2\n00:01:00,5 --> 00:01:02,000\nSecond\nline\n"
VTT = (
    "WEBVTT\n\nNOTE nothing\n\nintro\n00:01.000 --> 00:02.500 align:left\nHello there\n\n"
    "01:00.500 --> 01:02.000\nSecond\nline\n"
)


@pytest.mark.parametrize("text", [SRT, VTT, SRT.replace("\n", "\r\n")], ids=["srt", "vtt", "crlf"])
def test_subtitle_files_are_read(text):
    assert parse_captions(text) == [Caption(1.0, 2.5, "Hello there"), Caption(60.5, 62.0, "Second line")]


@given(st.text(max_size=400))
def test_no_text_is_too_strange_to_be_looked_for_captions(text):
    parse_captions(text + "\n00:00:01,000 --> 00:00:02,000\n" + text)


def test_the_sidecar_shares_the_stem(tmp_path):
    (tmp_path / "talk.vtt").write_text(VTT)
    assert sidecar_captions(tmp_path / "talk.mp4") == parse_captions(VTT)
    assert sidecar_captions(tmp_path / "other.mp4") is None


def test_a_caption_belongs_to_the_segment_that_holds_half_of_it():
    captions = [Caption(1.0, 3.0, "one"), Caption(3.6, 5.6, "two")]
    assert spoken_in(captions, Span(0.0, 4.0)) == "one"
    assert spoken_in(captions, Span(4.0, 8.0)) == "two"


def frames_of(*colours: tuple[int, int, int], each: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    frames = []
    for colour in colours:
        still = np.clip(np.array(colour) + rng.normal(0, 30, (THUMB_HEIGHT, THUMB_WIDTH, 3)), 0, 255)
        frames += [np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8) for _ in range(each)]
    return frames


def cuts_of(frames: list[np.ndarray], rate: float = 24.0) -> list[float]:
    detector, cuts = CutDetector(), []
    for number, frame in enumerate(frames):
        detector.add(number / rate, frame)
        cuts += detector.take()
        assert all(cut < detector.clock for cut in cuts)
    return cuts + detector.take(ended=True)


def test_hard_cuts_are_found_where_they_are():
    assert cuts_of(frames_of((200, 60, 60), (60, 60, 200), (60, 180, 60))) == [30 / 24, 60 / 24]


def test_a_fade_through_black_is_a_cut_in_the_dark():
    first, second = frames_of((200, 60, 60)), frames_of((60, 60, 200))
    fade_out = [(first[-1] * (1 - step / 24)).astype(np.uint8) for step in range(1, 25)]
    fade_in = [(second[0] * (step / 24)).astype(np.uint8) for step in range(24)]
    cuts = cuts_of(first + fade_out + fade_in + second)
    assert len(cuts) == 1
    assert cuts[0] == pytest.approx((30 + 24) / 24, abs=0.35)


def test_a_still_picture_has_no_cuts():
    assert cuts_of(frames_of((120, 120, 120), each=120)) == []


def test_pauses_are_found_between_words():
    loud, quiet = np.full(round(2 / FRAME_SEC), 1.0), np.full(round(0.6 / FRAME_SEC), 1e-5)
    detector = PauseDetector()
    detector.add(0.0, np.concatenate([loud, quiet, loud, quiet, loud]))
    assert detector.take() == pytest.approx([2.3, 4.9], abs=0.05)
