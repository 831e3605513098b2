"""Metadata and pictures: what Dagster's UI shows of an asset and of each of its partitions.

The keys that begin with `dagster/` are those to which Dagster gives a place of its own: the tab of columns, the row
count, the table's name, its address. They are written literally because Dagster does not export their names; a test
pins that it understands them.

Pictures live in an event. The UI shows Markdown of fewer than 1,000 characters in place and the rest one click away; it
draws images from data URLs and no inline SVG. So the timeline is an SVG of a few hundred bytes, and the large picture
is a PNG of some kilobytes, which is only drawn where Pillow (the extra `pictures`) is installed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.pipeline.validate import clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embed_pipeline.client import ClientStats
    from embed_pipeline.dataset import MediaSegments
    from embed_pipeline.pipeline.plan import SpendingPlan

COLUMN_SCHEMA = "dagster/column_schema"
COLUMN_LINEAGE = "dagster/column_lineage"
ROW_COUNT = "dagster/row_count"
TABLE_NAME = "dagster/table_name"
URI = "dagster/uri"
SIZE_BYTES = "dagster/size_bytes"

_TIMELINE_BARS = 40
_CELLS = 96
_PICTURE_SIDE = 288
_TICK_STEPS_SEC = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
# From far apart to alike: dark blue, violet, orange, pale yellow.
_COLOURS = ((13, 8, 71), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33))
_SHOWN_IN_UI = 500

_TYPES = {
    "string": "string",
    "int32": "int32",
    "float64": "double",
    "timestamp": "timestamp[us, UTC]",
}


def column_schema(dimension: int) -> dg.TableSchema:
    """The columns of the dataset, with the descriptions that the Parquet files carry as well.

    Args:
        dimension: Numbers in a vector.
    """
    from embed_pipeline.dataset.schema import COLUMNS

    vector = f"fixed_size_list<float32>[{dimension}]"
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=_TYPES.get(column.kind, vector),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in COLUMNS
        ]
    )


def column_lineage(upstream: dg.AssetKey) -> dg.TableColumnLineage:
    """The lineage of a table that takes each of its columns from the column of that name in another one.

    Args:
        upstream: The table it takes them from.
    """
    from embed_pipeline.dataset.schema import COLUMNS

    return dg.TableColumnLineage(
        {column.name: [dg.TableColumnDep(asset_key=upstream, column_name=column.name)] for column in COLUMNS}
    )


def segment_table_metadata(blueprint: Blueprint) -> dict[str, Any]:
    """What is known of `segment_embeddings` before anything ran."""
    return {
        COLUMN_SCHEMA: column_schema(blueprint.settings.embedding_dimension),
        TABLE_NAME: "segments",
        "embed_pipeline/settings": settings_in_words(blueprint.settings.request("video")),
        "embed_pipeline/settings_of_audio_files": settings_in_words(blueprint.settings.request("audio")),
    }


def settings_in_words(request: Mapping[str, Any]) -> str:
    """What the platform is asked for, in one line.

    Args:
        request: The keywords of `tasks.create`, as `EmbeddingSettings.request` makes them.
    """
    media = request[request["input_type"]]
    segmentation = media["segmentation"].get("temporal", media["segmentation"])
    strategy = segmentation["strategy"]
    seconds = next(iter(segmentation[strategy].values()))
    cut = f"every {seconds} s" if strategy == "fixed" else f"where the content changes, {seconds} s or longer"
    parts = [
        request["model_name"],
        *([f"{request['embedding_dimension']} dimensions"] if "embedding_dimension" in request else []),
        f"{' + '.join(media['embedding_option'])} by {' and '.join(media['embedding_scope'])}",
        *([" and ".join(media["embedding_type"]).replace("_", " ")] if "embedding_type" in media else []),
        f"cut {cut}",
    ]
    if "start_sec" in media or "end_sec" in media:
        end = f"{media['end_sec']:g} s" if "end_sec" in media else "the end"
        parts.append(f"from {media.get('start_sec', 0):g} s to {end}")
    return ", ".join(parts)


def problem_table(problems: Mapping[str, str], *, longest: int = 100) -> dg.TableMetadataValue:
    """What is wrong with which media file, as a table; of many, the first.

    Args:
        problems: What is wrong and what to do, by partition key.
        longest: Rows, at the most.
    """
    schema = dg.TableSchema(columns=[dg.TableColumn("media"), dg.TableColumn("problem")])
    rows: Sequence[dg.TableRecord] = [
        dg.TableRecord({"media": key, "problem": problem}) for key, problem in list(problems.items())[:longest]
    ]
    return dg.MetadataValue.table(rows, schema=schema)


def traffic_numbers(stats: ClientStats | None) -> dict[str, Any]:
    """Return what a run's requests came to, as metadata; empty where nothing is known."""
    if stats is None:
        return {}
    return {
        "embed_pipeline/requests": stats.requests,
        "embed_pipeline/retries": stats.retries,
        "embed_pipeline/rate_limited": stats.rate_limited,
        "embed_pipeline/waited_for_limits_sec": round(stats.waited_sec, 3),
    }


def traffic_in_words(stats: ClientStats) -> str:
    """Return what a run's requests came to, as a sentence."""
    return (
        f"{stats.requests} requests, {stats.retries} of them again; {stats.rate_limited} were answered with 429; "
        f"{stats.waited_sec:.1f} s waited for limits and between attempts, summed over threads."
    )


def plan_metadata(plan: SpendingPlan) -> dict[str, Any]:
    """Return a plan as the UI shows it: its headline, numbers, and a table of what is not simply unchanged."""
    rows = [file for file in plan.files if file.action != "unchanged"]
    schema = dg.TableSchema(
        [
            dg.TableColumn("media", "string"),
            dg.TableColumn("action", "string"),
            dg.TableColumn("minutes", "float"),
            dg.TableColumn("reason", "string"),
        ]
    )
    records = [
        dg.TableRecord(
            {
                "media": file.media,
                "action": file.action.value,
                "minutes": None if file.minutes is None else round(file.minutes, 2),
                "reason": file.reason,
            }
        )
        for file in rows[:_SHOWN_IN_UI]
    ]
    return {
        "embed_pipeline/plan": f"{plan.headline} {plan.pace}",
        "embed_pipeline/tasks": len(plan.created),
        "embed_pipeline/minutes": round(plan.minutes, 3),
        "embed_pipeline/cost": round(plan.cost, 4),
        **{f"embed_pipeline/files_{name.replace(' ', '_')}": count for name, count in plan.counts.items() if count},
        **{f"embed_pipeline/left_out_{reason}": count for reason, count in plan.left_out.items()},
        "embed_pipeline/files": dg.MetadataValue.table(records, schema=schema),
    }


def pictures(segments: MediaSegments, *, similarity: bool) -> dict[str, str]:
    """Return the pictures of one media file's segments in Markdown, by name.

    Args:
        segments: The segments.
        similarity: Whether to draw how alike they are.
    """
    drawn = {
        "timeline": _drawn(timeline, segments),
        "self_similarity": _drawn(self_similarity, segments) if similarity else None,
    }
    return {name: text for name, text in drawn.items() if text is not None}


def _drawn(draw: Callable[[MediaSegments], str | None], segments: MediaSegments) -> str | None:
    """Return a picture, or why there is none: a result that is in the dataset is not lost for want of one."""
    try:
        return draw(segments)
    except Exception as error:
        return f"This picture could not be drawn ({type(error).__name__}: {error})."


def timeline(segments: MediaSegments) -> str | None:
    """A line in Markdown: where segments begin, and how much each differs from the one before.

    Args:
        segments: One media file's segments.

    Returns:
        Fewer than 1,000 characters; None where there are no segments by clip.
    """
    option, rows = _principal(segments)
    if rows.size == 0:
        return None
    import numpy as np

    end = max(segments.duration_sec or 0.0, float(segments.end_sec[rows].max()), 1e-9)
    unit = _unit(segments.embedding[rows])
    change = np.concatenate([[0.0], 1.0 - np.einsum("ij,ij->i", unit[1:], unit[:-1])])
    # Where there are more segments than bars, the greatest change within a bar's width stands for all of them.
    bars: dict[int, float] = {}
    for start, amount in zip(segments.start_sec[rows], change, strict=True):
        place = min(int(start / end * 299), 299)
        if len(rows) > _TIMELINE_BARS:
            place = place * _TIMELINE_BARS // 300 * 300 // _TIMELINE_BARS
        bars[place] = max(bars.get(place, 0.0), float(amount))
    path = "".join(f"M{place} 20V{20 - max(3, min(20, round(amount * 20)))}" for place, amount in sorted(bars.items()))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="21">'
        f'<path stroke="#4f43dd" stroke-width="3" d="M0 20.5H300{path}"/></svg>'
    )
    return f"0:00 ![segments](data:image/svg+xml;base64,{_base64(svg.encode())}) {clock(end)} ({option})"


def self_similarity(segments: MediaSegments) -> str | None:
    """A picture in Markdown: the cosine of each segment with each other one, with the offsets on both axes.

    Args:
        segments: One media file's segments.

    Returns:
        Some kilobytes of Markdown; None where there are too few segments for a picture, or Pillow is not there.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return None
    import numpy as np

    option, rows = _principal(segments)
    if len(rows) < 4:
        return None
    start, end = segments.start_sec[rows], segments.end_sec[rows]
    cells = min(_CELLS, max(len(rows) * 4, 24))
    first, last = float(start.min()), float(end.max())
    middles = first + (np.arange(cells) + 0.5) * (last - first) / cells
    # Which segment covers the middle of a cell; the axes are time, not the number of the segment.
    covering = np.clip(np.searchsorted(start, middles, side="right") - 1, 0, len(rows) - 1)
    unit = _unit(segments.embedding[rows])[covering]
    cosine = unit @ unit.T
    low, high = float(cosine.min()), 1.0
    levels = np.clip((cosine - low) / max(high - low, 1e-6) * 15, 0, 15).round().astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette(_palette())
    image = image.resize((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.NEAREST)
    left, below = 44, 20
    canvas = Image.new("P", (_PICTURE_SIDE + left + 16, _PICTURE_SIDE + below + 6), 17)
    canvas.putpalette(_palette())
    canvas.paste(image, (left, 6))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    # Text without anti-aliasing keeps to the palette, and the file small.
    draw.fontmode = "1"
    for at in _ticks(first, last):
        offset = round((at - first) / (last - first) * (_PICTURE_SIDE - 1))
        draw.line((left - 4, 6 + offset, left - 1, 6 + offset), fill=16)
        draw.text((left - 6, 6 + offset), clock(at), fill=16, font=font, anchor="rm")
        draw.line((left + offset, _PICTURE_SIDE + 6, left + offset, _PICTURE_SIDE + 9), fill=16)
        draw.text((left + offset, _PICTURE_SIDE + 11), clock(at), fill=16, font=font, anchor="mt")
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return (
        f"How alike the parts of this media file are ({option}): light is alike, dark is unlike "
        f"(cosine {low:.2f} to 1), both axes are time.\n\n"
        f"![self-similarity](data:image/png;base64,{_base64(buffer.getvalue())})"
    )


def _principal(segments: MediaSegments) -> tuple[str, NDArray[np.intp]]:
    """The option that shows most, and its segments by clip in order of time."""
    import numpy as np

    for option in ("visual", "fused", "audio", *sorted(set(segments.embedding_option))):
        rows = [
            row
            for row, pair in enumerate(zip(segments.embedding_option, segments.embedding_scope, strict=True))
            if pair == (option, "clip")
        ]
        if rows:
            index = np.asarray(rows)
            return option, index[np.argsort(segments.start_sec[index], kind="stable")]
    return "", np.asarray([], dtype=np.intp)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    unit: NDArray[np.float32] = np.divide(vectors, norms, dtype=np.float32)
    return unit


def _ticks(first: float, last: float) -> Sequence[float]:
    step = next((step for step in _TICK_STEPS_SEC if (last - first) / step <= 6), _TICK_STEPS_SEC[-1])
    ticks, at = [], -(-first // step) * step
    while at <= last:
        ticks.append(at)
        at += step
    return ticks


def _palette() -> list[int]:
    """Sixteen colours for the cosine, then black and white."""
    colours: list[int] = []
    for level in range(16):
        at = level / 15 * (len(_COLOURS) - 1)
        lower = min(int(at), len(_COLOURS) - 2)
        share = at - lower
        colours += [
            round(one + (other - one) * share) for one, other in zip(_COLOURS[lower], _COLOURS[lower + 1], strict=True)
        ]
    return [*colours, 0, 0, 0, 255, 255, 255]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
