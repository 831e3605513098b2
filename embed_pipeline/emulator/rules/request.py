"""A valid request to embed one medium, every default filled in."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Literal, cast

InputType = Literal["audio", "video", "image", "text"]
SourceKind = Literal["url", "base64", "asset"]


@dataclass(frozen=True)
class Segmentation:
    """Segmentation of a media file.

    Args:
        strategy: `fixed` windows of exactly `seconds`, or `dynamic` ones of at least `seconds`.
        seconds: Length in whole seconds.
    """

    strategy: Literal["fixed", "dynamic"]
    seconds: int


@dataclass(frozen=True)
class TimedText:
    """A piece of text that belongs to a stretch of the file; offsets in seconds from its start."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class AcceptedRequest:
    """A valid request.

    Args:
        input_type: `audio` or `video`; of a query also `image` or `text`.
        model_name: `marengo3.0` or `marengo3.5`.
        source_kind: Which kind of media source was named.
        source: The URL or the asset id. Empty for base64, whose bytes are kept apart.
        options: Embedding options in the order asked for.
        scopes: Scopes as asked for; `local` is kept as a word of its own here.
        types: `separate_embedding`, `fused_embedding` or both.
        segmentation: How to cut audio and video; None for what has no length.
        start_sec: Where the window begins. None is the start of the file.
        end_sec: Where the window ends. None is the end of the file.
        dimension: Length of the vectors.
        uncertainty: Whether every vector comes with its uncertainty.
        timed_text: The request's `time_based_metadata`.
    """

    input_type: InputType
    model_name: str
    source_kind: SourceKind
    source: str
    options: tuple[str, ...]
    scopes: tuple[str, ...]
    types: tuple[str, ...]
    segmentation: Segmentation | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    dimension: int = 512
    uncertainty: bool = False
    timed_text: tuple[TimedText, ...] = ()

    @property
    def timed(self) -> bool:
        """True for audio and video, which have a length."""
        return self.input_type in ("audio", "video")

    @property
    def fixed_sec(self) -> int | None:
        """The length of fixed windows in seconds; None with any other way to cut."""
        cut = self.segmentation
        return cut.seconds if cut is not None and cut.strategy == "fixed" else None

    @property
    def result_scopes(self) -> tuple[str, ...]:
        """Scopes as rows of a result bear them: what was asked for as `local` comes back as `clip`."""
        return tuple(dict.fromkeys("clip" if scope == "local" else scope for scope in self.scopes))

    def to_json(self) -> dict[str, Any]:
        """Return the request as plain values, to be kept in the task store."""
        return {
            "input_type": self.input_type,
            "model_name": self.model_name,
            "source_kind": self.source_kind,
            "source": self.source,
            "options": list(self.options),
            "scopes": list(self.scopes),
            "types": list(self.types),
            "segmentation": None if self.segmentation is None else astuple(self.segmentation),
            "start_sec": self.start_sec,
            "end_sec": self.end_sec,
            "dimension": self.dimension,
            "uncertainty": self.uncertainty,
            "timed_text": [astuple(piece) for piece in self.timed_text],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AcceptedRequest:
        """Rebuild a request from what `to_json` returned."""
        cut = values["segmentation"]
        return cls(
            input_type=cast("InputType", values["input_type"]),
            model_name=values["model_name"],
            source_kind=cast("SourceKind", values["source_kind"]),
            source=values["source"],
            options=tuple(values["options"]),
            scopes=tuple(values["scopes"]),
            types=tuple(values["types"]),
            segmentation=None if cut is None else Segmentation(*cut),
            start_sec=values["start_sec"],
            end_sec=values["end_sec"],
            dimension=values["dimension"],
            uncertainty=values["uncertainty"],
            timed_text=tuple(TimedText(*piece) for piece in values["timed_text"]),
        )
