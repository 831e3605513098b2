"""The engine that needs no model: hand-made features of pictures and sound, in one pass and in bounded memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.captions import clean_caption, sidecar_captions, spoken_in
from embed_pipeline.emulator.engine.failure import REQUEST_INVALID, UNPROCESSABLE, MediaFailure
from embed_pipeline.emulator.engine.features.sound import FRAME_SEC, MELS, Spectrum, embed_sound
from embed_pipeline.emulator.engine.features.text import embed_text
from embed_pipeline.emulator.engine.features.visual import PICTURES_PER_SEC, SIZE, describe_pictures, embed_pictures
from embed_pipeline.emulator.engine.request import (
    Dynamic,
    EmbedRequest,
    EngineLimits,
    EngineResult,
    FloatArray,
    Progress,
    no_progress,
)
from embed_pipeline.emulator.engine.rows import Row, Track, answer
from embed_pipeline.emulator.engine.segments import (
    THUMB_HEIGHT,
    THUMB_WIDTH,
    CutDetector,
    PauseDetector,
    SegmentPlanner,
    Span,
)
from embed_pipeline.emulator.engine.stream import Caption, MediaStream, Picture, Sound, open_media

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

_MAX_CAPTIONS = 50_000
_SETTLE_SEC = 2.0


class SignalEngine:
    """Embeds media by colour, layout, texture, spectrum and rhythm, and by the words of its subtitles.

    The vectors recognise the same scene or passage again (shifted, cropped, recompressed, mirrored, in grey, with
    noise); they know nothing of what it means.

    Attributes:
        name: The engine and its version.
    """

    name = "signal-2"

    def embed(
        self,
        path: Path,
        request: EmbedRequest,
        limits: EngineLimits | None = None,
        progress: Progress = no_progress,
    ) -> EngineResult:
        """Embed one local media file; see `Engine.embed`."""
        limits = limits or EngineLimits()
        with open_media(path, request, limits) as media:
            reading = self.reading(path, media, request)
            try:
                told = -math.inf
                for part in media.read():
                    reading.take(part)
                    if reading.clock >= told + 1.0:
                        told = reading.clock
                        progress(told)
                reading.finish()
                return self._answer(path, request, media, reading)
            finally:
                reading.close()

    def reading(self, path: Path, media: MediaStream, request: EmbedRequest) -> Reading:  # noqa: ARG002
        """Return what takes in the parts of a file; a subclass replaces it."""
        return Reading(media, request)

    def transcript(self, path: Path, reading: Reading) -> tuple[list[Caption], str]:
        """Return the file's captions, and if there are none the reason."""
        if reading.captions:
            return sorted(reading.captions, key=lambda caption: caption.start), ""
        if (captions := sidecar_captions(path)) is not None:
            return captions, ""
        return [], "no transcript: no subtitle stream with text, and no .srt or .vtt file beside the media"

    def embed_words(self, words: str) -> FloatArray:
        """One vector for what is said in a segment."""
        return embed_text(words)

    def embed_picture(self, picture: npt.NDArray[np.uint8]) -> FloatArray:
        """One vector for a still picture (uint8 RGB of any size), as a segment that shows nothing else has it."""
        from av.video.frame import VideoFrame

        frame = VideoFrame.from_ndarray(picture, format="rgb24")
        return embed_pictures(describe_pictures(Shrink()(frame, SIZE, SIZE)[None]))

    def _answer(self, path: Path, request: EmbedRequest, media: MediaStream, reading: Reading) -> EngineResult:
        tracks: dict[str, list[Row]] = {}
        missing: dict[str, str] = {}
        for option, track in reading.tracks.items():
            if track.rows:
                tracks[option] = track.rows
        if "visual" in request.options and "visual" not in tracks:
            missing["visual"] = "no picture could be decoded" if media.has_picture else "no video stream"
            if request.media_type == "audio":
                missing["visual"] = "asked for as audio"
        if "audio" in request.options and "audio" not in tracks:
            missing["audio"] = "no sound could be decoded" if media.has_sound else "no audio stream"
        if "transcription" in request.options:
            captions, why = self.transcript(path, reading)
            rows = [self._spoken(span, words) for span in reading.spans if (words := spoken_in(captions, span))]
            if rows:
                tracks["transcription"] = rows
            else:
                missing["transcription"] = why or "nothing is said in this window"
        damaged = any(why.endswith("could be decoded") for why in missing.values())
        if damaged and not tracks:
            raise MediaFailure(UNPROCESSABLE, detail="; ".join(missing.values()))
        window = Span(media.start_sec, reading.end_sec)
        duration = window.end
        if request.end_sec is not None and media.declared_sec is not None:
            duration = max(duration, media.declared_sec)
        return answer(request, tracks, missing, window, duration, self.name)

    def _spoken(self, span: Span, words: str) -> Row:
        vector = self.embed_words(words)
        half = len(words) // 2
        return Row(span, vector, np.abs(self.embed_words(words[:half]) - self.embed_words(words[half:])) / 2)


class Reading:
    """Takes in pictures and sound, finds the segments and embeds each as soon as it is complete.

    Args:
        media: The open file.
        request: What to embed of it.

    Attributes:
        tracks: For each option that is computed from the stream, its features and rows.
        captions: The embedded captions so far.
        spans: The segments so far.
        end_sec: Where the window ends; known once finished.
    """

    def __init__(self, media: MediaStream, request: EmbedRequest) -> None:
        self.spans: list[Span] = []
        self.captions: list[Caption] = []
        self.tracks: dict[str, Track] = {}
        self.end_sec = media.start_sec
        self._limit = math.inf if request.end_sec is None else request.end_sec
        self._planner = SegmentPlanner(request.segmentation, media.start_sec)
        dynamic = isinstance(request.segmentation, Dynamic)
        self._see = "visual" in request.options and request.media_type == "video" and media.has_picture
        # The scenes of a video divide its sound as well, so its pictures are looked at even where only that is wanted.
        self._cuts = CutDetector() if dynamic and media.decodes_picture else None
        self._pauses = PauseDetector(media.start_sec) if dynamic and not media.decodes_picture else None
        if self._see:
            self.tracks["visual"] = Track(embed_pictures, hold=True, uncertain=request.uncertainty)
        if "audio" in request.options and media.has_sound:
            self.tracks["audio"] = Track(embed_sound, hold=False, uncertain=request.uncertainty)
        self._spectrum, self._spectrum_time, self._sound_end = Spectrum(), 0.0, -math.inf
        self._blocks: list[FloatArray] = []
        self._pictures: list[npt.NDArray[np.uint8]] = []
        self._picture_times: list[float] = []
        self._next_picture = -math.inf
        self._picture_clock = self._sound_clock = media.start_sec
        self._settled = media.start_sec
        self.shrink = Shrink()

    @property
    def clock(self) -> float:
        """Position of the furthest stream, in seconds."""
        return max(self._picture_clock, self._sound_clock)

    def take(self, part: Picture | Sound | Caption) -> None:
        """Take in the next part of the stream."""
        if isinstance(part, Picture):
            self._take_picture(part)
        elif isinstance(part, Sound):
            self._take_sound(part)
        elif len(self.captions) < _MAX_CAPTIONS and (words := clean_caption(part.text)):
            self.captions.append(Caption(part.start, part.end, words))
        if self.clock >= self._settled + _SETTLE_SEC:
            self._settled = self.clock
            self._settle()

    def finish(self) -> None:
        """Embed what is left.

        Raises:
            MediaFailure: Nothing could be decoded.
        """
        if self.clock <= self._planner.origin:
            if self._planner.origin > 0:
                raise MediaFailure(REQUEST_INVALID, detail="there is nothing in the window that was asked for")
            raise MediaFailure(UNPROCESSABLE, detail="nothing could be decoded")
        self._drain()
        if "audio" in self.tracks and self.tracks["audio"].empty and self._sound_clock > self._planner.origin:
            # A click shorter than one column of the spectrum: silence makes it long enough.
            self.tracks["audio"].add(self._spectrum_time, FRAME_SEC, self._spectrum.add(np.zeros(1024, np.float32)))
        self.end_sec = min(self.clock, self._limit)
        for time in self._found(ended=True):
            self._planner.cut(time)
        spans = self._planner.finish(self.end_sec)
        self.spans.extend(spans)
        for track in self.tracks.values():
            track.settle(spans)
            track.finish()

    def close(self) -> None:
        """Give back what was held besides memory."""

    def hear(self, sound: Sound) -> None:
        """Take note of a stretch of sound, besides what becomes of it here."""

    def _settle(self) -> None:
        self._drain()
        for time in self._found(ended=False):
            self._planner.cut(time)
        detector = self._cuts or self._pauses
        # Before the first cut detector frames come, or with fixed windows, the furthest stream sets the pace.
        known = self.clock if detector is None else min(self.clock, detector.clock)
        spans = self._planner.advance(min(known, self._limit))
        self.spans.extend(spans)
        for track in self.tracks.values():
            track.settle(spans)

    def _found(self, *, ended: bool) -> list[float]:
        detector = self._cuts or self._pauses
        return detector.take(ended=ended) if detector is not None else []

    def _take_picture(self, picture: Picture) -> None:
        time = max(picture.time, self._picture_clock) if self._picture_times else picture.time
        self._picture_clock = max(self._picture_clock, picture.end)
        if self._cuts is not None:
            thumb = self.shrink(picture.frame, THUMB_WIDTH, THUMB_HEIGHT, "FAST_BILINEAR")
            self._cuts.add(time, thumb)
        if self._see and time >= self._next_picture - 1e-3:
            # On a grid of the file's own time, so that windows that begin elsewhere see the same pictures.
            self._next_picture = (math.floor(time * PICTURES_PER_SEC + 1e-3) + 1) / PICTURES_PER_SEC
            self._pictures.append(self.shrink(picture.frame, SIZE, SIZE))
            self._picture_times.append(time)

    def _take_sound(self, sound: Sound) -> None:
        self.hear(sound)
        self._sound_clock = max(self._sound_clock, sound.end)
        if self._blocks and abs(sound.time - self._sound_end) > FRAME_SEC:
            self._drain_sound()
        if not self._blocks and abs(sound.time - self._sound_end) > FRAME_SEC:
            self._spectrum, self._spectrum_time = Spectrum(), sound.time
        self._blocks.append(sound.samples)
        self._sound_end = sound.end

    def _drain(self) -> None:
        if self._pictures:
            for time, features in zip(self._picture_times, describe_pictures(np.stack(self._pictures)), strict=True):
                self.tracks["visual"].add(time, 1 / PICTURES_PER_SEC, features[None, :])
            self._pictures, self._picture_times = [], []
        self._drain_sound()

    def _drain_sound(self) -> None:
        if not self._blocks:
            return
        columns = self._spectrum.add(np.concatenate(self._blocks))
        self._blocks = []
        if "audio" in self.tracks:
            self.tracks["audio"].add(self._spectrum_time, FRAME_SEC, columns)
        if self._pauses is not None:
            self._pauses.add(self._spectrum_time, columns[:, :MELS].sum(axis=1))
        self._spectrum_time += FRAME_SEC * len(columns)


class Shrink:
    """Scales decoded frames to small RGB pictures."""

    def __init__(self) -> None:
        self._scalers: dict[tuple[int, int], VideoReformatter] = {}

    def __call__(self, frame: VideoFrame, width: int, height: int, method: str = "AREA") -> npt.NDArray[np.uint8]:
        """The frame at another size: uint8 RGB of shape (height, width, 3).

        `FAST_BILINEAR` finds the same cuts as `AREA` at an eighth of the cost.
        """
        from av.video.reformatter import VideoReformatter

        scaler = self._scalers.setdefault((width, height), VideoReformatter())
        small = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation=method, threads=1)
        return np.asarray(small.to_ndarray(), np.uint8)
