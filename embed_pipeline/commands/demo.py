"""The demo: a folder of media becomes a dataset of embeddings, through the same definitions that Dagster loads."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from embed_pipeline.commands.context import CommandContext, ProjectDir, exported, opened
from embed_pipeline.commands.platform import platform_of, require_answer
from embed_pipeline.commands.signals import interrupted_in_order
from embed_pipeline.commands.status import status_table
from embed_pipeline.errors import ConfigurationError, EmbedPipelineError

if TYPE_CHECKING:
    import dagster as dg

    from embed_pipeline.dataset import EmbeddingDataset, Match
    from embed_pipeline.media import Listing
    from embed_pipeline.orchestration.blueprint import Blueprint
    from embed_pipeline.orchestration.daemon import Tick
    from embed_pipeline.pipeline.context import PipelineContext
    from embed_pipeline.pipeline.publish import MediaStatus

_LONGEST_SEC = 3600.0
_LOOK_AGAIN_SEC = 0.5
# One tick may meet a platform that is just restarting.
# What a run deferred for this long at the most is waited for.
_SOON_SEC = 60.0
_SILENCE = 3


def run_demo(context: CommandContext, console: Console) -> int:
    """Embed a library, or the sample library, and show what came of it.

    Args:
        context: Where the pipeline is: a project of the local commands.
        console: Where to show it.

    Returns:
        The exit code: 0 if every media file ended embedded or failed for a reason that is shown.

    Raises:
        MediaError: The library is missing, or cannot be read.
        ConfigurationError: There is nothing to embed, or a variable makes no sense.
        EmbedPipelineError: The platform took none of the files; the message has the words of the run that tried.
    """
    project = prepared(context, console)
    if not (listing := listed(context)).files:
        from embed_pipeline.pipeline.discover import left_out_in_words

        words = left_out_in_words(listing)
        left_out = f" (left out: {words})" if words else ""
        raise ConfigurationError(f"There are no media files in {project.location}{left_out}: nothing to do.")
    project.require_writable()
    with interrupted_in_order(), platform_of(context, console) as (complete, _):
        project.dagster_home()
        return _embed(complete, console)


def prepared(context: CommandContext, console: Console) -> ProjectDir:
    """The project of a context, with the sample library in it where that is meant.

    Raises:
        ConfigurationError: The context is an instance of the team's own, or the folder cannot be written.
    """
    if context.project is None:
        raise ConfigurationError("Name the folder of the local commands with --home.")
    if context.project.is_sample:
        context.project.require_writable()
        make_samples(Path(context.project.location), console)
    return context.project


def listed(context: CommandContext) -> Listing:
    """What the library of a context holds now, so that nothing is started for one that is not there.

    Raises:
        MediaError: The library is missing, or cannot be read.
        ConfigurationError: A variable makes no sense.
    """
    from embed_pipeline.orchestration.environment import blueprint_from_environment

    with exported(context.environment):
        return _unsettled(blueprint_from_environment(context.environment)).library.library().list()


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
    console.print(Text.assemble("The sample library is in ", (str(folder), "bold")), soft_wrap=True)


def _unsettled(blueprint: Blueprint) -> Blueprint:
    """A blueprint that takes files as they are: whoever starts a demo has copied them already."""
    from embed_pipeline.orchestration.resources import MediaLibraryResource

    # A changed copy of a resource would keep the configuration that it was made with.
    fields = {name: getattr(blueprint.library, name) for name in MediaLibraryResource.model_fields}
    return replace(blueprint, library=MediaLibraryResource(**{**fields, "settle_sec": 0.0}))


def _embed(context: CommandContext, console: Console) -> int:
    from embed_pipeline.pipeline.publish import read_statuses

    with opened(context) as (described, instance):
        blueprint = _unsettled(described)
        blueprint = replace(
            blueprint,
            # Who starts the demo again does not want to wait for what failed before.
            policy=blueprint.policy.model_copy(
                update={"submit_automatically": True, "collect_wait_sec": 0.0, "retry_backoff_sec": 0.0}
            ),
        )
        require_answer(blueprint.client)
        stopped = _drive(blueprint, instance, console)
        with blueprint.pipeline(connect=False) as pipeline:
            rows, dataset = read_statuses(pipeline), pipeline.dataset
            left_out = pipeline.ledger.noted(pipeline.name)["left_out"]
    if stopped is not None and not dataset.spaces():
        raise EmbedPipelineError(stopped)
    console.print(status_table(rows, "What became of each media file"))
    if left_out:
        console.print(Text(f"Left out of the library: {left_out}."), soft_wrap=True)
    _show_neighbours(dataset, rows, console)
    _show_how_to_open(dataset, console)
    if stopped is not None:
        raise EmbedPipelineError(stopped)
    return 0 if all(row.state.value in {"embedded", "failed", "gone"} for row in rows) else 1


def _drive(blueprint: Blueprint, instance: dg.DagsterInstance, console: Console) -> str | None:
    """Tick the sensors until every media file has ended, with bars that tell how far it is.

    Returns:
        Why it stopped before that, in the words of the run or of the tick that could not go on; None if it did not.
    """
    from embed_pipeline.ledger import MediaState
    from embed_pipeline.orchestration.daemon import InProcessDaemon
    from embed_pipeline.orchestration.definitions import build_definitions

    daemon = InProcessDaemon(build_definitions(blueprint), instance, blueprint.names)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + _LONGEST_SEC
    before: dict[str, MediaState] = {}
    words, silent = None, 0
    with Progress(*columns, console=console) as bars, blueprint.pipeline(connect=False) as pipeline:
        submitted, embedded = (
            bars.add_task("embedding_tasks   ", total=None),
            bars.add_task("segment_embeddings", total=None),
        )
        while time.monotonic() < deadline:
            discovered, collected = daemon.discover(), daemon.collect_ready()
            states = pipeline.ledger.states(pipeline.target)
            counted = list(states.values())
            waiting, unsubmitted = counted.count(MediaState.PROCESSING), counted.count(MediaState.UNSUBMITTED)
            bars.update(submitted, total=len(counted), completed=len(counted) - unsubmitted)
            bars.update(embedded, total=len(counted), completed=len(counted) - unsubmitted - waiting)
            if not waiting and not unsubmitted and _has_seen_all(discovered):
                daemon.refresh_table()
                return None
            moved, before = states != before, states
            trouble = _trouble(discovered, collected)
            words, silent = trouble or words, 0 if moved or not trouble else silent + 1
            if silent >= _SILENCE or (
                unsubmitted
                and not waiting
                and (trouble or not (moved or _others_are_at_work(blueprint, instance, pipeline)))
            ):
                daemon.refresh_table()
                return (
                    words or f"{unsubmitted} media files were not submitted: {discovered.message or 'no reason given'}"
                )
            time.sleep(_LOOK_AGAIN_SEC)
    return f"The demo was not done after {_LONGEST_SEC / 60:.0f} minutes. {words or 'Run it again to go on.'}"


def _others_are_at_work(blueprint: Blueprint, instance: dg.DagsterInstance, pipeline: PipelineContext) -> bool:
    """Return whether another process works on this pipeline, or died and what it left is taken up soon."""
    import dagster as dg

    ledger = pipeline.ledger
    soon = ledger.now() + _SOON_SEC
    if ledger.tasks.claims(pipeline.name) or any(
        row.deferred_until is not None and row.deferred_until < soon for row in ledger.all_rows(pipeline.target)
    ):
        return True
    running = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    return any(run.job_name in blueprint.names.jobs for run in instance.get_runs(dg.RunsFilter(statuses=running)))


def _has_seen_all(discovered: Tick) -> bool:
    return discovered.message is not None and "left to the next tick" not in discovered.message


def _trouble(discovered: Tick, collected: Tick) -> str | None:
    """The words of a run that failed, or of a tick that could not ask the platform."""
    if failures := [*discovered.failures, *collected.failures]:
        return failures[0]
    return collected.message if collected.message and "could not be asked" in collected.message else None


def _show_neighbours(dataset: EmbeddingDataset, rows: list[MediaStatus], console: Console) -> None:
    """Show that the vectors mean something: the segments nearest to one, wherever they are."""
    from embed_pipeline.dataset import SegmentQuery, nearest, read_embeddings
    from embed_pipeline.media import decode_partition_key

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
    media = decode_partition_key(str(query["media"]))
    where = f"{media} {query['start_sec']:.1f}-{query['end_sec']:.1f} s ({query['embedding_option']})"
    table = Table(title=Text(f"Nearest to {where}"))
    table.add_column("media file", overflow="fold")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    table.add_column("cosine", justify="right")
    for match in matches:
        table.add_row(
            Text(decode_partition_key(match.media)),
            f"{match.start_sec:.1f} s",
            f"{match.end_sec:.1f} s",
            f"{match.score:.3f}",
        )
    console.print(table)


def _space(dataset: EmbeddingDataset) -> str | None:
    """The newest vector space, where the dataset holds several."""
    spaces = dataset.spaces()
    return spaces[-1] if len(spaces) > 1 else None


def _show_how_to_open(dataset: EmbeddingDataset, console: Console) -> None:
    root = dataset.root
    told = Text.assemble("\nThe Parquet is below ", (f"{root}/segments", "bold"), ". Open it with any of")
    console.print(told, soft_wrap=True)
    for line in (
        f'pandas.read_parquet("{root}/segments")',
        f'polars.read_parquet("{root}/segments/**/*.parquet")',
        f"duckdb.sql(\"from '{root}/segments/**/*.parquet'\")",
        f'embed_pipeline.dataset.read_embeddings("{root}", to="matrix")',
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
