from __future__ import annotations

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.engine import (
    Dynamic,
    EmbedRequest,
    EngineLimits,
    EngineResult,
    Fixed,
    MediaFailure,
    close_workers,
    embed,
    embed_isolated,
)
from embed_pipeline.emulator.engine.failure import NOT_COMPLETED, TASK_FAILED, TOO_LARGE, UNPROCESSABLE
from embed_pipeline.emulator.engine.wire import (
    WireError,
    pack_request,
    pack_result,
    receive,
    send,
    unpack_request,
    unpack_result,
)
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.emulator.engine_media import SCENES, film, melody, write

TROUBLE = "embed_pipeline_tests.emulator.engine_of_trouble:TroubleEngine"
REQUEST = EmbedRequest("video", ("visual", "audio"), ("clip", "asset"), segmentation=Fixed(2.0), uncertainty=True)


@pytest.fixture(scope="module", autouse=True)
def _no_workers_left():
    yield
    close_workers()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = film([(SCENES[1], 3.0), (SCENES[4], 3.0)])
    return write(tmp_path_factory.mktemp("media") / "film.mp4", frames, melody(6.0))


@pytest.fixture
def order(tmp_path):
    def make(text):
        path = tmp_path / f"{text}.txt"
        path.write_text(text)
        return path

    return make


def worker_of(path) -> str:
    return embed_isolated(path, REQUEST, engine=TROUBLE).missing["visual"].split()[0]


def failure_of(path, **limits) -> MediaFailure:
    with pytest.raises(MediaFailure) as caught:
        embed_isolated(path, REQUEST, engine=TROUBLE, limits=EngineLimits(**limits))
    return caught.value


def test_a_child_process_gives_the_same_vectors(video):
    here, there = embed(video, REQUEST), embed_isolated(video, REQUEST)
    assert (there.options, there.scopes, there.missing, there.engine) == (
        here.options,
        here.scopes,
        here.missing,
        here.engine,
    )
    assert (there.start_sec == here.start_sec).all()
    assert (there.vectors * here.vectors).sum(axis=1).min() > 0.9999
    assert there.uncertainty == pytest.approx(here.uncertainty, abs=1e-4)


def test_many_threads_share_few_children(video, order):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: embed_isolated(video, REQUEST), range(12)))
        workers = set(threads.map(lambda _: worker_of(order("fine")), range(40)))
    assert all((result.vectors == results[0].vectors).all() for result in results)
    assert len(workers) <= 8


def test_a_failure_of_the_media_leaves_the_child_alive(order):
    before = worker_of(order("fine"))
    with pytest.raises(MediaFailure) as caught:
        embed_isolated(order("fine"), REQUEST)
    assert caught.value.message == UNPROCESSABLE
    assert worker_of(order("fine")) == before


@pytest.mark.parametrize("trouble", ["crash", "exit"])
def test_a_child_that_dies_is_a_failure_and_the_next_file_gets_a_new_one(order, trouble):
    failure = failure_of(order(trouble))
    assert (failure.message, failure.permanent) == (NOT_COMPLETED, False)
    assert worker_of(order("fine")).isdigit()


def test_a_child_that_gets_nowhere_is_ended(order):
    began = time.monotonic()
    assert failure_of(order("hang"), stall_sec=0.5).message == NOT_COMPLETED
    assert time.monotonic() - began < 10
    assert worker_of(order("fine")).isdigit()


def test_progress_keeps_a_slow_file_going_but_not_for_ever(order):
    told: list[float] = []
    limits = EngineLimits(stall_sec=1.5)
    embed_isolated(order("slow"), REQUEST, engine=TROUBLE, limits=limits, progress=told.append)
    assert told == sorted(told)
    assert len(told) >= 3
    assert failure_of(order("slow"), stall_sec=1.5, wall_sec=1.0).message == NOT_COMPLETED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its address space")
def test_a_file_that_wants_too_much_memory_is_too_large(order):
    failure = failure_of(order("bloat"), memory_bytes=1 << 30)
    assert (failure.message, failure.permanent) == (TOO_LARGE, True)


def test_a_mistake_of_the_engine_is_told_in_the_detail_only(order):
    failure = failure_of(order("mistake"))
    assert (failure.message, failure.permanent) == (TASK_FAILED, False)
    assert "ZeroDivisionError" in failure.detail


def test_what_a_library_prints_does_no_harm(order):
    assert worker_of(order("print")).isdigit()


def test_children_know_no_secrets(order, monkeypatch):
    monkeypatch.setenv("EMBED_API_KEY", "tlk_very_secret")
    close_workers()
    result = embed_isolated(order("fine"), REQUEST, engine=TROUBLE)
    assert result.missing["visual"].endswith("no key")


def test_an_engine_that_does_not_exist_is_a_clear_error(video):
    with pytest.raises(ConfigurationError, match="there is no engine 'clever'"):
        embed_isolated(video, REQUEST, engine="clever")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        embed_isolated(video, REQUEST, engine="no_such_module:Engine")


@pytest.mark.skipif(sys.platform == "win32", reason="looks at process ids")
def test_children_end_with_their_parent(order):
    script = (
        "import os, sys, pathlib\n"
        "from embed_pipeline.emulator.engine import embed_isolated, EmbedRequest\n"
        "result = embed_isolated(pathlib.Path(sys.argv[1]), EmbedRequest('audio', (), ()), engine=sys.argv[2])\n"
        "print(result.missing['visual'].split()[0], flush=True)\n"
        "os._exit(0)\n"  # no clean-up at all
    )
    command = [sys.executable, "-c", script, str(order("fine")), TROUBLE]
    child = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    deadline = time.monotonic() + 10
    while _is_embedding(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def _is_embedding(process: int) -> bool:
    listing = subprocess.run(["ps", "-o", "stat=,command=", "-p", str(process)], capture_output=True, text=True).stdout
    return "engine.worker" in listing and not listing.startswith("Z")


@given(
    st.sampled_from([Fixed(2.0), Dynamic(4.0)]),
    st.none() | st.floats(0, 100),
    st.lists(st.sampled_from(["visual", "audio", "transcription"]), unique=True),
)
def test_requests_survive_the_wire(segmentation, start, options):
    asked = EmbedRequest("video", tuple(options), ("clip",), segmentation=segmentation, start_sec=start)
    pipe = io.BytesIO()
    send(pipe, pack_request(asked))
    pipe.seek(0)
    message = receive(pipe)
    assert message is not None
    assert unpack_request(message[0]) == asked


@given(st.binary(max_size=200))
def test_no_bytes_from_a_child_are_more_than_a_wire_error(noise):
    pipe = io.BytesIO(noise)
    try:
        message = receive(pipe)
        if message is not None:
            unpack_result(*message)
    except WireError:
        pass


@pytest.mark.parametrize(
    "spoilt",
    [{"options": ["a"]}, {"scopes": []}, {"missing": "x"}, {"duration_sec": "long"}, {"engine": None, "options": 3}],
)
def test_a_result_that_does_not_fit_together_is_a_wire_error(spoilt):
    result = EngineResult(
        1.0, ("a", "b"), ("clip", "clip"), np.zeros(2), np.ones(2), np.eye(2, 4, dtype=np.float32), None, {}, "x-1"
    )
    head, arrays = pack_result(result)
    assert unpack_result(head, arrays).options == ("a", "b")
    with pytest.raises(WireError):
        unpack_result({**head, **spoilt}, arrays)
