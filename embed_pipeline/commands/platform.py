"""The platform that a command talks to: the configured one, or the emulator, started where it does not run already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from embed_pipeline.commands.emulator_process import emulator_process, running_emulator
from embed_pipeline.commands.opening import Place
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.orchestration.resources import EmbedClientResource

_ANSWERS_WITHIN_SEC = 20.0


@contextmanager
def platform_of(place: Place, console: Console) -> Iterator[tuple[Place, bool]]:
    """Give a place its platform.

    Args:
        place: Where the pipeline is.
        console: Where to say which platform it is.

    Yields:
        The place with the platform in its environment, and whether that platform ends with this command.
    """
    if place.workplace is None or (configured := configured_platform(place.environment)) is not None:
        if place.workplace is not None:
            console.print(Text(f"Using the platform at {configured}"))
        yield place, False
        return
    state = place.workplace.emulator_state
    if url := running_emulator(state):
        console.print(f"Using the emulator that runs at {url}")
        yield replace(place, environment={**place.environment, "EMBED_BASE_URL": url}), False
        return
    with emulator_process(state=state, media_root=place.workplace.folder) as url:
        console.print(f"No EMBED_API_KEY is set: using the emulator at {url}")
        yield replace(place, environment={**place.environment, "EMBED_BASE_URL": url}), True


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
