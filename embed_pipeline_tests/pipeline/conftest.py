from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.pipeline import submit
from embed_pipeline_tests.ledger.conftest import sqlite_template
from embed_pipeline_tests.pipeline.world import World

__all__ = ["sqlite_template"]


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
def world(tmp_path: Path, emulator: Emulator) -> Iterator[World]:
    """A media library, the platform, a ledger and one pipeline between them."""
    world = World(tmp_path, emulator)
    yield world
    world.close()


@pytest.fixture
def uploading(world: World) -> World:
    """The same world, where files are uploaded."""
    return world.varied(delivery="upload")


@pytest.fixture
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries within a run that follow at once."""
    monkeypatch.setattr(submit, "_RETRY_AFTER_SEC", (0.01, 0.01, 0.01))
