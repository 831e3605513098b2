"""Findings in the events that tell of segments, so that a run which dies before its checks are told loses none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.findings import Findings
from embed_pipeline.orchestration.names import PipelineNames

_KINDS = ("vectors", "offsets", "options")
_EVENTS_PER_PAGE = 500


def finding_metadata(findings: Findings) -> dict[str, Any]:
    """What is wrong with a media file's segments, as metadata of the event that tells of them; empty for nothing."""
    problems = {kind: getattr(findings, kind) for kind in _KINDS}
    return {f"embed_pipeline/problem_{kind}": problem for kind, problem in problems.items() if problem is not None}


def findings_told_after(
    instance: dg.DagsterInstance, names: PipelineNames, position: int
) -> tuple[dict[str, Findings], int]:
    """What was told of media files' segments after an event: by runs that ended, that go on, and that died.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        position: The storage id of that event; 0 for all.

    Returns:
        The latest findings of each media file that something was told of, and the storage id of the last event.
    """
    found: dict[str, Findings] = {}
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=names.segment_embeddings, after_storage_id=position),
            limit=_EVENTS_PER_PAGE,
            ascending=True,
        ).records
        for record in page:
            position = record.storage_id
            event = record.asset_materialization
            if event is not None and event.partition is not None:
                found[event.partition] = _findings_of(event.metadata)
        if len(page) < _EVENTS_PER_PAGE:
            return found, position


def _findings_of(metadata: Mapping[str, dg.MetadataValue[Any]]) -> Findings:
    problems = {kind: metadata.get(f"embed_pipeline/problem_{kind}") for kind in _KINDS}
    return Findings(**{kind: None if problem is None else str(problem.value) for kind, problem in problems.items()})
