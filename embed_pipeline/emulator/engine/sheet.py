"""The rows of what has no length, as they come: an image, the pages and the text of a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.failure import TOO_LARGE, UNPROCESSABLE, MediaFailure
from embed_pipeline.emulator.engine.projection import shorten, unit
from embed_pipeline.emulator.engine.request import EmbedRequest, EngineResult, FloatArray, Place

See: TypeAlias = Callable[[npt.NDArray[np.uint8]], FloatArray]
Read: TypeAlias = Callable[[str], FloatArray]


class Sheet:
    """The rows of a still medium, as they come.

    Args:
        request: What was asked for.
        engine: The engine's name.
        most: How many rows there may be.

    Attributes:
        pictures: How many pictures were looked at.
        characters: How many characters were read.
        truncated: Whether text was left out.
        missing: For each option that was asked for and has no row: why.
    """

    def __init__(self, request: EmbedRequest, engine: str, most: int) -> None:
        self._request, self._engine, self._most = request, engine, most
        self._labels: list[tuple[str, str]] = []
        self._places: list[Place] = []
        self._vectors: list[FloatArray] = []
        self._spreads: list[FloatArray] = []
        self.pictures = self.characters = 0
        self.truncated = False
        self.missing: dict[str, str] = {}

    def add(self, option: str, scope: str, place: Place, vector: FloatArray, halves: Sequence[FloatArray] = ()) -> None:
        """Add a row.

        Args:
            option: `visual` or `text`.
            scope: `asset`, `page` or `chunk`.
            place: Where it belongs.
            vector: float32 of shape (512,), of unit length.
            halves: The vectors of its two halves, which tell how uncertain it is.

        Raises:
            MediaFailure: There are more rows than allowed.
        """
        if len(self._labels) >= self._most:
            raise MediaFailure(TOO_LARGE, detail=f"more than {self._most} rows")
        first, second = halves or (vector, vector)
        self._labels.append((option, scope))
        self._places.append(place)
        self._vectors.append(vector)
        self._spreads.append(np.asarray(np.abs(first - second) / 2, np.float32))

    def add_picture(self, scope: str, place: Place, picture: npt.NDArray[np.uint8], see: See) -> FloatArray:
        """Add the row of a picture (uint8 RGB), and return its vector."""
        self.pictures += 1
        vector = see(picture)
        middle = picture.shape[1] // 2
        halves = [picture[:, :middle], picture[:, middle:]] if self._request.uncertainty and middle else []
        self.add("visual", scope, place, vector, [see(np.ascontiguousarray(half)) for half in halves])
        return vector

    def add_text(self, scope: str, place: Place, text: str, read: Read) -> None:
        """Add the row of a text."""
        self.characters += len(text)
        half = len(text) // 2
        halves = [read(text[:half]), read(text[half:])] if self._request.uncertainty else []
        self.add("text", scope, place, read(text), halves)

    def result(self) -> EngineResult:
        """Return the rows in the form that was asked for.

        Raises:
            MediaFailure: There is none.
        """
        if not self._labels:
            raise MediaFailure(UNPROCESSABLE, detail="; ".join(self.missing.values()))
        spreads = np.stack(self._spreads)
        nowhen = np.full(len(self._labels), np.nan)
        dimension = self._request.dimension
        return EngineResult(
            duration_sec=0.0,
            options=tuple(option for option, _ in self._labels),
            scopes=tuple(scope for _, scope in self._labels),
            start_sec=nowhen,
            end_sec=nowhen,
            vectors=shorten(unit(np.stack(self._vectors)), dimension),
            uncertainty=np.ascontiguousarray(spreads[:, :dimension]) if self._request.uncertainty else None,
            missing=self.missing,
            engine=self._engine,
            places=tuple(self._places) if self._request.media_type == "document" else (),
            pictures=self.pictures,
            characters=self.characters,
            truncated=self.truncated,
        )
