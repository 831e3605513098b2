"""The family of errors that this package raises; each names the culprit and says what to do."""

from __future__ import annotations


class EmbedPipelineError(Exception):
    """The root of the family: everything this package raises on purpose.

    Args:
        message: One sentence that names the culprit and says what to do about it. Never holds a secret or a signed URL.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigurationError(EmbedPipelineError):
    """A setting, an environment variable or a folder that was named does not make sense."""


class MediaError(EmbedPipelineError):
    """A media file, or the library that holds it, cannot be read."""


class UnplayableMediaError(MediaError):
    """A media file was read, and what is in it is no audio or video: reading it again gives the same."""


class DatasetError(EmbedPipelineError):
    """The dataset cannot be read or written, or vectors do not fit into it."""
