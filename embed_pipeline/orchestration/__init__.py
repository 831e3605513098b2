"""Dagster: the thin skin around the pipeline. Partition keys go in, events come out."""
