"""The emulated platform without its HTTP surface: stores, workers and clock, brought together in one place."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from embed_pipeline.emulator.asset_intake import AssetIntake
from embed_pipeline.emulator.asset_store import AssetStore
from embed_pipeline.emulator.clock import Clock
from embed_pipeline.emulator.compute import Compute, compute_for
from embed_pipeline.emulator.database import Database
from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.store import Task, TaskStore
from embed_pipeline.emulator.uploads import Uploads
from embed_pipeline.emulator.worker import Workers
from embed_pipeline.errors import ConfigurationError


class Platform:
    """Everything an emulator keeps and does, whatever serves it.

    Args:
        settings: What it was told.
        compute: What embeds a file. None takes the engine that the settings name.
        clock: What time it is. None takes the machine's time.

    Raises:
        ConfigurationError: If the state folder or the media root cannot be used.
    """

    def __init__(
        self, settings: EmulatorSettings, *, compute: Compute | None = None, clock: Clock | None = None
    ) -> None:
        if settings.media_root is not None and not settings.media_root.is_dir():
            raise ConfigurationError(f"The media root {settings.media_root} is not a folder; name one that exists.")
        self.settings = settings
        self.clock = clock or Clock()
        self._temporary = settings.state is None
        self.folder = Path(tempfile.mkdtemp(prefix="embed-emulator-")) if settings.state is None else settings.state
        self._lock = _lock(self.folder)
        self.media = self.folder / "media"
        self.media.mkdir(exist_ok=True)
        self._database = Database(self.folder / "emulator.sqlite3")
        self.store = TaskStore(self._database)
        self.assets = AssetStore(self._database, self.folder / "assets")
        self.uploads = Uploads(self._database, self.folder / "uploads")
        self.intake = AssetIntake(self.assets, settings, self.clock)
        # The event loop hands every call of the store to these threads: SQLite must not hold up other requests.
        self.threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="embed-store")
        self.workers = Workers(
            self.store,
            settings,
            compute or compute_for(settings),
            self.clock,
            self.media,
            self.asset_path,
            self.on_duration,
        )

    def start(self) -> None:
        """Begin to work on queued tasks."""
        self.workers.start()
        self.intake.start()

    def close(self) -> None:
        """End the work and let go of the state folder; a folder that was made for this run is deleted."""
        self.intake.stop()
        self.workers.stop()
        self.threads.shutdown()
        self._database.close()
        self._lock.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def asset_path(self, asset_id: str) -> Path | None:
        """Return where an uploaded asset's file lies, or None if it is not ready."""
        asset = self.assets.get(asset_id)
        ready = asset is not None and asset.status(self.clock.now()) == "ready"
        return self.assets.path(asset_id) if ready else None

    def asset_filename(self, asset_id: str, *, field: str) -> str:
        """Return the file name of an asset that a request names.

        Raises:
            Refusal: If there is no such asset, or it is not ready.
        """
        asset = self.assets.get(asset_id)
        if asset is None:
            raise Refusal(f"{field}: asset {asset_id[:80]} does not exist.", field, code="resource_not_exist")
        status = asset.status(self.clock.now())
        if status != "ready":
            raise Refusal(f"{field}: asset {asset_id} is {status}; it must be ready.", field, status)
        return asset.filename

    def on_duration(self, task: Task, seconds: float) -> None:
        """Take note of how much media a task held."""


def _lock(folder: Path) -> IO[str]:
    """Take the state folder for this process alone: two emulators would work on each other's tasks."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise ConfigurationError(f"The state folder {folder} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigurationError(
            f"The state folder {folder} is in use by another emulator; stop that one or name another folder."
        ) from None
    os.set_inheritable(file.fileno(), False)
    return file
