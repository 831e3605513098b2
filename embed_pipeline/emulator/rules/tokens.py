"""Input tokens that the newer model counts.

The platform's figures are not documented; what is: every kind of content has a count of its own.
"""

from __future__ import annotations

import math
from typing import Any

from embed_pipeline.emulator.rules.request import AcceptedRequest

TOKENS_PER_SEC = 64
TOKENS_PER_PICTURE = 256
CHARACTERS_PER_TOKEN = 4
TRUNCATION_REASON = "model_context_window"


def text_tokens(characters: int) -> int:
    """Return the tokens of a text of that many characters."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def input_tokens(input_type: str, *, seconds: float = 0.0) -> dict[str, int]:
    """Count the tokens of one medium.

    Args:
        input_type: `audio`, `video` or `image`.
        seconds: Embedded length of audio and video.

    Returns:
        Tokens by content type.
    """
    if input_type in ("audio", "video"):
        return {input_type: max(1, round(seconds * TOKENS_PER_SEC))}
    return {input_type: TOKENS_PER_PICTURE}


def usage_body(tokens: dict[str, int], *, truncated: bool) -> dict[str, Any]:
    """Write a usage as results show it."""
    usage: dict[str, Any] = {"input_tokens": tokens, "truncated": truncated}
    return usage | ({"truncation_reason": TRUNCATION_REASON} if truncated else {})


def usage_of(request: AcceptedRequest, seconds: float) -> dict[str, Any] | None:
    """Return the usage of a task as its result shows it; None with the older model, which counts no tokens."""
    if request.model_name != "marengo3.5":
        return None
    return usage_body(input_tokens(request.input_type, seconds=seconds), truncated=False)
