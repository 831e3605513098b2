"""`embed-pipeline plan`: what would be created, what it would cost and how long it would take."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from embed_pipeline.commands.context import CommandContext, opened

if TYPE_CHECKING:
    from embed_pipeline.orchestration.blueprint import Blueprint
    from embed_pipeline.pipeline.plan import SpendingPlan

_LISTED = 30


def run_plan(context: CommandContext, as_json: bool, console: Console) -> int:
    """Show what a submission of the whole library would create; creates nothing.

    Args:
        context: The pipeline; before anything has run, every file is new.
        as_json: JSON instead of a table.
        console: Where to show it.

    Returns:
        The exit code: 0.

    Raises:
        MediaError: The library cannot be read.
    """
    from embed_pipeline.pipeline.plan import make_plan

    with (
        opened(context) as (described, _),
        _without_traces(described) as blueprint,
        console.status("Looking through the library", spinner="line"),
        blueprint.pipeline(connect=False) as pipeline,
    ):
        plan = make_plan(pipeline, limits=blueprint.client.limits())
    if as_json:
        console.out(json.dumps(plan.as_json(), ensure_ascii=False, indent=2), highlight=False)
        return 0
    _show(plan, console)
    return 0


@contextmanager
def _without_traces(blueprint: Blueprint) -> Iterator[Blueprint]:
    """Plan in a ledger that is thrown away where there is none yet, so that planning leaves nothing behind."""
    from embed_pipeline.ledger.database import default_url
    from embed_pipeline.orchestration.resources import EmbeddingLedgerResource, value_of

    url = value_of(blueprint.ledger.url) or default_url(blueprint.store.dataset().root)
    if not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).exists():
        yield blueprint
        return
    with tempfile.TemporaryDirectory() as folder:
        yield replace(blueprint, ledger=EmbeddingLedgerResource(url=f"sqlite:///{folder}/ledger.db"))


def _show(plan: SpendingPlan, console: Console) -> None:
    from embed_pipeline.media import decode_partition_key
    from embed_pipeline.pipeline.plan import CREATING, PlannedAction

    table = Table(title="What a submission of the library would do")
    table.add_column("media files are")
    table.add_column("files", justify="right")
    table.add_column("minutes", justify="right")
    if plan.price_per_minute:
        table.add_column("cost", justify="right")
    for action in PlannedAction:
        if not (count := plan.counts[action.value]):
            continue
        minutes = plan.minutes_of(action) if action in CREATING else None
        row = [action.value, str(count), "" if minutes is None else f"{minutes:.2f}"]
        if plan.price_per_minute:
            row.append("" if minutes is None else f"{minutes * plan.price_per_minute:.2f}")
        table.add_row(*row, style="bold" if action in CREATING else "")
    for reason, count in plan.left_out.items():
        table.add_row(f"left out: {reason}", str(count), "", *([""] if plan.price_per_minute else []), style="dim")
    if table.row_count:
        console.print(table)
    shown = {PlannedAction.TOO_SHORT, PlannedAction.TOO_LONG, PlannedAction.OVER_A_LIMIT, PlannedAction.UNREADABLE}
    shown |= {PlannedAction.REFUSED, PlannedAction.FAILED, PlannedAction.WAITING}
    listed = [file for file in plan.files if file.action in shown]
    for file in listed[:_LISTED]:
        name, what = escape(decode_partition_key(file.media)), file.action.value
        console.print(f"  [yellow]{what}[/] {name}: {escape(file.reason.removeprefix(f'{what}: '))}", highlight=False)
    if len(listed) > _LISTED:
        console.print(f"  ... and {len(listed) - _LISTED} more; --json lists them all.")
    pace = f" {plan.pace}" if plan.created else ""
    console.print(f"[bold]{plan.headline}[/]{pace}", highlight=False)
    if plan.minutes_left_today is not None:
        console.print(f"{plan.minutes_left_today:.1f} media minutes are left today.", highlight=False)
