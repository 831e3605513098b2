"""The local development stack: the emulator, Dagster's daemon and its UI, ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from embed_pipeline.commands.demo import make_samples, platform_environment
from embed_pipeline.commands.workplace import Workplace
from embed_pipeline.errors import ConfigurationError

_ENDS_WITHIN_SEC = 20


def run_dev(media: Path | None, home: Path, port: int, console: Console) -> int:
    """Run Dagster's UI and daemon over a media folder until it is interrupted.

    Args:
        media: The folder; None for the sample library, which is made if it is not there.
        home: Where the local commands keep what they need.
        port: The UI's port on loopback.
        console: Where to say where things are.

    Returns:
        Dagster's exit code.

    Raises:
        ConfigurationError: The port is taken, or the folder is not there.
    """
    place = Workplace.for_library(home, media)
    _require_free(port)
    if media is None:
        make_samples(place.media, console)
    elif not place.media.is_dir():
        raise ConfigurationError(f"The media folder {place.media} is not there. Name one that is.")
    environment = {**os.environ, "EMBED_MEDIA": str(place.media), "DAGSTER_HOME": str(place.dagster_home())}
    environment.setdefault("EMBED_OUTPUT", str(place.dataset))
    environment.setdefault("EMBED_SENSOR_INTERVAL", "15")
    with platform_environment(place, environment, console) as complete:
        console.print(f"Watching [bold]{place.media}[/]: drop a file there, or replace one.")
        console.print(f"Dagster's UI: [bold]http://127.0.0.1:{port}[/]")
        command = [sys.executable, "-m", "dagster", "dev", "-m", "embed_pipeline.definitions"]
        with _interruptible():
            # Our own interpreter with our own arguments; no shell. A session of its own lets us end it in order, with
            # every process it started, whoever interrupts us and however.
            process = subprocess.Popen(  # noqa: S603
                [*command, "-h", "127.0.0.1", "-p", str(port)], env=complete, start_new_session=True
            )
            try:
                return process.wait()
            except KeyboardInterrupt:
                console.print("Stopping.")
                return _end(process)


def _end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_ENDS_WITHIN_SEC)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end things in the same order as Ctrl+C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} is taken by another program. Name another one, as in: make dev PORT={port + 1}"
            ) from error
