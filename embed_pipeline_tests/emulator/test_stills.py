from __future__ import annotations

import base64
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_pipeline.emulator import EmulatorSettings
from embed_pipeline.emulator.settings import Sizes, Switches
from embed_pipeline.testing import TEST_SETTINGS, InProcessEmulator
from embed_pipeline_tests.emulator.conftest import TASKS, Caller
from embed_pipeline_tests.emulator.still_media import pdf, write_image

WORDS = "The harbour freezes over. Ships wait outside. The pilot comes at noon."
IN_THREES = {"sequential": {"strategy": "sentence", "max_sentences": 2, "overlap_sentences": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    write_image(folder / "grey.png", np.full((48, 64, 3), 128, np.uint8))
    (folder / "report.pdf").write_bytes(pdf([WORDS, "Second page"]))
    (folder / "notes.md").write_text(WORDS)
    (folder / "unnamed").write_text(WORDS)
    (folder / "no picture.png").write_text("text")
    return folder


@pytest.fixture
def emulator(start, folder) -> Caller:
    return start(EmulatorSettings(media_root=folder, workers=1))


def create(emulator: Caller, kind: str, source: dict[str, str], /, *, top: dict[str, Any] | None = None, **fields: Any):
    body = {"input_type": kind, "model_name": "marengo3.5", kind: {"media_source": source, **fields}, **(top or {})}
    return emulator.http.post(TASKS, json=body)


def settled(emulator: Caller, path: str) -> dict[str, Any]:
    for _ in range(600):
        item = emulator.http.get(path).json()
        if item["status"] != "processing":
            return item
        time.sleep(0.02)
    raise TimeoutError(path)


def embedded(emulator: Caller, kind: str, source: dict[str, str], /, **fields: Any) -> dict[str, Any]:
    answer = create(emulator, kind, source, **fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["metadata"] == {"embedding_dimension": 512}
    return settled(emulator, f"{TASKS}/{answer.json()['_id']}")


def test_an_image_is_embedded_from_every_kind_of_source(emulator, folder):
    path = folder / "grey.png"
    with path.open("rb") as file:
        form = {"data": {"method": "direct"}, "files": {"file": ("grey.png", file)}}
        asset = settled(emulator, f"/assets/{emulator.http.post('/assets', **form).json()['_id']}")
    assert asset["technical_metadata"]["image_width"] == 64
    assert "duration" not in asset
    assert [item["_id"] for item in emulator.http.get("/assets", params={"asset_types": "image"}).json()["data"]]
    sources = [
        {"url": path.as_uri()},
        {"asset_id": asset["_id"]},
        {"base64_string": base64.b64encode(path.read_bytes()).decode()},
    ]
    tasks = [embedded(emulator, "image", source) for source in sources]
    assert [task["status"] for task in tasks] == ["ready"] * 3
    assert tasks[0]["data"] == tasks[1]["data"] == tasks[2]["data"]
    (row,) = tasks[0]["data"]
    assert (row["embedding_option"], row["embedding_scope"], row["start_sec"], row["end_sec"]) == (
        "visual", "asset", None, None,
    )  # fmt: skip
    assert len(row["embedding"]) == 512
    assert tasks[0]["usage"] == {"input_tokens": {"image": 256}, "truncated": False}
    assert tasks[0]["metadata"] == {
        "input_type": "image",
        "input_url": path.as_uri(),
        "embedding_scopes": ["asset"],
        "embedding_options": ["visual"],
        "embedding_dimension": 512,
        "embedding_engine": "signal-2",
    }
    assert tasks[1]["metadata"]["input_filename"] == "grey.png"
    listed = emulator.http.get(TASKS).json()["data"][-1]
    assert listed["image_embedding"]["metadata"] == {
        "input_url": path.as_uri(),
        "image_embedding_scope": ["asset"],
        "image_embedding_option": ["visual"],
    }


def test_the_pages_of_a_pdf_come_with_their_numbers(emulator, folder):
    task = embedded(emulator, "document", {"url": (folder / "report.pdf").as_uri()})
    assert [(row["embedding_option"], row["embedding_scope"]) for row in task["data"]] == [("visual", "page")] * 2
    assert [(row["start_page_number"], row["end_page_number"]) for row in task["data"]] == [(1, 1), (2, 2)]
    assert task["usage"]["input_tokens"] == {"document": 512}
    assert (task["metadata"]["embedding_options"], task["metadata"]["embedding_scopes"]) == (["visual"], ["local"])
    listed = emulator.http.get(TASKS).json()["data"][0]["document_embedding"]["metadata"]
    assert (listed["document_embedding_option"], listed["document_embedding_scope"]) == (["visual"], ["local"])
    quadrants = {"spatial": {"strategy": "quadrants"}}
    task = embedded(emulator, "document", {"url": (folder / "report.pdf").as_uri()}, segmentation=quadrants)
    assert [row.get("quadrant") for row in task["data"][:5]] == [
        None, "top_left", "top_right", "bottom_left", "bottom_right",
    ]  # fmt: skip
    assert task["usage"]["input_tokens"] == {"document": 5 * 512}


def test_the_chunks_of_a_text_come_with_their_place(emulator, folder):
    source = {"url": (folder / "notes.md").as_uri()}
    task = embedded(emulator, "document", source, embedding_scope=["local", "asset"], segmentation=IN_THREES)
    places = [(row["embedding_scope"], row.get("chunk_index")) for row in task["data"]]
    assert sorted(places, key=str) == [("asset", None), ("chunk", 0), ("chunk", 1)]
    assert {row["embedding_option"] for row in task["data"]} == {"text"}
    assert task["usage"]["input_tokens"]["text"] > 0


def test_a_document_without_an_ending_is_taken_for_what_it_is(emulator, folder):
    task = embedded(emulator, "document", {"url": (folder / "unnamed").as_uri()})
    assert (task["metadata"]["embedding_options"], task["metadata"]["embedding_scopes"]) == (["text"], ["asset"])
    task = embedded(emulator, "document", {"url": (folder / "unnamed").as_uri()}, embedding_option=["visual"])
    assert task["status"] == "failed"
    assert task["error"]["message"].startswith("The embedding request was invalid. (A plain text or Markdown file")


def test_what_a_kind_of_document_does_not_allow_is_refused_before_a_task_is_made(emulator, folder):
    text = base64.b64encode(WORDS.encode()).decode()
    refused = [
        create(emulator, "document", {"url": (folder / "report.pdf").as_uri()}, segmentation=IN_THREES),
        create(emulator, "document", {"base64_string": text}, embedding_option=["visual"]),
        create(emulator, "document", {"base64_string": text}, embedding_scope=["local"]),
        create(emulator, "document", {"base64_string": text}, embedding_type=["fused_embedding"]),
        create(emulator, "image", {"url": "https://a.example/b.png"}, embedding_scope=["local"]),
    ]
    assert [answer.status_code for answer in refused] == [400] * 5
    assert emulator.http.get(TASKS).json()["data"] == []
    assert list(emulator.emulator.platform.media.iterdir()) == []


def test_a_text_that_is_too_long_for_a_vector_is_cut_and_says_so(start, folder):
    emulator = start(EmulatorSettings(media_root=folder, workers=1, context_tokens=3))
    task = embedded(emulator, "document", {"url": (folder / "notes.md").as_uri()})
    assert task["usage"] == {
        "input_tokens": {"text": 3},
        "truncated": True,
        "truncation_reason": "model_context_window",
    }
    source = {"url": (folder / "notes.md").as_uri()}
    task = embedded(emulator, "document", source, embedding_scope=["local"], segmentation=IN_THREES)
    assert task["error"]["message"] == "Content exceeds the model's context window."


def test_more_pages_than_a_file_of_its_size_may_have_fail_the_task(emulator, folder, tmp_path):
    content = base64.b64encode(pdf(["page"] * 70)).decode()
    task = embedded(emulator, "document", {"base64_string": content})
    assert task["error"]["message"] == "Document (70 pages) exceeds maximum limit of 64 pages"


def test_an_image_may_have_so_many_megabytes(start, folder):
    sizes = Sizes(image=50)
    emulator = start(EmulatorSettings(media_root=folder, workers=1, sizes=sizes))
    content = base64.b64encode((folder / "grey.png").read_bytes()).decode()
    assert create(emulator, "image", {"base64_string": content}).status_code == 400
    task = embedded(emulator, "image", {"url": (folder / "grey.png").as_uri()})
    assert task["error"]["message"].startswith("File size (0.0 MB) exceeds maximum limit")
    assert embedded(emulator, "document", {"url": (folder / "report.pdf").as_uri()})["status"] == "ready"


def test_what_is_no_image_fails_its_task(emulator, folder):
    task = embedded(emulator, "image", {"url": (folder / "no picture.png").as_uri()})
    assert task["error"]["message"].startswith("We could not process your media for embedding.")


def test_results_of_documents_survive_a_restart(start, folder, tmp_path):
    settings = EmulatorSettings(media_root=folder, workers=1, state=tmp_path / "state")
    with InProcessEmulator(settings) as first:
        task = embedded(Caller(first), "document", {"url": (folder / "report.pdf").as_uri()})
    assert start(settings).retrieve(task["_id"]) == task


def test_the_instant_engine_has_a_page_and_a_chunk_for_every_document(start):
    emulator = start(replace(TEST_SETTINGS, switches=Switches(metadata_while_processing=True)))
    for kind, url, rows in (
        ("image", "https://a.example/b.png", [("visual", "asset")]),
        ("document", "https://a.example/b.pdf", [("visual", "page")]),
        ("document", "https://a.example/b", [("text", "asset")]),
    ):
        task_id = create(emulator, kind, {"url": url}).json()["_id"]
        body = emulator.finished(task_id)
        assert [(row["embedding_option"], row["embedding_scope"]) for row in body["data"]] == rows
        assert body["metadata"]["embedding_engine"] == "instant-1"
