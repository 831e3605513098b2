"""The pipeline that a command works on: the one of demo and dev, or the one of DAGSTER_HOME."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embed_pipeline.commands.workplace import Workplace
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import dagster as dg

    from embed_pipeline.orchestration.blueprint import Blueprint

DEFAULT_HOME = Path(".embed_pipeline")


@dataclass(frozen=True)
class Place:
    """Where a command finds things.

    Args:
        dagster_home: Dagster's instance folder.
        environment: The variables that describe the pipeline.
        workplace: The folder of the local commands; None where DAGSTER_HOME names an instance of the team's own.
    """

    dagster_home: Path
    environment: Mapping[str, str]
    workplace: Workplace | None

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


def find_place(home: Path | None, media: str | Path | None, environment: Mapping[str, str]) -> Place:
    """Find the instance and the pipeline: ``--home`` if it is given, else DAGSTER_HOME, else where the demo was.

    Args:
        home: The folder of the local commands, if one was named.
        media: The media library, if one was named: a folder, a manifest or an address.
        environment: The process's variables.
    """
    complete = dict(environment)
    if home is None and (dagster_home := environment.get("DAGSTER_HOME")):
        if media is not None:
            complete["EMBED_MEDIA"] = str(media)
        return Place(Path(dagster_home).expanduser(), complete, None)
    if media is None and environment.get("EMBED_MEDIA"):
        media = environment["EMBED_MEDIA"]
    workplace = Workplace.for_library((home or DEFAULT_HOME).resolve(), media)
    complete["EMBED_MEDIA"] = workplace.location
    complete.setdefault("EMBED_OUTPUT", str(workplace.dataset))
    complete["DAGSTER_HOME"] = str(workplace.root / "dagster")
    return Place(workplace.root / "dagster", complete, workplace)


@contextmanager
def opened(place: Place) -> Iterator[tuple[Blueprint, dg.DagsterInstance]]:
    """The blueprint and the instance; an instance that is forgotten again where nothing has run yet.

    Dagster tells of each event on the console; a command tells its own story.
    """
    logging.disable(logging.WARNING)
    import dagster as dg

    from embed_pipeline.orchestration.environment import blueprint_from_environment

    try:
        blueprint = blueprint_from_environment(place.environment)
        if not place.has_instance:
            yield blueprint, dg.DagsterInstance.ephemeral()
            return
        with dg.DagsterInstance.from_config(str(place.dagster_home)) as instance:
            yield blueprint, instance
    finally:
        logging.disable(logging.NOTSET)
