"""What a run's requests came to, as metadata and as a sentence: how many, how often again, and how long it waited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embed_pipeline.client import ClientStats


def traffic_numbers(stats: ClientStats | None) -> dict[str, Any]:
    """What a run's requests came to, as metadata; empty where nothing is known."""
    if stats is None:
        return {}
    return {
        "embed_pipeline/requests": stats.requests,
        "embed_pipeline/retries": stats.retries,
        "embed_pipeline/rate_limited": stats.rate_limited,
        "embed_pipeline/waited_for_limits_sec": round(stats.waited_sec, 3),
    }


def traffic_in_words(stats: ClientStats) -> str:
    """The same as a sentence."""
    return (
        f"{stats.requests} requests, {stats.retries} of them again; {stats.rate_limited} were answered with 429; "
        f"{stats.waited_sec:.1f} s waited for limits and between attempts, summed over threads."
    )
