"""The code location: whatever the folder ``defs`` holds."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load the components below ``defs``."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
