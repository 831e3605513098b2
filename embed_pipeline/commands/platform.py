"""The platform that a command talks to: the configured one, or the emulator, started where it does not run already."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from embed_pipeline.commands.context import CommandContext
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.orchestration.resources import EmbedClientResource

_ANSWERS_WITHIN_SEC = 20.0
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
        media_root: The folder below which it may read `file://` sources; None for nowhere.
        port: The port on loopback; 0 for any that is free.
        engine: What computes the vectors.
        instant_duration_sec: With the engine `instant`: take every source for media of this length, unread.
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


@contextmanager
def platform_of(context: CommandContext, console: Console) -> Iterator[tuple[CommandContext, bool]]:
    """Give a context its platform.

    Args:
        context: Where the pipeline is.
        console: Where to say which platform it is.

    Yields:
        The context with the platform in its environment, and whether that platform ends with this command.
    """
    if context.project is None or (configured := configured_platform(context.environment)) is not None:
        if context.project is not None:
            console.print(Text(f"Using the platform at {configured}"))
        yield context, False
        return
    state = context.project.emulator_state
    if url := running_emulator(state):
        console.print(f"Using the emulator that runs at {url}")
        yield replace(context, environment={**context.environment, "EMBED_BASE_URL": url}), False
        return
    with emulator_process(state=state, media_root=context.project.folder) as url:
        console.print(f"No EMBED_API_KEY is set: using the emulator at {url}")
        yield replace(context, environment={**context.environment, "EMBED_BASE_URL": url}), True


def configured_platform(environment: Mapping[str, str]) -> str | None:
    """The host of the platform that the environment names; None where it names none.

    Args:
        environment: The variables that describe the pipeline.
    """
    from embed_pipeline.orchestration.environment import API_KEY_VARIABLES, BASE_URL_VARIABLES

    for name in BASE_URL_VARIABLES:
        if url := environment.get(name):
            # Without what an address may hold of a secret.
            return urlsplit(url).netloc.rpartition("@")[2] or url
    return "api.twelvelabs.io" if any(environment.get(name) for name in API_KEY_VARIABLES) else None


def require_answer(resource: EmbedClientResource) -> None:
    """Make sure that the platform answers and takes the key, before any work is begun that it would end.

    Args:
        resource: The platform's client.

    Raises:
        ApiError: It refuses.
        ConfigurationError: It cannot be reached.
    """
    from embed_pipeline.client import ConnectionFailedError

    with resource.client() as client:
        try:
            client.v_2.tasks.list(
                page_limit=1, request_options={"timeout_in_seconds": _ANSWERS_WITHIN_SEC, "max_retries": 1}
            )
        except ConnectionFailedError as error:
            raise ConfigurationError(f"The platform cannot be reached. Check EMBED_BASE_URL. {error}") from error
