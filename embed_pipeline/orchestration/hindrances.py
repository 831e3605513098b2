"""Errors that stand in the way of every request, so that one clear message is worth more than one for each file."""

from __future__ import annotations

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError

# One file may make the platform fail or a connection time out, and must not keep the others from their turn.
_IN_A_ROW = 3


class Hindrances:
    """Tells an error that is one file's own from one that the next file would meet too.

    A wrong key or a spent limit hinders at once; a failing platform or connection, or a wrong address, once it has
    failed several files in a row.
    """

    def __init__(self) -> None:
        self._failures = 0

    def passed(self) -> None:
        """A request was answered."""
        self._failures = 0

    def hindered_by(self, error: EmbedPipelineError) -> bool:
        """Whether to send no more requests after this error."""
        from embed_pipeline.client import culprit_of

        culprit = culprit_of(error)
        if culprit == "account" or isinstance(error, ConfigurationError):
            return True
        if culprit == "platform":
            self._failures += 1
            return self._failures >= _IN_A_ROW
        return False
