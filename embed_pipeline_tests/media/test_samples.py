from __future__ import annotations

import itertools
import os

import av
import numpy as np
import pytest

from embed_pipeline.errors import MediaError
from embed_pipeline.media import BROKEN_SAMPLE, MediaLibrary, write_sample_library
from embed_pipeline.media.samples import SAMPLES, Sample, Shot, write_sample


@pytest.fixture(scope="module")
def listed(sample_library):
    library = MediaLibrary(sample_library)
    return library, {file.path: file for file in library.list().files}


def test_it_holds_what_a_stranger_should_see(listed):
    library, files = listed
    assert set(files) == {sample.name for sample in SAMPLES} | {BROKEN_SAMPLE}
    infos = {path: library.probe(file) for path, file in files.items() if path != BROKEN_SAMPLE}
    assert len(infos) >= 9
    assert all(info.duration_sec >= 4 for info in infos.values()), "the platform takes nothing shorter"
    assert max(info.duration_sec for info in infos.values()) > 600
    assert [path for path, info in infos.items() if info.has_video and not info.has_audio]
    assert len([path for path, info in infos.items() if not info.has_video]) >= 2
    assert any({" ", ","} <= set(path) and not path.isascii() and "/" in path for path in infos)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_file_is_as_long_as_its_recipe_says_and_can_be_played_to_its_end(listed, sample):
    library, files = listed
    info = library.probe(files[sample.name])
    assert info.duration_sec == pytest.approx(sum(shot.seconds for shot in sample.shots) - sample.skip_sec, abs=0.2)
    assert info.has_video == (sample.shots[0].scene is not None)
    assert info.has_audio == (sample.shots[0].sound is not None)
    if info.has_video:
        assert (info.width, info.height) == sample.size
    with av.open(str(library.local_path(files[sample.name]))) as container:
        ends = {stream.type: 0.0 for stream in container.streams}
        loudest = 0.0
        for frame in container.decode():
            ends["video" if isinstance(frame, av.VideoFrame) else "audio"] = frame.time
            if isinstance(frame, av.AudioFrame):
                sound = frame.to_ndarray()
                assert np.isfinite(sound).all()
                loudest = max(loudest, float(np.abs(sound.astype(float)).max()))
    assert all(end > info.duration_sec - 1.1 for end in ends.values()), ends
    assert bool(loudest) == info.has_audio


def test_pictures_move_and_are_cut(listed):
    library, files = listed
    with av.open(str(library.local_path(files["city-night.mp4"]))) as container:
        pictures = [frame.reformat(32, 18, "gray").to_ndarray().astype(int) for frame in container.decode(video=0)]
    changes = np.array([np.abs(after - before).mean() for before, after in itertools.pairwise(pictures)])
    assert (changes > 15).sum() == 3, "three cuts"
    assert (changes > 0).mean() > 0.9, "and movement in between"


def test_the_broken_file_looks_like_a_video_and_is_none(listed):
    library, files = listed
    with library.open(files[BROKEN_SAMPLE]) as stream:
        assert stream.read(8)[4:] == b"ftyp"
    with pytest.raises(MediaError, match=r"'broken-upload.mp4' is not playable"):
        library.probe(files[BROKEN_SAMPLE])


def test_one_video_has_subtitles_beside_it(sample_library):
    (sidecar,) = sample_library.glob("*.srt")
    assert sidecar.with_suffix(".mp4").exists()
    assert sidecar.read_text(encoding="utf-8").startswith("1\n00:00:00,000 --> 00:00:")


def test_a_second_call_touches_nothing(sample_library):
    def state():
        return {path: path.stat().st_mtime_ns for path in sample_library.rglob("*")}

    before = state()
    seen: list[tuple[str, int, int]] = []
    write_sample_library(sample_library, progress=lambda *step: seen.append(step))
    assert state() == before
    total = len(SAMPLES) + 1
    assert [number for _, number, _ in seen] == [*range(1, total + 1), total]
    assert seen[-1] == ("", total, total)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".wav", ".mp3", ".flac", ".m4a", ".ogg"])
def test_the_same_recipe_gives_the_same_bytes(tmp_path, ending):
    scene = "market" if ending in (".mp4", ".mkv", ".webm") else None
    sample = Sample(f"x{ending}", (Shot(scene, "tune", 1, 3), Shot(scene, "birds", 1, 4)), size=(96, 64))
    contents = set()
    for number in range(5):
        write_sample(tmp_path / f"{number}{ending}", sample)
        contents.add((tmp_path / f"{number}{ending}").read_bytes())
    assert len(contents) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MediaError, match=r"cannot be written to .*file/library.*Choose another folder"):
        write_sample_library(tmp_path / "file" / "library")


def test_what_was_not_finished_leaves_nothing_behind(tmp_path, monkeypatch):
    def write_half(path, sample):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embed_pipeline.media.samples.writing.write_sample", write_half)
    with pytest.raises(MediaError, match="No space left on device"):
        write_sample_library(tmp_path)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []
