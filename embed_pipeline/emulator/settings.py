"""What an emulator may be told: where it listens, what it reads, how fast it answers, how it takes open questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from embed_pipeline.emulator.faults import parse_rule
from embed_pipeline.errors import ConfigurationError

RETENTION_SEC = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Switches:
    """How the emulator behaves where the platform's documentation is silent or contradicts itself.

    Attributes:
        error_shape: `documented` answers nested bodies for embed tasks and flat ones for lists and assets; the other
            two use one shape everywhere.
        unknown_fields: Whether a request field nobody knows is refused (as the platform's schema says) or ignored.
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
    picture_size: Literal["any", "documented"] = "any"
    gzip: bool = False
    wide_numbers: bool = False
    reset_unit: Literal["epoch", "delta"] = "epoch"
    old_rate_headers: bool = False
    limit_polling: bool = False


@dataclass(frozen=True)
class Timing:
    """When a task whose vectors are computed is shown as finished; every condition that is set has to hold.

    Attributes:
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


@dataclass(frozen=True)
class Sizes:
    """Upper bounds that keep one request from filling the disk or the memory. All in bytes.

    Attributes:
        body: The largest JSON body of a request; base64 media needs four thirds of its size.
        base64_media: The largest media file inside a request, decoded.
        direct_upload: The largest file of a direct upload.
        multipart_upload: The largest file of a multipart upload.
        fetched: The largest media file read from a URL, or from disk.
        image: The largest image, from wherever it comes.
        chunk: The size of a chunk of a multipart upload.
        bodies: What the JSON of finished results may take on disk, beside their vectors. It is written anew where it
            had to make way.
    """

    body: int = 50 * 1024**2
    base64_media: int = 36 * 1024**2
    direct_upload: int = 200 * 1024**2
    multipart_upload: int = 10 * 1024**3
    fetched: int = 4 * 1024**3
    image: int = 32 * 1024**2
    chunk: int = 5 * 1024**2
    bodies: int = 1024**3

    def of_source(self, input_type: str) -> int:
        """Return the largest file of an input type that is read from a URL, or from disk."""
        return self.image if input_type == "image" else self.fetched

    def of_base64(self, input_type: str) -> int:
        """Return the largest file of an input type inside a request, decoded."""
        return min(self.base64_media, self.of_source(input_type))


@dataclass(frozen=True)
class EmulatorSettings:
    """Everything an emulator may be told.

    Attributes:
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.
        state: The folder that holds tasks, results and uploads. None keeps them in a folder that is deleted at the end.
        media_root: The folder below which `file://` sources may lie. None refuses them all.
        api_key: The only key that is accepted. None accepts any that is not empty.
        engine: What computes the vectors: `signal` decodes the media; `instant` derives them from a hash, for
            benchmarks and for tests that need none that mean anything.
        instant_duration_sec: With the instant engine: treat every source as media of this length, without reading it.
        workers: How many tasks are computed at once. None takes the number of processors.
        allow_private_sources: Whether http sources may lie on loopback or in private networks.
        plan: The rate limits: `none`, `free`, `tier1`, `tier2` or `tier3`.
        limits: Limits that replace those of the plan, such as `{"requests_per_minute": 5}`.
        faults: Fault rules, in the form of the faults file.
        fault_seed: What the draws of fault rules are seeded with.
        min_duration_sec: The shortest media file that can be embedded.
        max_duration_sec: The longest media file that can be embedded.
        retention_sec: How long results are kept.
    """

    host: str = "127.0.0.1"
    port: int = 0
    state: Path | None = None
    media_root: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    engine: str = "signal"
    instant_duration_sec: float | None = None
    workers: int | None = None
    allow_private_sources: bool = False
    plan: str = "none"
    limits: dict[str, float] = field(default_factory=dict)
    faults: tuple[dict[str, object], ...] = ()
    fault_seed: int = 0
    min_duration_sec: float = 4.0
    max_duration_sec: float = 4 * 3600.0
    retention_sec: float = RETENTION_SEC
    switches: Switches = field(default_factory=Switches)
    timing: Timing = field(default_factory=Timing)
    sizes: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        """Refuse figures that make no sense.

        Raises:
            ConfigurationError: If one does not; it names the setting.
        """
        for name, value, lowest, highest in (
            ("port", self.port, 0, 65535),
            ("workers", self.workers, 1, 256),
            ("instant_duration_sec", self.instant_duration_sec, 0.1, 10**6),
            ("min_duration_sec", self.min_duration_sec, 0, 10**6),
            ("max_duration_sec", self.max_duration_sec, 0, 10**6),
            ("retention_sec", self.retention_sec, 0, 10**9),
            ("after_sec", self.timing.after_sec, 0, 10**9),
            ("after_polls", self.timing.after_polls, 0, 10**9),
            ("per_media_sec", self.timing.per_media_sec, 0, 10**6),
            ("asset_after_sec", self.timing.asset_after_sec, 0, 10**9),
        ):
            if value is not None and not lowest <= value <= highest:
                raise ConfigurationError(f"The emulator's {name} must lie from {lowest} to {highest}, not at {value}.")
        if self.instant_duration_sec is not None and self.engine != "instant":
            raise ConfigurationError(
                "instant_duration_sec is for the engine instant, which then reads no media; the engine here is "
                f"{self.engine}."
            )


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


def read_faults(path: Path) -> tuple[tuple[dict[str, object], ...], int]:
    """Read a faults file.

    Args:
        path: JSON: `{"seed": 7, "faults": [...]}`, or the list alone.

    Returns:
        The rules and the seed.

    Raises:
        ConfigurationError: If the file cannot be read or a rule makes no sense; it names the rule.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The faults file {path} cannot be read: {error}.") from error
    if isinstance(values, list):
        values = {"faults": values}
    rules, seed = (values.get("faults"), values.get("seed", 0)) if isinstance(values, dict) else (None, 0)
    if (
        not isinstance(rules, list)
        or set(values) - {"faults", "seed"}
        or isinstance(seed, bool)
        or not isinstance(seed, int)
    ):
        raise ConfigurationError(f'The faults file {path} must be of the form {{"seed": 7, "faults": [...]}}.')
    try:
        for number, rule in enumerate(rules, 1):
            parse_rule(rule, number)
    except ConfigurationError as error:
        raise ConfigurationError(f"The faults file {path} cannot be used. {error.message}") from error
    return tuple(rules), seed
