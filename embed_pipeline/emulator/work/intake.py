"""Intake of assets: fetches a file if need be, and reads its header."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from embed_pipeline.emulator.control.behaviour import Timing
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.state.assets import AssetStore
from embed_pipeline.emulator.state.clock import Clock
from embed_pipeline.emulator.work.compute import reads_sources
from embed_pipeline.emulator.work.probe import (
    UNREADABLE,
    MediaHeader,
    UnreadableMediaError,
    read_header,
    read_header_isolated,
)
from embed_pipeline.emulator.work.sources import SourceError, fetch

_log = logging.getLogger(__name__)


class AssetIntake:
    """Reads uploaded files beside the event loop.

    Args:
        store: Where assets are kept.
        settings: Limits, and whether the engine needs files at all.
        clock: What time it is.
        timing: How long an asset stays in processing, at this moment.
    """

    def __init__(
        self, store: AssetStore, settings: EmulatorSettings, clock: Clock, timing: Callable[[], Timing]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._timing = timing
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="embed-intake")

    def start(self) -> None:
        """Take up again what was not read when the process ended."""
        for asset_id in self._store.unread():
            self.take(asset_id)

    def take(self, asset_id: str) -> None:
        """Read an asset's file as soon as a thread is free."""
        self._threads.submit(self._read, asset_id)

    def stop(self) -> None:
        """Read no further files; what was not read is read after a restart."""
        self._threads.shutdown(cancel_futures=True)

    def _read(self, asset_id: str) -> None:
        asset = self._store.get(asset_id)
        if asset is None:
            return
        settings, path = self._settings, self._store.path(asset_id)
        release_at = asset.created_at + round(self._timing().asset_after_sec * 1000)
        try:
            if asset.url is not None and reads_sources(settings):
                limit, private = settings.sizes.fetched, settings.allow_private_sources
                fetch(asset.url, path, limit=limit, allow_private=private)
            header = self._header(asset_id)
        except (SourceError, UnreadableMediaError) as failure:
            self._store.settle(asset_id, release_at=release_at, error=str(failure))
        except sqlite3.ProgrammingError:
            return  # The store was closed; the asset is read after a restart.
        except Exception:
            _log.exception("Asset %s failed for a reason of the emulator's own.", asset_id)
            self._store.settle(asset_id, release_at=release_at, error=UNREADABLE)
        else:
            size = path.stat().st_size if path.exists() else 0
            self._store.settle(
                asset_id,
                release_at=release_at,
                size=size,
                duration=header.duration_sec,
                kind=header.kind,
                technical=_technical(header, size, asset.file_type),
            )

    def _header(self, asset_id: str) -> MediaHeader:
        settings, path = self._settings, self._store.path(asset_id)
        asset = self._store.get(asset_id)
        kind = "video" if asset is None else asset.kind
        if not reads_sources(settings):
            duration = settings.instant_duration_sec if kind in ("audio", "video") else None
            return MediaHeader(duration, "", video_codec="none" if kind == "video" else None, kind=kind)
        return read_header(path) if settings.engine == "instant" else read_header_isolated(path)


def _technical(header: MediaHeader, size: int, file_type: str) -> dict[str, object]:
    """Write a header the way the platform names its parts; what does not apply is left out."""
    video, audio = header.video_codec is not None, header.audio_codec is not None
    parts: dict[str, object] = {
        "file_size_bytes": size,
        "file_mime_type": file_type,
        "file_container_format": header.container if header.duration_sec is not None else None,
        "video_codec": header.video_codec,
        "video_width": header.width if video else None,
        "video_height": header.height if video else None,
        "image_width": header.width if header.kind == "image" else None,
        "image_height": header.height if header.kind == "image" else None,
        "image_format": header.container if header.kind == "image" else None,
        "video_fps": header.frame_rate,
        "video_duration_seconds": header.duration_sec if video else None,
        "audio_codec": header.audio_codec,
        "audio_sample_rate": header.sample_rate,
        "audio_channels": header.channels,
        "audio_duration_seconds": header.duration_sec if audio else None,
        "has_audio": audio if header.duration_sec is not None else None,
    }
    return {name: value for name, value in parts.items() if value is not None}
