from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from embed_pipeline.errors import MediaError
from embed_pipeline.media import MediaFile, MediaLibrary, fingerprints
from embed_pipeline.media.folder import FolderStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "library"
    made.mkdir()
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache.sqlite"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The paths of the files that were opened, in order."""
    opened: list[str] = []
    really_open = FolderStore.open
    monkeypatch.setattr(FolderStore, "open", lambda self, file: opened.append(file.path) or really_open(self, file))
    return opened


def put(folder: Path, name: str, content: bytes = b"content") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.fixture
def let_the_clock_move_on(monkeypatch):
    """Waits until a file that was just written may be remembered; this machine's clock is finer than the coarsest."""
    monkeypatch.setattr(fingerprints, "_CLOCK_GRAIN_SEC", 0.05)
    return lambda: time.sleep(0.1)


def only_file(library: MediaLibrary) -> MediaFile:
    (file,) = library.list(now=time.time() + 60).files
    return file


def test_the_fingerprint_is_the_beginning_of_the_sha256_of_the_bytes(folder, cache):
    content = os.urandom(3_000_000)
    put(folder, "film.mp4", content)
    library = MediaLibrary(folder, cache=cache)
    fingerprint = library.fingerprint(only_file(library))
    assert fingerprint == hashlib.sha256(content).hexdigest()[:32]
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", fingerprint), "must do as the value of a Dagster tag"


def test_a_file_is_read_once_and_again_after_it_changed(folder, cache, reads, let_the_clock_move_on):
    path = put(folder, "film.mp4", b"first")
    let_the_clock_move_on()
    library = MediaLibrary(folder, cache=cache)
    first = library.fingerprint(only_file(library))
    assert library.fingerprint(only_file(library)) == first
    assert MediaLibrary(folder, cache=cache).fingerprints([only_file(library)]) == {"film.mp4": first}
    assert reads == ["film.mp4"]

    times = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and tar do: same size, same time
    assert library.fingerprint(only_file(library)) == hashlib.sha256(b"other").hexdigest()[:32]
    assert reads == ["film.mp4", "film.mp4"]


def test_two_writes_within_the_grain_of_the_clock_are_told_apart(folder, cache):
    library = MediaLibrary(folder, cache=cache)
    for content in (b"aaaa", b"bbbb", b"cccc"):
        path = put(folder, "film.mp4", content)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert library.fingerprint(only_file(library)) == hashlib.sha256(content).hexdigest()[:32]


def test_without_its_cache_file_the_same_fingerprints_come_out(folder, cache, let_the_clock_move_on):
    put(folder, "film.mp4")
    let_the_clock_move_on()
    first = MediaLibrary(folder, cache=cache).fingerprint(only_file(MediaLibrary(folder)))
    cache.unlink()
    assert MediaLibrary(folder, cache=cache).fingerprint(only_file(MediaLibrary(folder))) == first
    assert cache.exists()


@pytest.mark.parametrize("content", [b"this is no database" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_broken_cache_file_is_replaced(folder, cache, reads, content, let_the_clock_move_on):
    put(folder, "film.mp4")
    let_the_clock_move_on()
    cache.parent.mkdir()
    cache.write_bytes(content)
    for _ in range(2):
        library = MediaLibrary(folder, cache=cache)
        assert library.fingerprint(only_file(library)) == hashlib.sha256(b"content").hexdigest()[:32]
    assert reads == ["film.mp4"]


def test_a_cache_file_that_breaks_in_its_middle_is_replaced_while_it_is_used(
    folder, cache, reads, let_the_clock_move_on
):
    for number in range(300):
        put(folder, f"{number}.mp4", b"%d" % number)
    let_the_clock_move_on()
    library = MediaLibrary(folder, cache=cache)
    files = library.list(now=time.time() + 60).files
    whole = library.fingerprints(files)
    page = 4096
    assert cache.stat().st_size > 4 * page
    cache.write_bytes(cache.read_bytes()[:page] + os.urandom(cache.stat().st_size - page))
    for _ in range(2):
        assert MediaLibrary(folder, cache=cache).fingerprints(files) == whole
    assert len(reads) == 2 * 300, "read again once, then remembered again"


def test_a_cache_that_cannot_be_written_costs_only_reading(folder, tmp_path):
    put(folder, "film.mp4")
    put(tmp_path, "a file")
    library = MediaLibrary(folder, cache=tmp_path / "a file" / "cache.sqlite")
    assert library.fingerprint(only_file(library)) == hashlib.sha256(b"content").hexdigest()[:32]


def test_several_processes_share_one_cache(folder, cache, let_the_clock_move_on):
    for number in range(40):
        put(folder, f"{number}.mp4", bytes([number]) * 1000)
    let_the_clock_move_on()
    program = (
        "import sys, time; from embed_pipeline.media import MediaLibrary\n"
        "library = MediaLibrary(sys.argv[1], cache=sys.argv[2])\n"
        "print(sorted(library.fingerprints(library.list(time.time() + 60).files).items()))"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", program, folder, cache], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len(outputs) == 1
    assert outputs.pop().count("mp4") == 40


def test_a_file_that_cannot_be_read_is_reported_and_the_others_go_on(folder, cache):
    put(folder, "good.mp4")
    put(folder, "bad.mp4")
    library = MediaLibrary(folder, cache=cache)
    files = library.list(now=time.time() + 60).files
    (folder / "bad.mp4").unlink()
    problems: dict[str, MediaError] = {}
    found = library.fingerprints(files, on_problem=lambda file, error: problems.update({file.key: error}))
    assert set(found) == {"good.mp4"}
    assert set(problems) == {"bad.mp4"}
    assert "not in the media library" in problems["bad.mp4"].message


def test_a_file_that_grows_while_it_is_read_is_left_for_later(folder, cache, monkeypatch):
    path = put(folder, "film.mp4", b"x" * 100)
    really_open = FolderStore.open

    def open_and_grow(self, file):
        stream = really_open(self, file)
        with path.open("ab") as growing:
            growing.write(b"more")
        return stream

    monkeypatch.setattr(FolderStore, "open", open_and_grow)
    library = MediaLibrary(folder, cache=cache)
    with pytest.raises(MediaError, match="written to while it was read"):
        library.fingerprint(only_file(library))


def test_what_does_not_fit_into_the_time_is_read_on_and_there_at_the_next_call(
    folder, cache, monkeypatch, let_the_clock_move_on
):
    for number in range(6):
        put(folder, f"{number}.mp4")
    let_the_clock_move_on()
    go_on = threading.Event()
    really_open = FolderStore.open

    def open_slowly(self, file):
        if file.path == "0.mp4":
            go_on.wait(30)
        return really_open(self, file)

    monkeypatch.setattr(FolderStore, "open", open_slowly)
    library = MediaLibrary(folder, cache=cache)
    files = library.list(now=time.time() + 60).files
    started = time.monotonic()
    first = library.fingerprints(files, budget_sec=0.5)
    assert time.monotonic() - started < 5
    assert "0.mp4" not in first
    assert set(first) == {f"{number}.mp4" for number in range(1, 6)}, "one slow file holds nobody up"
    assert "0.mp4" not in library.fingerprints(files, budget_sec=0.2), "it is not read twice at once"
    go_on.set()
    deadline = time.monotonic() + 20
    while len(library.fingerprints(files, budget_sec=0)) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_time_at_all_gives_what_is_known(folder, cache, reads, let_the_clock_move_on):
    put(folder, "film.mp4")
    let_the_clock_move_on()
    library = MediaLibrary(folder, cache=cache)
    assert library.fingerprints([only_file(library)], budget_sec=0) == {}
    library.fingerprint(only_file(library))
    assert len(library.fingerprints([only_file(library)], budget_sec=0)) == 1
