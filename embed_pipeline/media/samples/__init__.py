"""The sample library: a small folder of audio and video to try everything with, made on the spot."""

from __future__ import annotations

from embed_pipeline.media.samples.recipes import BROKEN_SAMPLE, SAMPLES, Sample, Shot
from embed_pipeline.media.samples.writing import write_sample, write_sample_library

__all__ = ["BROKEN_SAMPLE", "SAMPLES", "Sample", "Shot", "write_sample", "write_sample_library"]
