"""What the official SDK makes of an emulator; run with the SDK's folder and a film, it prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import base64
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
    seen |= remaining_calls(client, film, error, settled)
    seen["async"] = asyncio.run(asked_asynchronously(created))
    if hasattr(twelvelabs, "AsyncVideoInputRequest"):
        seen["newer_model"] = newer_model(client, asset.id, settled)
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


def remaining_calls(client: Any, film: str, error: Any, settled: Any) -> dict[str, Any]:
    """What the upload helper does not ask: a session step by step, an asset by URL, metadata, bytes in a request."""
    import httpx
    from twelvelabs import CompletedChunk, MediaSource, VideoInputRequest

    media = Path(film).read_bytes()
    upload, tasks = client.multipart_upload, client.embed.v_2.tasks
    session = upload.create(filename="steps.mp4", type="video", total_size=len(media))
    more = upload.get_additional_presigned_urls(session.upload_id, start=1, count=1)
    etag = httpx.put(more.upload_urls[0].url, content=media).headers["etag"].strip('"')
    waiting = [chunk.status for chunk in upload.get_status(session.upload_id)]
    open_sessions = [item.upload_id for item in upload.list_incomplete_uploads()] == [session.upload_id]
    chunk = CompletedChunk(chunk_index=1, proof=etag, proof_type="etag", chunk_size=len(media))
    report = upload.report_chunk_batch(session.upload_id, completed_chunks=[chunk])
    arrived = [chunk.status for chunk in upload.get_status(session.upload_id)]
    by_url = client.assets.create(method="url", url="https://media.invalid/a.mp4", filename="a.mp4")
    asset_id = settled(client.assets.retrieve, session.asset_id).id
    client.assets.replace_user_metadata(asset_id, user_metadata={"shelf": 3, "empty": ""})
    client.assets.update_user_metadata(asset_id, user_metadata={"row": ["left"]})
    told = client.assets.retrieve(asset_id).user_metadata
    client.assets.delete_user_metadata(asset_id)
    inside = VideoInputRequest(media_source=MediaSource(base_64_string=base64.b64encode(media).decode()))
    task = tasks.create(input_type="video", model_name="marengo3.0", video=inside)
    return {
        "steps": [waiting, open_sessions, report.total_completed, arrived],
        "by_url": settled(client.assets.retrieve, by_url.id).error.message,
        "user_metadata": [told, client.assets.retrieve(asset_id).user_metadata],
        "inside": settled(tasks.retrieve, task.id).status,
        "bad_upload": error(lambda: upload.create(filename="", type="video", total_size=1)),
        "no_upload": error(lambda: list(upload.get_status("0" * 24))),
        "bad_asset": error(lambda: client.assets.create(method="url", url="https://www.youtube.com/watch?v=x")),
        "technical": settled(client.assets.retrieve, asset_id).technical_metadata.video_width,
    }


async def asked_asynchronously(created: list[str]) -> dict[str, Any]:
    """The asynchronous client: the same calls."""
    from twelvelabs import AsyncTwelveLabs, AudioInputRequest, MediaSource

    client = AsyncTwelveLabs(api_key="any")
    tasks = client.embed.v_2.tasks
    audio = AudioInputRequest(media_source=MediaSource(url="https://media.invalid/a.wav"))
    task = await tasks.create(input_type="audio", model_name="marengo3.0", audio=audio)
    result = await tasks.retrieve(created[0])
    return {
        "created": task.status,
        "rows": len(result.data or []),
        "listed": [item.id async for item in await tasks.list(page_limit=2)][1:][-len(created) :] == created[::-1],
        "assets": len([item async for item in await client.assets.list()]),
    }


def newer_model(client: Any, asset_id: str, settled: Any) -> dict[str, Any]:
    """What only the newer model is asked: wrapped segmentation, dimensions, uncertainty, text over time."""
    from twelvelabs import (
        AsyncTemporalSegmentation,
        AsyncVideoInputRequest,
        MediaSource,
        TemporalSegmentation_Dynamic,
        TemporalSegmentationDynamicDynamic,
        TimeBasedMetadataEntry,
    )

    tasks = client.embed.v_2.tasks
    cut = TemporalSegmentation_Dynamic(dynamic=TemporalSegmentationDynamicDynamic(min_duration_sec=3))
    video = AsyncVideoInputRequest(
        media_source=MediaSource(asset_id=asset_id),
        segmentation=AsyncTemporalSegmentation(temporal=cut),
        embedding_option=["visual", "audio"],
        embedding_scope=["local"],
        embedding_type=["separate_embedding", "fused_embedding"],
        time_based_metadata=[TimeBasedMetadataEntry(start=1, end=2, text="goal")],
    )
    task = tasks.create(
        input_type="video", model_name="marengo3.5", embedding_dimension=256, embedding_uncertainty=True, video=video
    )
    result = settled(tasks.retrieve, task.id)
    return {
        "told": task.metadata.embedding_dimension,
        "options": sorted({row.embedding_option for row in result.data}),
        "scopes": sorted({row.embedding_scope for row in result.data}),
        "lengths": sorted({len(row.embedding) for row in result.data}),
        "uncertain": all(len(row.embedding_uncertainty) == 256 for row in result.data),
        "tokens": result.usage.input_tokens["video"] > 0,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
