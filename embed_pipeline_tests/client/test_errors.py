"""Whom an error blames: the media file, the account, or the platform and the way to it."""

from __future__ import annotations

import pytest

from embed_pipeline.client import (
    ApiError,
    ConnectionFailedError,
    Culprit,
    InternalServerError,
    InvalidRequestError,
    UnreadableResponseError,
    UploadError,
    WaitTimeoutError,
    culprit_of,
)


@pytest.mark.parametrize(
    ("error", "culprit"),
    [
        (ApiError("", status_code=400, code="video_file_broken"), "media"),
        (ApiError("", status_code=400, code="parameter_invalid"), "media"),
        (ApiError("", status_code=413), "media"),
        (InvalidRequestError("a window that ends before it starts"), "media"),
        (UploadError("it is empty", passing=False), "media"),
        (UploadError("it changed meanwhile"), "unclear"),
        (ApiError("", status_code=400, code="usage_limit_exceeded"), "account"),
        (ApiError("", status_code=402), "account"),
        (ApiError("", status_code=403, code="region_not_allowed"), "account"),
        (ApiError("", status_code=400, code="resource_not_exist"), "platform"),
        (ApiError("", status_code=404), "platform"),
        (ApiError("", status_code=405), "platform"),
        (ApiError("", status_code=408), "platform"),
        (ApiError("", status_code=409), "platform"),
        (InternalServerError("", status_code=503), "platform"),
        (ConnectionFailedError("reset"), "platform"),
        (UnreadableResponseError("half a body", status_code=200), "unclear"),
        (WaitTimeoutError("the asset is not ready"), "unclear"),
        (OSError("the disk"), "unclear"),
    ],
    ids=str,
)
def test_an_error_names_its_culprit(error: Exception, culprit: Culprit) -> None:
    assert culprit_of(error) == culprit
