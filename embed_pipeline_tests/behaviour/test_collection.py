"""What a collecting run does when something goes wrong with one result, or with all."""

from __future__ import annotations

from typing import Any

import pytest

from embed_pipeline.dataset import EmbeddingDataset
from embed_pipeline.orchestration import metadata
from embed_pipeline_tests.world import World


def problems(world: World) -> dict[str, str]:
    """What the latest run told of each media file, in its table of problems."""
    run = world.instance.get_run_records(limit=1)[0].dagster_run
    failures = [
        event.dagster_event.step_failure_data
        for event in world.instance.all_logs(run.run_id)
        if event.dagster_event is not None and event.dagster_event.is_step_failure
    ]
    assert failures[0].user_failure_data is not None
    records = failures[0].user_failure_data.metadata["embed_pipeline/problems"].records
    return {str(record.data["media"]): str(record.data["problem"]) for record in records}


def test_what_was_not_looked_at_is_not_told_to_be_processing(world: World) -> None:
    names = [f"{number}.wav" for number in range(8)]
    world.add(*names)
    world.discover()
    world.faults({"kind": "status", "status": 401, "on": "retrieve"})

    [run] = world.collect().runs

    told = problems(world)
    assert set(told) == set(names)
    assert all("401" in problem for problem in told.values())
    assert "0 still processing" not in world.words(run)
    assert world.words(run).count("401") == 1


def test_an_unforeseen_error_of_one_result_leaves_the_others_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = EmbeddingDataset.write

    def written(self: EmbeddingDataset, segments: Any, **options: Any) -> Any:
        if segments.media == "one.wav":
            raise OSError("no space left, said https://store.example.com/part?signature=secret")
        return write(self, segments, **options)

    monkeypatch.setattr(EmbeddingDataset, "write", written)
    world.add("one.wav", "two.wav", "zoo.wav")
    world.discover()

    [run] = world.collect().runs

    assert world.states() == {"one.wav": "processing", "two.wav": "embedded", "zoo.wav": "embedded"}
    assert "one.wav: an unexpected OSError: no space left" in world.words(run)
    assert "signature" not in world.words(run)
    assert not any("signature" in entry.user_message for entry in world.instance.all_logs(run.run_id))


def test_a_picture_that_cannot_be_drawn_costs_no_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_segments: object) -> str:
        raise OSError("no font")

    monkeypatch.setattr(metadata, "self_similarity", broken)
    world.add("one.wav")

    assert world.settle() == {"one.wav": "embedded"}

    event = world.instance.get_latest_materialization_event(world.blueprint.names.segment_embeddings)
    assert event is not None
    assert event.asset_materialization is not None
    assert "could not be drawn" in str(event.asset_materialization.metadata["embed_pipeline/self_similarity"].value)


def test_whoever_drives_a_run_that_is_interrupted_is_interrupted_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("embed_pipeline.orchestration.assets.collect", interrupted)
    world.add("one.wav")
    world.discover()

    with pytest.raises(KeyboardInterrupt):
        world.collect()
