"""Which pipelines there are: in loaded definitions, where each has left its blueprint, and in an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.metadata.metadata_value import ObjectMetadataValue

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.names import PipelineNames

_BLUEPRINT = "embed_pipeline/blueprint"


def blueprint_metadata(blueprint: Blueprint) -> dict[str, ObjectMetadataValue]:
    """The blueprint as metadata of the definitions that are built from it; other processes see only that it is there.

    Merged definitions keep it, because each pipeline's entry bears its name.
    """
    return {f"{_BLUEPRINT}/{blueprint.name}" if blueprint.name else _BLUEPRINT: ObjectMetadataValue(blueprint)}


def blueprints_in(metadata: Mapping[str, Any]) -> list[Blueprint]:
    """The blueprints that definitions were built from.

    Args:
        metadata: The metadata of the definitions.
    """
    values = (value for key, value in metadata.items() if key.startswith(_BLUEPRINT))
    told = (value.instance for value in values if isinstance(value, ObjectMetadataValue))
    return [blueprint for blueprint in told if isinstance(blueprint, Blueprint)]


def pipelines_told_of(instance: dg.DagsterInstance) -> set[str | None]:
    """The names of the pipelines that have media files in an instance; None among them for the one without a name.

    Args:
        instance: The Dagster instance.
    """
    keys = [key for key in instance.get_asset_keys() if key.path[-1] == "media_files" and len(key.path) <= 2]
    names = [key.path[0] if len(key.path) == 2 else None for key in keys]
    return {name for name in names if instance.get_dynamic_partitions(PipelineNames(name).partitions)}
