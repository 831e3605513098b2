from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from embed_pipeline.emulator import EmulatorSettings, Sizes, Switches, Timing
from embed_pipeline.emulator.server import Emulator, listen, main
from embed_pipeline.emulator.state.results import EmbeddingResult
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.emulator.conftest import TASKS, video_request

INSTANT = ("--engine", "instant", "--instant-duration", "60")
pytestmark = pytest.mark.server


@contextmanager
def process(*arguments: str, **options):
    """An emulator as a process of its own; yields it and a client of it."""
    command = [sys.executable, "-m", "embed_pipeline.emulator", *arguments]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        address = running.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), running.stderr.read()
        with httpx.Client(base_url=address, headers={"x-api-key": "k"}) as http:
            yield running, http
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
        running.stderr.close()


def wait_until(question, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_prints_its_address_and_ends_in_order():
    with process(*INSTANT) as (running, http):
        assert http.get(TASKS).status_code == 200
        assert str(http.base_url).rstrip("/").endswith("/v1.3")
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
        assert running.stdout.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_however_it_was_started(number):
    """A shell starts jobs in the background with SIGINT ignored, and nohup does so with others."""

    def ignore_and_block() -> None:
        signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    with process(*INSTANT, preexec_fn=ignore_and_block) as (running, _):
        running.send_signal(number)
        assert running.wait(timeout=20) == 0


def test_only_names_of_this_machine_are_served():
    def status(server: Emulator, host: str, path: str = "/v1.3/embed-v2/tasks") -> int:
        origin = server.base_url.removesuffix("/v1.3")
        return httpx.get(f"{origin}{path}", headers={"host": host, "x-api-key": "k"}).status_code

    paths = (
        "/v1.3/embed-v2/tasks",
        "/_emulator/journal",
        "/_emulator/status",
        "/_upload/a/1",
        "/",
    )
    settings = EmulatorSettings(engine="instant", allowed_hosts=("Emulator",))
    with Emulator(settings) as server:
        for host in (
            "localhost",
            "LOCALHOST:80",
            "localhost.",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:80",
            "emulator:9",
        ):
            assert status(server, host) == 200, host
        for host in (
            "evil.example",
            "localhost.evil.example",
            "192.168.0.1",
            "0.0.0.0",
            "",
            "127.0.0.1.evil.example",
            "[::2]",
        ):
            assert status(server, host) == 421, host
        assert {status(server, "evil.example", path) for path in paths} == {421}
        # Nothing of it is recorded: such requests never reached the platform.
        assert {entry["status"] for entry in server.platform.journal.entries()} == {200}


def test_a_killed_emulator_loses_nothing(tmp_path):
    state = ("--state", str(tmp_path / "state"))
    with process(*INSTANT, *state, "--hold") as (running, http):
        ids = [http.post(TASKS, json=video_request()).json()["_id"] for _ in range(3)]
        control = str(http.base_url).replace("/v1.3", "/_emulator")
        httpx.post(f"{control}tasks/{ids[0]}/release")
        wait_until(lambda: http.get(f"{TASKS}/{ids[0]}").json()["status"] == "ready")
        before, first = http.get(f"{TASKS}/{ids[0]}").json(), http.base_url.port
        running.send_signal(signal.SIGKILL)
        running.wait()
    with process(*INSTANT, *state) as (_, http):
        assert http.get(f"{TASKS}/{ids[0]}").json() == before
        assert [item["_id"] for item in http.get(TASKS).json()["data"]] == ids[::-1]
        # What was paid for is told even though the process had no time to bring its journal to disk.
        summary = http.get(f"{control}journal/summary".replace(str(first), str(http.base_url.port))).json()
        assert summary["tasks_created"] == 3
        assert list(summary["repeated_sources"].values()) == [3]


def test_work_that_was_interrupted_is_taken_up_again(tmp_path):
    settings = EmulatorSettings(state=tmp_path / "state", media_root=tmp_path, workers=1)
    (tmp_path / "a.mp4").touch()
    stop = threading.Event()

    def never(path, request):
        stop.wait(30)
        raise RuntimeError("interrupted")

    with Emulator(settings, compute=never) as server, httpx.Client(headers={"x-api-key": "k"}) as http:
        url = f"{server.base_url}{TASKS}"
        task_id = http.post(url, json=video_request(f"file://{tmp_path}/a.mp4")).json()["_id"]
        wait_until(lambda: server.platform.store.get(task_id).work == "working")
        # Requests are answered although the only worker is busy.
        assert http.get(f"{url}/{task_id}").json()["status"] == "processing"
        server.platform.workers.stop(timeout=0.01)
    stop.set()

    with Emulator(settings, compute=one_row) as server, httpx.Client(headers={"x-api-key": "k"}) as http:
        url = f"{server.base_url}{TASKS}/{task_id}"
        wait_until(lambda: http.get(url).json()["status"] == "ready")


def test_uploads_outlive_a_restart(tmp_path, media_folder):
    settings = EmulatorSettings(state=tmp_path / "state", engine="instant", sizes=Sizes(chunk=100_000))
    media = (media_folder / "tone.wav").read_bytes()
    with Emulator(settings) as server, httpx.Client(headers={"x-api-key": "k"}) as http:
        form = {"data": {"method": "direct"}, "files": {"file": ("tone.wav", media)}}
        asset_id = http.post(f"{server.base_url}/assets", **form).json()["_id"]
        opened = {"filename": "a.wav", "type": "audio", "total_size": len(media)}
        session = http.post(f"{server.base_url}/assets/multipart-uploads", json=opened).json()
        origin = server.base_url.removesuffix("/v1.3")
        first, second = (entry["url"].removeprefix(origin) for entry in session["upload_urls"])
        proofs = [httpx.put(f"{origin}{first}", content=media[:100_000]).headers["etag"]]
    modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "state").iterdir() if path.name != "lock"}
    assert set(modes.values()) == {0}, modes
    with Emulator(settings) as server, httpx.Client(headers={"x-api-key": "k"}) as http:
        origin = server.base_url.removesuffix("/v1.3")
        proofs.append(httpx.put(f"{origin}{second}", content=media[100_000:]).headers["etag"])
        chunks = [
            {"chunk_index": number, "proof": proof, "proof_type": "etag", "chunk_size": size}
            for number, proof, size in zip((1, 2), proofs, (100_000, len(media) - 100_000), strict=True)
        ]
        path = f"{server.base_url}/assets/multipart-uploads/{session['upload_id']}"
        assert "url" in http.post(path, json={"completed_chunks": chunks}).json()
        for item in (asset_id, session["asset_id"]):
            wait_until(lambda item=item: http.get(f"{server.base_url}/assets/{item}").json()["status"] == "ready")


def one_row(path: Path | None, request) -> EmbeddingResult:
    return EmbeddingResult(
        engine="stand-in",
        duration_sec=30.0,
        labels=(("visual", "asset"),),
        start_sec=np.array([0.0]),
        end_sec=np.array([30.0]),
        vectors=np.full((1, 512), 512**-0.5, np.float32),
        uncertainty=None,
        missing={"audio": "there is none"},
    )


def test_an_engine_that_breaks_fails_the_task_and_not_the_worker(tmp_path):
    media = tmp_path / "a.mp4"
    media.touch()
    calls = []

    def breaks_once(path, request):
        calls.append(path)
        if len(calls) == 1:
            raise ZeroDivisionError
        return one_row(path, request)

    settings = EmulatorSettings(media_root=tmp_path, workers=1, switches=Switches(missing_modality="fail"))
    for switches, last in ((Switches(), "ready"), (Switches(missing_modality="fail"), "failed")):
        calls.clear()
        with Emulator(replace(settings, switches=switches), compute=breaks_once) as server:
            http = httpx.Client(base_url=server.base_url, headers={"x-api-key": "k"})
            ids = [http.post(TASKS, json=video_request(f"file://{media}")).json()["_id"] for _ in range(2)]
            wait_until(lambda: not server.platform.store.unfinished())
            first, second = (http.get(f"{TASKS}/{task_id}").json() for task_id in ids)
            assert (first["status"], second["status"]) == ("failed", last)
            assert first["error"]["message"] == "The embedding task failed. Please try again later."


def test_real_media_is_embedded_by_the_real_engine(media_folder):
    url = f"file://{quote(str(media_folder / 'silent film.mp4'))}"
    with Emulator(EmulatorSettings(media_root=media_folder, workers=1)) as server:
        http = httpx.Client(base_url=server.base_url, headers={"x-api-key": "k"})
        cut = {"segmentation": {"strategy": "fixed", "fixed": {"duration_sec": 5}}}
        task_id = http.post(TASKS, json=video_request(url, **cut)).json()["_id"]
        broken = http.post(TASKS, json=video_request(f"file://{media_folder}/text.mp4")).json()["_id"]
        wait_until(lambda: not server.platform.store.unfinished(), 60)
        done = http.get(f"{TASKS}/{task_id}").json()
        assert done["status"] == "ready"
        # The film is silent: what it lacks is left out, and the metadata says why.
        assert {row["embedding_option"] for row in done["data"]} == {"visual"}
        assert set(done["metadata"]["embedding_missing"]) == {"audio", "transcription"}
        assert done["metadata"]["embedding_engine"].startswith("signal-")
        spans = [(row["start_sec"], row["end_sec"]) for row in done["data"] if row["embedding_scope"] == "clip"]
        assert [start for start, _ in spans] == [0.0, 5.0, 10.0]
        assert spans[-1][1] == pytest.approx(12.0, abs=0.25)
        failed = http.get(f"{TASKS}/{broken}").json()
        assert failed["error"]["message"].startswith("We could not process your media")


def test_a_taken_port_is_one_clear_sentence(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port), *INSTANT]) == 2
    told = capsys.readouterr().err
    assert f"port {port}" in told
    assert told.count("\n") == 1


def test_two_emulators_do_not_share_a_state_folder(tmp_path, capsys):
    with Emulator(EmulatorSettings(state=tmp_path)):
        assert main(["--state", str(tmp_path), *INSTANT]) == 2
    assert "in use by another emulator" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--media-root", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--faults", "/nowhere/faults.json"], "/nowhere/faults.json"),
        (["--switch", "colour=red"], "colour"),
        (["--engine", "steam"], "steam"),
        (["--port", "99999"], "port"),
        (["--workers", "0"], "workers"),
        (["--ready-after", "-1"], "after_sec"),
        (["--switch", "gzip=perhaps"], "true or false"),
        (["--switch", "error_shape=round"], "nested"),
        (["--host", "300.1.1.1"], "300.1.1.1"),
        (["--state", "/proc/none"], "/proc/none"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(arguments, names, capsys):
    assert main([*INSTANT, *arguments]) == 2
    assert names in capsys.readouterr().err


def test_an_engine_whose_module_is_not_there_is_refused_at_the_start(capsys):
    assert main(["--engine", "no_such_package.engines:steam"]) == 2
    assert "'no_such_package.engines:steam' cannot be loaded" in capsys.readouterr().err


def test_fault_files_and_switches_are_read(tmp_path):
    faults = tmp_path / "faults.json"
    faults.write_text('{"seed": 7, "faults": [{"kind": "status", "status": 429, "on": "create", "retry_after": 3}]}')
    with process(*INSTANT, "--faults", str(faults), "--switch", "error_shape=flat") as (_, http):
        answer = http.post(TASKS, json=video_request())
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
        assert answer.json()["code"] == "too_many_requests"


def test_other_machines_are_warned_about():
    with pytest.warns(UserWarning, match="made for this machine alone"):
        listen("0.0.0.0", 0).close()


def test_an_emulator_in_a_thread_starts_stops_and_cleans_up():
    server = Emulator(EmulatorSettings(engine="instant", instant_duration_sec=60, timing=Timing(after_sec=1)))
    with pytest.raises(ConfigurationError, match="start"):
        _ = server.base_url
    with server:
        folder = server.platform.folder
        assert httpx.get(f"{server.control_url}/status").json()["engine"] == "instant"
        assert folder.is_dir()
    assert not folder.exists()
    with server:
        assert httpx.get(f"{server.control_url}/status").status_code == 200


def test_a_client_that_hangs_up_in_its_request_is_no_error():
    with process(*INSTANT) as (running, http):
        head = "POST /v1.3/embed-v2/tasks HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\ncontent-length: 999\r\n\r\n"
        with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
            connection.sendall(head.encode() + b'{"input_type"')
            time.sleep(0.3)
        assert http.get(TASKS).status_code == 200
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=20)
        assert "Traceback" not in running.stderr.read()


def test_an_upload_without_an_announced_size_is_read_no_further_than_its_bound():
    def long():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(200):
            yield bytes(1 << 16)

    settings = EmulatorSettings(engine="instant", sizes=Sizes(direct_upload=1000))
    headers = {"x-api-key": "k", "content-type": "multipart/form-data; boundary=b"}
    with Emulator(settings) as server:
        answer = httpx.post(f"{server.base_url}/assets", content=long(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "video_filesize_too_large")
        (entry,) = server.platform.journal.entries(endpoint="asset_create")
    assert entry["bytes_in"] < 2 << 20
