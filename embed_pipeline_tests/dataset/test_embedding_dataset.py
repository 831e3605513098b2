from __future__ import annotations

from pathlib import Path

import pytest

from embed_pipeline.dataset import EmbeddingDataset
from embed_pipeline.errors import DatasetError


def test_the_first_pipeline_has_the_root_and_another_is_refused(tmp_path: Path) -> None:
    EmbeddingDataset(str(tmp_path)).claim("")
    EmbeddingDataset(str(tmp_path)).claim("")

    with pytest.raises(DatasetError, match=r"the pipeline 'films' would replace its files .* output of its own"):
        EmbeddingDataset(str(tmp_path)).claim("films")
    EmbeddingDataset(str(tmp_path / "films")).claim("films")


def test_a_renamed_pipeline_has_it_once_the_note_is_deleted(tmp_path: Path) -> None:
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.claim("movies")
    with pytest.raises(DatasetError, match=r"delete .*pipeline\.json"):
        dataset.claim("films")
    (tmp_path / "pipeline.json").unlink()

    dataset.claim("films")


@pytest.mark.parametrize("written", [b"", b"{", b"[]", b'{"pipeline": 3}', b'{"name": "etl"}', b"\xff"])
def test_a_file_of_that_name_that_names_no_pipeline_is_not_replaced(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "pipeline.json").write_bytes(written)

    with pytest.raises(DatasetError, match=r"pipeline\.json does not name the pipeline .* delete that file"):
        EmbeddingDataset(str(tmp_path)).claim("films")
    assert (tmp_path / "pipeline.json").read_bytes() == written


def test_of_two_that_come_at_once_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, other = EmbeddingDataset(str(tmp_path)), EmbeddingDataset(str(tmp_path))
    put = type(dataset.storage).put

    def put_before_another(storage: object, path: str, data: bytes) -> None:
        monkeypatch.undo()
        put(storage, path, data)  # type: ignore[arg-type]
        (tmp_path / "pipeline.json").write_text('{"pipeline": "films"}')

    monkeypatch.setattr(type(dataset.storage), "put", put_before_another)
    with pytest.raises(DatasetError):
        dataset.claim("talks")
    other.claim("films")
