"""The local development stack: the emulator, Dagster's daemon and its UI, ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

from rich.console import Console
from rich.text import Text

from embed_pipeline.commands.context import CommandContext
from embed_pipeline.commands.demo import listed, prepared
from embed_pipeline.commands.platform import platform_of
from embed_pipeline.commands.signals import interrupted_in_order
from embed_pipeline.errors import ConfigurationError

_ENDS_WITHIN_SEC = 20


def run_dev(context: CommandContext, port: int, console: Console) -> int:
    """Run Dagster's UI and daemon over a media library until it is interrupted.

    Args:
        context: Where the pipeline is: a project of the local commands.
        port: The UI's port on loopback.
        console: Where to say where things are.

    Returns:
        Dagster's exit code.

    Raises:
        ConfigurationError: The port is taken, the home cannot be written, or a variable makes no sense.
        MediaError: The library is missing, or cannot be read.
    """
    _require_free(port)
    project = prepared(context, console)
    listed(context)
    project.require_writable()
    project.dagster_home()
    with platform_of(context, console) as (complete, _):
        environment = dict(complete.environment)
        environment.setdefault("EMBED_SENSOR_INTERVAL", "15")
        watching = Text.assemble("Watching ", (project.location, "bold"))
        console.print(watching + (": drop a file there, or replace one." if project.folder else "."), soft_wrap=True)
        console.print(f"Dagster's UI: [bold]http://127.0.0.1:{port}[/]")
        # Its debug lines of every tick would bury the address; its own command warns that a newer one is coming.
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-m", "embed_pipeline.definitions"]
        command += ["--log-level", "warning"]
        with interrupted_in_order():
            # Our own interpreter with our own arguments; no shell. A session of its own lets us end it in order, with
            # every process it started, whoever interrupts us and however.
            process = subprocess.Popen(  # noqa: S603
                [*command, "-h", "127.0.0.1", "-p", str(port)], env=environment, start_new_session=True
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


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} is taken by another program. Name another one, as in: make dev PORT={port + 1}"
            ) from error
