"""``client.assets`` and ``client.multipart_upload``: uploading media."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from embed_pipeline.client.assets import multipart, operations
from embed_pipeline.client.assets.multipart import BytesCallback, Upload, UploadCallback, UploadType
from embed_pipeline.client.assets.operations import Asset, AssetMethod
from embed_pipeline.client.exchange import Flow, RequestOptions, Session
from embed_pipeline.client.limits import PollPolicy
from embed_pipeline.client.listing import AsyncPager, SyncPager
from embed_pipeline.client.transport import AsyncioDriver, ThreadDriver

DEFAULT_ASSET_WAIT_SEC = 1800.0
File = Path | bytes | Callable[[], BinaryIO]


def upload_file(
    session: Session,
    path: Path,
    type: UploadType,
    filename: str | None,
    resume: Upload | None,
    on_upload: UploadCallback | None,
    on_progress: BytesCallback | None,
    direct_up_to: int,
    timeout_sec: float,
    poll: PollPolicy | None,
) -> Flow[Asset]:
    """Uploads a file the way its size wants it, and waits until it is ready; see :meth:`AssetsClient.upload`."""
    filename = filename or (resume.filename if resume is not None else operations.unique_filename(path))
    if resume is None and path.is_file() and path.stat().st_size <= min(direct_up_to, operations.DIRECT_UPLOAD_BYTES):
        created = yield from operations.create_asset(session, method="direct", file=path, filename=filename)
        asset_id = created.id or ""
    else:
        upload = yield from multipart.upload_in_parts(
            session,
            path,
            type=type,
            filename=filename,
            resume=resume,
            on_upload=on_upload,
            on_progress=on_progress,
        )
        asset_id = upload.asset_id
    return (yield from operations.wait_for_asset(session, asset_id, timeout_sec=timeout_sec, poll=poll))


class AssetsClient:
    """Uploaded media. Safe to use from many threads."""

    def __init__(self, session: Session, driver: ThreadDriver) -> None:
        self._session = session
        self._driver = driver

    def create(
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
        """Uploads one file of up to 200 MB, or has the platform fetch a URL of up to 4 GB. The asset is not ready yet.

        Args:
            method: ``direct`` with ``file``, or ``url`` with ``url``.
            file: A path (streamed), bytes, or a function that opens a binary file (called again for every attempt).
            url: A direct public link.
            filename: 1 to 255 characters; the path's own name if left out.
            enable_hls: Whether the platform also makes a stream to watch.
            enable_thumbnail: Whether the platform also makes a thumbnail.
            user_metadata: A flat object of your own, or its JSON text.
            request_options: For this call only.

        Raises:
            InvalidRequestError: The platform would refuse it; nothing was sent.
            UploadError: The file cannot be read, is empty, or is too large.
            ApiError: The platform refused, or could not be reached.
        """
        return self._driver.run(
            operations.create_asset(
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

    def upload(
        self,
        path: Path,
        *,
        type: UploadType,
        filename: str | None = None,
        resume: Upload | None = None,
        on_upload: UploadCallback | None = None,
        on_progress: BytesCallback | None = None,
        direct_up_to: int = operations.DIRECT_UPLOAD_BYTES,
        timeout_sec: float = DEFAULT_ASSET_WAIT_SEC,
        poll: PollPolicy | None = None,
    ) -> Asset:
        """Uploads a file of any size, and waits until it can be embedded.

        Args:
            path: The file; it is streamed, and nothing is written beside it.
            type: ``video``, ``audio`` or ``image``.
            filename: By default unique, so that the file's tasks can be found in the list.
            resume: An upload in parts that broke off within the last 24 hours.
            on_upload: Called with the upload once it is open, so that it can be kept for ``resume``.
            on_progress: Called with bytes sent and bytes in all.
            direct_up_to: Bytes up to which the file goes in one request; larger ones go in parts.
            timeout_sec: How long to wait for the platform's processing, seconds.
            poll: How often to ask.

        Raises:
            UploadError: The file changed or cannot be read, or the platform could not process it.
            WaitTimeoutError: It is not ready within ``timeout_sec``.
            ApiError: The platform refused, or could not be reached.
        """
        return self._driver.run(
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

    def retrieve(self, asset_id: str, *, request_options: RequestOptions | None = None) -> Asset:
        """One asset, with size and duration."""
        return self._driver.run(operations.retrieve_asset(self._session, asset_id, request_options))

    def delete(
        self, asset_id: str, *, force: bool | None = None, request_options: RequestOptions | None = None
    ) -> None:
        """Deletes an asset; with ``force`` even if it is in use (else a ConflictError)."""
        self._driver.run(operations.delete_asset(self._session, asset_id, force=force, options=request_options))

    def wait(
        self, asset_id: str, *, timeout_sec: float = DEFAULT_ASSET_WAIT_SEC, poll: PollPolicy | None = None
    ) -> Asset:
        """The asset, once it is ready; UploadError if the platform could not process it."""
        return self._driver.run(operations.wait_for_asset(self._session, asset_id, timeout_sec=timeout_sec, poll=poll))

    def list(
        self,
        *,
        page: int | None = None,
        page_limit: int | None = None,
        asset_ids: builtins.list[str] | None = None,
        asset_types: builtins.list[str] | None = None,
        filename: str | None = None,
        request_options: RequestOptions | None = None,
    ) -> SyncPager[Asset]:
        """Assets, newest first, as a pager."""
        walk = operations.walk_assets(
            self._session,
            page=page,
            page_limit=page_limit,
            asset_ids=asset_ids,
            asset_types=asset_types,
            filename=filename,
            options=request_options,
        )
        return SyncPager(self._driver, walk)


class MultipartUploadClient:
    """The single steps of an upload in parts; ``assets.upload`` takes them all."""

    def __init__(self, session: Session, driver: ThreadDriver) -> None:
        self._session = session
        self._driver = driver

    def create(
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
        return self._driver.run(
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

    def get_status(
        self,
        upload_id: str,
        *,
        page: int | None = None,
        page_limit: int | None = None,
        request_options: RequestOptions | None = None,
    ) -> multipart.UploadStatusResponse:
        """Which parts the platform has."""
        return self._driver.run(
            multipart.upload_status(self._session, upload_id, page=page, page_limit=page_limit, options=request_options)
        )

    def get_additional_presigned_urls(
        self, upload_id: str, *, start: int, count: int, request_options: RequestOptions | None = None
    ) -> multipart.PresignedUrlsResponse:
        """URLs for ``count`` parts, 1 to 50, from part ``start`` on (counted from 1)."""
        return self._driver.run(
            multipart.more_urls(self._session, upload_id, start=start, count=count, options=request_options)
        )

    def report_chunk_batch(
        self,
        upload_id: str,
        *,
        completed_chunks: Sequence[dict[str, Any]],
        request_options: RequestOptions | None = None,
    ) -> multipart.ReportResponse:
        """Tells which parts have arrived: ``{"chunk_index", "proof", "proof_type": "etag", "chunk_size"}``, 1 to 50."""
        return self._driver.run(multipart.report_parts(self._session, upload_id, completed_chunks, request_options))


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
            operations.create_asset(
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
        direct_up_to: int = operations.DIRECT_UPLOAD_BYTES,
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
        return await self._driver.run(operations.retrieve_asset(self._session, asset_id, request_options))

    async def delete(
        self, asset_id: str, *, force: bool | None = None, request_options: RequestOptions | None = None
    ) -> None:
        """Deletes an asset; with ``force`` even if it is in use."""
        await self._driver.run(operations.delete_asset(self._session, asset_id, force=force, options=request_options))

    async def wait(
        self, asset_id: str, *, timeout_sec: float = DEFAULT_ASSET_WAIT_SEC, poll: PollPolicy | None = None
    ) -> Asset:
        """The asset, once it is ready."""
        flow = operations.wait_for_asset(self._session, asset_id, timeout_sec=timeout_sec, poll=poll)
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
        walk = operations.walk_assets(
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
