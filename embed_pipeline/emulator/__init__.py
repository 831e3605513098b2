"""A local platform: the wire protocol of the TwelveLabs Embed API v2, real vectors, no account."""

from __future__ import annotations

from embed_pipeline.emulator.control.behaviour import Switches, Timing
from embed_pipeline.emulator.server import Emulator
from embed_pipeline.emulator.settings import EmulatorSettings, Sizes

__all__ = ["Emulator", "EmulatorSettings", "Sizes", "Switches", "Timing"]
