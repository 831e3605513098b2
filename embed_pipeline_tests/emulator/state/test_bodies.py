from __future__ import annotations

import gzip
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from embed_pipeline.emulator import Sizes, Switches, Timing
from embed_pipeline.emulator.state import bodies as bodies_module
from embed_pipeline.testing import TEST_SETTINGS
from embed_pipeline_tests.emulator.conftest import TASKS

HELD = replace(TEST_SETTINGS, timing=Timing(on_command=True))


@pytest.fixture
def writes(monkeypatch):
    """Counts how often the rows of a result are written as JSON."""
    counted, lock = [], threading.Lock()
    original = bodies_module.rows_json

    def counting(result, *, wide=False):
        with lock:
            counted.append(len(result.labels))
        yield from original(result, wide=wide)

    monkeypatch.setattr(bodies_module, "rows_json", counting)
    return counted


def test_a_result_is_written_once_however_often_and_by_how_many_it_is_read(start, writes):
    emulator = start(replace(HELD, instant_duration_sec=3600.0))
    task_id = emulator.created()
    emulator.emulator.finish()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: emulator.http.get(f"{TASKS}/{task_id}").content, range(16)))
    assert len(set(answers)) == 1
    assert len(writes) == 1


def test_a_compressed_body_is_kept_and_is_the_plain_one(start, writes):
    emulator = start(replace(HELD, switches=Switches(gzip=True)))
    task_id = emulator.created()
    emulator.emulator.finish()
    plain = emulator.http.get(f"{TASKS}/{task_id}", headers={"accept-encoding": "identity"}).content
    packed = []
    for _ in range(2):
        with emulator.http.stream("GET", f"{TASKS}/{task_id}", headers={"accept-encoding": "gzip"}) as answer:
            packed.append(b"".join(answer.iter_raw()))
            assert int(answer.headers["content-length"]) == len(packed[-1])
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == plain
    assert len(writes) == 1
    folder = emulator.emulator.platform.folder / "bodies"
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".gz"]


def test_what_was_not_asked_for_longest_makes_way_and_is_written_anew(start):
    emulator = start(replace(HELD, sizes=Sizes(bodies=1_000_000), instant_duration_sec=300.0))
    ids = [emulator.created(f"https://media.example.com/{number}.mp4") for number in range(4)]
    emulator.emulator.finish()
    first = [emulator.http.get(f"{TASKS}/{task_id}").content for task_id in ids]
    assert min(map(len, first)) > 400_000
    folder = emulator.emulator.platform.folder / "bodies"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1_000_000
    assert [emulator.http.get(f"{TASKS}/{task_id}").content for task_id in ids] == first


def test_a_body_larger_than_all_the_room_is_served_all_the_same(start):
    emulator = start(replace(HELD, sizes=Sizes(bodies=1000)))
    done = emulator.finished(emulator.created())
    assert len(done["data"]) == len(emulator.retrieve(done["_id"])["data"]) > 10
    assert list((emulator.emulator.platform.folder / "bodies").iterdir()) == []


def test_without_room_on_the_disk_a_result_is_written_for_each_request(start):
    emulator = start(HELD)
    task_id = emulator.created()
    emulator.emulator.finish()
    # From here on every attempt to open a file fails, as it would on a full disk.
    shutil.rmtree(emulator.emulator.platform.folder / "bodies")
    done = emulator.retrieve(task_id)
    assert done["status"] == "ready"
    assert len(done["data"]) > 10
    assert emulator.retrieve(task_id) == done


def test_losses_and_order_of_a_faulty_task_are_those_of_its_id_alone(start):
    emulator = start(HELD)
    emulator.emulator.inject({"kind": "shuffle"}, {"kind": "missing", "option": "audio", "fraction": 0.5})
    done = emulator.finished(emulator.created())
    folder = emulator.emulator.platform.folder / "bodies"
    emulator.emulator.platform.bodies.drop([done["_id"]])
    assert list(folder.iterdir()) == []
    again = emulator.retrieve(done["_id"])
    assert again == done
    starts = [row["start_sec"] for row in done["data"]]
    assert starts != sorted(starts)


def test_results_are_written_ahead_while_no_task_waits(start, writes):
    emulator = start(replace(TEST_SETTINGS, timing=Timing()))
    ids = [emulator.created(f"https://media.example.com/{number}.mp4") for number in range(3)]
    emulator.emulator.finish()
    folder, deadline = emulator.emulator.platform.folder / "bodies", threading.Event()
    for _ in range(6000):
        if {path.name for path in folder.iterdir()} == set(ids):
            break
        deadline.wait(0.01)
    assert len(writes) == 3
    vectors = np.array([row["embedding"] for row in emulator.retrieve(ids[0])["data"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert len(writes) == 3
