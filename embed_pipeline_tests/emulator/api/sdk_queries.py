"""Embeds at once with the official SDK, and prints the answers as JSON.

Run with the SDK's folder and a folder that holds `still.png`, `large.png` and `tone.wav`.
"""

from __future__ import annotations

import json
import sys
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
    """What only Marengo 3.5 embeds at once, and tasks that the emulator does not take."""
    from twelvelabs import (
        AsyncDocumentInputRequest,
        AsyncImageInputRequest,
        MediaSource,
        MultiInputMediaSource,
        MultiInputRequest,
    )
    from twelvelabs.core.api_error import ApiError

    def refused_task(kind: str, request: Any) -> list[Any]:
        try:
            embed.tasks.create(input_type=kind, model_name="marengo3.5", **{kind: request})
        except ApiError as caught:
            return [type(caught).__name__, caught.status_code]
        return ["nothing", 0]

    still = MediaSource(url=urls["still.png"])

    def multi(text: str | None = None, *sources: tuple[str, str]) -> dict[str, Any]:
        listed = [MultiInputMediaSource(media_type=kind, url=urls[name]) for kind, name in sources]
        multi_input = MultiInputRequest(input_text=text, media_sources=listed or None)
        return {"input_type": "multi_input", "model_name": "marengo3.5", "multi_input": multi_input}

    several = embed.create(**multi("a harbour", ("image", "still.png"), ("audio", "tone.wav")))
    return {
        "image task": refused_task("image", AsyncImageInputRequest(media_source=still)),
        "document task": refused_task("document", AsyncDocumentInputRequest(media_source=still)),
        "several": told(several),
        "several_usage": sorted(several.usage.input_tokens),
        "words": told(embed.create(**multi("a frozen harbour"), embedding_dimension=256)),
        "mixed": error(**multi(None, ("image", "still.png"), ("audio", "tone.wav"))),
        "large": error(**multi(None, ("image", "large.png"))),
        "alone": error(input_type="image", model_name="marengo3.5"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
