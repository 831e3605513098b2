"""``embed-pipeline plan``: what would be created, what it would cost and how long it would take."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from embed_pipeline.commands.opening import Place, opened

if TYPE_CHECKING:
    from embed_pipeline.orchestration.planning import SpendingPlan

_LISTED = 30


def run_plan(place: Place, as_json: bool, console: Console) -> int:
    """Tell what a submission of the whole library would create; creates nothing.

    Args:
        place: Where the pipeline is; before anything has run, every file is new.
        as_json: JSON instead of a table.
        console: Where to tell it.

    Returns:
        The exit code: 0.

    Raises:
        MediaError: The library cannot be read.
    """
    from embed_pipeline.orchestration.ledger import Ledger
    from embed_pipeline.orchestration.planning import make_plan

    with opened(place) as (blueprint, instance), console.status("Looking through the library", spinner="line"):
        plan = make_plan(
            ledger=Ledger(instance, blueprint.names),
            library=blueprint.library.library(),
            settings=blueprint.settings,
            policy=blueprint.policy,
            client=blueprint.client,
            dataset=blueprint.store.dataset(),
            now=datetime.now(UTC),
        )
    if as_json:
        console.out(json.dumps(plan.as_json(), ensure_ascii=False, indent=2), highlight=False)
        return 0
    _show(plan, console)
    return 0


def _show(plan: SpendingPlan, console: Console) -> None:
    from embed_pipeline.media import decode_partition_key
    from embed_pipeline.orchestration.planning import CREATING, Prospect

    table = Table(title="What a submission of the library would do")
    table.add_column("media files are")
    table.add_column("files", justify="right")
    table.add_column("minutes", justify="right")
    if plan.price_per_minute:
        table.add_column("cost", justify="right")
    for prospect in Prospect:
        if not (count := plan.counts[prospect.value]):
            continue
        minutes = plan.minutes_of(prospect) if prospect in CREATING else None
        row = [prospect.value, str(count), "" if minutes is None else f"{minutes:.2f}"]
        if plan.price_per_minute:
            row.append("" if minutes is None else f"{minutes * plan.price_per_minute:.2f}")
        table.add_row(*row, style="bold" if prospect in CREATING else "")
    for reason, count in plan.left_out.items():
        table.add_row(f"left out: {reason}", str(count), "", *([""] if plan.price_per_minute else []), style="dim")
    if table.row_count:
        console.print(table)
    told = {Prospect.TOO_SHORT, Prospect.TOO_LONG, Prospect.OVER_A_LIMIT}
    told |= {Prospect.UNREADABLE, Prospect.FAILED, Prospect.WAITING}
    listed = [file for file in plan.files if file.prospect in told]
    for file in listed[:_LISTED]:
        name, what = escape(decode_partition_key(file.media)), file.prospect.value
        console.print(f"  [yellow]{what}[/] {name}: {escape(file.reason.removeprefix(f'{what}: '))}", highlight=False)
    if len(listed) > _LISTED:
        console.print(f"  ... and {len(listed) - _LISTED} more; --json lists them all.")
    pace = f" {plan.pace}" if plan.created else ""
    console.print(f"[bold]{plan.headline}[/]{pace}", highlight=False)
    if plan.minutes_left_today is not None:
        console.print(f"{plan.minutes_left_today:.1f} media minutes are left today.", highlight=False)
