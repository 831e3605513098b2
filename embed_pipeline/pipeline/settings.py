"""Embedding settings: one canonical form, one digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MediaType = Literal["audio", "video"]

# What the platform uses where nothing is said; always sent, because the defaults differ between models.
_OPTIONS: dict[str, dict[MediaType, tuple[str, ...]]] = {
    "marengo3.0": {"video": ("visual", "audio", "transcription"), "audio": ("audio", "transcription")},
    "marengo3.5": {"video": ("visual", "audio"), "audio": ("audio",)},
}

# The platform takes each of these lists as a set; the order and the repeats in which people write one mean nothing.
_CANONICAL_ORDER = (
    *("visual", "audio", "transcription"),
    *("clip", "asset"),
    *("separate_embedding", "fused_embedding"),
)


class Segmentation(BaseModel):
    """Segmentation of a media file: fixed lengths, or dynamic where the content changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["fixed", "dynamic"] = Field(
        description="fixed: equal lengths; dynamic: where the content changes."
    )
    seconds: int = Field(description="The length of a fixed segment, or the least length of a dynamic one, in seconds.")

    @model_validator(mode="after")
    def _within_the_platforms_bounds(self) -> Segmentation:
        highest = 10 if self.strategy == "fixed" else 5
        if not 2 <= self.seconds <= highest:
            msg = f"{self.strategy} segmentation takes 2 to {highest} seconds, not {self.seconds}"
            raise ValueError(msg)
        return self

    def wire(self) -> dict[str, Any]:
        """Return the object that the platform takes."""
        length = {"fixed": "duration_sec", "dynamic": "min_duration_sec"}[self.strategy]
        return {"strategy": self.strategy, self.strategy: {length: self.seconds}}


class EmbeddingSettings(BaseModel):
    """Embedding settings: model, options, scopes, segmentation. Files embedded with the same ones may be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name: Literal["marengo3.0", "marengo3.5"] = Field("marengo3.0", description="The platform's model.")
    embedding_dimension: Literal[128, 256, 512] = Field(
        512, description="Numbers in a vector; below 512 only with marengo3.5."
    )
    video_options: tuple[str, ...] = Field(
        (), description="What to embed of a video: visual, audio, transcription. Empty for all the model has."
    )
    audio_options: tuple[str, ...] = Field(
        (), description="What to embed of an audio file: audio, transcription. Empty for all the model has."
    )
    scopes: tuple[str, ...] = Field(
        ("clip", "asset"), description="clip: a vector for each segment; asset: one for the whole media file."
    )
    types: tuple[str, ...] = Field(
        ("separate_embedding",),
        description="separate_embedding: a vector for each option; fused_embedding: one of all.",
    )
    video_segmentation: Segmentation = Field(
        Segmentation(strategy="dynamic", seconds=4), description="How a video is cut into segments."
    )
    audio_segmentation: Segmentation = Field(
        Segmentation(strategy="fixed", seconds=6),
        description="How an audio file is cut into segments; marengo3.0 takes fixed only.",
    )
    start_sec: float | None = Field(None, ge=0, description="Embed from here, in seconds. Empty for the beginning.")
    end_sec: float | None = Field(None, gt=0, description="Embed up to here, in seconds. Empty for the end.")
    embedding_uncertainty: bool = Field(False, description="Ask for each vector's uncertainty; marengo3.5 only.")

    @field_validator("video_options", "audio_options", "scopes", "types")
    @classmethod
    def _in_one_order(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Another order must not be other settings: every file would be paid for again."""
        known = [name for name in _CANONICAL_ORDER if name in given]
        return (*known, *sorted(set(given) - set(known)))

    @model_validator(mode="after")
    def _one_the_platform_takes(self) -> EmbeddingSettings:
        if self.model_name == "marengo3.0":
            if self.embedding_dimension != 512:
                msg = f"marengo3.0 has 512 dimensions; {self.embedding_dimension} needs marengo3.5"
                raise ValueError(msg)
            if self.embedding_uncertainty:
                msg = "embedding_uncertainty needs marengo3.5"
                raise ValueError(msg)
            if self.audio_segmentation.strategy == "dynamic":
                msg = "marengo3.0 cuts audio files at fixed lengths only; dynamic needs marengo3.5"
                raise ValueError(msg)
        for media_type, asked in (("video", self.video_options), ("audio", self.audio_options)):
            known = _OPTIONS[self.model_name][media_type]  # type: ignore[index]
            if unknown := sorted(set(asked) - set(known)):
                msg = (
                    f"{self.model_name} has no option {', '.join(unknown)} for {media_type}: it has {', '.join(known)}"
                )
                raise ValueError(msg)
        if self.end_sec is not None and self.end_sec <= (self.start_sec or 0):
            msg = f"end_sec ({self.end_sec}) must lie after start_sec ({self.start_sec or 0})"
            raise ValueError(msg)
        if self.embedding_uncertainty and "asset" in self.scopes:
            msg = "embedding_uncertainty cannot be had for the scope asset: leave it out of scopes"
            raise ValueError(msg)
        return self

    def options(self, media_type: MediaType) -> tuple[str, ...]:
        """Return what is embedded of a media file of this type."""
        asked = self.video_options if media_type == "video" else self.audio_options
        return asked or _OPTIONS[self.model_name][media_type]

    def request(self, media_type: MediaType) -> dict[str, Any]:
        """Return the keywords of `tasks.create`, but for the media source."""
        options = self.options(media_type)
        segmentation = (self.video_segmentation if media_type == "video" else self.audio_segmentation).wire()
        media: dict[str, Any] = {
            "start_sec": self.start_sec,
            "end_sec": self.end_sec,
            "segmentation": {"temporal": segmentation} if self.model_name == "marengo3.5" else segmentation,
            "embedding_option": list(options),
            "embedding_scope": list(self.scopes),
            # The platform takes the type only where there is more than one option to keep apart or to fuse.
            "embedding_type": list(self.types) if len(options) > 1 else None,
        }
        request: dict[str, Any] = {
            "input_type": media_type,
            "model_name": self.model_name,
            media_type: {key: value for key, value in media.items() if value is not None},
        }
        if self.model_name == "marengo3.5":
            request["embedding_dimension"] = self.embedding_dimension
            if self.embedding_uncertainty:
                request["embedding_uncertainty"] = True
        return request

    def embedded_minutes(self, duration_sec: float) -> float:
        """Return the minutes between `start_sec` and `end_sec` of a media file of this length.

        Args:
            duration_sec: Its length, in seconds.
        """
        end = duration_sec if self.end_sec is None else min(self.end_sec, duration_sec)
        return max(end - (self.start_sec or 0.0), 0.0) / 60

    def spelled_out(self) -> EmbeddingSettings:
        """Return the same settings with the options named that are left to the model, which may have others one day."""
        return self.model_copy(
            update={"video_options": self.options("video"), "audio_options": self.options("audio")},
        )

    def digest(self, media_type: MediaType) -> str:
        """Return twelve hex characters that stand for all that a media file of this type is embedded with."""
        return _digest(self.request(media_type))

    @property
    def code_version(self) -> str:
        """Digest of these settings as a whole."""
        return _digest([self.request("video"), self.request("audio")])


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
