"""Errors that stand in the way of every request, so that one clear message is worth more than one for each file."""

from __future__ import annotations

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError


def hinders_every_request(error: EmbedPipelineError) -> bool:
    """Whether the next media file's request would meet the same: a wrong key, a platform that is not there, a limit."""
    from embed_pipeline.client import (
        ConnectionFailedError,
        ForbiddenError,
        InternalServerError,
        TooManyRequestsError,
        UnauthorizedError,
    )

    return isinstance(
        error,
        UnauthorizedError
        | ForbiddenError
        | ConnectionFailedError
        | InternalServerError
        | TooManyRequestsError
        | ConfigurationError,
    )
