from __future__ import annotations

import pytest

from embed_pipeline.dataset import EmbeddingDataset


@pytest.fixture(params=["local", "memory"])
def dataset(request, tmp_path):
    """An empty dataset in a folder, and one where whole objects are put and got as in an object store."""
    if request.param == "local":
        return EmbeddingDataset(str(tmp_path / "dataset"))
    return EmbeddingDataset(f"memory://{tmp_path.name}")
