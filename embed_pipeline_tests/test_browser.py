"""What a person does in Dagster's UI, by clicking, against the stack that ``embed-pipeline dev`` runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from embed_pipeline_tests.browser import browser, button, missing, open_ui, text, wait_for
from embed_pipeline_tests.world import write_sound

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(300),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[str]:
    """The development stack over two media files that nobody submits unasked; the address of its UI."""
    pytest.importorskip("dagster_webserver")
    media, log = tmp_path / "media", tmp_path / "dev.log"
    for seed, name in enumerate(("one.wav", "two.wav")):
        write_sound(media / name, seed)
        os.utime(media / name, (time.time() - 60,) * 2)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("EMBED_", "TWELVE", "DAGSTER_"))
    }
    environment = {**inherited, "EMBED_SUBMIT_AUTOMATICALLY": "false", "EMBED_SENSOR_INTERVAL": "5"}
    port = _free_port()
    arguments = ["dev", "--media", str(media), "--home", str(tmp_path / "home"), "--port", str(port)]
    with log.open("w") as output:
        stack = subprocess.Popen(
            [sys.executable, "-m", "embed_pipeline.cli", *arguments], env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert stack.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"the UI did not start:\n{log.read_text()[-3000:]}"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        stack.send_signal(signal.SIGINT)
        stack.wait(60)


def test_one_partition_is_materialized_by_clicking_and_turns_green(ui: str, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as chrome:
        open_ui(chrome, ui)
        wait_for(chrome, _partition_page(ui, "embedding_tasks", "two.wav"), "the partition that discovery adds", 90)
        wait_for(chrome, text("Missing (2)"), "two media files without a task")

        wait_for(chrome, button("Materialize"), "the button Materialize").click()
        wait_for(chrome, button("Launch 1 run"), "the button Launch 1 run").click()

        wait_for(chrome, text("Materialized (1)"), "the partition turn green", 120)
        wait_for(chrome, _partition_page(ui, "embedding_tasks", "two.wav", "embed_pipeline/task_id"), "its task's id")
        assert text("Missing (1)")(chrome), "the other media file is left alone"
        # Nobody clicks for the result: the sensor notices that it is ready.
        collected = _partition_page(ui, "segment_embeddings", "two.wav", "embed_pipeline/timeline")
        wait_for(chrome, collected, "the timeline of its segments", 120)
        assert text("Materialized (1)")(chrome)


def _partition_page(ui: str, asset: str, key: str, shows: str = ""):
    """Whether a partition's page shows something, loaded anew at each look."""

    def look(chrome) -> bool:
        chrome.get(f"{ui}/assets/{asset}?view=partitions&partition={key}")
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if text(key)(chrome) and text(shows)(chrome):
                return True
            time.sleep(0.3)
        return False

    return look
