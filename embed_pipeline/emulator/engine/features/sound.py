"""Describing sound by spectrum, rhythm and moments, so that copies of a passage stay close to it."""

from __future__ import annotations

import functools

import numpy as np

from embed_pipeline.emulator.engine.features.projection import project
from embed_pipeline.emulator.engine.request import FloatArray
from embed_pipeline.emulator.engine.stream import SAMPLE_RATE

MELS = 64
CHROMA = 12
HOP = 256
FRAME_SEC = HOP / SAMPLE_RATE
"""Time from one column of the spectrum to the next."""

_WINDOW = 512
_LONG_WINDOW = 2048
_SEED = 0x534F554E
_SILENT_POWER = 1e-9  # about -90 dB of full scale
_FLOOR = 0.001  # the best of 0.0003, 0.001, 0.003 and 0.01 on the film that was used to tune; see docs/engines.md

KINDS = 512
"""How many values describe the moments of a passage."""

_COLUMNS = 32  # half a second
_TURNS = 64  # kinds of which a moment is exactly one; there are as many such choices as fit into KINDS
_ACROSS, _ALONG = 12, 6
_FAINT = 5.0  # a steady tone's moments have a strength of 0.5 at most, white noise's of 45, speech's of about 100
_MOMENT_SEED = 0x4D4F4D45


class Spectrum:
    """Turns samples into columns of mel power and chroma, while they come in."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        self._before = np.zeros(_LONG_WINDOW - _WINDOW, np.float32)

    def add(self, samples: FloatArray) -> FloatArray:
        """Take in samples.

        Args:
            samples: float32 mono at 16 kHz.

        Returns:
            float32 of shape (columns, 64 + 12): the mel bands' power and the chroma of every column now complete. The
            first column begins with the first sample ever added, each other one 256 samples after the one before.
        """
        joined = np.concatenate([self._rest, samples])
        columns = (len(joined) - _WINDOW) // HOP + 1
        if columns <= 0:
            self._rest = joined
            return np.zeros((0, MELS + CHROMA), np.float32)
        context = np.concatenate([self._before, joined])
        used = columns * HOP
        self._rest = joined[used:]
        self._before = context[used : used + len(self._before)]
        short = np.lib.stride_tricks.sliding_window_view(joined, _WINDOW)[::HOP][:columns]
        power = _power(short, _WINDOW) @ _mel_bands()
        # Low notes need a longer look; four columns share it.
        long = np.lib.stride_tricks.sliding_window_view(context, _LONG_WINDOW)[:: 4 * HOP][: (columns + 3) // 4]
        chroma = np.repeat(_power(long, _LONG_WINDOW) @ _chroma_bands(), 4, axis=0)[:columns]
        return np.concatenate([power, chroma], axis=1)


def _power(frames: FloatArray, size: int) -> FloatArray:
    spectrum = np.fft.rfft(frames * _hann(size), axis=1)
    return np.asarray((spectrum.real**2 + spectrum.imag**2) / (size * size / 16), np.float32)


@functools.cache
def _hann(size: int) -> FloatArray:
    return np.asarray((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)), np.float32)


@functools.cache
def _mel_bands() -> FloatArray:
    def mel(hertz: float) -> float:
        return 2595 * float(np.log10(1 + hertz / 700))

    edges = 700 * (10 ** (np.linspace(mel(40), mel(7800), MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    # Low bands are narrower than the distance of two bins: none may fall between them.
    rise = (bins - low) / np.maximum(centre - low, 32.0)
    fall = (high - bins) / np.maximum(high - centre, 32.0)
    bands = np.maximum(0, np.minimum(rise, fall))
    return np.asarray((bands / np.maximum(bands.sum(axis=0), 1e-6)), np.float32)


@functools.cache
def _chroma_bands() -> FloatArray:
    bins = np.fft.rfftfreq(_LONG_WINDOW, 1 / SAMPLE_RATE)
    usable = (bins > 100) & (bins < 4000)
    note = 12 * np.log2(np.where(usable, bins, 440.0) / 440.0)
    distance = (note[:, None] - np.arange(CHROMA) + 6) % 12 - 6
    return np.asarray((np.exp(-((distance / 0.6) ** 2)) * usable[:, None]), np.float32)


def embed_sound(columns: FloatArray) -> FloatArray:
    """One vector for the sound of a segment.

    Args:
        columns: float32 of shape (columns, 64 + 12) as `Spectrum` gives them, in order of time; none is silence.

    Returns:
        float32 of shape (512,), of unit length. All silence has the same vector.
    """
    if not len(columns) or float(columns[:, :MELS].max()) < _SILENT_POWER:
        return _silence()
    return project(_features(columns), _SEED)


@functools.cache
def _silence() -> FloatArray:
    return project(np.ones(512, np.float32), _SEED + 1)


def _features(columns: FloatArray) -> FloatArray:
    power, chroma = columns[:, :MELS], columns[:, MELS:]
    # A floor relative to the segment's own loud passages: hiss and lost high tones then weigh little.
    floor = max(_SILENT_POWER, _FLOOR * float(np.percentile(power.max(axis=1), 95)))
    level = np.log(np.maximum(power, floor) / floor).astype(np.float32)
    mean, std = level.mean(axis=0), level.std(axis=0)
    cepstrum = level @ _cosines()
    delta = np.diff(cepstrum, axis=0) if len(level) > 1 else np.zeros((1, cepstrum.shape[1]), np.float32)
    broad = np.asarray(level @ _broad_bands(), np.float32)
    quarters = [part.mean(axis=0) if len(part) else broad.mean(axis=0) for part in np.array_split(broad, 4)]
    blocks = [
        _length_one(mean - 0.7 * mean.mean()) * 1.5,
        _length_one(std - 0.7 * std.mean()) * 1.0,
        _length_one(cepstrum.mean(axis=0)[1:]) * 0.8,
        _length_one(cepstrum.std(axis=0)) * 0.6,
        _length_one(delta.std(axis=0)) * 0.6,
        _length_one(_rhythm(broad).ravel()) * 0.8,
        _length_one(_notes(chroma)) * 0.8,
        _length_one(np.concatenate(quarters) - np.tile(np.mean(quarters, axis=0), 4)) * 0.5,
        describe_moments(broad) * 2.5,
    ]
    return np.asarray(np.concatenate(blocks), np.float32)


def _length_one(block: FloatArray) -> FloatArray:
    return np.asarray(block / (np.float32(np.linalg.norm(block)) + np.float32(1e-6)), np.float32)


@functools.cache
def _cosines() -> FloatArray:
    position, frequency = np.arange(MELS)[:, None] + 0.5, np.arange(20)[None, :]
    return np.asarray((np.cos(np.pi * frequency * position / MELS) / MELS), np.float32)


@functools.cache
def _broad_bands() -> FloatArray:
    return np.asarray((np.repeat(np.eye(16), MELS // 16, axis=0) / (MELS // 16)), np.float32)


def _rhythm(broad: FloatArray) -> FloatArray:
    """Return the modulation of each broad band at 0.5 to 16 Hz, in eight steps."""
    swing = broad - broad.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(swing * np.hanning(len(swing))[:, None].astype(np.float32), axis=0))
    rates = np.fft.rfftfreq(len(swing), FRAME_SEC)
    edges = 0.5 * 2 ** (np.arange(9) * 5 / 8)
    result = np.zeros((8, broad.shape[1]), np.float32)
    for step in range(8):
        chosen = (rates >= edges[step]) & (rates < edges[step + 1])
        if chosen.any():
            result[step] = np.sqrt((spectrum[chosen] ** 2).mean(axis=0))
    return result


def _notes(chroma: FloatArray) -> FloatArray:
    total = chroma.sum(axis=1, keepdims=True)
    share = (chroma / np.maximum(total, 1e-12) * (total > _SILENT_POWER)).astype(np.float32)
    mean = share.mean(axis=0)
    return np.asarray(np.concatenate([mean - mean.mean(), share.std(axis=0)]), np.float32)


def describe_moments(broad: FloatArray) -> FloatArray:
    """Return the frequency of each kind of moment in a passage, less the one expected by chance.

    A moment is half a second of sound, one every 16 ms; its shape is what changes in it, over pitch and time, whatever
    its loudness. Shapes fall into kinds by chance (the strongest of 64 random directions, 8 times over), so that copies
    of a moment are mostly of one kind, and other moments of others. Two passages that have a part in common resemble
    each other by as much as that is, which the means and rhythms of one voice never tell.

    Args:
        broad: float32 of shape (columns, bands): the logarithmic level of sound in broad bands, in order of time.

    Returns:
        float32 of shape (512,), of a length below one: the fainter all changes, the shorter, down to zero for sound
        that never changes.
    """
    if len(broad) < _COLUMNS:
        broad = np.concatenate([broad, np.zeros((_COLUMNS - len(broad), broad.shape[1]), np.float32)])
    spectra = broad @ _ripples(broad.shape[1], _ACROSS)
    windows = np.lib.stride_tricks.sliding_window_view(spectra, _COLUMNS, axis=0)
    # What does not change within the moment says more of the room, the microphone and the voice than of the moment.
    shapes = ((windows @ _ripples(_COLUMNS, _ALONG))[:, :, 1:]).reshape(len(windows), -1)
    strength = np.linalg.norm(shapes, axis=1)
    weight = strength * strength / (strength + _FAINT)
    choices = (shapes @ _directions(shapes.shape[1])).reshape(len(shapes), -1, _TURNS).argmax(axis=2)
    kinds = choices + np.arange(KINDS // _TURNS) * _TURNS
    counts = np.bincount(kinds.ravel(), np.repeat(weight, kinds.shape[1]), minlength=KINDS)
    surplus = counts / max(float(weight.sum()), 1e-6) - 1 / _TURNS
    certainty = np.sqrt(weight.mean() / (weight.mean() + _FAINT))
    return np.asarray(surplus / np.linalg.norm(surplus) * certainty, np.float32)


@functools.cache
def _ripples(count: int, kept: int) -> FloatArray:
    """A cosine transform whose finer ripples count more, as they are weaker in all natural sound."""
    position, frequency = np.arange(count)[:, None] + 0.5, np.arange(kept)[None, :]
    ripples = np.cos(np.pi * frequency * position / count) * np.sqrt(2 / count)
    return np.asarray(ripples * (1 + frequency) ** 0.75, np.float32)


@functools.cache
def _directions(count: int) -> FloatArray:
    # `random_raw` is the one stream of numpy that is promised never to change.
    raw = np.random.PCG64(_MOMENT_SEED).random_raw(count * KINDS)
    return np.where(raw >> np.uint64(63), 1.0, -1.0).astype(np.float32).reshape(count, KINDS)
