"""The child process that decodes: takes one file at a time from its parent, under limits; run with `python -m`."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from embed_pipeline.emulator.engine.failure import MediaFailure
from embed_pipeline.emulator.engine.registry import load_engine, run
from embed_pipeline.emulator.engine.request import EngineLimits
from embed_pipeline.emulator.engine.wire import WireError, pack_result, receive, send, unpack_request
from embed_pipeline.errors import ConfigurationError

_PROGRESS_SEC = 0.5


def main() -> None:
    """Serve the parent until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up among the messages.
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(5)  # The server that waits for us goes first.
    _limit_core()
    questions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    send(answers, {"kind": "ready"})
    while True:
        _serve(questions.get(), answers)


def _listen(pipe: BinaryIO, questions: queue.SimpleQueue[dict[str, Any]]) -> None:
    # A thread of its own, so that a parent that dies takes a busy child along.
    with contextlib.suppress(WireError, OSError):
        while (message := receive(pipe)) is not None:
            questions.put(message[0])
    os._exit(0)


def _serve(question: dict[str, Any], answers: BinaryIO) -> None:
    told = time.monotonic()

    def progress(media_sec: float) -> None:
        nonlocal told
        if time.monotonic() - told >= _PROGRESS_SEC:
            told = time.monotonic()
            send(answers, {"kind": "progress", "media_sec": media_sec})

    try:
        limits = EngineLimits(**question["limits"])
        engine = load_engine(question["engine"])
        _limit_memory(limits.memory_bytes)
        result = run(engine, Path(question["path"]), unpack_request(question["request"]), limits, progress)
        head, arrays = pack_result(result)
        send(answers, {"kind": "result", **head}, *arrays)
    except MediaFailure as failure:
        send(
            answers,
            {
                "kind": "failure",
                "message": failure.message,
                "permanent": failure.permanent,
                "detail": failure.detail,
            },
        )
    except ConfigurationError as error:
        send(answers, {"kind": "configuration", "message": error.message})
    except MemoryError:
        send(answers, {"kind": "memory"})
    except Exception:
        send(answers, {"kind": "error", "detail": traceback.format_exc()[-4000:]})


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: time and crashes are still watched, memory is not.
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def _limit_core() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
