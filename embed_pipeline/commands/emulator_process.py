"""The emulator as a process of its own, started and ended by the local commands."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from embed_pipeline.errors import ConfigurationError

_ENDS_WITHIN_SEC = 10
_ADDRESS = "address"


@contextmanager
def emulator_process(
    *,
    state: Path,
    media_root: Path | None,
    port: int = 0,
    engine: str = "signal",
    instant_duration_sec: float | None = None,
    hold: bool = False,
) -> Iterator[str]:
    """Run the emulator until the block ends.

    Args:
        state: Where it keeps tasks and results; what is there from an earlier run is taken up again.
        media_root: The folder below which it may read ``file://`` sources; None for nowhere.
        port: The port on loopback; 0 for any that is free.
        engine: What computes the vectors.
        instant_duration_sec: With the engine ``instant``: take every source for media of this length, unread.
        hold: Whether tasks stay in processing until the control API releases them.

    Yields:
        Its base URL.

    Raises:
        ConfigurationError: It did not start; the message has its words.
    """
    state.mkdir(parents=True, exist_ok=True)
    log = (state / "emulator.log").open("ab")
    # Our own module with our own paths; no shell.
    process = subprocess.Popen(  # noqa: S603
        [
            sys.executable,
            "-m",
            "embed_pipeline.emulator",
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--state", str(state), "--engine", engine),
            *(("--media-root", str(media_root)) if media_root is not None else ()),
            *(("--hold",) if hold else ()),
            *(("--instant-duration", str(instant_duration_sec)) if instant_duration_sec is not None else ()),
        ],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        line = process.stdout.readline().strip() if process.stdout else ""
        if not line:
            process.wait(_ENDS_WITHIN_SEC)
            words = (state / "emulator.log").read_text(errors="replace").strip().splitlines()
            raise ConfigurationError(f"The emulator did not start: {words[-1] if words else 'it said nothing'}")
        url = next(word for word in line.split() if word.startswith("http"))
        (state / _ADDRESS).write_text(url)
        try:
            yield url
        finally:
            (state / _ADDRESS).unlink(missing_ok=True)
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def running_emulator(state: Path) -> str | None:
    """The base URL of the emulator that another local command runs over this state; None where none answers.

    Args:
        state: Where it keeps tasks and results.
    """
    try:
        url = (state / _ADDRESS).read_text().strip()
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2):
            return url
    except (OSError, ValueError):
        return None
