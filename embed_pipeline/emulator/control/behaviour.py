"""Behaviour of the emulator where the platform leaves it open: switches, and the timing of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from embed_pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Switches:
    """Choices where the platform's documentation is silent or contradicts itself.

    Args:
        error_shape: `documented` answers nested bodies for embed tasks and flat ones for lists and assets; the other
            two use one shape everywhere.
        unknown_fields: Whether an unknown request field is refused (as the platform's schema says) or ignored.
        duplicates: Whether repeated values in an array are refused (as the schema says) or ignored.
        min_segment_sec: The shortest fixed or dynamic segment that may be asked for, in seconds.
        min_window_sec: The shortest window from `start_sec` to `end_sec` that may be asked for, in seconds.
        type_with_one_option: Whether `embedding_type` may be sent with a single embedding option.
        drop_short_tail: Whether a last fixed segment of less than two seconds is cut off.
        window_times: Whether offsets count from the start of the file or of the requested window.
        missing_modality: Whether an option the media cannot serve (a silent video's audio) is left out or fails.
        echo_url: How a source's URL comes back in lists and results.
        metadata_while_processing: Whether an unfinished task already shows its metadata, once its duration is known.
        date_bounds: Whether `started_at` and `ended_at` include the instant they name.
        expired_result: What retrieving a task past its retention answers.
        malformed_id: The status of a task id that is not 24 hex characters.
        source_check: Whether a source that cannot be reached (or a `file://` one that cannot be embedded) is refused at
            creation or fails the task.
        picture_size: Whether a video's resolution and aspect are held to the platform's documented bounds.
        gzip: Whether bodies are compressed for clients that accept it. The platform does; off by default, for speed.
        wide_numbers: Whether vectors are written with the digits of a double (21 characters a value, as the platform
            has been seen to do) rather than the shortest text that gives the same float32 (about 11).
        reset_unit: Whether `-Reset` headers hold an epoch second or the seconds that remain.
        old_rate_headers: Whether the older `X-Ratelimit-Limit`, `-Remaining`, `-Used` and `-Reset` come too.
        limit_polling: Whether list and retrieve count as requests under the rate limits.
    """

    error_shape: Literal["documented", "nested", "flat"] = "documented"
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    duplicates: Literal["refuse", "ignore"] = "refuse"
    min_segment_sec: int = 2
    min_window_sec: float = 0.0
    type_with_one_option: Literal["accept", "refuse"] = "accept"
    drop_short_tail: bool = False
    window_times: Literal["absolute", "relative"] = "absolute"
    missing_modality: Literal["omit", "fail"] = "omit"
    echo_url: Literal["verbatim", "without_query", "never"] = "verbatim"
    metadata_while_processing: bool = False
    date_bounds: Literal["inclusive", "exclusive"] = "inclusive"
    expired_result: Literal["not_found", "failed"] = "not_found"
    malformed_id: Literal[400, 404] = 404
    source_check: Literal["task", "create"] = "task"
    picture_size: Literal["documented", "any"] = "documented"
    gzip: bool = False
    wide_numbers: bool = False
    reset_unit: Literal["epoch", "delta"] = "epoch"
    old_rate_headers: bool = False
    limit_polling: bool = False


@dataclass(frozen=True)
class Timing:
    """Conditions for showing a computed task as finished; all that are set have to hold.

    Args:
        after_sec: Seconds after creation.
        after_polls: Retrieves (or lists) that see the task as processing first.
        per_media_sec: Seconds after creation for every second of media; the platform documents about 0.05.
        on_command: Stay in processing until the control API releases the task.
        asset_after_sec: Seconds an uploaded asset stays in processing, at least.
    """

    after_sec: float = 0.0
    after_polls: int = 0
    per_media_sec: float = 0.0
    on_command: bool = False
    asset_after_sec: float = 0.0


def read_switches(assignments: Sequence[str]) -> Switches:
    """Read switches from texts such as `error_shape=flat` or `drop_short_tail=true`.

    Raises:
        ConfigurationError: If a switch or its value is not known.
    """
    kinds = get_type_hints(Switches)
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in kinds:
            raise ConfigurationError(f"The switch {name!r} is not known; known are {', '.join(kinds)}.")
        allowed = get_args(kinds[name])
        try:
            value: Any = text
            if kinds[name] is bool:
                value = {"true": True, "false": False}[text]
            elif kinds[name] in (int, float):
                value = kinds[name](text)
            elif allowed:
                value = {str(choice): choice for choice in allowed}[text]
        except (KeyError, ValueError):
            choices = ", ".join(map(str, allowed)) or {bool: "true or false"}.get(kinds[name], "a number")
            raise ConfigurationError(f"The switch {name} takes {choices}, not {text!r}.") from None
        values[name] = value
    return Switches(**values)
