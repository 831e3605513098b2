"""The one-liners of docs/dataset.md are run as they stand there."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from embed_pipeline.dataset import (
    EmbeddingDataset,
    MediaOutcome,
    column_descriptions,
    near_duplicates,
    nearest,
    read_embeddings,
)
from embed_pipeline_tests.dataset.values import make_segments

DOCUMENT = Path(__file__).parents[3] / "docs" / "dataset.md"
BLOCK = re.compile(
    r"^## (?P<chapter>[^\n]*)$|^### (?P<section>[^\n]*)$|^```(?P<kind>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
HEAVY = {"Hugging Face datasets": "datasets", "LanceDB": "lancedb"}


def blocks():
    """The runnable blocks of the document, by their heading."""
    heading, found = "", {}
    for match in BLOCK.finditer(DOCUMENT.read_text()):
        heading = match["chapter"] or match["section"] or heading
        if match["kind"] in ("python", "sql"):
            found.setdefault(heading, []).append((match["kind"], match["code"]))
    return found


BLOCKS = blocks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover")
    dataset = EmbeddingDataset(str(folder / "dataset"))
    for media in ("lectures/one.mp4", "lectures/two.mp4", "talk, 100%25.mp3"):
        dataset.write(make_segments(media, clips=5, dimension=512))
    dataset.compact()
    dataset.write_outcomes([MediaOutcome(media="x", media_uri="x", state="failed", error="short", minutes_billed=2)])
    return folder


@pytest.fixture
def run(folder, monkeypatch, tmp_path):
    """Runs the blocks under a heading and returns the names they leave behind, and the answers of SQL."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def run(heading):
        if heading in HEAVY:
            pytest.importorskip(HEAVY[heading], reason=f"{heading} comes with the extra `readers`")
        names, answers = {"files": EmbeddingDataset("dataset").snapshot_uris()}, []
        with duckdb.connect() as database:
            for kind, code in BLOCKS[heading]:
                if kind == "python":
                    exec(compile(code, f"{DOCUMENT.name}: {heading}", "exec"), names)
                else:
                    answer = database.execute(code)
                    answers.append(answer.fetchall() if answer.description else None)
        return names, answers

    return run


@pytest.fixture(scope="module")
def rows(folder):
    return read_embeddings(str(folder / "dataset"), to="matrix")


def by_id(ids, vectors):
    return {str(key): np.asarray(vector, np.float32).tobytes() for key, vector in zip(ids, vectors, strict=True)}


@pytest.mark.parametrize("heading", ["Polars", "pandas", "pyarrow", "Hugging Face datasets"])
def test_a_reader_agrees_on_rows_offsets_and_vectors(heading, run, rows):
    names, _ = run(heading)
    table = next(names[name] for name in ("frame", "table", "segments") if name in names)
    vectors, expected = rows
    assert np.asarray(names["vectors"]).shape == vectors.shape
    assert by_id(table["segment_id"], names["vectors"]) == by_id(expected["segment_id"], vectors)
    for column in ("media", "embedding_option", "embedding_scope", "start_sec", "end_sec"):
        found = dict(zip(map(str, table["segment_id"]), map(str, table[column]), strict=True))
        assert found == dict(zip(expected["segment_id"], expected[column].map(str), strict=True)), column


@pytest.mark.parametrize("heading", ["DuckDB", "LanceDB"])
def test_a_search_elsewhere_finds_what_ours_finds(heading, run, folder):
    names, _ = run(heading)
    expected = nearest(str(folder / "dataset"), [0.1] * 512, k=5)
    if heading == "DuckDB":
        found = names["found"]
    else:
        found = [(row["media"], row["start_sec"], 1 - row["_distance"]) for row in names["found"]]
    assert [place[:2] for place in found] == [(match.media, match.start_sec) for match in expected]
    assert [place[2] for place in found] == pytest.approx([match.score for match in expected], abs=1e-5)


def test_duckdb_reads_the_table_and_the_outcomes(run, rows):
    _, answers = run("DuckDB")
    assert answers[0] == [("lectures/one.mp4", 11), ("lectures/two.mp4", 11), ("talk, 100%25.mp3", 11)]
    assert answers[1] == [("failed", "short", 1, 2.0)]


def test_duckdb_reads_rows_offsets_and_vectors(folder, rows):
    query = f"SELECT segment_id, embedding::FLOAT[512] FROM '{folder}/dataset/segments/**/*.parquet'"
    vectors, expected = rows
    found = duckdb.sql(query).fetchall()
    assert by_id(*zip(*found, strict=True)) == by_id(expected["segment_id"], vectors)


def test_lancedb_holds_the_same_rows(run, rows):
    names, _ = run("LanceDB")
    stored = names["segments"].to_arrow()
    vectors, expected = rows
    assert by_id(stored["segment_id"], stored["embedding"].to_pylist()) == by_id(expected["segment_id"], vectors)


@pytest.fixture(autouse=True)
def fresh_lance(folder):
    yield
    for path in sorted((folder / "lance").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_csv_for_pgvector_holds_vectors_as_it_reads_them(run, rows, folder):
    run("pgvector")
    with (folder / "segments.csv").open() as file:
        lines = list(csv.DictReader(file))
    vectors, expected = rows
    found = by_id([line["segment_id"] for line in lines], [json.loads(line["embedding"]) for line in lines])
    assert found == by_id(expected["segment_id"], vectors)


def test_reading_and_searching_work_as_documented(run, folder):
    names, _ = run("Reading from Python")
    assert len(names["table"]) == 33
    assert set(names["frame"]["media"]) == {"lectures/one.mp4"}
    assert "lectures/two.mp4" not in set(names["polars_frame"]["media"])
    assert set(names["rows"]["embedding_scope"]) == {"clip"}
    assert len(names["vectors"]) == len(names["rows"]) == 3 * 2 * 2
    assert len(names["segments"]) == 11
    names, _ = run("Searching")
    assert len(names["like_vector"]) == len(names["like_segment"]) == len(names["like_media"]) == 5
    names, _ = run("Near-duplicates")
    assert names["pairs"] == near_duplicates(str(folder / "dataset"), threshold=0.98, scope="asset")
    names, _ = run("Readers without fixed-size lists")
    assert names["dataset"].encoding.layout == "list"


def test_results_and_checks_work_as_documented(run):
    names, _ = run("Results and checks")
    assert names["held"]["rows"].tolist() == [11, 11, 11]
    assert names["damaged"] == []
    assert [names["problem"], *names["problems"]] == [None] * 4


def test_snapshots_work_as_documented(run, folder):
    names, _ = run("Snapshots of the table")
    assert all(Path(file).is_file() for file in names["files"])
    assert names["dataset"].snapshot() == names["earlier"]


def test_every_metadata_key_is_documented(folder):
    written = set()
    for path in (folder / "dataset").rglob("*.parquet"):
        written |= {key.decode() for key in pq.read_schema(path).metadata or {}}
    keys = {key.removeprefix("embed_pipeline.") for key in written if key.startswith("embed_pipeline.")}
    section = DOCUMENT.read_text().partition("**File metadata.**")[2].partition("So a footer")[0]
    assert keys == set(re.findall(r"`(\w+)`", section)) - {"cosine"}


def test_every_column_is_documented_with_its_description():
    table = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE))
    described = {name: text.removesuffix(", in UTC.").rstrip(".") for name, text in column_descriptions().items()}
    assert {name: text.rstrip(".") for name, text in table.items()} == described
