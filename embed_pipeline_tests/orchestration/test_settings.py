"""The embedding settings: one canonical form, so that what is asked for alike has one digest and is paid for once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline_tests.world import World

_LISTS = {
    "video_options": ("visual", "audio", "transcription"),
    "audio_options": ("audio", "transcription"),
    "scopes": ("clip", "asset"),
    "types": ("separate_embedding", "fused_embedding"),
}


@pytest.mark.parametrize(
    ("model", "video", "audio"),
    [("marengo3.0", "3cf6a2f04e28", "b9c73d72e96c"), ("marengo3.5", "d85395c93965", "f64e46688dd7")],
)
def test_the_digests_of_the_defaults_stay_as_they_are(model: Any, video: str, audio: str) -> None:
    """Everything that was ever embedded is known by its digest; another one would pay for every library again."""
    settings = EmbeddingSettings(model_name=model)

    assert (settings.digest("video"), settings.digest("audio")) == (video, audio)


@given(st.fixed_dictionaries({name: st.lists(st.sampled_from(values), min_size=1) for name, values in _LISTS.items()}))
def test_another_order_and_repeats_are_the_same_settings(lists: dict[str, list[str]]) -> None:
    written = EmbeddingSettings(**{name: tuple(values) for name, values in lists.items()})  # type: ignore[arg-type]
    as_sets = EmbeddingSettings(
        **{name: tuple(value for value in _LISTS[name] if value in values) for name, values in lists.items()}  # type: ignore[arg-type]
    )

    assert written == as_sets
    assert written.code_version == as_sets.code_version


def test_settings_in_another_order_pay_for_nothing(world: World) -> None:
    world.add("a.wav")
    world.settle()

    for scopes, options in [(("asset", "clip"), ()), (("clip", "asset"), ("transcription", "audio"))]:
        again = world.varied(settings=EmbeddingSettings(scopes=scopes, audio_options=options))
        assert again.submit("a.wav").success
        assert again.settle() == {"a.wav": "embedded"}

    assert world.created() == {"a.wav": 1}
