"""The platform that a command talks to: the configured one, or the emulator, started where it does not run already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from embed_pipeline.commands.emulator_process import emulator_process, running_emulator
from embed_pipeline.commands.opening import Place


@contextmanager
def platform_of(place: Place, console: Console) -> Iterator[tuple[Place, bool]]:
    """Give a place its platform.

    Args:
        place: Where the pipeline is.
        console: Where to say which platform it is.

    Yields:
        The place with the platform in its environment, and whether that platform ends with this command.
    """
    if names_a_platform(place.environment) or place.workplace is None:
        yield place, False
        return
    state, media = place.workplace.emulator_state, place.workplace.media
    if url := running_emulator(state):
        console.print(f"Using the emulator that runs at {url}")
        yield replace(place, environment={**place.environment, "EMBED_BASE_URL": url}), False
        return
    with started_emulator(state, media, console) as url:
        yield replace(place, environment={**place.environment, "EMBED_BASE_URL": url}), True


@contextmanager
def started_emulator(state: Path, media: Path, console: Console) -> Iterator[str]:
    """An emulator of our own until the block ends; yields its base URL."""
    with emulator_process(state=state, media_root=media) as url:
        console.print(f"No EMBED_API_KEY is set: using the emulator at {url}")
        yield url


def names_a_platform(environment: Mapping[str, str]) -> bool:
    """Whether the environment says which platform is meant."""
    from embed_pipeline.orchestration.environment import API_KEY_VARIABLES, BASE_URL_VARIABLES

    return any(environment.get(name) for name in (*API_KEY_VARIABLES, *BASE_URL_VARIABLES))
