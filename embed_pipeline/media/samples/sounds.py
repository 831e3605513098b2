"""Sounds for the sample library: surf, a beat, a tune, bells, birds and something like speech, computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]
#: Makes so many samples, between -1 and 1, at a rate in samples a second, from a seed.
SoundMaker = Callable[[int, int, int], Sound]


def _noise(count: int, rate: int, low: float, high: float, rng: np.random.Generator) -> Sound:
    """Noise between two frequencies, by shaping its spectrum."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    pitch = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(pitch < low) | (pitch > high)] = 0
    return _loud(np.fft.irfft(spectrum, count).astype(np.float32))


def _loud(sound: Sound) -> Sound:
    factor = np.float32(0.6 / max(float(np.abs(sound).max()), 1e-6))
    return np.asarray(sound * factor, np.float32)


def _strike(partials: tuple[float, ...], pitch: float, decay: float, seconds: float, rate: int) -> Sound:
    time = np.arange(int(seconds * rate), dtype=np.float32) / rate
    parts = [
        np.sin(2 * np.pi * pitch * partial * time) * np.exp(-time * decay * (1 + number)) / (1 + number)
        for number, partial in enumerate(partials)
    ]
    return np.asarray(np.sum(parts, axis=0), np.float32)


def _place(track: Sound, sound: Sound, start: int) -> None:
    end = min(len(track), start + len(sound))
    if start < end:
        track[start:end] += sound[: end - start]


def surf(count: int, rate: int, seed: int) -> Sound:
    """Waves that come and go."""
    rng = np.random.default_rng(seed)
    time = np.arange(count, dtype=np.float32) / rate
    swell = 0.25 + 0.75 * np.sin(np.pi * time / 5.5 + seed) ** 4
    return _loud(_noise(count, rate, 150, 2500, rng) * swell.astype(np.float32))


def beat(count: int, rate: int, seed: int) -> Sound:
    """Drums and a bass line."""
    rng = np.random.default_rng(seed)
    track = np.zeros(count, np.float32)
    time = np.arange(rate // 3, dtype=np.float32) / rate
    kick = np.sin(2 * np.pi * (50 * time + 6 * (1 - np.exp(-time * 25)))) * np.exp(-time * 12)
    hat = _noise(rate // 8, rate, 4000, rate / 2, rng) * np.exp(-np.arange(rate // 8, dtype=np.float32) / rate * 60)
    step = int(rate * 60 / (112 + seed % 20) / 2)
    for number, start in enumerate(range(0, count, step)):
        if number % 4 == 0:
            _place(track, kick.astype(np.float32), start)
        _place(track, 0.5 * hat, start)
        if number % 2 == 0:
            note = 55 * 2 ** ([0, 0, 3, 5, 7, 5, 3, 10][(number // 2 + seed) % 8] / 12)
            _place(track, 0.6 * _strike((1, 2, 3), note, 5, 0.4, rate), start)
    return _loud(track)


def tune(count: int, rate: int, seed: int) -> Sound:
    """A plucked melody that wanders along a scale."""
    rng = np.random.default_rng(seed)
    track = np.zeros(count, np.float32)
    place, start = 7, 0
    while start < count:
        place = int(np.clip(place + rng.integers(-3, 4), 0, 14))
        semitones = (0, 2, 4, 7, 9)[place % 5] + 12 * (place // 5)
        _place(track, _strike((1, 2, 3, 4, 5), 196 * 2 ** (semitones / 12), 2.5, 1.5, rate), start)
        start += int(rate * rng.choice([0.25, 0.25, 0.5, 0.75]))
    return _loud(track)


def bells(count: int, rate: int, seed: int) -> Sound:
    """Bells of a harbour over distant water."""
    rng = np.random.default_rng(seed)
    track = 0.08 * surf(count, rate, seed)
    start = 0
    while start < count:
        bell = _strike((0.5, 1, 1.19, 1.56, 2, 2.51, 2.66), float(rng.choice([311, 392, 466])), 0.7, 4, rate)
        _place(track, bell, start)
        start += int(rate * rng.uniform(1.2, 2.8))
    return _loud(track)


def birds(count: int, rate: int, seed: int) -> Sound:
    """Chirps over a rustle of leaves."""
    rng = np.random.default_rng(seed)
    track = 0.15 * _noise(count, rate, 800, 5000, rng)
    start = 0
    while start < count:
        for _ in range(int(rng.integers(1, 6))):
            time = np.arange(int(0.09 * rate), dtype=np.float32) / rate
            sweep = rng.uniform(2200, 3400) * time + rng.uniform(-9000, 9000) * time**2
            chirp = np.sin(2 * np.pi * sweep) * np.sin(np.pi * time / 0.09) ** 2
            _place(track, chirp.astype(np.float32), start)
            start += int(0.12 * rate)
        start += int(rate * rng.uniform(0.2, 1.4))
    return _loud(track)


def talk(count: int, rate: int, seed: int) -> Sound:
    """Something like speech: voiced syllables with formants, pitch that falls, and pauses for breath."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(95, 210)
    vowels = ((730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240))
    length = int(0.19 * rate)
    time = np.arange(length, dtype=np.float32) / rate
    envelope = np.sqrt(np.clip(np.sin(np.pi * time / time[-1]), 0, 1))  # rounding takes the end below 0
    syllables: list[Sound] = []
    for number in range(40):
        formants = vowels[int(rng.integers(len(vowels)))]
        pitch = base * rng.uniform(0.9, 1.2)
        phase = 2 * np.pi * (pitch * time - pitch * 0.4 * time**2)
        harmonics = np.arange(1, int(min(3800, rate / 2.2) / pitch))
        gains = sum(np.exp(-(((harmonics * pitch - formant) / 160) ** 2)) for formant in formants) + 0.02
        voice = np.sin(phase[:, None] * harmonics) @ (gains / harmonics**0.4)
        breath = _noise(length, rate, 1500, rate / 2.2, rng) * (0.3 if number % 3 == 0 else 0.05)
        syllables.append((voice / np.abs(voice).max() + breath) * envelope)
    track = np.zeros(count, np.float32)
    start = 0
    while start < count:
        for _ in range(int(rng.integers(4, 14))):
            _place(track, syllables[int(rng.integers(len(syllables)))].astype(np.float32), start)
            start += int(length * rng.uniform(0.8, 1.2))
        start += int(rate * rng.uniform(0.3, 0.9))
    return _loud(track)


SOUNDS: Final[dict[str, SoundMaker]] = {maker.__name__: maker for maker in (surf, beat, tune, bells, birds, talk)}
