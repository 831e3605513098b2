"""Two media libraries in one Dagster code location."""
