"""Whose dataset it is: one pipeline writes below a root, since two would replace each other's files and table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from embed_pipeline.dataset.storage import Storage

PATH = "pipeline.json"


def claim(storage: Storage, pipeline: str) -> None:
    """Makes sure that a root is one pipeline's own; the first that comes to it has it.

    Args:
        storage: The files below the root.
        pipeline: The pipeline's name; empty for the one without.

    Raises:
        DatasetError: Another pipeline has the root, or whose it is cannot be told.
    """
    owner = _owner(storage)
    if owner is None:
        storage.put(PATH, json.dumps({"pipeline": pipeline}).encode())
        # Of two that come at once, the one that wrote last has it, and the other learns it here.
        owner = _owner(storage)
    if owner is not None and owner != pipeline:
        raise DatasetError(
            f"{storage.uri('')} holds the dataset of {_called(owner)}, and {_called(pipeline)} would replace its files "
            "and its table. Give each pipeline an output of its own. If the pipeline was only renamed, delete "
            f"{storage.uri(PATH)}."
        )


def _owner(storage: Storage) -> str | None:
    if (data := storage.read(PATH)) is None:
        return None
    try:
        told = json.loads(data)["pipeline"]
    except (ValueError, KeyError, TypeError):
        told = None
    if not isinstance(told, str):
        # Another program's perhaps, with a meaning of its own.
        raise DatasetError(
            f"{storage.uri(PATH)} does not tell which pipeline's dataset this is, and is not replaced, since it may be "
            "somebody's. Give the dataset an output of its own, or delete that file."
        )
    return told


def _called(pipeline: str) -> str:
    return f"the pipeline {pipeline!r}" if pipeline else "the pipeline without a name"
