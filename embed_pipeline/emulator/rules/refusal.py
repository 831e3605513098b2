"""Refusal of a request: an error answer of the platform."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):  # noqa: N818 - an answer of the platform, not a fault of the program
    """A request that the platform answers with an error.

    Args:
        message: What is wrong, and what would be right.
        field: The path of the field at fault, such as `video.segmentation`.
        value: What was sent there, if it is harmless.
        code: The platform's code in a flat body.
        status: The HTTP status.
        details: Further details for a nested body.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        message: str,
        field: str | None = None,
        value: Any = None,
        code: str = "parameter_invalid",
        status: int = 400,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.code = code
        self.status = status
        self.details = details or {}
        self.headers = headers or {}
