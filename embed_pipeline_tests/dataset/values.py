"""Values that the tests of the dataset are made of."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

from embed_pipeline.dataset import MediaSegments, vector_space

DIGEST = "0a1b2c3d"
CREATED_AT = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)


def make_segments(
    media: str = "lectures/one.mp4", *, clips: int = 4, dimension: int = 8, seed: int = 0, **changes: Any
):
    """`clips` visual and audio segments of six seconds, and one visual segment of the whole, in no sorted order."""
    random = np.random.default_rng([seed, *media.encode()])
    rows = 2 * clips + 1
    starts = np.tile(np.arange(clips) * 6.0, 2)
    fields: dict[str, Any] = {
        "media": media,
        "media_uri": f"s3://library/{media}",
        "fingerprint": f"sha256:{media}",
        "media_type": "video",
        "duration_sec": clips * 6.0,
        "embedding_option": ["visual"] * clips + ["audio"] * clips + ["visual"],
        "embedding_scope": ["clip"] * 2 * clips + ["asset"],
        "start_sec": np.append(starts, 0.0),
        "end_sec": np.append(starts + 6.0, clips * 6.0),
        "embedding": random.normal(size=(rows, dimension)).astype(np.float32),
        "embedding_uncertainty": None,
        "model_name": "marengo3.0",
        "settings": {"model_name": "marengo3.0", "embedding_option": ["visual", "audio"]},
        "settings_digest": DIGEST,
        "task_id": f"task-{media}",
        "created_at": CREATED_AT,
        **changes,
    }
    if "space" not in fields:
        fields["space"] = vector_space(fields["model_name"], np.asarray(fields["embedding"]).shape[-1])
    return MediaSegments(**fields)
