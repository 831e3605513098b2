"""How a range run logs one event for each partition itself, at once, and still lets Dagster go on to the next asset.

Dagster logs one materialization for each targeted partition when an asset's step yields its output: late, with the same
metadata for all, and for partitions that were skipped too. An asset here logs each partition's event the moment it is
true. If its step then yielded nothing, Dagster would skip the downstream asset in the same run; so it yields an output
that carries the one mark for which Dagster logs no events of its own. A test pins that behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.metadata import problem_table

_PROBLEMS_SHOWN = 20

# An output without a value: no IO manager stores it. Dagster's annotations take it for the type None.
NOTHING = cast("dg.DagsterType", dg.Nothing)


def output_without_events(summary: Mapping[str, Any] | None = None) -> dg.Output[None]:
    """The output of a step that has logged its events itself.

    Args:
        summary: What the run did, in numbers; the run's page shows it with the output.
    """
    return dg.Output(None, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True, **(summary or {})})


def event_logger(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
) -> Callable[[dg.AssetMaterialization | dg.AssetObservation], None]:
    """What stores an event at once, for the thread that the step runs in."""
    return context.log_event


def targeted_partitions(context: dg.AssetExecutionContext) -> list[str]:
    """The partition keys that a run targets, in key order.

    Raises:
        dg.Failure: The run targets none, as when a range's end lies before its start: it would seem to succeed.
    """
    keys = list(context.partition_keys)
    if not keys:
        raise dg.Failure(
            "The run targets no media file: the range of partitions is empty, perhaps because its end lies before its "
            "start. Choose partitions in the order in which Dagster lists them.",
            allow_retries=False,
        )
    return keys


def failure(headline: str, problems: dict[str, str], metadata: dict[str, Any]) -> dg.Failure:
    """One failure for all that went wrong in a run, after everything that went right was recorded.

    Args:
        headline: What happened, in numbers.
        problems: What is wrong with each partition key; what the headline says already is not repeated in words.
        metadata: What else is worth telling.
    """
    own = {key: problem for key, problem in problems.items() if problem != headline}
    shown = [f"{key}: {problem}" for key, problem in list(own.items())[:_PROBLEMS_SHOWN]]
    more = [f"... and {len(own) - _PROBLEMS_SHOWN} more"] if len(own) > _PROBLEMS_SHOWN else []
    if problems:
        metadata = {**metadata, "embed_pipeline/problems": problem_table(problems, longest=len(problems))}
    return dg.Failure("\n".join([headline, *shown, *more]), metadata=metadata, allow_retries=False)


@contextmanager
def failure_in_one_sentence() -> Iterator[None]:
    """End a step with the words of an error of ours, where Dagster would show a stack trace first.

    Raises:
        dg.Failure: An error of ours was raised.
    """
    try:
        yield
    except EmbedPipelineError as error:
        raise dg.Failure(error.message) from error
