"""The package's public names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import embed_pipeline

# What a code location, a sensor's tick or a run has no use for until it works on media or on Parquet.
_HEAVY = ("pyarrow", "numpy", "pandas", "av", "PIL", "httpx", "uvicorn", "starlette", "simdjson", "fsspec")


def _loaded_by(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("name", [name for name in embed_pipeline.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(embed_pipeline, name).__doc__
    assert name in dir(embed_pipeline)


def test_a_name_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Embedder'"):
        _ = embed_pipeline.Embedder


def test_importing_the_package_alone_loads_nothing() -> None:
    loaded = _loaded_by("import embed_pipeline")
    assert not loaded & {"dagster", "pydantic", *_HEAVY}


def test_loading_the_code_location_adds_nothing_heavy_to_dagster() -> None:
    by_dagster = _loaded_by("import dagster")
    loaded = _loaded_by("import embed_pipeline.definitions")
    assert not (loaded - by_dagster) & set(_HEAVY)
