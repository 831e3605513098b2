"""`embed-pipeline check` and `embed-pipeline ledger import`: whether ledger, dataset and Dagster agree, and repairs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embed_pipeline.commands.context import CommandContext, opened
from embed_pipeline.commands.platform import platform_of

if TYPE_CHECKING:
    from embed_pipeline.pipeline.maintain import CheckReport

_LISTED = 50


def run_check(context: CommandContext, repair: bool, as_json: bool, console: Console) -> int:
    """Compare ledger, dataset and Dagster, and mend what can be mended without paying again.

    Args:
        context: The pipeline.
        repair: Whether to mend: fetch results again, import what the ledger does not know, report what Dagster lacks.
        as_json: JSON instead of a table.
        console: Where to show it.

    Returns:
        The exit code: 0 if all agrees, or was mended; 1 otherwise.

    Raises:
        ConfigurationError: Nothing has run here yet.
    """
    from embed_pipeline.orchestration.reporting import report_left_behind
    from embed_pipeline.pipeline.maintain import check

    context.require_instance()
    if not repair:
        with opened(context) as (blueprint, _), blueprint.pipeline(connect=False) as pipeline:
            report = check(pipeline)
    else:
        aside = Console(stderr=True)
        with (
            platform_of(context, aside) as (complete, _),
            opened(complete) as (blueprint, instance),
            blueprint.pipeline() as pipeline,
        ):
            report = check(pipeline, repair=True)
            report_left_behind(blueprint, instance, pipeline.ledger, budget_sec=600.0)
    if as_json:
        console.out(json.dumps(asdict(report), ensure_ascii=False, indent=2), highlight=False)
    else:
        _show(report, repair, console)
    return 0 if report.is_sound or (repair and not report.unrepaired) else 1


def run_import(context: CommandContext, console: Console) -> int:
    """Record what the dataset holds in the ledger, so that it is not paid for again.

    Args:
        context: The pipeline.
        console: Where to show it.

    Returns:
        The exit code: 0.

    Raises:
        DatasetError: The dataset cannot be read, or is another pipeline's.
    """
    from embed_pipeline.pipeline.discover import import_results

    with opened(context) as (blueprint, _), blueprint.pipeline(connect=False) as pipeline:
        count = import_results(pipeline, again=True)
        console.print(
            f"{count} results of {pipeline.dataset.root} were new to {pipeline.ledger.database.place}.",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def _show(report: CheckReport, repaired: bool, console: Console) -> None:
    from embed_pipeline.media import decode_partition_key

    table = Table(title="Ledger, dataset and Dagster")
    table.add_column("media file", overflow="fold")
    table.add_column("problem", overflow="fold")
    for key, problem in list(report.problems.items())[:_LISTED]:
        table.add_row(Text(decode_partition_key(key)), Text(report.unrepaired.get(key, problem)))
    for path in report.unknown[:_LISTED]:
        table.add_row(Text(path), "is in the dataset, and the ledger does not know it")
    if table.row_count:
        console.print(table)
    for sentence in report.repaired:
        console.print(sentence, highlight=False)
    if report.unreported and not repaired:
        console.print(f"{report.unreported} changes are still to be reported to Dagster.", highlight=False)
    if report.in_doubt:
        console.print(f"{len(report.in_doubt)} contents are in doubt: a run died while it created their task.")
    if report.unrepaired:
        console.print(f"To embed the rest again costs {report.costs:.1f} media minutes.", highlight=False)
    elif report.is_sound:
        console.print(f"{report.checked} media files have segments, and all are as the ledger says.", highlight=False)
    elif not repaired:
        console.print("`embed-pipeline check --repair` mends what it can without paying again.", highlight=False)
