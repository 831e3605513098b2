"""The emulated platform without its HTTP surface: stores, workers and clock, brought together in one place."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from embed_pipeline.emulator.control.faults import FaultPlan
from embed_pipeline.emulator.rules.rate_limits import RateLimiter, limits_of
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.state.assets import AssetStore
from embed_pipeline.emulator.state.bodies import ResultBodies
from embed_pipeline.emulator.state.clock import Clock
from embed_pipeline.emulator.state.database import Database
from embed_pipeline.emulator.state.journal import Journal
from embed_pipeline.emulator.state.results import EmbeddingResult
from embed_pipeline.emulator.state.tasks import Task, TaskStore
from embed_pipeline.emulator.state.uploads import Uploads
from embed_pipeline.emulator.work.compute import Compute, compute_for
from embed_pipeline.emulator.work.creation import Creation
from embed_pipeline.emulator.work.intake import AssetIntake
from embed_pipeline.emulator.work.queries import SyncEmbedder
from embed_pipeline.emulator.work.upkeep import Upkeep
from embed_pipeline.emulator.work.workers import Workers, embedded_seconds
from embed_pipeline.errors import ConfigurationError


class Platform:
    """An emulator without its HTTP surface.

    Args:
        settings: Its settings.
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
        self.clock = clock or Clock(skew_sec=settings.clock_skew_sec)
        self._temporary = settings.state is None
        self.folder = Path(tempfile.mkdtemp(prefix="embed-emulator-")) if settings.state is None else settings.state
        self._lock = _lock(self.folder)
        self.media = self.folder / "media"
        self.media.mkdir(mode=0o700, exist_ok=True)
        self._database = Database(self.folder / "emulator.sqlite3")
        self.store = TaskStore(self._database)
        room, wide = settings.sizes.bodies, settings.switches.wide_numbers
        self.bodies = ResultBodies(self.folder / "bodies", self.store, room=room, wide=wide)
        self.assets = AssetStore(self._database, self.folder / "assets")
        self.uploads = Uploads(self._database, self.folder / "uploads")
        self.journal = Journal(self._database)
        self.faults = FaultPlan(settings.faults, settings.fault_seed)
        self.limiter = RateLimiter(
            limits_of(settings.plan, settings.limits),
            settings.switches.reset_unit,
            old_headers=settings.switches.old_rate_headers,
        )
        self.timing = settings.timing
        self.intake = AssetIntake(self.assets, settings, self.clock, lambda: self.timing)
        compute = compute or compute_for(settings)
        self.sync = SyncEmbedder(settings, compute, self.media, self.asset_path, self.asset_filename)
        count = settings.workers or max(1, os.cpu_count() or 1)
        self.sync_threads = ThreadPoolExecutor(max_workers=count, thread_name_prefix="embed-sync")
        # The event loop hands every call of the store to these threads: SQLite must not hold up other requests.
        self.threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="embed-store")
        self.writers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="embed-bodies")
        self.workers = Workers(
            self.store,
            settings,
            compute,
            self.clock,
            lambda: self.timing,
            self.media,
            self.asset_path,
            self.on_done,
            self.bodies,
        )

        self.give_back = self._database.give_back
        self.creation = Creation(self)
        self.clock.listeners.append(self.creation.create_due)
        self.upkeep = Upkeep(self)

    def start(self) -> None:
        """Begin to work on queued tasks."""
        self.upkeep.start()
        self.workers.start()
        self.intake.start()

    def close(self) -> None:
        """End the work and let go of the state folder; a folder that was made for this run is deleted."""
        self.upkeep.stop()
        self.intake.stop()
        self.workers.stop()
        self.sync_threads.shutdown(cancel_futures=True)
        self.threads.shutdown()
        self.writers.shutdown()
        self.journal.flush()
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

    def on_done(self, task: Task, result: EmbeddingResult, usage: dict[str, Any] | None) -> None:
        """Count the media and the tokens of a finished task against the limits, unless that was done at creation."""
        if not task.effects.get("counted"):
            self.count(embedded_seconds(task.request, result.duration_sec or 0.0), usage)

    def count(self, seconds: float, usage: dict[str, Any] | None) -> None:
        """Count seconds of media, and the tokens of a usage, against the limits."""
        now = self.clock.now()
        self.limiter.media(seconds, now)
        if usage is not None:
            self.limiter.tokens(sum(usage["input_tokens"].values()), now)


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
