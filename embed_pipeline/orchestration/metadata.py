"""What the UI shows of an asset and of each of its partitions: columns with their meaning, numbers, and words.

The keys that begin with ``dagster/`` are those to which Dagster gives a place of its own: the tab of columns, the row
count, the table's name, its address. They are written literally because Dagster does not export their names; a test
pins that it understands them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.blueprint import Blueprint

COLUMN_SCHEMA = "dagster/column_schema"
COLUMN_LINEAGE = "dagster/column_lineage"
ROW_COUNT = "dagster/row_count"
TABLE_NAME = "dagster/table_name"
URI = "dagster/uri"
SIZE_BYTES = "dagster/size_bytes"

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
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=column.name == "segment_id"),
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
    """What is known of ``segment_embeddings`` before anything ran."""
    return {
        COLUMN_SCHEMA: column_schema(blueprint.settings.embedding_dimension),
        TABLE_NAME: "segments",
        "embed_pipeline/settings": settings_in_words(blueprint.settings.request("video")),
        "embed_pipeline/settings_of_audio_files": settings_in_words(blueprint.settings.request("audio")),
    }


def settings_in_words(request: Mapping[str, Any]) -> str:
    """What the platform is asked for, in one line.

    Args:
        request: The keywords of ``tasks.create``, as ``EmbeddingSettings.request`` makes them.
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


def clock(seconds: float) -> str:
    """A time offset as people read it: ``1:23:45``, ``3:07``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
