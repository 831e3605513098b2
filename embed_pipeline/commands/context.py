"""Context of a command: the pipeline of demo and dev in a project folder, or that of a code location in DAGSTER_HOME.

There is one project folder for each media library, so that embedding another folder never makes the first one's files
seem to vanish.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from embed_pipeline.commands.code_location import CodeLocation
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import dagster as dg

    from embed_pipeline.orchestration.blueprint import Blueprint

DEFAULT_HOME = Path(".embed_pipeline")

# Few moving parts for one machine: what is queued starts soon, a run whose process died is noticed and gives back its
# context in the pool, and the pool leaves room for a run that waits while another submits.
_INSTANCE_SETTINGS = """\
telemetry:
  enabled: false
nux:
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
class ProjectDir:
    """Where the local commands keep what they need for one media library.

    Args:
        root: The folder of this library's project.
        location: The media library: an absolute path on this machine, or an address with a scheme as it was named.
        is_sample: Whether it is the sample library.
    """

    root: Path
    location: str
    is_sample: bool = False

    @classmethod
    def for_library(cls, home: Path, media: str | Path | None) -> ProjectDir:
        """The project of a media library; of the sample library where none is named.

        Args:
            home: The folder of all project folders.
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
                "Name another context with --home."
            ) from error

    def dagster_home(self) -> Path:
        """Dagster's instance folder, made with its settings if it is not there yet."""
        home = self.root / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        settings = home / "dagster.yaml"
        if not settings.exists():
            settings.write_text(_INSTANCE_SETTINGS)
        return home


@dataclass(frozen=True)
class CommandContext:
    """What a command works on.

    Args:
        dagster_home: Dagster's instance folder.
        environment: The variables that describe the pipeline.
        project: The folder of the local commands; None where DAGSTER_HOME names an instance of the team's own.
        code: Where the pipeline's definitions are; None for the pipeline that the environment describes.
    """

    dagster_home: Path
    environment: Mapping[str, str]
    project: ProjectDir | None
    code: CodeLocation | None = None

    @property
    def has_instance(self) -> bool:
        """Whether anything has run here yet."""
        return self.dagster_home.is_dir() and any(self.dagster_home.iterdir())

    def require_instance(self) -> None:
        """Make sure that there is something to tell of.

        Raises:
            ConfigurationError: Nothing has run here yet.
        """
        if not self.has_instance:
            raise ConfigurationError(
                f"There is no Dagster instance in {self.dagster_home} yet. Run `embed-pipeline demo` or "
                "`embed-pipeline dev` with the same --home and --media first, or set DAGSTER_HOME to the one you mean."
            )


def find_context(
    home: Path | None,
    media: str | Path | None,
    environment: Mapping[str, str],
    code: CodeLocation | None = None,
) -> CommandContext:
    """Find the instance and the pipeline: `--home` if it is given, else DAGSTER_HOME, else where the demo was.

    Args:
        home: The folder of the local commands, if one was named.
        media: The media library, if one was named: a folder, a manifest or an address.
        environment: The process's variables.
        code: Which code location and pipeline were named, if the command works on any.

    Raises:
        ConfigurationError: What was named does not go together.
    """
    complete = dict(environment)
    if code is not None and code.is_named and (home is not None or media is not None):
        raise ConfigurationError(
            "A home or a media library was named, which means the pipeline of demo and dev, and a code location, which "
            "tells its own media library and runs in the instance of DAGSTER_HOME. Name one of them."
        )
    if home is None and (dagster_home := environment.get("DAGSTER_HOME")):
        if media is not None:
            complete["EMBED_MEDIA"] = str(media)
        return CommandContext(Path(dagster_home).expanduser(), complete, None, code if media is None else None)
    if code is not None and code.is_named:
        raise ConfigurationError("Set DAGSTER_HOME to the instance in which this code location runs.")
    if media is None and environment.get("EMBED_MEDIA"):
        media = environment["EMBED_MEDIA"]
    project = ProjectDir.for_library((home or DEFAULT_HOME).resolve(), media)
    complete["EMBED_MEDIA"] = project.location
    complete.setdefault("EMBED_OUTPUT", str(project.dataset))
    complete["DAGSTER_HOME"] = str(project.root / "dagster")
    return CommandContext(project.root / "dagster", complete, project)


@contextmanager
def exported(environment: Mapping[str, str]) -> Iterator[None]:
    """Put variables into the process's environment for a while, where Dagster's resources read them."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def opened(context: CommandContext) -> Iterator[tuple[Blueprint, dg.DagsterInstance]]:
    """Open the blueprint and the instance; an instance that is forgotten again where nothing has run yet.

    Dagster logs each event on the console; a command prints a story of its own.

    Raises:
        ConfigurationError: A variable makes no sense, or the pipeline that is meant cannot be told.
    """
    logging.disable(logging.WARNING)
    import dagster as dg

    try:
        with exported(context.environment):
            if not context.has_instance:
                yield _blueprint(context, None), dg.DagsterInstance.ephemeral()
                return
            with dg.DagsterInstance.from_config(str(context.dagster_home)) as instance:
                yield _blueprint(context, instance), instance
    finally:
        logging.disable(logging.NOTSET)


def _blueprint(context: CommandContext, instance: dg.DagsterInstance | None) -> Blueprint:
    from embed_pipeline.orchestration.blueprint import pipelines_in
    from embed_pipeline.orchestration.environment import blueprint_from_environment

    found = None if context.code is None else context.code.blueprint(instance)
    if found is not None and context.code is not None and context.code.is_named:
        return found
    blueprint = found or blueprint_from_environment(context.environment)
    known = set() if instance is None or context.project is not None else pipelines_in(instance)
    if known and blueprint.name not in known:
        names = ", ".join(sorted(name or "one without a name" for name in known))
        raise ConfigurationError(
            f"The instance in {context.dagster_home} knows the pipelines {names}, and not the one that this folder or "
            "the environment describes. Name the code location as for Dagster (-m MODULE, -f FILE or -w WORKSPACE), "
            "and the pipeline with --pipeline where it has several."
        )
    return blueprint
