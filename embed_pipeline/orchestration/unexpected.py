"""An error that nobody foresaw, in words: one file's trouble, so that the others of its run keep their turn."""

from __future__ import annotations

import traceback

_OURS = "Its traceback is in the run's log."


def unexpected(error: Exception) -> str:
    """The error in one sentence, without what an address in it may hold of a secret.

    Args:
        error: An error that is none of the project's own.
    """
    from embed_pipeline.redaction import redact

    return f"an unexpected {type(error).__name__}: {redact(str(error)) or 'without words'}. {_OURS}"


def traceback_of(error: Exception) -> str:
    """Where the error came from, for the run's log; addresses in it are cut as well.

    Args:
        error: The error.
    """
    from embed_pipeline.redaction import redact

    return redact("".join(traceback.format_exception(error)))
