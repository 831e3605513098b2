from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embed_pipeline.emulator.engine import (
    Dynamic,
    EmbedRequest,
    EngineLimits,
    EngineResult,
    Fixed,
    MediaFailure,
    embed,
    load_engine,
)
from embed_pipeline.emulator.engine.failure import REQUEST_INVALID, SOURCE_UNREACHABLE, UNPROCESSABLE
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.emulator.engine_media import SCENES, film, melody, write

CUTS = [3.0, 7.0, 10.0]


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return film([(SCENES[0], 3.0), (SCENES[1], 4.0), (SCENES[2], 3.0), (SCENES[3], 4.0)])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, frames) -> Path:
    captions = [(0.5, 2.5, "a lighthouse on the cliff"), (3.5, 6.0, "boats come home"), (10.5, 12.0, "the end")]
    return write(tmp_path_factory.mktemp("media") / "film.mkv", frames, melody(14.0), captions=captions)


def request(**values) -> EmbedRequest:
    return EmbedRequest(
        **{
            "media_type": "video",
            "options": ("visual", "audio", "transcription"),
            "scopes": ("clip", "asset"),
            "segmentation": Fixed(4.0),
            **values,
        }
    )


def spans(result: EngineResult, option: str, scope: str = "clip") -> list[tuple[float, float]]:
    return [
        (start, end)
        for row_option, row_scope, start, end in zip(
            result.options, result.scopes, result.start_sec.tolist(), result.end_sec.tolist(), strict=True
        )
        if (row_option, row_scope) == (option, scope)
    ]


def rows(result: EngineResult, option: str, scope: str = "clip") -> np.ndarray:
    chosen = [pair == (option, scope) for pair in zip(result.options, result.scopes, strict=True)]
    return result.vectors[np.array(chosen)]


def test_a_video_has_rows_for_each_option_and_scope(video):
    result = embed(video, request())
    assert result.engine == "signal-2"
    assert result.missing == {}
    assert result.duration_sec == pytest.approx(14.0, abs=0.1)
    assert spans(result, "visual") == spans(result, "audio")
    assert [start for start, _ in spans(result, "visual")] == [0.0, 4.0, 8.0, 12.0]
    assert spans(result, "visual", "asset") == [(0.0, result.duration_sec)]
    assert spans(result, "visual")[-1][1] == result.duration_sec
    assert result.vectors.dtype == np.float32
    assert result.start_sec.dtype == result.end_sec.dtype == np.float64
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_vectors_are_the_same_on_a_second_run(video):
    first, second = embed(video, request()), embed(video, request())
    assert (first.vectors == second.vectors).all()
    assert (first.start_sec == second.start_sec).all()


def test_dynamic_segments_follow_the_cuts(video):
    starts = [start for start, _ in spans(embed(video, request(segmentation=Dynamic(2.0))), "visual")]
    assert starts == pytest.approx([0.0, *CUTS], abs=0.1)


def test_sound_is_divided_at_the_cuts_of_its_video_even_where_only_sound_is_asked_for(video):
    result = embed(video, request(segmentation=Dynamic(2.0), options=("audio",)))
    assert [start for start, _ in spans(result, "audio")] == pytest.approx([0.0, *CUTS], abs=0.1)


def test_embedded_subtitles_are_the_transcript(video):
    assert spans(embed(video, request()), "transcription")[0] == (0.0, 4.0)
    assert [round(start) for start, _ in spans(embed(video, request()), "transcription")] == [0, 4, 8]


def test_a_sidecar_is_the_transcript(tmp_path, frames):
    path = write(tmp_path / "talk.mp4", frames[:60])
    (tmp_path / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nhello\n")
    assert spans(embed(path, request()), "transcription") == [(0.0, 4.0)]


def test_what_is_not_there_is_missing_with_a_reason(tmp_path, frames):
    silent = embed(write(tmp_path / "silent.mp4", frames[:60]), request())
    assert set(silent.options) == {"visual"}
    assert silent.missing["audio"] == "no audio stream"
    assert "no transcript" in silent.missing["transcription"]
    recording = embed(write(tmp_path / "sound.m4a", sound=melody(6.0)), request())
    assert set(recording.options) == {"audio"}
    assert recording.missing["visual"] == "no video stream"


def test_the_cover_of_an_album_is_not_a_film(tmp_path, frames):
    path = write(tmp_path / "album.mp3", sound=melody(6.0), audio_codec="libmp3lame", cover=frames[0])
    result = embed(path, request())
    assert set(result.options) == {"audio"}
    assert result.missing["visual"] == "no video stream"


@pytest.mark.parametrize(("ending", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac")])
def test_recordings_are_embedded_to_their_end(tmp_path, ending, codec):
    path = write(tmp_path / f"recording.{ending}", sound=melody(9.5), audio_codec=codec)
    result = embed(path, request(media_type="audio", options=("audio",)))
    assert [start for start, _ in spans(result, "audio")] == [0.0, 4.0, 8.0]
    assert result.end_sec.max() == pytest.approx(9.5, abs=0.1)


def test_a_window_is_embedded_with_times_of_the_file(video):
    result = embed(video, request(start_sec=3.5, end_sec=9.5))
    assert spans(result, "visual") == [(3.5, 7.5), (7.5, 9.5)]
    assert spans(result, "audio", "asset") == [(3.5, 9.5)]
    assert result.duration_sec == pytest.approx(14.0, abs=0.1)
    whole = embed(video, request(segmentation=Fixed(3.5)))
    part = embed(video, request(start_sec=3.5, end_sec=7.0, segmentation=Fixed(3.5)))
    assert float(rows(part, "visual")[0] @ rows(whole, "visual")[1]) > 0.98
    assert float(rows(part, "audio")[0] @ rows(whole, "audio")[1]) > 0.95


@pytest.mark.parametrize("window", [(20.0, 25.0), (20.0, None), (5.0, 4.0)])
def test_a_window_outside_the_file_is_invalid(video, window):
    with pytest.raises(MediaFailure) as caught:
        embed(video, request(start_sec=window[0], end_sec=window[1]))
    assert caught.value.message == REQUEST_INVALID


def test_fused_rows_hold_all_options(video):
    both = embed(video, request(embedding_types=("separate_embedding", "fused_embedding")))
    assert set(both.options) == {"visual", "audio", "transcription", "fused"}
    only = embed(video, request(embedding_types=("fused_embedding",)))
    assert set(only.options) == {"fused"}
    assert (rows(only, "fused") == rows(both, "fused")).all()
    assert len(rows(only, "fused")) == 4


def test_short_vectors_are_prefixes_of_unit_length(video):
    long, short = embed(video, request()), embed(video, request(dimension=128))
    assert short.vectors.shape[1] == 128
    prefix = long.vectors[:, :128]
    assert short.vectors == pytest.approx(prefix / np.linalg.norm(prefix, axis=1, keepdims=True), abs=1e-6)


def test_a_steady_segment_is_more_certain_than_one_that_changes(video):
    result = embed(video, request(options=("visual",), segmentation=Fixed(6.0), uncertainty=True))
    still = embed(video, request(options=("visual",), start_sec=10.5, uncertainty=True))
    assert result.uncertainty is not None
    assert still.uncertainty is not None
    assert result.uncertainty.shape == result.vectors.shape
    assert (result.uncertainty >= 0).all()
    assert still.uncertainty.mean() < result.uncertainty.mean() / 2


def test_a_click_is_embedded(tmp_path):
    path = write(tmp_path / "click.wav", sound=melody(0.01), audio_codec="pcm_s16le")
    assert len(embed(path, request(options=("audio",))).vectors) == 2


def test_a_shorter_sound_track_is_silent_at_the_end(tmp_path, frames):
    result = embed(write(tmp_path / "uneven.mp4", frames, melody(5.0)), request(options=("visual", "audio")))
    assert spans(result, "audio") == spans(result, "visual")
    sound = rows(result, "audio")
    assert (sound[-1] == sound[-2]).all()


def test_dynamic_segments_of_a_recording_follow_its_pauses(tmp_path):
    sound = np.concatenate([melody(3.2), np.zeros(12_000, np.float32), melody(4.0, 1)])
    path = write(tmp_path / "speech.wav", sound=sound, audio_codec="pcm_s16le")
    result = embed(path, request(media_type="audio", options=("audio",), segmentation=Dynamic(2.0)))
    assert [start for start, _ in spans(result, "audio")] == pytest.approx([0.0, 3.5], abs=0.4)


@pytest.mark.parametrize("ending", ["mkv", "ts", "mp4"])
def test_a_broken_tail_leaves_what_decodes(tmp_path, frames, ending):
    path = tmp_path / f"cut.{ending}"
    if ending == "mp4":  # its index lies at the end: without it nothing can be read
        whole = write(tmp_path / "whole.wav", sound=melody(10.0), audio_codec="pcm_s16le")
        path = tmp_path / "cut.wav"
    else:
        whole = write(tmp_path / f"whole.{ending}", frames, melody(14.0))
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    result = embed(path, request())
    assert 4.0 < result.end_sec.max() < 12.0


@pytest.mark.parametrize("content", [b"", b"hello " * 500, b"#EXTM3U\n#EXTINF:5,\n/etc/passwd\n", bytes(4096)])
def test_what_is_no_media_fails_in_the_platforms_words(tmp_path, content):
    path = tmp_path / "renamed.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaFailure) as caught:
        embed(path, request())
    assert (caught.value.message, caught.value.permanent) == (UNPROCESSABLE, True)


def test_a_playlist_opens_no_other_file(tmp_path, video):
    for name, content in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{video}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{video}'\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    }.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(MediaFailure):
            embed(tmp_path / name, request())


def test_a_file_that_is_not_there_may_be_there_later(tmp_path):
    with pytest.raises(MediaFailure) as caught:
        embed(tmp_path / "gone.mp4", request())
    assert (caught.value.message, caught.value.permanent) == (SOURCE_UNREACHABLE, False)


def test_what_is_too_long_or_too_large_is_refused(video):
    with pytest.raises(MediaFailure, match=r"^Duration \(14\.\d seconds\) exceeds maximum limit of 10 seconds"):
        embed(video, request(), limits=EngineLimits(duration_sec=10.0))
    with pytest.raises(MediaFailure) as caught:
        embed(video, request(), limits=EngineLimits(side_px=100))
    assert caught.value.message == UNPROCESSABLE


def test_an_engine_that_does_not_exist_is_a_clear_error():
    with pytest.raises(ConfigurationError, match="there is no engine 'clever'"):
        load_engine("clever")
    with pytest.raises(ConfigurationError, match="is not an engine"):
        load_engine("pathlib:Path")


def neighbours_overlap(original: EngineResult, shifted: EngineResult, option: str, shift: float) -> float:
    """The share of segments of a shifted copy whose nearest neighbour is the one that they overlap most."""
    places = spans(original, option)
    right = [
        int(np.argmax([min(end + shift, last) - max(start + shift, first) for first, last in places]))
        for start, end in spans(shifted, option)
    ]
    nearest = (rows(shifted, option) @ rows(original, option).T).argmax(axis=1)
    return float((nearest == np.array(right)).mean())


def test_segments_of_a_shifted_copy_find_the_ones_they_overlap(tmp_path):
    frames = film([(scene, 4.0) for scene in SCENES])
    sound = melody(32.0)
    original = embed(write(tmp_path / "a.mp4", frames, sound), request(segmentation=Fixed(4.0)))
    shifted = embed(write(tmp_path / "b.mp4", frames[12:], sound[16_000:]), request(segmentation=Fixed(4.0)))
    assert neighbours_overlap(original, shifted, "visual", 1.0) >= 0.75
    assert neighbours_overlap(original, shifted, "audio", 1.0) >= 0.85
