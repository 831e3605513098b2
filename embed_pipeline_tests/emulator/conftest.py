from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from embed_pipeline.emulator import EmulatorSettings
from embed_pipeline.testing import InProcessEmulator

TASKS = "/embed-v2/tasks"


class Caller:
    """An in-process emulator and a bare HTTP client of it."""

    def __init__(self, emulator: InProcessEmulator) -> None:
        self.emulator = emulator
        self.http = httpx.Client(
            base_url=emulator.base_url, transport=emulator.transport(), headers={"x-api-key": "tlk_secret"}
        )

    def control(self, method: str, path: str, body: Any = None) -> httpx.Response:
        origin = self.emulator.base_url.removesuffix("/v1.3")
        return self.http.request(method, f"{origin}/_emulator{path}", json=body)

    def create(self, url: str = "https://media.example.com/a.mp4", **video: Any) -> httpx.Response:
        return self.http.post(TASKS, json=video_request(url, **video))

    def created(self, url: str = "https://media.example.com/a.mp4", **video: Any) -> str:
        answer = self.create(url, **video)
        assert answer.status_code == 202, answer.text
        return answer.json()["_id"]

    def retrieve(self, task_id: str) -> dict[str, Any]:
        return self.http.get(f"{TASKS}/{task_id}").json()

    def finished(self, task_id: str) -> dict[str, Any]:
        self.emulator.finish(task_id)
        return self.retrieve(task_id)


def video_request(url: str = "https://media.example.com/a.mp4", **video: Any) -> dict[str, Any]:
    return {"input_type": "video", "model_name": "marengo3.0", "video": {"media_source": {"url": url}, **video}}


@pytest.fixture
def start() -> Iterator[Callable[..., Caller]]:
    """Starts in-process emulators: `start()` with the test settings, `start(settings)` with others."""
    with ExitStack() as stack:

        def starter(settings: EmulatorSettings | None = None, **options: Any) -> Caller:
            return Caller(stack.enter_context(InProcessEmulator(settings, **options)))

        yield starter


@pytest.fixture
def emulator(start: Callable[..., Caller]) -> Caller:
    return start()


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a silent video of twelve seconds, a tone of eight, and text that pretends to be a video."""
    folder = tmp_path_factory.mktemp("media")
    with av.open(str(folder / "silent film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
        for number in range(60):
            picture = np.full((360, 480, 3), number * 4, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(folder / "tone.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        wave = (np.sin(np.arange(8 * 8000) * 0.3) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "text.mp4").write_text("this is no video" * 100)
    return folder
