"""Settings of an emulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from embed_pipeline.emulator.control.behaviour import Switches, Timing
from embed_pipeline.errors import ConfigurationError

RETENTION_SEC = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Sizes:
    """Upper bounds that keep one request from filling the disk or the memory. All in bytes.

    Args:
        body: The largest JSON body of a request; base64 media needs four thirds of its size.
        base64_media: The largest media file inside a request, decoded.
        direct_upload: The largest file of a direct upload.
        multipart_upload: The largest file of a multipart upload.
        fetched: The largest media file read from a URL, or from disk; of video in particular.
        audio: The largest audio file read from a URL, or from disk.
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
    audio: int = 2 * 1024**3
    image: int = 32 * 1024**2
    chunk: int = 5 * 1024**2
    bodies: int = 1024**3

    def of_source(self, input_type: str) -> int:
        """Return the largest file of an input type that is read from a URL, or from disk."""
        return {"audio": self.audio, "image": self.image}.get(input_type, self.fetched)

    def of_base64(self, input_type: str) -> int:
        """Return the largest file of an input type inside a request, decoded."""
        return min(self.base64_media, self.of_source(input_type))


@dataclass(frozen=True)
class EmulatorSettings:
    """Settings of an emulator.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.
        allowed_hosts: Names and addresses by which it may be reached, beside loopback and `host`.
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
        clock_skew_sec: How far the platform's clock is ahead of this machine's, or (negative) behind.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allowed_hosts: tuple[str, ...] = ()
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
    clock_skew_sec: float = 0.0
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
            ("clock_skew_sec", self.clock_skew_sec, -(10**8), 10**8),
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
