"""The folder in which the local commands keep what they need: Dagster's instance, the emulator's state, the dataset.

There is one for each media library, so that embedding another folder never makes the first one's files seem to vanish.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from embed_pipeline.errors import ConfigurationError

# Few moving parts for one machine: what is queued starts soon, a run whose process died is noticed and gives back its
# place in the pool, and the pool leaves room for a run that waits while another submits.
_INSTANCE_SETTINGS = """\
telemetry:
  enabled: false
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  free_slots_after_run_end_seconds: 10
run_queue:
  dequeue_interval_seconds: 1
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
        location: The media library: an absolute path on this machine, or an address with a scheme as it was named.
        is_sample: Whether it is the sample library.
    """

    root: Path
    location: str
    is_sample: bool = False

    @classmethod
    def for_library(cls, home: Path, media: str | Path | None) -> Workplace:
        """The workplace of a media library; of the sample library where none is named.

        Args:
            home: The folder of all workplaces.
            media: A folder, a manifest, or an address such as s3://bucket/prefix.
        """
        if media is None:
            root = home / "sample"
            return cls(root, str(root / "media"), is_sample=True)
        location = str(media)
        if "://" not in location:
            location = str(Path(location).expanduser().resolve())
        last = location.rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-")[:40] or "media"
        return cls(home / f"{name}-{hashlib.sha256(location.encode()).hexdigest()[:8]}", location)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine that is the library; None where its files lie elsewhere."""
        if "://" not in self.location:
            folder = Path(self.location)
        elif self.location.lower().startswith("file://"):
            folder = Path(unquote(urlsplit(self.location).path))
        else:
            return None
        return None if folder.is_file() else folder

    @property
    def dataset(self) -> Path:
        """The dataset's root, where EMBED_OUTPUT does not name one."""
        return self.root / "embeddings"

    @property
    def emulator_state(self) -> Path:
        """The emulator's tasks and results."""
        return self.root / "emulator"

    def require_writable(self) -> None:
        """Make the folder, and sure that things can be kept in it.

        Raises:
            ConfigurationError: It cannot be made, or nothing can be written into it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"The folder {self.root}, in which everything is kept, cannot be written ({error.strerror}). "
                "Name another place with --home."
            ) from error

    def dagster_home(self) -> Path:
        """Dagster's instance folder, made with its settings if it is not there yet."""
        home = self.root / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        settings = home / "dagster.yaml"
        if not settings.exists():
            settings.write_text(_INSTANCE_SETTINGS)
        return home
