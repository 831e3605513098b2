from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline_tests.orchestration.world import World


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def stored_instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with storage on disk, as a default installation has it and as processes share it."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """An empty media folder."""
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture
def emulator(media: Path) -> Iterator[Emulator]:
    """The local platform: it reads the media folder in place, and its vectors cost nothing."""
    with Emulator(EmulatorSettings(engine="instant", media_root=media, workers=1)) as emulator:
        yield emulator


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance, emulator: Emulator) -> World:
    """A media library, the platform, a Dagster instance and one pipeline between them."""
    return World(tmp_path, instance, emulator)
