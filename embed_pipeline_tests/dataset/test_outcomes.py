from __future__ import annotations

import duckdb
import pytest

from embed_pipeline.dataset import EmbeddingDataset, MediaOutcome
from embed_pipeline.dataset.outcomes import OUTCOME_DESCRIPTIONS, outcome_schema
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import CREATED_AT


def outcome(number, **changes):
    return MediaOutcome(
        media=f"{number}.mp4", media_uri=f"https://me:pw@example.com/{number}.mp4", **{"state": "embedded", **changes}
    )


def test_what_became_of_each_media_file_can_be_queried(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    outcomes = [
        outcome(1, segments=9, minutes_billed=1.5, attempts=1, embedded_at=CREATED_AT),
        outcome(2, state="failed", error="video_duration_too_short", attempts=3, minutes_billed=0.0),
        outcome(3, state="failed", error="video_duration_too_short", attempts=1),
    ]
    written = dataset.write_outcomes(iter(outcomes))
    assert written.rows == 3
    query = f"select error, count(*), sum(attempts) from '{written.uri}' where state = 'failed' group by error"
    assert duckdb.sql(query).fetchall() == [("video_duration_too_short", 2, 4)]
    table = dataset.read_outcomes()
    assert table.schema.equals(outcome_schema())
    assert table["embedded_at"].to_pylist() == [CREATED_AT, None, None]
    assert table["media_uri"][0].as_py() == "https://example.com/1.mp4"


def test_the_table_is_replaced_as_a_whole_and_empty_before(dataset):
    assert len(dataset.read_outcomes()) == 0
    dataset.write_outcomes(outcome(number) for number in range(3))
    dataset.write_outcomes([outcome(7)])
    assert dataset.read_outcomes()["media"].to_pylist() == ["7.mp4"]


def test_a_state_that_does_not_exist_is_refused():
    with pytest.raises(DatasetError, match=r"'1\.mp4' is 'lost'; use one of unsubmitted,"):
        outcome(1, state="lost")


def test_every_column_is_described():
    assert {f.name: f.metadata[b"description"].decode() for f in outcome_schema()} == OUTCOME_DESCRIPTIONS
