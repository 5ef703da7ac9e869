"""Drawn faces for the synthetic stand-in: an actor's own face, moved by an emotion and by speech.

A face is drawn with filled shapes at three times its size and averaged down. Coordinates are in face units:
x to the right, y down, the crown of the head at y = -1 and the chin at y = +1. The emotions move brows, lids,
nose and mouth as the prototypes of the Facial Action Coding System do (Ekman & Friesen, 1978).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Points = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

WIDTH, HEIGHT = 160, 120  # a third of CREMA-D's 480×360: 1/9 of the work, and still more than a 64×64 input needs
SUPERSAMPLING = 3
HOLD = 4  # frames that one drawing is shown for: cartoons too are drawn on twos to fours, to save work


class Expression(NamedTuple):
    """How far each part of the face has moved from rest; 0 is rest, 1 about as far as a face can go."""

    brow_inner: float = 0.0  # inner end of the brows up (+) or down (-)
    brow_outer: float = 0.0  # outer end of the brows up (+) or down (-)
    frown: float = 0.0  # brows drawn together, upright lines between them
    forehead: float = 0.0  # lines across the forehead
    upper_lid: float = 0.0  # upper lid raised (+) or drooping (-)
    lower_lid: float = 0.0  # lower lid pushed up
    lid_slant: float = 0.0  # upper lid low at the nose (+) or at the temple (-)
    nose: float = 0.0  # nose wrinkled, its wings raised
    cheek: float = 0.0  # cheeks raised and reddened
    corner: float = 0.0  # mouth corners up (+) or down (-)
    wide: float = 0.0  # mouth stretched (+) or pursed (-)
    open: float = 0.0  # lips parted
    square: float = 0.0  # opening rectangular rather than round
    upper_lip: float = 0.0  # upper lip raised over the teeth
    clench: float = 0.0  # both rows of teeth shown, closed
    press: float = 0.0  # lips pressed thin
    uneven: float = 0.0  # one side of the face more than the other


EXPRESSIONS = {  # two ways to show each emotion; a clip mixes them
    "NEU": (Expression(), Expression()),
    "HAP": (
        Expression(0.1, 0.25, cheek=1.0, lower_lid=0.7, corner=1.0, wide=0.55, open=0.1),
        Expression(0.3, 0.35, cheek=0.8, lower_lid=0.6, upper_lid=0.1, corner=0.9, wide=0.5, open=0.6, upper_lip=0.3),
    ),
    "SAD": (
        Expression(0.95, -0.65, frown=0.3, upper_lid=-0.5, lid_slant=-0.8, corner=-1.0, wide=-0.2, press=0.3),
        Expression(0.8, -0.75, frown=0.4, upper_lid=-0.75, lid_slant=-0.6, corner=-0.85, wide=-0.05, open=0.15),
    ),
    "FEA": (
        Expression(0.95, 0.65, forehead=1.0, upper_lid=1.0, corner=-0.35, wide=0.4, open=0.55, square=0.8),
        Expression(1.0, 0.75, forehead=0.8, upper_lid=0.9, corner=-0.2, wide=-0.35, open=0.95, square=0.2),
    ),
    "DIS": (
        Expression(
            -0.5, 0.0, 0.4, 0.0, -0.4, 0.75, 0.2, 1.0, 0.4, corner=-0.5, wide=-0.1, open=0.25, upper_lip=1.0, uneven=1.0
        ),
        Expression(-0.4, -0.1, 0.3, 0.0, -0.55, 0.9, 0.1, 0.9, 0.3, corner=-0.75, open=0.1, upper_lip=0.7, uneven=0.8),
    ),
    "ANG": (
        Expression(-1.0, 0.45, 1.0, upper_lid=0.15, lower_lid=0.35, lid_slant=1.0, corner=-0.5, press=1.0, wide=-0.1),
        Expression(
            -1.0, 0.5, 0.9, upper_lid=0.2, lower_lid=0.3, lid_slant=0.9, corner=-0.35, wide=0.4, open=0.55, square=1.0,
            upper_lip=0.4, clench=1.0,
        ),
    ),
}  # fmt: skip


class Bearing(NamedTuple):
    """How an emotion moves the head and colours the skin."""

    rise: float = 0.0  # head raised (+) or hung (-), as a share of the picture
    lean: float = 0.0  # towards the camera (+) or back from it (-), as a share of the head's size
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # what red, green and blue are multiplied by


BEARINGS = {
    "NEU": Bearing(),
    "HAP": Bearing(0.02, 0.02, (1.0, 0.98, 0.94)),
    "SAD": Bearing(-0.04, -0.02, (0.92, 0.94, 0.99)),
    "FEA": Bearing(0.01, -0.04),
    "DIS": Bearing(0.01, -0.02, (0.93, 1.0, 0.89)),
    "ANG": Bearing(-0.01, 0.03, (1.0, 0.90, 0.88)),
}
_TWO_SIDED = np.array([f in {"brow_inner", "brow_outer", "upper_lid", "corner", "wide"} for f in Expression._fields])

_SKINS: tuple[Colour, ...] = (
    (250, 219, 194), (240, 199, 168), (228, 180, 143), (205, 152, 112), (168, 117, 82), (128, 86, 60),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (38, 30, 28), (70, 46, 32), (112, 72, 42), (176, 128, 70), (148, 66, 38), (150, 146, 144),
)  # fmt: skip
_IRISES: tuple[Colour, ...] = ((84, 56, 38), (60, 42, 32), (66, 104, 140), (74, 112, 78), (104, 120, 128))
_CLOTHES: tuple[Colour, ...] = ((92, 108, 138), (148, 86, 84), (98, 128, 104), (202, 196, 186), (84, 78, 92))
_STYLES = ("short", "parted", "long", "fringe", "curly", "bald")
_HAIRLINES = {  # right to left: a bend, a point on the forehead, a bend; the bends count in head widths
    "short": ((0.9, -0.74), (0.0, -0.74), (-0.9, -0.74)),
    "parted": ((0.85, -0.62), (-0.3, -0.9), (-0.72, -0.6)),
    "long": ((0.9, -0.7), (0.0, -0.85), (-0.9, -0.7)),
    "fringe": ((0.92, -0.6), (0.42, -0.55), (-0.39, -0.66)),
    "curly": ((0.9, -0.68), (0.0, -0.68), (-0.9, -0.68)),
}


@dataclass(frozen=True)
class Look:
    """An actor's own face: colours, proportions, and the expression that it rests in."""

    skin: Colour
    hair: Colour
    iris: Colour
    style: str
    glasses: bool
    beard: bool
    head_width: float
    jaw: float
    eye_size: float
    eye_gap: float
    brow_height: float
    brow_width: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lip: float
    resting: npt.NDArray[np.float64]

    @classmethod
    def of(cls, actor: int, rng: np.random.Generator) -> "Look":
        """The look of actor number `actor` (from 0): skins and hair styles go round, the rest is drawn by `rng`."""
        style = _STYLES[actor % len(_STYLES)]
        skin = (2 * actor + actor // 3) % len(_SKINS)
        hair = int(rng.integers(2 if skin > 3 else len(_HAIRS)))
        resting = np.where(_TWO_SIDED, rng.normal(0, 0.1, _TWO_SIDED.size), 0.0)
        return cls(
            skin=_SKINS[skin],
            hair=_HAIRS[hair],
            iris=_IRISES[int(rng.integers(2 if skin > 2 else len(_IRISES)))],
            style=style,
            glasses=bool(rng.random() < 0.2),
            beard=bool(style in ("short", "bald") and rng.random() < 0.5),
            head_width=rng.uniform(0.72, 0.82),
            jaw=rng.uniform(0.40, 0.60),
            eye_size=rng.uniform(0.22, 0.25),
            eye_gap=rng.uniform(0.34, 0.38),
            brow_height=rng.uniform(-0.43, -0.39),
            brow_width=rng.uniform(0.075, 0.10),
            nose_length=rng.uniform(0.22, 0.28),
            nose_width=rng.uniform(0.10, 0.15),
            mouth_width=rng.uniform(0.32, 0.37),
            mouth_height=rng.uniform(0.55, 0.60),
            lip=rng.uniform(0.045, 0.075),
            resting=resting,
        )


@dataclass(frozen=True)
class Pose:
    """How a clip shows its actor: place, size, tilt and turn of the head, light, backdrop and clothes."""

    centre: tuple[float, float]  # of the face, as shares of the picture
    size: float  # pixels a face unit, before supersampling
    tilt: float  # radians
    turn: float  # -1 … 1, to the left and to the right
    gaze: tuple[float, float]
    light: tuple[float, float, float]  # direction x, y, and its strength
    warmth: float  # of the light: red (+) or blue (-)
    tint: tuple[float, float, float]  # of the skin: red, green, blue
    backdrop: npt.NDArray[np.uint8]  # (3, 4, 3)
    clothes: Colour

    @classmethod
    def draw(cls, bearing: Bearing, intensity: float, rng: np.random.Generator) -> "Pose":
        """A pose at random, around an emotion's bearing."""
        angle = rng.uniform(0, 2 * np.pi)
        red, green, blue = bearing.tint
        backdrop = rng.uniform(120, 200) + rng.normal(0, 12, 3) + rng.normal(0, 8, (3, 4, 3))
        return cls(
            centre=(0.5 + rng.normal(0, 0.02), 0.53 + rng.normal(0, 0.012) - intensity * bearing.rise),
            size=HEIGHT * rng.uniform(0.45, 0.50) * (1 + intensity * bearing.lean),
            tilt=rng.normal(0, 0.045),
            turn=float(np.clip(rng.normal(0, 0.3), -1, 1)),
            gaze=(float(np.clip(rng.normal(0, 0.2), -0.4, 0.4)), rng.normal(0, 0.12)),
            light=(float(np.cos(angle)), float(np.sin(angle)), rng.uniform(0.05, 0.35)),
            warmth=rng.normal(0, 0.03),
            tint=(1 + intensity * (red - 1), 1 + intensity * (green - 1), 1 + intensity * (blue - 1)),
            backdrop=np.clip(backdrop, 30, 235).astype(np.uint8),
            clothes=_CLOTHES[int(rng.integers(len(_CLOTHES)))],
        )


def film(
    look: Look, emotion: str, intensity: float, opening: npt.NDArray[np.float64], rng: np.random.Generator
) -> Iterator[Image.Image]:
    """The frames of one clip, RGB pictures of WIDTH × HEIGHT pixels.

    The emotion grows towards a moment in the middle half of the clip and fades a little after it; each clip
    shows it in its own mixture of the emotion's two ways, with every movement a little more or less than meant.

    Arguments:
        look: the actor's face.
        emotion: a key of EXPRESSIONS.
        intensity: 0 (rest) to 1 (as far as the emotion goes).
        opening: (frames,) how far speech opens the mouth at each frame, 0 to 1.
        rng: the clip's own source of chance.
    """
    pose = Pose.draw(BEARINGS[emotion], intensity, rng)
    first, second = (np.asarray(way) for way in EXPRESSIONS[emotion])
    mixture = rng.random()
    apex = (mixture * first + (1 - mixture) * second) * np.clip(rng.normal(1, 0.15, first.size), 0.5, 1.3)
    rest = look.resting + np.where(_TWO_SIDED, rng.normal(0, 0.1, first.size), 0.0)
    frames = len(opening)
    peak = frames * rng.uniform(0.3, 0.75)
    onset, decay = rng.uniform(0.5, 0.7), rng.uniform(0.7, 0.95)
    sway = rng.uniform(0, 2 * np.pi)
    side = 1.0 if rng.random() < 0.5 else -1.0
    base, light = _base(look, pose), _light(look, pose)
    for start in range(0, frames, HOLD):
        past = (start - peak) / (peak if start < peak else frames - peak)
        growth = 1 + (1 - onset) * past if past < 0 else 1 - (1 - decay) * past
        now = Expression(*(rest + intensity * growth * apex).tolist())
        turn = pose.turn + 0.15 * float(np.sin(sway + start / 20))
        canvas = _Canvas(base.copy(), pose, turn)
        _features(canvas, look, pose, now, float(opening[start]), side)
        picture = ImageChops.multiply(canvas.image.reduce(SUPERSAMPLING), light)
        for _ in range(min(HOLD, frames - start)):
            yield picture


class _Canvas:
    """Draws shapes given in face units on a picture of SUPERSAMPLING times the final size."""

    def __init__(self, image: Image.Image, pose: Pose, turn: float = 0.0) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)
        scale = pose.size * SUPERSAMPLING
        cos, sin = scale * np.cos(pose.tilt), scale * np.sin(pose.tilt)
        self._linear = np.array([[cos, sin], [-sin, cos]])
        self._origin = np.array([pose.centre[0] * WIDTH, pose.centre[1] * HEIGHT]) * SUPERSAMPLING
        self._turn = turn

    def polygon(self, points: Points, fill: Colour | int) -> None:
        if self._turn:  # what lies in the middle of the head moves most when the head turns
            points = points.copy()
            points[:, 0] += 0.13 * self._turn * (1 - points[:, 0] ** 2)
        placed = points @ self._linear + self._origin
        self._draw.polygon(placed.ravel().tolist(), fill=fill)

    def stroke(self, points: Points, widths: Points | float, fill: Colour) -> None:
        """A brush stroke along `points` (n, 2) that is `widths` wide: one number, or one a point."""
        across = np.empty_like(points)
        across[1:-1] = (points[2:] - points[:-2])[:, ::-1]
        across[0], across[-1] = (points[1] - points[0])[::-1], (points[-1] - points[-2])[::-1]
        across *= (np.asarray(widths) / (2 * np.hypot(across[:, 0], across[:, 1]) + 1e-9))[:, None] * (-1, 1)
        self.polygon(np.concatenate((points + across, (points - across)[::-1])), fill)


_T = np.linspace(0, 1, 13)[:, None]
_TAPER = np.sin(np.pi * (0.1 + 0.8 * _T[:, 0]))  # a stroke that is thin at both ends
_X = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 21))  # -1 … 1, closer together at the corners
_X_AND_BACK = np.concatenate((_X, _X[::-1]))
_CIRCLE = np.stack((np.cos(np.linspace(0, 2 * np.pi, 24, False)), np.sin(np.linspace(0, 2 * np.pi, 24, False))), 1)


def _curve(start: tuple[float, float], bend: tuple[float, float], end: tuple[float, float]) -> Points:
    """Quadratic Bézier curve, (13, 2)."""
    return (1 - _T) ** 2 * np.array(start) + 2 * _T * (1 - _T) * np.array(bend) + _T**2 * np.array(end)


def _ellipse(x: float, y: float, across: float, down: float) -> Points:
    return _CIRCLE * (across, down) + (x, y)


def _shade(colour: Colour, factor: float) -> Colour:
    return (min(255, int(colour[0] * factor)), min(255, int(colour[1] * factor)), min(255, int(colour[2] * factor)))


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return (red, green, blue)


def _head(look: Look, grow: float = 1.0) -> Points:
    """The outline of the head, (48, 2): a half ellipse above the cheekbones, narrowing to the chin below."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = np.sin(angle), -np.cos(angle)
    narrowing = np.where(y > 0, 1 - (1 - look.jaw) * 0.42 * y**2, 1.0)
    x = np.sign(x) * np.abs(x) ** 0.86  # fuller than an ellipse
    return np.stack((x * look.head_width * narrowing, y), 1) * grow


def _base(look: Look, pose: Pose) -> Image.Image:
    """All that does not move in a clip: backdrop, clothes, neck, ears, head, soft shadows, hair."""
    size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
    canvas = _Canvas(Image.fromarray(pose.backdrop).resize(size, Image.Resampling.BICUBIC), pose)
    width, hair = look.head_width, look.hair
    if look.style == "long":
        canvas.polygon(_head(look) * (1.22, 1.12) + (0, 0.02), _shade(hair, 0.85))
        canvas.polygon(np.array([(-1.22 * width, 0), (1.22 * width, 0), (1.3 * width, 1.5), (-1.3 * width, 1.5)]), hair)
    if look.style == "curly":
        for x, y in _head(look, 1.08)[np.r_[0:16, 32:48]]:
            canvas.polygon(_ellipse(x, y - 0.05, 0.2, 0.2), hair)
    if look.style == "bald":
        for side in (-1, 1):
            canvas.polygon(_ellipse(side * width * 0.95, -0.12, 0.12, 0.3), hair)
    shoulders = np.concatenate(
        (_curve((-1.7, 2.0), (-1.5, 1.05), (-0.4, 1.08)), _curve((0.4, 1.08), (1.5, 1.05), (1.7, 2)))
    )
    canvas.polygon(shoulders, pose.clothes)
    canvas.polygon(
        np.array([(-0.36, 0.5), (0.36, 0.5), (0.42, 1.25), (0.0, 1.42), (-0.42, 1.25)]), _shade(look.skin, 0.8)
    )
    for side in (-1, 1):
        canvas.polygon(_ellipse(side * width * 1.0, 0.08, 0.1, 0.2), _shade(look.skin, 0.92))
        canvas.polygon(_ellipse(side * width * 1.01, 0.08, 0.05, 0.12), _shade(look.skin, 0.8))
    canvas.polygon(_head(look), look.skin)
    _soft_shadows(canvas, look, pose)
    _front_hair(canvas, look)
    return canvas.image


def _soft_shadows(canvas: _Canvas, look: Look, pose: Pose) -> None:
    """Eye sockets, the sides of the jaw, the chin; and a beard, which is a shadow with hair's colour."""
    mask = _Canvas(Image.new("L", canvas.image.size), pose, pose.turn)
    for side in (-1, 1):
        mask.polygon(_ellipse(side * look.eye_gap, -0.1, 0.26, 0.2), 60)
        mask.polygon(_ellipse(side * look.head_width * 0.95, 0.35, 0.16, 0.5), 50)
    mask.polygon(_ellipse(0, look.mouth_height + 0.22, 0.16, 0.05), 60)
    head = _Canvas(Image.new("L", canvas.image.size), pose)
    head.polygon(_head(look), 255)
    soft = ImageChops.multiply(mask.image.filter(ImageFilter.BoxBlur(12)), head.image)
    canvas.image.paste(_shade(_mix(look.skin, (150, 60, 50), 0.25), 0.75), mask=soft)
    if look.beard:
        mask = _Canvas(Image.new("L", canvas.image.size), pose)
        outline = _head(look)
        jaw = outline[outline[:, 1] > 0.2]
        inner = jaw[::-1] * (0.8, 0.38) + (0, 0.1)
        mask.polygon(np.concatenate((jaw * 1.02, inner)), 190)
        mask.polygon(_curve((-0.4, 0.5), (0, 0.3), (0.4, 0.5)), 150)
        soft = ImageChops.multiply(mask.image.filter(ImageFilter.BoxBlur(6)), head.image)
        canvas.image.paste(look.hair, mask=soft)


def _front_hair(canvas: _Canvas, look: Look) -> None:
    """The hair over the forehead, from the outline of the skull to the hairline of the actor's style."""
    width, hair = look.head_width, look.hair
    outline = _head(look, 1.07)
    if look.style == "bald":
        return
    skull = np.concatenate((outline[36:], outline[:13]))  # from the left ear over the crown to the right ear
    (right, right_y), meeting, (left, left_y) = _HAIRLINES[look.style]
    from_right = _curve((0.96 * width, -0.05), (right * width, right_y), meeting)
    to_left = _curve(meeting, (left * width, left_y), (-0.96 * width, -0.05))
    line = np.concatenate((from_right, to_left))
    canvas.polygon(np.concatenate((skull, line)), hair)
    if look.style == "curly":
        for x, y in _head(look, 1.0)[np.r_[0:11, 38:48]]:
            canvas.polygon(_ellipse(x, y + 0.08, 0.15, 0.14), _shade(hair, 1.06))
            canvas.stroke(_curve((x - 0.08, y + 0.1), (x, y - 0.03), (x + 0.08, y + 0.1)), 0.025, _shade(hair, 0.8))
        return
    for place in (38, 40, 42, 44, 46, 2, 4, 6, 8, 10):  # strands, from the crown to the sides
        x, y = outline[place]
        root = (0.4 * x - (0.15 if look.style in ("parted", "fringe") else 0.0), -0.99)
        canvas.stroke(_curve(root, (0.9 * x, 0.8 * y - 0.25), (0.97 * x, y + 0.12)), 0.016 * _TAPER, _shade(hair, 0.78))
    shine = _curve((-0.62 * width, -0.78), (-0.3, -0.97), (0.05, -0.93))
    canvas.stroke(shine, 0.05 * _TAPER, _mix(hair, (255, 255, 255), 0.15))


def _light(look: Look, pose: Pose) -> Image.Image:
    """What every frame of a clip is multiplied by: a lamp from one side, on a head that is round."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    x = (x - pose.centre[0] * WIDTH) / pose.size
    y = (y - pose.centre[1] * HEIGHT) / pose.size
    away = np.clip((x / look.head_width / 1.1) ** 2 + (y / 1.15) ** 2, 0, 1)
    side = np.clip(x * pose.light[0] + y * pose.light[1], -1, 1)
    level = 1.05 - pose.light[2] * (0.5 - 0.5 * side) - 0.16 * away**1.5
    colour = level[..., None] * (1 + pose.warmth * np.array([1.0, 0.0, -1.0], np.float32))
    colour *= 1 + (1 - away[..., None] ** 4) * (np.array(pose.tint, np.float32) - 1)
    colour = np.clip(colour, 0, 1)
    return Image.fromarray((colour * 255).astype(np.uint8))


def _features(canvas: _Canvas, look: Look, pose: Pose, now: Expression, speech: float, side: float) -> None:
    """All that moves: eyes, brows, nose, mouth and the lines that they make in the skin."""
    dark = _shade(_mix(look.skin, (110, 50, 40), 0.3), 0.62)
    for which in (-1, 1):
        more = 1 + 0.35 * now.uneven * side * which  # the side that an uneven expression is stronger on
        _eye(canvas, look, pose, now, which, more, dark)
        _brow(canvas, look, now, which, more)
    _nose(canvas, look, now, side, dark)
    _mouth(canvas, look, now, speech, side, dark)
    if now.frown > 0.15:
        for which in (-1, 1):
            line = _curve((which * 0.06, -0.46), (which * 0.035, -0.36), (which * 0.065, -0.24))
            canvas.stroke(line, 0.035 * now.frown * _TAPER, dark)
    if now.forehead > 0.15:
        for height in (-0.6, -0.69):
            line = _curve((-0.3, height + 0.02), (0, height - 0.05), (0.3, height + 0.02))
            canvas.stroke(line, 0.03 * now.forehead * _TAPER, _mix(look.skin, dark, 0.75))
    if look.glasses:
        _glasses(canvas, look)


def _eye(canvas: _Canvas, look: Look, pose: Pose, now: Expression, which: int, more: float, dark: Colour) -> None:
    """One eye. Its lids are functions of x, so the iris is cut off by them point by point."""
    half = look.eye_size
    up = half * np.clip(0.62 + 0.42 * now.upper_lid - 0.12 * abs(now.lid_slant), 0.12, 1.1)
    low = half * np.clip(0.42 + 0.12 * max(now.upper_lid, 0) - 0.62 * now.lower_lid * more, -0.2, 0.6)
    low = max(low, -up + 0.02)
    slant = 0.55 * half * now.lid_slant

    def upper(x: Points) -> Points:
        bow = np.maximum(1 - x * x, 0)
        lean = np.minimum(np.maximum(0.3 * np.sign(slant) - x, -1), 1)  # x runs from the nose (-1) to the temple (+1)
        return -up * bow**0.75 + 0.9 * slant * bow * lean

    def lower(x: Points) -> Points:
        return low * np.maximum(1 - x * x, 0) ** 0.8

    def place(x: Points, y: Points) -> Points:
        points = np.empty((len(x), 2))
        points[:, 0] = which * (look.eye_gap + half * x)
        points[:, 1] = y - 0.08 + 0.02 * x
        return points

    top = upper(_X)
    bottom = np.maximum(lower(_X), top)
    canvas.polygon(place(_X_AND_BACK, np.concatenate((top, bottom[::-1]))), (246, 244, 240))
    centre_x, centre_y = which * pose.gaze[0] * 0.8, pose.gaze[1] * 0.4 * half - 0.02
    for radius, colour in ((0.56, _shade(look.iris, 0.7)), (0.48, look.iris), (0.26, (20, 16, 16))):
        x = centre_x + radius * _CIRCLE[:, 0]
        y = np.maximum(np.minimum(centre_y + radius * half * _CIRCLE[:, 1], lower(x)), upper(x))
        canvas.polygon(place(x, y), colour)
    if up + low > 0.1 and upper(np.array([centre_x]))[0] < centre_y - 0.05:
        canvas.polygon(
            _ellipse(which * (look.eye_gap + half * centre_x) + 0.035, centre_y - 0.13, 0.024, 0.024), (255,) * 3
        )

    canvas.stroke(place(_X * 1.06, top), 0.045, (46, 32, 30))
    canvas.stroke(place(_X[2:-2], bottom[2:-2] + 0.01), 0.018, _mix(look.skin, dark, 0.7))
    if now.upper_lid < 0.7:  # the crease above the lid, gone when the lid is wide open
        canvas.stroke(place(_X[3:-2], 0.75 * top[3:-2] - 0.1), 0.016, _mix(look.skin, dark, 0.6))
    if now.cheek > 0.2 or now.lower_lid > 0.3:  # the bag that a raised cheek makes
        fold = place(_X[3:-3], 0.3 * bottom[3:-3] + half * (0.62 - 0.12 * _X[3:-3] ** 2))
        canvas.stroke(fold, 0.02, _mix(look.skin, dark, 0.6))


def _brow(canvas: _Canvas, look: Look, now: Expression, which: int, more: float) -> None:
    """One brow, thick at the nose and thin at the temple."""
    height = look.brow_height
    inner = height - 0.18 * now.brow_inner * more + 0.02
    outer = height - 0.16 * now.brow_outer * more + 0.06
    middle = height - 0.07 * (now.brow_inner + now.brow_outer) * more - 0.07
    if now.brow_inner < -0.3:
        middle += 0.05  # a lowered brow is straight
    near = 0.15 - 0.06 * now.frown
    line = _curve((which * near, inner), (which * look.eye_gap, middle), (which * (look.eye_gap + 0.24), outer))
    taper = look.brow_width * np.interp(_T[:, 0], [0, 0.1, 0.5, 1], [0.7, 1.1, 1.0, 0.25])
    canvas.stroke(line, taper, _shade(_mix(look.hair, (60, 40, 30), 0.5), 0.9))


def _nose(canvas: _Canvas, look: Look, now: Expression, side: float, dark: Colour) -> None:
    """Bridge, wings and nostrils; wrinkles across the bridge and folds to the mouth corners when it is raised."""
    up = 0.06 * now.nose
    tip, wide = look.nose_length - up, look.nose_width * (1 + 0.2 * now.nose)
    soft = _mix(look.skin, dark, 0.45)
    canvas.stroke(
        _curve((side * 0.07, -0.12), (side * 0.05, tip - 0.2), (side * wide * 0.8, tip - 0.03)), 0.03 * _TAPER, soft
    )
    canvas.polygon(_ellipse(0, tip - 0.03, wide * 0.62, 0.07), _shade(look.skin, 1.05))
    for which in (-1, 1):
        wing = _curve(
            (which * wide * 0.75, tip - 0.08), (which * wide * 1.45, tip - 0.02), (which * wide * 0.7, tip + 0.04)
        )
        canvas.stroke(wing, 0.028 * _TAPER, _mix(look.skin, dark, 0.75))
        canvas.polygon(_ellipse(which * wide * 0.48, tip + 0.035, 0.038, 0.018), dark)
        fold = max(now.nose * (1 + 0.5 * now.uneven * side * which) * 0.8, now.corner * 0.6, now.square * 0.5)
        if fold > 0.15:
            end = which * (look.mouth_width * (1 + 0.25 * now.wide) + 0.1)
            line = _curve((which * wide * 1.4, tip - 0.07), (which * 0.36, tip + 0.02), (end, look.mouth_height - 0.02))
            canvas.stroke(line, 0.034 * fold * _TAPER, _mix(look.skin, dark, 0.8))
    if now.nose > 0.2:
        for step in range(3):
            y = -0.17 + 0.075 * step
            line = _curve((-0.085, y - 0.03), (0, y + 0.035), (0.085, y - 0.03))
            canvas.stroke(line, 0.032 * now.nose * _TAPER, _mix(look.skin, dark, 0.9))


def _mouth(canvas: _Canvas, look: Look, now: Expression, speech: float, side: float, dark: Colour) -> None:
    """Lips, teeth and tongue, each bounded by functions of x from corner (-1) to corner (+1)."""
    half = look.mouth_width * (1 + 0.28 * now.wide - 0.12 * speech * (1 - abs(now.corner)))
    gap = 0.34 * max(now.open, 0.0) + 0.11 * speech * (1 - 0.6 * now.press)
    bow = np.clip(1 - np.abs(_X) ** (2 + 4 * max(now.square, 0)), 0, None)
    sneer = 0.1 * now.upper_lip * np.exp(-(((_X - 0.45 * side * now.uneven) / 0.5) ** 2)) * bow
    middle = look.mouth_height + 0.23 * now.corner * (0.45 - _X**2) - 0.35 * gap
    above = middle - 0.3 * gap * bow - sneer
    below = middle + 0.7 * gap * bow
    thin = look.lip * (1 - 0.6 * now.press)
    lip = np.clip(1 - _X**2, 0, None) ** 0.6
    bud = 1 - 0.25 * np.exp(-((_X / 0.12) ** 2))  # the dip in the middle of the upper lip

    def shape(top: Points, bottom: Points) -> Points:
        return np.stack((_X_AND_BACK * half, np.concatenate((top, bottom[::-1]))), 1)

    red = _mix(look.skin, (176, 62, 66), 0.55)
    canvas.polygon(shape(above - thin * lip * bud, below + 1.25 * thin * lip), red)
    canvas.polygon(shape(above, below), (70, 22, 26))
    if gap > 0.1:
        canvas.polygon(shape(np.maximum(below - 0.35 * gap * bow, above), below), (186, 84, 86))
    row = 0.075 * bow
    teeth = np.minimum(above + row * (0.5 + now.upper_lip + 0.6 * max(now.corner, 0)), below)
    canvas.polygon(shape(above, teeth), (244, 240, 230))
    if now.clench > 0.2 and gap > 0.05:
        canvas.polygon(shape(above, below), (240, 236, 226))
        canvas.stroke(np.stack((_X * half, (above + below) / 2), 1)[2:-2], 0.02, (150, 130, 122))
        for x in (-0.55, -0.2, 0.2, 0.55):
            y = np.interp([x, x], _X, above)[0], np.interp([x, x], _X, below)[0]
            canvas.stroke(np.array([(x * half, y[0]), (x * half, y[1])]), 0.014, (176, 158, 150))
    edge = np.stack((_X * half * 1.04, middle if gap < 0.03 else above), 1)
    canvas.stroke(edge, 0.03 if gap < 0.03 else 0.016, _shade(red, 0.5))
    for which in (-1, 1):
        corner = np.array([(which * half * 0.97, middle[0]), (which * (half + 0.035), middle[0] - 0.05 * now.corner)])
        canvas.stroke(corner, np.array([0.035, 0.02]), dark)


def _glasses(canvas: _Canvas, look: Look) -> None:
    frame = (52, 46, 50)
    for which in (-1, 1):
        rim = _ellipse(which * look.eye_gap * 1.04, -0.06, look.eye_size + 0.055, look.eye_size + 0.04)
        canvas.stroke(np.concatenate((rim, rim[:1])), 0.028, frame)
    inner = 1.04 * look.eye_gap - look.eye_size - 0.055
    canvas.stroke(_curve((-inner, -0.08), (0, -0.14), (inner, -0.08)), 0.028, frame)
