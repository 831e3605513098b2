"""The pipeline that a command works on: the one of demo and dev, or one of a code location in DAGSTER_HOME."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embed_pipeline.commands.code_location import CodeLocation
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
        code: Where the pipeline's definitions are; None for the pipeline that the environment describes.
    """

    dagster_home: Path
    environment: Mapping[str, str]
    workplace: Workplace | None
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


def find_place(
    home: Path | None,
    media: str | Path | None,
    environment: Mapping[str, str],
    code: CodeLocation | None = None,
) -> Place:
    """Find the instance and the pipeline: ``--home`` if it is given, else DAGSTER_HOME, else where the demo was.

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
        return Place(Path(dagster_home).expanduser(), complete, None, code if media is None else None)
    if code is not None and code.is_named:
        raise ConfigurationError("Set DAGSTER_HOME to the instance in which this code location runs.")
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

    Raises:
        ConfigurationError: A variable makes no sense, or the pipeline that is meant cannot be told.
    """
    logging.disable(logging.WARNING)
    import dagster as dg

    try:
        if not place.has_instance:
            yield _blueprint(place, None), dg.DagsterInstance.ephemeral()
            return
        with dg.DagsterInstance.from_config(str(place.dagster_home)) as instance:
            yield _blueprint(place, instance), instance
    finally:
        logging.disable(logging.NOTSET)


def _blueprint(place: Place, instance: dg.DagsterInstance | None) -> Blueprint:
    from embed_pipeline.orchestration.environment import blueprint_from_environment
    from embed_pipeline.orchestration.pipelines import pipelines_told_of

    found = None if place.code is None else place.code.blueprint(instance)
    if found is not None and place.code is not None and place.code.is_named:
        return found
    blueprint = found or blueprint_from_environment(place.environment)
    told = set() if instance is None or place.workplace is not None else pipelines_told_of(instance)
    if told and blueprint.name not in told:
        names = ", ".join(sorted(name or "one without a name" for name in told))
        raise ConfigurationError(
            f"The instance in {place.dagster_home} knows the pipelines {names}, and not the one that this folder or "
            "the environment describes. Name the code location as for Dagster (-m MODULE, -f FILE or -w WORKSPACE), "
            "and the pipeline with --pipeline where it has several."
        )
    return blueprint
