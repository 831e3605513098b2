"""`embed-pipeline status`: the one state of each media file."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embed_pipeline.commands.context import CommandContext, opened

if TYPE_CHECKING:
    from embed_pipeline.pipeline.publish import MediaStatus

STYLES = {"embedded": "green", "failed": "red", "expired": "red", "gone": "dim", "processing": "yellow"}
_LEFT_OUT_BEYOND = 200


def run_status(context: CommandContext, states: Collection[str], as_json: bool, console: Console) -> int:
    """Show what became of each media file.

    Args:
        context: Where the pipeline is.
        states: Only files in these states; empty for all.
        as_json: JSON instead of a table.
        console: Where to show it.

    Returns:
        The exit code: 0.

    Raises:
        ConfigurationError: Nothing has run here yet.
    """
    context.require_instance()
    from embed_pipeline.ledger import MediaState
    from embed_pipeline.pipeline.publish import read_statuses

    with opened(context) as (blueprint, _), blueprint.pipeline(connect=False) as pipeline:
        counted = {state.value: count for state, count in pipeline.ledger.counts(pipeline.target).items()}
        total = sum(counted.values())
        # Of a large library, only what needs attention is read.
        is_large = not states and not as_json and total > _LEFT_OUT_BEYOND
        wanted = set(counted) - {"embedded", "gone"} if is_large else set(states or counted)
        rows = read_statuses(pipeline, states=[MediaState(state) for state in wanted])
        left_out = pipeline.ledger.noted(pipeline.name)["left_out"]
    if as_json:
        document = {"counts": counted, "left_out": left_out or "", "media": [row.as_json() for row in rows]}
        console.out(json.dumps(document, ensure_ascii=False, indent=2), highlight=False)
        return 0
    console.print(status_table(rows, "What became of each media file"))
    words = ", ".join(f"{count} {state}" for state, count in counted.items() if count)
    console.print(f"{total} media files: {words or 'none was discovered yet'}.", highlight=False)
    if left_out:
        console.print(Text(f"Left out of the library: {left_out}."), soft_wrap=True)
    if is_large:
        console.print("Only files that are not embedded are listed. All of them: --json, or --state embedded.")
    return 0


def status_table(rows: Sequence[MediaStatus], title: str) -> Table:
    """Return the states as a table, with sums."""
    from embed_pipeline.media import decode_partition_key

    table = Table(title=title)
    table.add_column("media file", overflow="fold")
    table.add_column("state")
    table.add_column("segments", justify="right")
    table.add_column("minutes", justify="right")
    table.add_column("reason", overflow="fold")
    for row in rows:
        table.add_row(
            # A name or a reason may hold what would be taken for markup.
            Text(decode_partition_key(row.media)),
            Text(row.state.value, style=STYLES.get(row.state.value, "default")),
            "" if row.segments is None else str(row.segments),
            "" if row.minutes is None else f"{row.minutes:.2f}",
            Text(row.reason),
        )
    table.add_section()
    table.add_row(
        f"{len(rows)} media files",
        "",
        str(sum(row.segments or 0 for row in rows)),
        f"{sum(row.minutes or 0.0 for row in rows if row.segments):.2f}",
        "",
    )
    return table
