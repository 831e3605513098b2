"""Describing pictures by colour, layout and texture, so that copies of a scene stay close to it."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.features.projection import project
from embed_pipeline.emulator.engine.request import FloatArray

SIZE = 64
"""Pictures are described at this many pixels a side."""

PICTURES_PER_SEC = 2.0

_SEED = 0x56495355
_LOW = 8  # frequencies kept of the cosine transform, each way
_HUES = 12
_BAR_LEVEL = 24


def describe_pictures(pictures: npt.NDArray[np.uint8]) -> FloatArray:
    """Features of single pictures.

    Everything is the same for a picture and its mirror image: of what a mirror turns round only the size is kept. What
    describes colour vanishes for grey pictures, so that a greyscale copy still matches by everything else; brightness
    and contrast are taken out of what describes shape; and black bars are cut off.

    Args:
        pictures: uint8 RGB of shape (pictures, 64, 64, 3).

    Returns:
        float32 of shape (pictures, features).
    """
    rgb: FloatArray = np.stack([without_bars(picture) for picture in pictures]).astype(np.float32) / np.float32(255)
    luma: FloatArray = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    blue: FloatArray = (rgb[..., 2] - luma) * np.float32(0.564)
    red: FloatArray = (rgb[..., 0] - luma) * np.float32(0.713)
    mean, std = luma.mean(axis=(1, 2), keepdims=True), luma.std(axis=(1, 2), keepdims=True)
    normal = (luma - mean) / (std + 0.03)
    contrast = std[:, 0] / (std[:, 0] + 0.03)
    blocks = [
        contrast * _length_one(_layout(normal)[:, 1:]) * 1.2,
        contrast * _length_one(_edges(normal)) * 1.0,
        _length_one(_tones(normal)) * 0.6,
        _length_one(_tones((luma - 0.5) * 4)) * 0.4,
        np.concatenate([_layout(blue)[:, :15], _layout(red)[:, :15]], axis=1) * 0.45,
        _hues(blue, red) * 1.5,
    ]
    return np.asarray(np.concatenate(blocks, axis=1), np.float32)


def embed_pictures(features: FloatArray) -> FloatArray:
    """One vector for the pictures of a segment: their mean, and how much they change.

    Args:
        features: float32 of shape (pictures, features), at least one picture, in order of time.

    Returns:
        float32 of shape (512,), of unit length.
    """
    change = np.abs(np.diff(features, axis=0)).mean(axis=0) if len(features) > 1 else np.zeros_like(features[0])
    return project(np.concatenate([features.mean(axis=0), change]), _SEED)


def without_bars(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture without the black bars of a letterbox, stretched to the same size.

    Args:
        picture: uint8 RGB of shape (64, 64, 3).

    Returns:
        A picture of that shape. Only even bars count, and only up to half of the picture: a dark scene is no letterbox.
    """
    bright = picture.max(axis=2) > _BAR_LEVEL
    top, bottom = _inside(bright.any(axis=1))
    left, right = _inside(bright.any(axis=0))
    if (top, bottom, left, right) == (0, SIZE, 0, SIZE):
        return picture
    rows, columns = np.linspace(top, bottom - 1, SIZE), np.linspace(left, right - 1, SIZE)
    above, before = rows.astype(np.intp), columns.astype(np.intp)
    below, behind = np.minimum(above + 1, bottom - 1), np.minimum(before + 1, right - 1)
    down, across = (rows - above)[:, None, None], (columns - before)[None, :, None]
    taller = picture[above] * (1 - down) + picture[below] * down
    return np.asarray(np.rint(taller[:, before] * (1 - across) + taller[:, behind] * across), np.uint8)


def _inside(bright: npt.NDArray[np.bool_]) -> tuple[int, int]:
    if not bright.any():
        return 0, SIZE
    first, end = int(np.argmax(bright)), SIZE - int(np.argmax(bright[::-1]))
    even = abs(first - (SIZE - end)) <= 2
    return (first, end) if even and end - first >= SIZE // 2 else (0, SIZE)


def _length_one(block: FloatArray) -> FloatArray:
    return np.asarray(block / (np.linalg.norm(block, axis=1, keepdims=True) + 1e-6), np.float32)


@functools.cache
def _cosines() -> FloatArray:
    position, frequency = np.arange(SIZE) + 0.5, np.arange(_LOW)[:, None]
    basis = np.cos(np.pi * frequency * position / SIZE) * np.sqrt(2 / SIZE)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float32)


@functools.cache
def _zigzag() -> npt.NDArray[np.intp]:
    rows, columns = np.divmod(np.arange(_LOW * _LOW), _LOW)
    return np.lexsort((columns, rows + columns))


def _layout(plane: FloatArray) -> FloatArray:
    """The low frequencies of a plane, lowest first.

    A mirror turns the sign of every second one across, so only their size counts.
    """
    basis = _cosines()
    spectrum = basis @ plane @ basis.T / (SIZE / 8)
    spectrum[:, :, 1::2] = np.abs(spectrum[:, :, 1::2])
    return np.asarray(spectrum.reshape(len(plane), -1)[:, _zigzag()], np.float32)


def _tones(plane: FloatArray) -> FloatArray:
    """Return histograms of brightness of the upper, middle and lower third: 16 soft steps from -2.5 to 2.5."""
    level = np.clip((plane + 2.5) / 5 * 15, 0, 15)
    low = level.astype(np.int32)
    share = level - low
    count = len(plane)
    third = np.minimum(np.arange(SIZE) * 3 // SIZE, 2)[None, :, None]
    cell = low + 17 * (third + 3 * np.arange(count)[:, None, None])
    flat = (
        np.bincount(cell.ravel(), (1 - share).ravel(), 51 * count)
        + np.bincount(cell.ravel() + 1, share.ravel(), 51 * count)[: 51 * count]
    )
    histogram = np.sqrt(flat.reshape(count, 3, 17)[:, :, :16] / (SIZE * SIZE / 3))
    return np.asarray((histogram - histogram.mean(axis=2, keepdims=True)).reshape(count, -1), np.float32)


def _edges(normal: FloatArray) -> FloatArray:
    """Return the strength of edges of eight directions in each cell of a 4x4 grid, folded along its middle."""
    across = normal[:, 1:-1, 2:] - normal[:, 1:-1, :-2]
    down = normal[:, 2:, 1:-1] - normal[:, :-2, 1:-1]
    strength = np.sqrt(across**2 + down**2)
    # Bins lie about their direction, so that upright edges, the most common ones, stay in theirs when mirrored.
    direction = np.rint((np.arctan2(down, across) % np.pi) / np.pi * 8).astype(np.int32) % 8
    count, side = len(normal), normal.shape[1] - 2
    part = np.arange(side) * 4 // side
    cell = direction + 8 * (part[None, :, None] * 4 + part[None, None, :] + 16 * np.arange(count)[:, None, None])
    histogram = np.bincount(cell.ravel(), strength.ravel(), 128 * count).reshape(count, 4, 4, 8)
    histogram = np.sqrt(histogram)
    left, right = histogram[:, :, :2], histogram[:, :, :1:-1][..., [0, 7, 6, 5, 4, 3, 2, 1]]
    folded = np.concatenate([left + right, np.abs(left - right)], axis=2).reshape(count, -1)
    folded -= folded.mean(axis=1, keepdims=True) * 0.8
    return folded.astype(np.float32)


def _hues(blue: FloatArray, red: FloatArray) -> FloatArray:
    """Return histograms of hue, weighted by saturation, of the upper and the lower half."""
    saturation = np.sqrt(blue**2 + red**2)
    hue = np.minimum((np.arctan2(red, blue) + np.pi) / (2 * np.pi) * _HUES, _HUES - 1).astype(np.int32)
    count = len(blue)
    half = (np.arange(SIZE) * 2 // SIZE)[None, :, None]
    cell = hue + _HUES * (half + 2 * np.arange(count)[:, None, None])
    total = np.bincount(cell.ravel(), saturation.ravel(), 2 * _HUES * count).reshape(count, -1)
    return np.asarray(np.sqrt(total / (SIZE * SIZE)), np.float32)
