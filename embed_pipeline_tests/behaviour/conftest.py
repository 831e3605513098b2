from __future__ import annotations

from embed_pipeline_tests.world import emulator, instance, media, stored_instance, world

__all__ = ["emulator", "instance", "media", "stored_instance", "world"]
