"""Validation of segments: what it finds, and that it names the place and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embed_pipeline.pipeline.settings import EmbeddingSettings, Segmentation
from embed_pipeline.pipeline.validate import unfit, validate
from embed_pipeline_tests.segments import made_up

_VISUAL = EmbeddingSettings(video_options=("visual",), video_segmentation=Segmentation(strategy="fixed", seconds=6))


def _shifted(count: int, row: int, *, start: float = 0.0, end: float = 0.0) -> dict[str, Any]:
    whole = made_up(count)
    starts, ends = whole.start_sec.copy(), whole.end_sec.copy()
    starts[row] += start
    ends[row] += end
    return {"start_sec": starts, "end_sec": ends}


def _vectors(row: int, factor: float) -> dict[str, Any]:
    vectors = made_up(6).embedding.copy()
    vectors[row] *= factor
    return {"embedding": vectors}


def test_sound_segments_have_no_problems() -> None:
    found = validate(made_up(6), _VISUAL)
    assert found.as_dict() == {}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("vectors", _vectors(2, 0.0), "1 of 7 segments, first visual 12.00-18.00 s, are zero"),
        ("vectors", _vectors(2, 100.0), "norms more than 20 times off the median"),
        ("offsets", _shifted(6, 2, start=3.0), "no segment of visual from 12.00 s to 15.00 s"),
        ("offsets", _shifted(6, 2, end=3.0), "overlap from 18.00 s to 21.00 s"),
        ("offsets", {"duration_sec": 30.0}, "end after the file does, at 0:30"),
        ("offsets", {"duration_sec": 60.0}, "end at 36.00 s, long before the file does"),
        ("options", {"embedding_scope": ["clip"] * 7}, "lacks the scope asset"),
        ("options", {"embedding_option": ["audio"] * 7}, "lacks visual, though it is a video"),
    ],
)
def test_what_is_wrong_is_found_and_named(kind: str, changes: dict[str, Any], words: str) -> None:
    problem = getattr(validate(made_up(6, **changes), _VISUAL), kind)

    assert problem is not None
    assert words in problem
    assert "aterialize" in problem, "it says what to do"


def test_vectors_of_another_length_than_asked_for_are_found() -> None:
    asked = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=256, video_options=("visual",))
    assert "512 numbers where the settings ask for 256" in str(validate(made_up(6), asked).vectors)


def test_what_the_media_explains_is_no_problem() -> None:
    """A silent file has neither audio nor transcription; speech has gaps; a short tail may be left out."""
    everything = EmbeddingSettings(video_segmentation=Segmentation(strategy="fixed", seconds=6))
    silent = validate(made_up(6), everything)
    assert (silent.offsets, silent.options) == (None, None)
    assert validate(made_up(6, duration_sec=40.0), everything).offsets is None
    whole = made_up(6)
    kept = [0, 1, 4, 5, 6]
    speech = made_up(
        6,
        embedding_option=["transcription"] * 5 + ["visual"] * 7 + ["audio"] * 7,
        embedding_scope=[whole.embedding_scope[row] for row in kept] + [*whole.embedding_scope] * 2,
        **{
            name: np.concatenate([getattr(whole, name)[kept], getattr(whole, name), getattr(whole, name)])
            for name in ("start_sec", "end_sec", "embedding")
        },
    )
    assert validate(speech, everything) == validate(made_up(6), _VISUAL)


@pytest.mark.parametrize(
    ("length", "words"), [(36.0, None), (36.5, None), (None, None), (60.0, "the result covers 36.0 s of 60.0 s")]
)
def test_a_result_that_is_shorter_than_its_file_is_found(length: float | None, words: str | None) -> None:
    problem = validate(made_up(6), _VISUAL, length_sec=length).coverage
    assert (problem is None) == (words is None)
    assert words is None or words in str(problem)


def test_what_was_not_asked_for_is_no_answer() -> None:
    assert unfit(made_up(6), _VISUAL) is None
    asked = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=256, video_options=("visual",))
    assert "512 numbers, and 256 were asked for" in str(unfit(made_up(6), asked))
    other = made_up(6, embedding_option=["transcription"] * 7)
    assert "the option transcription, which was not asked for" in str(unfit(other, _VISUAL))
