"""The folder in which the local commands keep what they need: Dagster's instance, the emulator's state, the dataset.

There is one for each media library, so that embedding another folder never makes the first one's files seem to vanish.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# Few moving parts for one machine: what is queued starts soon, a run whose process died is noticed and gives back its
# place in the pool, and the pool leaves room for a run that waits while another submits.
_INSTANCE_SETTINGS = """\
telemetry:
  enabled: false
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  free_slots_after_run_end_seconds: 10
concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    granularity: op
    default_limit: 4
"""


@dataclass(frozen=True)
class Workplace:
    """Where the local commands keep what they need for one media library.

    Args:
        root: The folder of this library's workplace.
        media: The media library's folder.
    """

    root: Path
    media: Path

    @classmethod
    def for_library(cls, home: Path, media: Path | None) -> Workplace:
        """The workplace of a media folder; of the sample library where none is named."""
        if media is None:
            root = home / "sample"
            return cls(root, root / "media")
        resolved = media.expanduser().resolve()
        name = re.sub(r"[^A-Za-z0-9]+", "-", resolved.name).strip("-")[:40] or "media"
        return cls(home / f"{name}-{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}", resolved)

    @property
    def dataset(self) -> Path:
        """The dataset's root, where EMBED_OUTPUT does not name one."""
        return self.root / "embeddings"

    @property
    def emulator_state(self) -> Path:
        """The emulator's tasks and results."""
        return self.root / "emulator"

    def dagster_home(self) -> Path:
        """Dagster's instance folder, made with its settings if it is not there yet."""
        home = self.root / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        settings = home / "dagster.yaml"
        if not settings.exists():
            settings.write_text(_INSTANCE_SETTINGS)
        return home
