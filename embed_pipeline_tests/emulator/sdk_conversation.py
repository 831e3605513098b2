"""What the official SDK makes of an emulator; run with the SDK's folder and a film, it prints what it saw as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: str, film: str) -> dict[str, Any]:
    sys.path.insert(0, folder)
    import twelvelabs
    from twelvelabs import (
        AudioInputRequest,
        AudioSegmentation,
        AudioSegmentationFixed,
        MediaSource,
        TwelveLabs,
        VideoInputRequest,
        VideoSegmentation_Dynamic,
        VideoSegmentation_Fixed,
        VideoSegmentationDynamicDynamic,
        VideoSegmentationFixedFixed,
    )
    from twelvelabs.core.api_error import ApiError

    client = TwelveLabs(api_key="any")  # The base URL comes from the environment.
    tasks = client.embed.v_2.tasks

    def settled(read: Any, item_id: str) -> Any:
        for _ in range(2000):
            item = read(item_id)
            if item.status != "processing":
                return item
            time.sleep(0.01)
        raise TimeoutError(item_id)

    def error(call: Any) -> list[Any]:
        try:
            call()
        except ApiError as caught:
            return [type(caught).__name__, caught.status_code]
        return ["nothing", 0]

    with Path(film).open("rb") as file:
        asset = settled(client.assets.retrieve, client.assets.create(method="direct", file=file).id)
    multipart = client.multipart_upload.upload_file(film)
    whole = settled(client.assets.retrieve, multipart.asset_id)
    fixed = tasks.create(
        input_type="video",
        model_name="marengo3.0",
        video=VideoInputRequest(
            media_source=MediaSource(asset_id=asset.id),
            segmentation=VideoSegmentation_Fixed(fixed=VideoSegmentationFixedFixed(duration_sec=5)),
            embedding_option=["visual", "audio"],
            embedding_scope=["clip", "asset"],
        ),
    )
    dynamic = tasks.create(
        input_type="video",
        model_name="marengo3.0",
        video=VideoInputRequest(
            media_source=MediaSource(asset_id=whole.id),
            segmentation=VideoSegmentation_Dynamic(dynamic=VideoSegmentationDynamicDynamic(min_duration_sec=4)),
        ),
    )
    audio = tasks.create(
        input_type="audio",
        model_name="marengo3.0",
        audio=AudioInputRequest(
            media_source=MediaSource(url=f"file://{film}".replace(" ", "%20")),
            segmentation=AudioSegmentation(strategy="fixed", fixed=AudioSegmentationFixed(duration_sec=6)),
            embedding_option=["audio"],
            embedding_scope=["clip"],
        ),
    )
    missing = tasks.create(
        input_type="video",
        model_name="marengo3.0",
        video=VideoInputRequest(
            media_source=MediaSource(url="file:///absent.mp4".replace("/absent", film + "-absent"))
        ),
    )
    created = [task.id for task in (fixed, dynamic, audio, missing)]
    results = [settled(tasks.retrieve, task_id) for task_id in created]
    listed = list(tasks.list(page_limit=2))
    both = MediaSource(url="https://a.example/b.mp4", asset_id=asset.id)
    seen = {
        "version": twelvelabs.__file__,
        "created": created,
        "create_status": fixed.status,
        "statuses": [result.status for result in results],
        "rows": [len(result.data or []) for result in results],
        "lengths": sorted({len(row.embedding) for result in results for row in result.data or []}),
        "metadata": [type(result.metadata).__name__ for result in results],
        "clip_length": results[0].metadata.clip_length,
        "filename": results[0].metadata.input_filename,
        "error": results[3].error.message,
        "listed": [item.id for item in listed],
        "list_scopes": [
            (item.video_embedding or item.audio_embedding).metadata.model_dump(exclude_none=True) for item in listed
        ],
        "assets": sorted(item.filename for item in client.assets.list()),
        "incomplete": len(list(client.multipart_upload.list_incomplete_uploads())),
        "bad_source": error(
            lambda: tasks.create(
                input_type="video", model_name="marengo3.0", video=VideoInputRequest(media_source=both)
            )
        ),
        "not_found": error(lambda: tasks.retrieve("0" * 24)),
        "bad_page": error(lambda: list(tasks.list(page_limit=51))),
        "no_key": error(lambda: TwelveLabs(api_key="another").embed.v_2.tasks.retrieve(fixed.id)),
    }
    client.assets.delete(asset.id, force=True)
    seen["deleted"] = error(lambda: client.assets.retrieve(asset.id))
    import httpx

    origin = os.environ["TWELVELABS_BASE_URL"].removesuffix("/v1.3")
    for status in (429, 500):
        rule = {"kind": "status", "status": status, "retry_after": 1, "on": "create"}
        httpx.put(f"{origin}/_emulator/faults", json={"faults": [rule]}).raise_for_status()
        seen[str(status)] = error(
            lambda: tasks.create(
                input_type="video",
                model_name="marengo3.0",
                video=VideoInputRequest(media_source=MediaSource(url="https://a.example/b.mp4")),
                request_options={"max_retries": 0},
            )
        )
    return seen


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
