"""Of which moments a passage of sound is made, in whatever order: what stays when it begins a little later."""

from __future__ import annotations

import functools

import numpy as np

from embed_pipeline.emulator.engine.request import FloatArray

KINDS = 512
"""How many values describe the moments of a passage."""

_COLUMNS = 32  # half a second
_TURNS = 64  # kinds of which a moment is exactly one; there are as many such choices as fit into KINDS
_ACROSS, _ALONG = 12, 6
_FAINT = 5.0  # a steady tone's moments have a strength of 0.5 at most, white noise's of 45, speech's of about 100
_SEED = 0x4D4F4D45


def describe_moments(broad: FloatArray) -> FloatArray:
    """How often each kind of moment occurs in a passage, less how often it would by chance.

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
    spectra = broad @ _cosines(broad.shape[1], _ACROSS)
    windows = np.lib.stride_tricks.sliding_window_view(spectra, _COLUMNS, axis=0)
    # What does not change within the moment says more of the room, the microphone and the voice than of the moment.
    shapes = ((windows @ _cosines(_COLUMNS, _ALONG))[:, :, 1:]).reshape(len(windows), -1)
    strength = np.linalg.norm(shapes, axis=1)
    weight = strength * strength / (strength + _FAINT)
    choices = (shapes @ _directions(shapes.shape[1])).reshape(len(shapes), -1, _TURNS).argmax(axis=2)
    kinds = choices + np.arange(KINDS // _TURNS) * _TURNS
    counts = np.bincount(kinds.ravel(), np.repeat(weight, kinds.shape[1]), minlength=KINDS)
    surplus = counts / max(float(weight.sum()), 1e-6) - 1 / _TURNS
    certainty = np.sqrt(weight.mean() / (weight.mean() + _FAINT))
    return np.asarray(surplus / np.linalg.norm(surplus) * certainty, np.float32)


@functools.cache
def _cosines(count: int, kept: int) -> FloatArray:
    """A cosine transform whose finer ripples count more, as they are weaker in all natural sound."""
    position, frequency = np.arange(count)[:, None] + 0.5, np.arange(kept)[None, :]
    ripples = np.cos(np.pi * frequency * position / count) * np.sqrt(2 / count)
    return np.asarray(ripples * (1 + frequency) ** 0.75, np.float32)


@functools.cache
def _directions(count: int) -> FloatArray:
    # `random_raw` is the one stream of numpy that is promised never to change.
    raw = np.random.PCG64(_SEED).random_raw(count * KINDS)
    return np.where(raw >> np.uint64(63), 1.0, -1.0).astype(np.float32).reshape(count, KINDS)
