"""What the official SDK makes of images, documents and of what is embedded at once; it prints what it saw as JSON.

Run with the SDK's folder and a folder that holds `still.png`, `large.png`, `report.pdf`, `notes.txt` and `tone.wav`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: str, media: str) -> dict[str, Any]:
    sys.path.insert(0, folder)
    import twelvelabs
    from twelvelabs import (
        AudioInputRequest,
        ImageInputRequest,
        MediaSource,
        MultiInputMediaSource,
        MultiInputRequest,
        TextImageInputRequest,
        TextInputRequest,
        TwelveLabs,
    )
    from twelvelabs.core.api_error import ApiError

    embed = TwelveLabs(api_key="any").embed.v_2
    urls = {path.name: path.as_uri() for path in Path(media).iterdir()}
    still = MediaSource(url=urls["still.png"])

    def told(answer: Any) -> list[Any]:
        (row, *_), metadata = answer.data, answer.metadata
        return [len(row.embedding), row.embedding_option, row.start_sec, type(metadata).__name__.rpartition("_")[2]]

    def error(**request: Any) -> list[Any]:
        try:
            embed.create(**request)
        except ApiError as caught:
            return [type(caught).__name__, caught.status_code]
        return ["nothing", 0]

    older = {
        "text": {"text": TextInputRequest(input_text="a frozen harbour")},
        "image": {"image": ImageInputRequest(media_source=still)},
        "text_image": {"text_image": TextImageInputRequest(media_source=still, input_text="a frozen harbour")},
        "audio": {
            "audio": AudioInputRequest(media_source=MediaSource(url=urls["tone.wav"]), embedding_scope=["asset"])
        },
        "multi_input": {
            "multi_input": MultiInputRequest(
                input_text="ships in <@place>",
                media_sources=[MultiInputMediaSource(name="place", media_type="image", url=urls["still.png"])],
            )
        },
    }
    seen: dict[str, Any] = {"version": twelvelabs.__file__}
    for kind, request in older.items():
        seen[kind] = told(embed.create(input_type=kind, model_name="marengo3.0", **request))
    seen["no text"] = error(input_type="text", model_name="marengo3.0", text=TextInputRequest(input_text=""))
    seen["no key"] = ["nothing", 0]
    try:
        TwelveLabs(api_key="another").embed.v_2.create(input_type="text", model_name="marengo3.0", **older["text"])
    except ApiError as caught:
        seen["no key"] = [type(caught).__name__, caught.status_code]
    if hasattr(twelvelabs, "AsyncDocumentInputRequest"):
        seen |= newer(embed, urls, told, error)
    return seen


def newer(embed: Any, urls: dict[str, str], told: Any, error: Any) -> dict[str, Any]:
    """What only Marengo 3.5 embeds."""
    from twelvelabs import (
        AsyncDocumentInputRequest,
        AsyncImageInputRequest,
        DocumentSegmentation,
        DocumentSequentialSegmentation,
        DocumentSpatialSegmentation,
        MediaSource,
        MultiInputMediaSource,
        MultiInputRequest,
    )
    from twelvelabs.core.api_error import ApiError

    def settled(kind: str, **request: Any) -> Any:
        task = embed.tasks.create(input_type=kind, model_name="marengo3.5", **request)
        for _ in range(2000):
            result = embed.tasks.retrieve(task.id)
            if result.status != "processing":
                return result
            time.sleep(0.01)
        raise TimeoutError(task.id)

    def document(name: str, **fields: Any) -> AsyncDocumentInputRequest:
        return AsyncDocumentInputRequest(media_source=MediaSource(url=urls[name]), **fields)

    quadrants = DocumentSegmentation(spatial=DocumentSpatialSegmentation(strategy="quadrants"))
    sentences = DocumentSegmentation(
        sequential=DocumentSequentialSegmentation(strategy="sentence", max_sentences=3, overlap_sentences=1)
    )
    pages = settled("document", document=document("report.pdf", segmentation=quadrants))
    chunks = settled("document", document=document("notes.txt", segmentation=sentences, embedding_scope=["local"]))
    image = settled(
        "image",
        image=AsyncImageInputRequest(media_source=MediaSource(url=urls["still.png"])),
        embedding_uncertainty=True,
        embedding_dimension=128,
    )
    try:
        refused = document("notes.txt", embedding_option=["visual"])
        embed.tasks.create(input_type="document", model_name="marengo3.5", document=refused)
        pair = ["nothing", 0]
    except ApiError as caught:
        pair = [type(caught).__name__, caught.status_code]

    def multi(text: str | None = None, *sources: tuple[str, str]) -> dict[str, Any]:
        listed = [MultiInputMediaSource(media_type=kind, url=urls[name]) for kind, name in sources]
        multi_input = MultiInputRequest(input_text=text, media_sources=listed or None)
        return {"input_type": "multi_input", "model_name": "marengo3.5", "multi_input": multi_input}

    several = embed.create(**multi("a harbour", ("image", "still.png"), ("audio", "tone.wav")))
    return {
        "statuses": [task.status for task in (pages, chunks, image)],
        "pages": [[row.embedding_scope, row.start_page_number, row.quadrant] for row in pages.data],
        "chunks": [[row.embedding_scope, row.chunk_index] for row in chunks.data],
        "image_row": [len(image.data[0].embedding), len(image.data[0].embedding_uncertainty)],
        "task_metadata": [type(task.metadata).__name__.rpartition("_")[2] for task in (pages, chunks, image)],
        "usage": [sorted(task.usage.input_tokens) for task in (pages, chunks, image)],
        "listed": [
            (item.image_embedding or item.document_embedding).metadata.model_dump(exclude_none=True)
            for item in embed.tasks.list()
        ],
        "pair": pair,
        "several": told(several),
        "several_usage": sorted(several.usage.input_tokens),
        "words": told(embed.create(**multi("a frozen harbour"), embedding_dimension=256)),
        "mixed": error(**multi(None, ("image", "still.png"), ("audio", "tone.wav"))),
        "large": error(**multi(None, ("image", "large.png"))),
        "alone": error(input_type="image", model_name="marengo3.5"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
