"""Speech recognition, while the sound comes in."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from embed_pipeline.emulator.engine.failure import TASK_FAILED, MediaFailure
from embed_pipeline.emulator.engine.models.weights import weight_file
from embed_pipeline.emulator.engine.request import FloatArray
from embed_pipeline.emulator.engine.stream import SAMPLE_RATE, Caption, Sound
from embed_pipeline.emulator.engine.wire import WireError, receive, send

_PIECE_SEC = 40.0
_LOOK_BACK_SEC = 10.0
_BLOCK = SAMPLE_RATE // 10

_FILES = {
    "encoder_model.ort": "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
    "decoder_model_merged.ort": "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
    "tokenizer.bin": "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
}


def speech_weights() -> Path:
    """Return the folder of Moonshine tiny, for English.

    Raises:
        ConfigurationError: The extra `models` is not installed, or its weights are others than expected.
        ImportError: Moonshine has no library for this platform.
    """
    folder = Path()
    for name, digest in _FILES.items():
        folder = weight_file("moonshine_voice", f"assets/tiny-en/{name}", digest).parent
    if importlib.util.find_spec("moonshine_voice.transcriber") is None:
        raise ImportError("moonshine_voice has no transcriber")
    return folder


class Transcription:
    """Transcribes the sound of one file piece by piece, divided where it is quietest.

    Moonshine runs in a process of its own that ends with the file: its voice detector keeps state, and would otherwise
    transcribe the same file differently after another one. Decoding goes on meanwhile.

    Args:
        weights: Where Moonshine's files are.
    """

    def __init__(self, weights: Path) -> None:
        # What was said so far.
        self.captions: list[Caption] = []
        self._samples: list[FloatArray] = []
        self._start = self._end = 0.0
        self._count = 0
        self._asked = False
        self._process = subprocess.Popen(  # noqa: S603 - our own module, and a folder of our own finding
            [sys.executable, "-m", "embed_pipeline.emulator.engine.models.speech", str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def add(self, sound: Sound) -> None:
        """Take in the next stretch of sound."""
        if self._count and abs(sound.time - self._end) > 0.5:
            self._write(self._count)
        if not self._count:
            self._start = sound.time
        self._samples.append(sound.samples)
        self._count += len(sound.samples)
        self._end = sound.end
        if self._count >= _PIECE_SEC * SAMPLE_RATE:
            self._write(self._quietest())

    def finish(self) -> None:
        """Wait until everything is transcribed."""
        if self._count:
            self._write(self._count)
        self._collect()
        self.close()

    def close(self) -> None:
        """End the child process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                cast("BinaryIO", pipe).close()
        self._process.wait()

    def _quietest(self) -> int:
        tail = np.concatenate(self._samples)[-int(_LOOK_BACK_SEC * SAMPLE_RATE) :]
        blocks = tail[: len(tail) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
        return self._count - len(tail) + int(np.argmin((blocks**2).mean(axis=1))) * _BLOCK + _BLOCK // 2

    def _write(self, count: int) -> None:
        self._collect()
        samples = np.concatenate(self._samples)
        try:
            send(cast("BinaryIO", self._process.stdin), {"start": self._start}, samples[:count])
        except OSError as error:
            raise self._failure(error) from error
        self._asked = True
        self._start += count / SAMPLE_RATE
        self._samples = [samples[count:]]
        self._count = len(samples) - count

    def _collect(self) -> None:
        if not self._asked:
            return
        try:
            answer = receive(cast("BinaryIO", self._process.stdout))
            if answer is None:
                raise WireError("it has ended")
            self.captions += [Caption(float(start), float(end), str(text)) for start, end, text in answer[0]["lines"]]
        except (WireError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._failure(error) from error
        self._asked = False

    def _failure(self, error: Exception) -> MediaFailure:
        self.close()
        return MediaFailure(TASK_FAILED, permanent=False, detail=f"the process that transcribes speech failed: {error}")


def main() -> None:
    """Transcribe what the parent sends, until it closes the pipe."""
    from moonshine_voice import ModelArch
    from moonshine_voice.transcriber import Transcriber

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the library prints must not end up among the messages
    transcriber = Transcriber(sys.argv[1], ModelArch.TINY, options={"return_audio_data": "false"})
    while (message := receive(sys.stdin.buffer)) is not None:
        head, (samples,) = message
        lines = [
            (head["start"] + line.start_time, head["start"] + line.start_time + max(line.duration, 0.1), line.text)
            for line in transcriber.transcribe_without_streaming(samples.tolist(), SAMPLE_RATE).lines
            if line.text.strip()
        ]
        send(answers, {"lines": lines})
    os._exit(0)


if __name__ == "__main__":
    main()
