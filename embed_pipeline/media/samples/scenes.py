"""Moving pictures for the sample library, painted by arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
#: Paints the picture at a time in seconds: height by width by red, green and blue.
Scene = Callable[[float], Picture]
#: Makes a scene of a width and height from a seed.
SceneMaker = Callable[[int, int, int], Scene]

_Floats = npt.NDArray[np.float32]


def _grid(width: int, height: int) -> tuple[_Floats, _Floats]:
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    return across / width, down / height


def _mix(first: tuple[int, int, int], second: tuple[int, int, int], share: _Floats) -> _Floats:
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    return start + (end - start) * np.clip(share, 0, 1)[..., None]


def _colour(values: npt.ArrayLike) -> _Floats:
    return np.asarray(values, np.float32)


def _finish(picture: _Floats) -> Picture:
    return np.clip(picture, 0, 255).astype(np.uint8)


def sea(width: int, height: int, seed: int) -> Scene:
    """A low sun over moving water."""
    across, down = _grid(width, height)
    rng = np.random.default_rng(seed)
    tint = [(250, 150, 70), (240, 90, 120), (255, 200, 120)][seed % 3]
    sky = _mix((40, 40, 110), tint, down / 0.55)
    sun_at = rng.uniform(0.25, 0.75)

    def paint(time: float) -> Picture:
        sun = np.hypot((across - sun_at) * width / height, down - 0.3 - 0.01 * time)
        picture = np.where((sun < 0.09)[..., None], _colour([255, 240, 180]), sky)
        depth = np.maximum(down - 0.55, 0)
        swell = np.sin(16 * np.log(depth + 0.04) - 2.2 * time + 2 * np.sin(9 * across + 0.7 * time)) * 0.5 + 0.5
        glitter = np.exp(-(((across - sun_at) * (11 - 15 * depth)) ** 2)) * swell**4
        water = _mix((10, 40, 80), (60, 130, 150), swell * 0.6) + glitter[..., None] * _colour([220, 160, 90])
        return _finish(np.where((down > 0.55)[..., None], water, picture))

    return paint


def skyline(width: int, height: int, seed: int) -> Scene:
    """A city at night: windows go on and off, cars pass below."""
    across, down = _grid(width, height)
    rng = np.random.default_rng(seed)
    columns = 12 + seed % 5
    column = (across * columns).astype(int)
    roofs = rng.uniform(0.15, 0.6, columns)[column]
    building = (down > roofs) & (down < 0.85)
    row = (down * 24).astype(int)
    pane = ((across * columns * 4) % 1 > 0.35) & ((down * 24) % 1 > 0.4)
    phases = rng.uniform(0, 20, (25, columns * 4 + 1))[row, (across * columns * 4).astype(int)]
    sky = _mix((8, 8, 30), (60, 30, 70), down)

    def paint(time: float) -> Picture:
        lit = building & pane & ((phases + time) % 20 < 9)
        picture = np.where(building[..., None], _colour([28, 28, 38]), sky)
        picture = np.where(lit[..., None], _colour([250, 210, 110]), picture)
        street = down >= 0.85
        picture = np.where(street[..., None], _colour([20, 20, 22]), picture)
        for lane, (speed, colour) in enumerate(((0.21, (255, 60, 50)), (-0.17, (240, 240, 255)))):
            car = ((across - speed * time) * 5 % 1 < 0.08) & (abs(down - 0.9 - 0.05 * lane) < 0.012)
            picture = np.where(car[..., None], _colour(colour), picture)
        return _finish(picture)

    return paint


def forest(width: int, height: int, seed: int) -> Scene:
    """A walk past trees, the near ones faster than the far ones."""
    across, down = _grid(width, height)
    rng = np.random.default_rng(seed)
    trunks = [(rng.uniform(0, 2), rng.uniform(0.008, 0.04)) for _ in range(18)]
    leaves = rng.uniform(0, 1, (height // 4 + 1, width // 2 + 1)).astype(np.float32)
    leaves = np.kron(leaves, np.ones((4, 4), np.float32))[:height, : 2 * width]

    def paint(time: float) -> Picture:
        shift = int(time * width * 0.05) % width
        crown = leaves[:, shift : shift + width]
        picture = _mix((150, 190, 120), (30, 80, 30), crown * 0.6 + down * 0.4)
        for place, thickness in trunks:
            middle = (place - time * thickness * 2) % 2 - 0.5
            picture[:, abs(across[0] - middle) < thickness / 2] = (70 - 800 * thickness, 45, 25)
        picture[int(0.88 * height) :] = (90, 70, 40)
        return _finish(picture)

    return paint


def market(width: int, height: int, seed: int) -> Scene:
    """Coloured awnings, and people walking across."""
    across, down = _grid(width, height)
    rng = np.random.default_rng(seed)
    stripes = ((across * 14).astype(int) % 2 == 0) & (down < 0.35 + 0.03 * np.sin(across * 44))
    people = [(rng.uniform(0, 1), rng.uniform(-0.12, 0.12), rng.uniform(0.55, 0.85)) for _ in range(14)]
    colours = rng.uniform(30, 255, (14, 3)).astype(np.float32)
    awning = _colour(rng.uniform(60, 255, 3))

    def paint(time: float) -> Picture:
        picture = _mix((230, 220, 190), (170, 150, 120), down)
        picture[down < 0.35] = (245, 245, 235)
        picture[stripes] = awning
        for (start, speed, feet), colour in zip(people, colours, strict=True):
            middle = (start + speed * time) % 1.2 - 0.1
            # Looking at the columns of the person alone takes a tenth of the time.
            near = slice(max(int((middle - 0.1) * width), 0), max(int((middle + 0.1) * width), 0))
            x, y, part = across[:, near], down[:, near], picture[:, near]
            part[(abs(x - middle) < 0.025) & (y > feet - 0.25) & (y < feet)] = colour
            part[np.hypot((x - middle) * width / height, y - feet + 0.29) < 0.04] = (225, 180, 150)
        return _finish(picture)

    return paint


def speaker(width: int, height: int, seed: int) -> Scene:
    """A person who talks in front of a book shelf."""
    across, down = _grid(width, height)
    rng = np.random.default_rng(seed)
    books = rng.uniform(40, 200, (4, 40, 3)).astype(np.float32)
    shelf = books[(down * 4).astype(int), (across * 40).astype(int)]
    shelf[(down * 4) % 1 > 0.9] = (60, 40, 25)
    coat = _colour(rng.uniform(20, 200, 3))
    middle = 0.35 + 0.3 * (seed % 2)

    def paint(time: float) -> Picture:
        sway = middle + 0.01 * np.sin(time * 1.3)
        aside = (across - sway) * width / height
        picture = shelf.copy()
        picture[(aside / 0.42) ** 2 + ((down - 1.05) / 0.45) ** 2 < 1] = coat
        picture[(aside / 0.16) ** 2 + ((down - 0.4) / 0.22) ** 2 < 1] = (220, 175, 145)
        mouth = 0.01 + 0.03 * abs(np.sin(time * 8.0) * np.sin(time * 2.7))
        picture[(aside / 0.06) ** 2 + ((down - 0.5) / mouth) ** 2 < 1] = (110, 30, 40)
        return _finish(picture)

    return paint


def slide(width: int, height: int, seed: int) -> Scene:
    """A page of a talk: a title, lines of text and a chart."""
    across, down = _grid(width, height)
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 248, np.float32)
    accent = _colour(rng.uniform(20, 200, 3))
    picture[down < 0.16] = accent
    for line in range(int(rng.integers(3, 7))):
        row = (abs(down - 0.28 - 0.1 * line) < 0.02) & (across > 0.06) & (across < rng.uniform(0.35, 0.55))
        picture[row] = 60
    for bar in range(5):
        tall = rng.uniform(0.1, 0.6)
        picture[(abs(across - 0.64 - 0.07 * bar) < 0.025) & (down < 0.92) & (down > 0.92 - tall)] = accent * 0.8

    def paint(time: float) -> Picture:
        pointer = np.hypot(across - 0.3 - 0.2 * np.sin(time * 0.4), down - 0.5 - 0.2 * np.cos(time * 0.3)) < 0.02
        return _finish(np.where(pointer[..., None], _colour([230, 30, 30]), picture))

    return paint


def growth(width: int, height: int, seed: int) -> Scene:
    """Conway's game of life, as a time lapse."""
    rng = np.random.default_rng(seed)
    states = [rng.random((height // 4, width // 4)) < 0.3]

    def paint(time: float) -> Picture:
        generation = int(time * 10)
        while len(states) <= generation:
            cells = states[-1]
            around = sum(
                np.roll(cells, (down, across), (0, 1)).astype(np.int8)
                for down in (-1, 0, 1)
                for across in (-1, 0, 1)
                if down or across
            )
            states.append((around == 3) | (cells & (around == 2)))
        large = np.kron(states[generation], np.ones((4, 4), bool))
        full = np.zeros((height, width), bool)
        full[: large.shape[0], : large.shape[1]] = large
        return _finish(np.where(full[..., None], _colour([90, 220, 120]), _colour([10, 20, 40])))

    return paint


def plasma(width: int, height: int, seed: int) -> Scene:
    """Slow waves of colour."""
    across, down = _grid(width, height)

    def paint(time: float) -> Picture:
        wave = np.sin(across * 9 + time) + np.sin(down * 7 - 0.7 * time) + np.sin((across + down) * 6 + seed)
        return _finish(np.stack([127 + 120 * np.sin(wave * 1.6 + phase + seed) for phase in (0, 2.1, 4.2)], axis=-1))

    return paint


SCENES: Final[dict[str, SceneMaker]] = {
    maker.__name__: maker for maker in (sea, skyline, forest, market, speaker, slide, growth, plasma)
}
