"""``AsyncEmbedClient.assets`` and ``.multipart_upload``: uploading media, for asyncio."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embed_pipeline.client import assets, multipart
from embed_pipeline.client.asset_clients import DEFAULT_ASSET_WAIT_SEC, File, upload_file
from embed_pipeline.client.assets import Asset, AssetMethod
from embed_pipeline.client.drivers import AsyncioDriver
from embed_pipeline.client.exchange import RequestOptions, Session
from embed_pipeline.client.multipart import BytesCallback, Upload, UploadCallback, UploadType
from embed_pipeline.client.pager import AsyncPager
from embed_pipeline.client.waiting import PollPolicy


class AsyncAssetsClient:
    """Uploaded media for asyncio; arguments, results and errors are those of :class:`AssetsClient`."""

    def __init__(self, session: Session, driver: AsyncioDriver) -> None:
        self._session = session
        self._driver = driver

    async def create(
        self,
        *,
        method: AssetMethod,
        file: File | None = None,
        url: str | None = None,
        filename: str | None = None,
        enable_hls: bool | None = None,
        enable_thumbnail: bool | None = None,
        user_metadata: Mapping[str, Any] | str | None = None,
        request_options: RequestOptions | None = None,
    ) -> Asset:
        """Uploads one file of up to 200 MB, or has the platform fetch a URL."""
        return await self._driver.run(
            assets.create_asset(
                self._session,
                method=method,
                file=file,
                url=url,
                filename=filename,
                enable_hls=enable_hls,
                enable_thumbnail=enable_thumbnail,
                user_metadata=user_metadata,
                options=request_options,
            )
        )

    async def upload(
        self,
        path: Path,
        *,
        type: UploadType,
        filename: str | None = None,
        resume: Upload | None = None,
        on_upload: UploadCallback | None = None,
        on_progress: BytesCallback | None = None,
        direct_up_to: int = assets.DIRECT_UPLOAD_BYTES,
        timeout_sec: float = DEFAULT_ASSET_WAIT_SEC,
        poll: PollPolicy | None = None,
    ) -> Asset:
        """Uploads a file of any size, and waits until it can be embedded."""
        return await self._driver.run(
            upload_file(
                self._session,
                path,
                type,
                filename,
                resume,
                on_upload,
                on_progress,
                direct_up_to,
                timeout_sec,
                poll,
            )
        )

    async def retrieve(self, asset_id: str, *, request_options: RequestOptions | None = None) -> Asset:
        """One asset, with size and duration."""
        return await self._driver.run(assets.retrieve_asset(self._session, asset_id, request_options))

    async def delete(
        self, asset_id: str, *, force: bool | None = None, request_options: RequestOptions | None = None
    ) -> None:
        """Deletes an asset; with ``force`` even if it is in use."""
        await self._driver.run(assets.delete_asset(self._session, asset_id, force=force, options=request_options))

    async def wait(
        self, asset_id: str, *, timeout_sec: float = DEFAULT_ASSET_WAIT_SEC, poll: PollPolicy | None = None
    ) -> Asset:
        """The asset, once it is ready."""
        flow = assets.wait_for_asset(self._session, asset_id, timeout_sec=timeout_sec, poll=poll)
        return await self._driver.run(flow)

    async def list(
        self,
        *,
        page: int | None = None,
        page_limit: int | None = None,
        asset_ids: builtins.list[str] | None = None,
        asset_types: builtins.list[str] | None = None,
        filename: str | None = None,
        request_options: RequestOptions | None = None,
    ) -> AsyncPager[Asset]:
        """Assets, newest first, as a pager."""
        walk = assets.walk_assets(
            self._session,
            page=page,
            page_limit=page_limit,
            asset_ids=asset_ids,
            asset_types=asset_types,
            filename=filename,
            options=request_options,
        )
        return await AsyncPager.fetch(self._driver, walk)


class AsyncMultipartUploadClient:
    """The single steps of an upload in parts, for asyncio; see :class:`MultipartUploadClient`."""

    def __init__(self, session: Session, driver: AsyncioDriver) -> None:
        self._session = session
        self._driver = driver

    async def create(
        self,
        *,
        filename: str,
        type: UploadType,
        total_size: int,
        enable_hls: bool | None = None,
        enable_thumbnail: bool | None = None,
        user_metadata: dict[str, Any] | None = None,
        request_options: RequestOptions | None = None,
    ) -> multipart.CreateUploadResponse:
        """Opens an upload of ``total_size`` bytes."""
        return await self._driver.run(
            multipart.begin_upload(
                self._session,
                filename=filename,
                type=type,
                total_size=total_size,
                enable_hls=enable_hls,
                enable_thumbnail=enable_thumbnail,
                user_metadata=user_metadata,
                options=request_options,
            )
        )

    async def get_status(
        self,
        upload_id: str,
        *,
        page: int | None = None,
        page_limit: int | None = None,
        request_options: RequestOptions | None = None,
    ) -> multipart.UploadStatusResponse:
        """Which parts the platform has."""
        flow = multipart.upload_status(
            self._session, upload_id, page=page, page_limit=page_limit, options=request_options
        )
        return await self._driver.run(flow)

    async def get_additional_presigned_urls(
        self, upload_id: str, *, start: int, count: int, request_options: RequestOptions | None = None
    ) -> multipart.PresignedUrlsResponse:
        """URLs for ``count`` parts, 1 to 50, from part ``start`` on (counted from 1)."""
        flow = multipart.more_urls(self._session, upload_id, start=start, count=count, options=request_options)
        return await self._driver.run(flow)

    async def report_chunk_batch(
        self,
        upload_id: str,
        *,
        completed_chunks: Sequence[dict[str, Any]],
        request_options: RequestOptions | None = None,
    ) -> multipart.ReportResponse:
        """Tells which parts have arrived."""
        flow = multipart.report_parts(self._session, upload_id, completed_chunks, request_options)
        return await self._driver.run(flow)
