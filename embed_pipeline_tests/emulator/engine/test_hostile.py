from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embed_pipeline.emulator.engine import (
    Dynamic,
    EmbedRequest,
    EngineLimits,
    Fixed,
    MediaFailure,
    close_workers,
    embed_isolated,
)
from embed_pipeline_tests.emulator.hostile_media import bombs, healthy, mutate

LIMITS = EngineLimits(wall_sec=30.0, stall_sec=15.0, memory_bytes=2 << 30)


@pytest.fixture(scope="module", autouse=True)
def _no_workers_left():
    yield
    close_workers()


def outcome(path, segmentation) -> str:
    request = EmbedRequest("video", ("visual", "audio", "transcription"), ("clip", "asset"), segmentation=segmentation)
    try:
        result = embed_isolated(path, request, limits=LIMITS)
    except MediaFailure as failure:
        return failure.message or "failed without a word"
    assert np.isfinite(result.vectors).all()
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(1.0, abs=1e-4)
    assert (result.end_sec > result.start_sec).all()
    assert 0 < result.end_sec.max() <= result.duration_sec <= LIMITS.duration_sec + 1
    return "ready"


@pytest.mark.slow
def test_every_damaged_file_ends_ready_or_failed(tmp_path):
    rng = np.random.default_rng(20)
    originals = healthy(tmp_path / "healthy")
    files = [path.read_bytes() for path in originals]
    damaged = []
    for number in range(66):
        chosen = number % len(files)
        kind, content = mutate(files[chosen], files[rng.integers(len(files))], rng)
        path = tmp_path / f"{number}-{kind}{originals[chosen].suffix}"
        path.write_bytes(content)
        damaged.append(path)
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(outcome, damaged, [Fixed(2.0), Dynamic(2.0)] * 33))
        # The processes that took all of it are as good as new.
        assert set(threads.map(outcome, originals, [Fixed(2.0)] * len(originals))) == {"ready"}
    assert "failed without a word" not in outcomes
    assert outcomes.count("ready") >= 10
    assert len(outcomes) - outcomes.count("ready") >= 5


def test_files_that_ask_for_a_lot_are_refused_or_cost_little(tmp_path):
    outcomes = {path.name: outcome(path, Dynamic(2.0)) for path in bombs(tmp_path / "bombs")}
    assert outcomes["huge-picture.mkv"] != "ready"
    assert outcomes["list.mp4"] == outcomes["script.mp4"] == outcomes["zeros.mp4"] != "ready"
    assert "exceeds maximum limit" in outcomes["years-apart.mkv"]
