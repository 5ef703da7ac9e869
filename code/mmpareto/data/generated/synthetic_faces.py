"""Drawn faces for the synthetic stand-in: one look per actor, one expression per emotion, a mouth that moves in speech.

Coordinates are in face units: x to the right, y down, the crown of the head at y = -1 and the chin at y = 1.
"""

from collections import namedtuple
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Rng = np.random.Generator
Colour = tuple[int, ...]
WIDTH, HEIGHT = 160, 120  # a third of CREMA-D's 480×360: a ninth of the work, and more than an input of 64×64 needs
SUPERSAMPLING = 3  # each picture is drawn at three times its size and averaged: smooth edges
HOLD = 4  # frames that share one drawing, to save work
# Changes of a face: inner and outer ends of the brows and corners of the mouth raised, lips parted (in face units);
# eyes opened and mouth widened (relative to rest); share of teeth in the open mouth; nose wrinkled (0 to 1).
Expression = namedtuple("Expression", "brow_inner brow_outer corners opening eyes width teeth wrinkles")
EXPRESSIONS = {  # after the Facial Action Coding System (Ekman & Friesen, 1978)
    "NEU": Expression(0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.0, 0.0),
    "HAP": Expression(0.06, 0.08, 0.30, 0.16, -0.25, 0.35, 0.5, 0.0),
    "SAD": Expression(0.22, -0.14, -0.26, 0.00, -0.45, -0.15, 0.0, 0.0),
    "FEA": Expression(0.20, 0.16, -0.10, 0.34, 0.50, -0.15, 0.0, 0.0),
    "DIS": Expression(-0.06, -0.10, -0.18, 0.12, -0.65, -0.05, 0.6, 1.0),
    "ANG": Expression(-0.20, 0.16, -0.12, 0.18, -0.10, 0.20, 1.0, 0.2),
}
VARIATION = np.array(Expression(0.03, 0.03, 0.04, 0.0, 0.1, 0.08, 0.0, 0.0))  # standard deviations, in every clip
SKINS = ((250, 219, 194), (240, 199, 168), (228, 180, 143), (205, 152, 112), (168, 117, 82), (128, 86, 60))
HAIRS = ((38, 30, 28), (70, 46, 32), (112, 72, 42), (176, 128, 70), (148, 66, 38), (150, 146, 144))
Look = namedtuple("Look", "skin hair long_hair head_width eye_size brow_width mouth_width")


def film(emotion: str, intensity: float, speech: np.ndarray, of_actor: Rng, rng: Rng) -> Iterator[Image.Image]:
    """Yield the frames of one clip, RGB pictures of WIDTH × HEIGHT pixels.

    Arguments:
        emotion: a key of EXPRESSIONS.
        intensity: 0 (rest) to 1 (the full expression).
        speech: (frames,) opening of the mouth by speech in each frame, 0 to 1.
        of_actor: random numbers that are the same for every clip of the actor.
        rng: the clip's own random numbers.
    """
    skin, hair, long_hair = of_actor.integers((len(SKINS), len(HAIRS), 2))
    sizes = of_actor.uniform((0.68, 0.12, 0.05, 0.25), (0.80, 0.16, 0.11, 0.32))
    look = Look(SKINS[skin], HAIRS[hair], long_hair, *sizes)
    full = intensity * np.array(EXPRESSIONS[emotion]) * rng.uniform(0.6, 1.4, VARIATION.size) + rng.normal(0, VARIATION)
    backdrop, clothes = (tuple(levels) for levels in rng.integers(110, 200, (2, 3)).tolist())
    centre = rng.normal((0.5, 0.54), (0.025, 0.015)) * (WIDTH, HEIGHT) * SUPERSAMPLING
    size, tilt = HEIGHT * SUPERSAMPLING * rng.uniform(0.41, 0.46), rng.normal(0, 0.06)
    for start in range(0, len(speech), HOLD):
        picture = Image.new("RGB", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING), backdrop)
        now = Expression(*full * (0.8 + 0.2 * np.sin(np.pi * start / len(speech))))  # strongest in the middle
        sway = np.array([3 * SUPERSAMPLING * np.sin(start / 20), 0])
        _draw(_Pen(picture, centre + sway, size, tilt), look, now, speech[start], clothes)
        yield from [picture.reduce(SUPERSAMPLING)] * min(HOLD, len(speech) - start)


class _Pen:
    """Draws shapes given in face units on a picture."""

    def __init__(self, picture: Image.Image, centre: np.ndarray, size: float, tilt: float) -> None:
        self._draw, self._centre, self._size = ImageDraw.Draw(picture), centre, size
        self._to_pixels = size * np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])

    def shape(self, x: npt.ArrayLike, y: npt.ArrayLike, fill: Colour, line: float = 0.0) -> None:
        """Draw a filled polygon, or a line of the width `line`."""
        points = (np.stack([x, y], axis=1) @ self._to_pixels + self._centre).ravel().tolist()
        if line:
            self._draw.line(points, fill, round(line * self._size), joint="curve")
        else:
            self._draw.polygon(points, fill)

    def oval(self, x: float, y: float, across: float, down: float, fill: Colour) -> None:
        angle = np.linspace(0, 2 * np.pi, 32)
        self.shape(x + across * np.cos(angle), y + down * np.sin(angle), fill)


def _draw(pen: _Pen, look: Look, now: Expression, speech: float, clothes: Colour) -> None:
    wide, hair, wrinkles = look.head_width, look.hair, max(now.wrinkles, 0)
    dark, shadow, fold = _shade(look.skin, 0.55), _shade(look.skin, 0.8), _shade(look.skin, 1 - 0.5 * wrinkles)
    if look.long_hair:
        pen.oval(0, 0.2, 1.35 * wide, 1.35, hair)
    pen.oval(0, 1.9, 1.5, 0.75, clothes)
    pen.oval(0, 0.8, 0.38, 0.6, shadow)  # neck
    pen.oval(0, 0.05, wide + 0.1, 0.2, shadow)  # ears
    pen.oval(0, -0.1, 1.06 * wide, 0.97, hair)
    pen.oval(0, 0.08, wide, 0.92, look.skin)
    eye = look.eye_size * max(1 + now.eyes, 0.15)
    for side in (-1, 1):
        pen.oval(side * 0.34, -0.1, 1.2 * look.eye_size, eye + 0.03, dark)
        pen.oval(side * 0.34, -0.1, 1.1 * look.eye_size, eye, (250, 250, 245))
        pen.oval(side * 0.34, -0.1, 0.08, min(0.08, eye), (40, 30, 25))
        brow = np.array([now.brow_inner, 0.5 * (now.brow_inner + now.brow_outer) + 0.04, now.brow_outer])
        pen.shape(side * np.array([0.14, 0.34, 0.54]), -0.37 - brow, _shade(hair, 0.5), look.brow_width)
        pen.shape(side * np.array([0.14, 0.30, 0.38]), [0.2, 0.28, 0.42], fold, 0.035)
    for y in (-0.14, -0.05, 0.04):
        pen.shape([-0.1, 0, 0.1], [y - 0.03, y, y - 0.03], fold, 0.03)
    pen.shape([0.02, 0.1, -0.02], [-0.05, 0.2, 0.22], dark, 0.04)  # nose
    across = np.linspace(-1, 1, 21)
    gap = (max(now.opening, 0) + 0.1 * speech) * (1 - across**2) ** 0.5
    middle = 0.56 + now.corners * (0.4 - across**2)
    upper = middle - 0.4 * gap - 0.12 * wrinkles * np.exp(-(((across - 0.4) / 0.4) ** 2))
    lower = middle + 0.6 * gap
    teeth = upper + np.clip(now.teeth, 0, 1) * (lower - upper)
    x = look.mouth_width * (1 + now.width) * np.concatenate([across, across[::-1]])
    pen.shape(x, np.concatenate([upper, lower[::-1]]), (80, 25, 30))
    pen.shape(x, np.concatenate([upper, teeth[::-1]]), (245, 242, 235))
    pen.shape(x, np.concatenate([upper, lower[::-1]]), _shade((190, 80, 80), 0.5 + look.skin[0] / 500), 0.05)


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(int(factor * level) for level in colour)
