"""What the UI shows of the assets and of each partition."""

from __future__ import annotations

import base64
import io
import re
import sys
from xml.etree import ElementTree as ET

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.dataset import column_descriptions
from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.metadata import segment_table_metadata, self_similarity, settings_in_words, timeline
from embed_pipeline.pipeline.settings import EmbeddingSettings, Segmentation
from embed_pipeline.pipeline.validate import clock
from embed_pipeline_tests.segments import made_up
from embed_pipeline_tests.world import World

# Of a Markdown entry, the UI shows fewer characters than this in place, and the rest one click away.
_SHOWN_IN_PLACE = 1000


def _picture(markdown: str) -> bytes:
    found = re.search(r"data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found is not None
    return base64.b64decode(found[1])


def test_dagster_gives_the_columns_the_name_and_the_rows_of_a_table_their_places(world: World) -> None:
    """Dagster does not export the names of these keys; this pins that it reads ours as what they are."""
    from dagster._core.definitions.metadata.metadata_set import TableMetadataSet

    known = TableMetadataSet.extract(segment_table_metadata(world.blueprint))

    assert known.table_name == "segments"
    assert known.column_schema is not None
    assert {column.name: column.description for column in known.column_schema.columns} == column_descriptions()
    assert {column.name for column in known.column_schema.columns if column.constraints.nullable} == {
        "embedding_uncertainty"
    }
    graph = build_definitions(world.blueprint).resolve_asset_graph()
    table = TableMetadataSet.extract(graph.get(world.blueprint.names.embeddings_table).metadata)
    assert table.column_lineage is not None
    assert set(table.column_lineage.deps_by_column) == set(column_descriptions())


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (
            EmbeddingSettings(),
            (
                "marengo3.0, visual + audio + transcription by clip and asset, separate embedding, "
                "cut where the content changes, 4 s or longer"
            ),
        ),
        (
            EmbeddingSettings(
                model_name="marengo3.5",
                embedding_dimension=256,
                video_options=("visual",),
                scopes=("clip",),
                video_segmentation=Segmentation(strategy="fixed", seconds=5),
                end_sec=60,
            ),
            "marengo3.5, 256 dimensions, visual by clip, cut every 5 s, from 0 s to 60 s",
        ),
    ],
)
def test_settings_are_told_in_words(chosen: EmbeddingSettings, words: str) -> None:
    assert settings_in_words(chosen.request("video")) == words


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (5025, "1:23:45")])
def test_offsets_read_as_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 400), scenes=st.integers(1, 9), seconds=st.floats(0.5, 600))
def test_a_timeline_of_any_length_is_a_picture_that_the_ui_shows_in_place(
    count: int, scenes: int, seconds: float
) -> None:
    markdown = timeline(made_up(count, scenes=scenes, seconds=seconds))

    assert markdown is not None
    assert len(markdown) < _SHOWN_IN_PLACE
    assert re.search(r"base64,([^)]*)", markdown)[1].__len__() <= 700  # type: ignore[index]
    assert ET.fromstring(_picture(markdown)).tag.endswith("svg")


def test_the_timeline_shows_where_the_content_changes() -> None:
    def heights(scenes: int) -> list[int]:
        svg = _picture(timeline(made_up(12, scenes=scenes)) or "").decode()
        return [20 - int(top) for top in re.findall(r"M\d+ 20V(\d+)", svg)]

    assert len(heights(3)) == 12, "one bar for each segment"
    assert max(heights(1)) < 5
    assert sum(height > 10 for height in heights(3)) == 2, "three scenes have two changes"


def test_without_segments_by_clip_there_is_nothing_to_draw() -> None:
    segments = made_up(3, embedding_scope=["asset"] * 4)
    assert timeline(segments) is None
    assert self_similarity(segments) is None


@pytest.mark.parametrize("count", [4, 40, 1500])
def test_the_picture_shows_which_parts_are_alike_and_stays_small(count: int) -> None:
    image = pytest.importorskip("PIL.Image")

    markdown = self_similarity(made_up(count, scenes=2))

    assert markdown is not None
    assert len(markdown) < 12_000, "each partition's event carries one"
    picture = image.open(io.BytesIO(_picture(markdown))).convert("RGB")
    left, top, right, bottom = 44, 6, picture.width - 17, picture.height - 21
    brightness = {
        place: sum(picture.getpixel(place))
        for place in ((left + 6, top + 6), (right - 6, bottom - 6), (right - 6, top + 6), (left + 6, bottom - 6))
    }
    same, other = list(brightness.values())[:2], list(brightness.values())[2:]
    assert min(same) > max(other), "within a scene it is light, across scenes dark"


def test_without_pillow_there_is_no_picture_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert self_similarity(made_up(12)) is None


def test_a_partitions_page_tells_its_story(world: World) -> None:
    world.add("talks/one, two.wav", seconds=30.0)
    world.step()
    key = "talks/one%2C two.wav"

    event = world.instance.fetch_materializations(
        dg.AssetRecordsFilter(world.blueprint.names.segment_embeddings, asset_partitions=[key]), limit=1
    ).records[0]
    found = event.asset_materialization.metadata  # type: ignore[union-attr]

    numbers = {name.removeprefix("embed_pipeline/"): value.value for name, value in found.items()}
    assert numbers["path"] == "talks/one, two.wav"
    assert numbers["segments"] == found["dagster/partition_row_count"].value == len(world.segments(key))
    assert numbers["media_sec"] == pytest.approx(30.0)
    assert numbers["minutes"] == pytest.approx(0.5)
    assert numbers["attempt"] == 1
    assert numbers["wait_sec"] >= 0
    assert numbers["task_id"] == world.statuses()[key].task_id
    assert "marengo3.0" in numbers["settings"]
    assert isinstance(found["embed_pipeline/timeline"], dg.MarkdownMetadataValue)
    plotted = {name for name, value in found.items() if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)}
    assert {"embed_pipeline/segments", "embed_pipeline/media_sec", "embed_pipeline/wait_sec"} <= plotted
    assert {"dagster/size_bytes", "embed_pipeline/minutes", "embed_pipeline/attempt"} <= plotted


def test_no_media_file_looks_missing_in_the_ui(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.step()
    names = world.blueprint.names
    status = world.instance.get_status_by_partition(
        names.media_files,
        world.instance.get_dynamic_partitions(world.blueprint.names.partitions),
        world.blueprint.partitions_def,
    )
    assert status is not None
    assert {str(value) for value in status.values()} == {"AssetPartitionStatus.MATERIALIZED"}
    assert status.keys() == {"one.wav", "two.wav"}


def test_a_run_sums_up_what_it_did(world: World) -> None:
    world.add("one.wav", "two.wav", seconds=30.0)
    submitted, collected = world.step()

    def summary(tick: object) -> dict[str, object]:
        (run,) = tick.runs  # type: ignore[attr-defined]
        (output,) = [e for e in run.all_node_events if e.is_successful_output and "result" in str(e.step_output_data)]
        values = output.step_output_data.metadata.items()
        return {name.removeprefix("embed_pipeline/"): value.value for name, value in values}

    told = summary(submitted)
    assert (told["created"], told["attached"], told["adopted"], told["failed"]) == (2, 0, 0, 0)
    assert told["minutes"] == pytest.approx(1.0)
    assert told["requests"] == 2
    assert (told["retries"], told["rate_limited"], told["waited_for_limits_sec"]) == (0, 0, 0.0)
    told = summary(collected)
    assert (told["collected"], told["failed"], told["processing"]) == (2, 0, 0)
    assert told["segments"] == sum(len(world.segments(key)) for key in world.states())
    assert told["requests"] >= 2
