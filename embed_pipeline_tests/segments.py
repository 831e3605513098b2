"""One media file's segments, made up for tests of what is said and drawn of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from embed_pipeline.dataset import MediaSegments, vector_space


def made_up(count: int, *, scenes: int = 3, seconds: float = 6.0, seed: int = 0, **changes: Any) -> MediaSegments:
    """Segments by clip and one by asset; those of a scene are alike."""
    chance = np.random.default_rng(seed)
    scene = np.sort(chance.integers(0, scenes, count))
    vectors = chance.normal(size=(scenes, 512))[scene] + 0.2 * chance.normal(size=(count, 512))
    start = np.arange(count) * seconds
    values: dict[str, Any] = {
        "media": "talk.mp4",
        "media_uri": "file:///library/talk.mp4",
        "fingerprint": "f1",
        "media_type": "video",
        "duration_sec": count * seconds,
        "embedding_option": [*["visual"] * count, "visual"],
        "embedding_scope": [*["clip"] * count, "asset"],
        "start_sec": np.append(start, 0.0),
        "end_sec": np.append(start + seconds, count * seconds),
        "embedding": np.vstack([vectors, vectors.mean(axis=0)]).astype(np.float32),
        "embedding_uncertainty": None,
        "model_name": "marengo3.0",
        "space": vector_space("marengo3.0", 512),
        "settings": {},
        "settings_digest": "digest",
        "task_id": "task",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return MediaSegments(**{**values, **changes})
