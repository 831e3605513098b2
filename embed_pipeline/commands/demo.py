"""The demo: a folder of media becomes a dataset of embeddings, through the same definitions that Dagster loads."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from embed_pipeline.commands.platform import names_a_platform, started_emulator
from embed_pipeline.commands.status import status_table
from embed_pipeline.commands.workplace import Workplace
from embed_pipeline.errors import ConfigurationError, EmbedPipelineError

if TYPE_CHECKING:
    from embed_pipeline.dataset import EmbeddingDataset, Match
    from embed_pipeline.orchestration.blueprint import Blueprint
    from embed_pipeline.orchestration.status import MediaStatus

_LONGEST_SEC = 3600.0


def run_demo(media: Path | None, home: Path, console: Console) -> int:
    """Embed a folder, or the sample library, and show what came of it.

    Args:
        media: The folder; None for the sample library, which is made if it is not there.
        home: Where the local commands keep what they need.
        console: Where to show it.

    Returns:
        The exit code: 0 if every media file ended embedded or failed for a reason that is shown.
    """
    place = Workplace.for_library(home, media)
    if media is None:
        make_samples(place.media, console)
    environment = {**os.environ, "EMBED_MEDIA": str(place.media)}
    environment.setdefault("EMBED_OUTPUT", str(place.dataset))
    with platform_environment(place, environment, console) as complete:
        return _embed(place, complete, console)


def make_samples(folder: Path, console: Console) -> None:
    """Make the sample library, with a progress bar where there is anything to make."""
    from embed_pipeline.media import write_sample_library

    with Progress(
        TextColumn("Making the sample library"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("files")
        write_sample_library(
            folder, progress=lambda _path, number, total: bar.update(task, completed=number, total=total)
        )
    console.print(f"The sample library is in [bold]{folder}[/]")


@contextmanager
def platform_environment(
    place: Workplace, environment: Mapping[str, str], console: Console
) -> Iterator[dict[str, str]]:
    """The environment with a platform in it: the one it names, or the emulator, which runs until the block ends."""
    from embed_pipeline.orchestration.environment import BASE_URL_VARIABLES

    if names_a_platform(environment):
        address = next((environment[name] for name in BASE_URL_VARIABLES if environment.get(name)), "the platform")
        console.print(f"Using {address}")
        yield dict(environment)
        return
    with started_emulator(place.emulator_state, place.media, console) as url:
        yield {**environment, "EMBED_BASE_URL": url}


def _embed(place: Workplace, environment: dict[str, str], console: Console) -> int:
    os.environ.update({key: value for key, value in environment.items() if key.startswith("EMBED_")})
    os.environ["DAGSTER_HOME"] = str(place.dagster_home())
    # Dagster tells of each event on the console; here the progress bars tell the story.
    logging.disable(logging.WARNING)
    import dagster as dg

    from embed_pipeline.orchestration.environment import blueprint_from_environment
    from embed_pipeline.orchestration.status import read_statuses

    blueprint = blueprint_from_environment(environment)
    blueprint = replace(
        blueprint,
        policy=blueprint.policy.model_copy(update={"submit_automatically": True, "collect_wait_sec": 0.0}),
        library=blueprint.library.model_copy(update={"settle_sec": 0.0}),
    )
    with dg.DagsterInstance.get() as instance:
        _drive(blueprint, instance, console)
        rows = read_statuses(instance, blueprint.names)
    if not rows:
        raise ConfigurationError(f"There are no media files in {place.media}: nothing to embed.")
    console.print(status_table(rows, "What became of each media file"))
    dataset = blueprint.store.dataset()
    _show_neighbours(dataset, rows, console)
    _show_how_to_open(dataset, console)
    return 0 if all(row.state.value in {"embedded", "failed", "gone"} for row in rows) else 1


def _drive(blueprint: Blueprint, instance: object, console: Console) -> None:
    """Tick the sensors until every media file has ended, with bars that tell how far it is."""
    from embed_pipeline.orchestration.driver import Driver
    from embed_pipeline.orchestration.ledger import Ledger
    from embed_pipeline.orchestration.pipeline import build_definitions
    from embed_pipeline.orchestration.states import MediaState

    driver = Driver(build_definitions(blueprint), instance, blueprint.names)  # type: ignore[arg-type]
    ledger = Ledger(instance, blueprint.names)  # type: ignore[arg-type]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + _LONGEST_SEC
    with Progress(*columns, console=console) as bars:
        submitted, embedded = (
            bars.add_task("embedding_tasks   ", total=None),
            bars.add_task("segment_embeddings", total=None),
        )
        while time.monotonic() < deadline:
            driver.discover()
            tick = driver.collect_ready()
            states = list(ledger.states().values())
            waiting = states.count(MediaState.PROCESSING)
            unsubmitted = states.count(MediaState.UNSUBMITTED)
            bars.update(submitted, total=len(states), completed=len(states) - unsubmitted)
            bars.update(embedded, total=len(states), completed=len(states) - unsubmitted - waiting)
            if not waiting and not unsubmitted:
                driver.refresh_table()
                return
            if unsubmitted and not waiting and not driver.discover().runs:
                raise EmbedPipelineError(
                    f"{unsubmitted} media files could not be submitted: {tick.message or 'see embed-pipeline status'}"
                )
            time.sleep(0.5)


def _show_neighbours(dataset: EmbeddingDataset, rows: list[MediaStatus], console: Console) -> None:
    """Show that the vectors mean something: the segments nearest to one, wherever they are."""
    from embed_pipeline.dataset import SegmentQuery, nearest, read_embeddings

    columns = ("segment_id", "media", "embedding_option", "start_sec", "end_sec")
    best: tuple[float, dict[str, object], list[Match]] | None = None
    for row in [row for row in rows if row.segments][:12]:
        for option in ("visual", "audio"):
            segments = read_embeddings(
                dataset,
                columns=columns,
                source="segments",
                media=row.media,
                option=option,
                scope="clip",
                space=_space(dataset),
            ).to_pylist()
            if not segments:
                continue
            query = segments[len(segments) // 2]
            matches = nearest(
                dataset,
                SegmentQuery(str(query["segment_id"])),
                k=50,
                source="segments",
                option=option,
                scope="clip",
                space=_space(dataset),
            )
            elsewhere = [match for match in matches if match.media != row.media]
            if elsewhere and (best is None or elsewhere[0].score > best[0]):
                best = (elsewhere[0].score, query, matches[:5])
    if best is None:
        return
    _, query, matches = best
    where = f"{query['media']} {query['start_sec']:.1f}-{query['end_sec']:.1f} s ({query['embedding_option']})"
    table = Table(title=f"Nearest to {where}")
    table.add_column("media file", overflow="fold")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    table.add_column("cosine", justify="right")
    for match in matches:
        table.add_row(match.media, f"{match.start_sec:.1f} s", f"{match.end_sec:.1f} s", f"{match.score:.3f}")
    console.print(table)


def _space(dataset: EmbeddingDataset) -> str | None:
    """The newest vector space, where the dataset holds several."""
    spaces = dataset.spaces()
    return spaces[-1] if len(spaces) > 1 else None


def _show_how_to_open(dataset: EmbeddingDataset, console: Console) -> None:
    root = dataset.root
    console.print(f"\nThe Parquet is below [bold]{root}/segments[/]. Open it with any of", highlight=False)
    for line in (
        f'pandas.read_parquet("{root}/segments")',
        f'polars.read_parquet("{root}/segments/**/*.parquet")',
        f"duckdb.sql(\"from '{root}/segments/**/*.parquet'\")",
        f'embed_pipeline.dataset.read_embeddings("{root}", to="matrix")',
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
