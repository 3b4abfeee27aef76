# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Painted scenes: objects on textures, cut from the photos that scikit-image ships.

Objects are pasted, turned, scaled and re-lit onto photographic textures. The photos are in the
public domain or CC0; they include a person's face, so that pictures show what an encryption does
to one. The same generator of random numbers gives the same pixels.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

#: Classes of the objects, as ``label`` counts them.
CLASSES = ('person', 'cat', 'cup', 'coin', 'motorcycle')

# What is cut from which photo: (class, photo, centre x, y, radius x, y) of an
# ellipse in pixels, a superellipse of higher order for the motorcycle.
_CUTOUTS = (
    ('person', 'astronaut', 226, 102, 66, 88, 2),
    ('cat', 'chelsea', 240, 134, 146, 130, 2),
    ('cup', 'coffee', 281, 207, 200, 189, 2),
    ('coin', 'coins', 345, 187, 34, 34, 2),
    ('coin', 'coins', 333, 43, 30, 30, 2),
    ('coin', 'coins', 171, 260, 30, 30, 2),
    ('coin', 'coins', 45, 260, 30, 30, 2),
    ('motorcycle', 'motorcycle_left', 390, 255, 272, 190, 5),
)
_TEXTURES = ('brick', 'grass', 'gravel', 'moon', 'hubble_deep_field')
_SUPERSAMPLING = 2


def photo(name: str) -> np.ndarray:
    """One of scikit-image's photos, uint8, (H, W, 3), RGB."""
    try:
        import skimage
    except ImportError as error:
        raise ImportError(
            'scenes are painted from the photos that scikit-image ships: `pip install scikit-image`'
        ) from error
    folder = Path(skimage.__file__).parent / 'data'
    for suffix in ('.png', '.jpg'):
        path = folder / f'{name}{suffix}'
        if path.is_file():
            return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    raise FileNotFoundError(
        f'scikit-image {skimage.__version__} does not '
        f'ship the photo {name!r} in {folder}: install '
        'scikit-image 0.26'
    )


def load_cutouts() -> dict[str, list[tuple[np.ndarray, int]]]:
    """Objects by class, each with the order of its outline, a superellipse."""
    photos = {name: photo(name) for name in {c[1] for c in _CUTOUTS}}
    cutouts: dict[str, list[tuple[np.ndarray, int]]] = {name: [] for name in CLASSES}
    for label, name, cx, cy, rx, ry, order in _CUTOUTS:
        crop = photos[name][cy - ry : cy + ry, cx - rx : cx + rx]
        cutouts[label].append((crop, order))
    return cutouts


def load_textures() -> list[np.ndarray]:
    """Backgrounds of the scenes, uint8, (H, W, 3), RGB."""
    return [photo(name) for name in _TEXTURES]


def _relight(img: np.ndarray, rng: np.random.Generator, tint: float) -> np.ndarray:
    """Change contrast, brightness and colour; float in and out, 0 to 255."""
    gain = rng.uniform(0.75, 1.2) * rng.uniform(1 - tint, 1 + tint, 3)
    return np.clip((img - 128) * gain + 128 + rng.uniform(-25, 25), 0, 255)


def _background(textures: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    texture = textures[rng.integers(len(textures))]
    crop = int(rng.integers(side // 2, min(texture.shape[:2]) + 1))
    y = int(rng.integers(texture.shape[0] - crop + 1))
    x = int(rng.integers(texture.shape[1] - crop + 1))
    img = np.rot90(texture[y : y + crop, x : x + crop], int(rng.integers(4)))
    img = cv2.resize(np.ascontiguousarray(img), (side, side), interpolation=cv2.INTER_AREA).astype(
        np.float64
    )
    return _relight(img, rng, tint=0.25)


def _place(
    cutout: np.ndarray, order: int, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A cut-out on an empty canvas: its colours and its cover (0 to 1)."""
    h, w = cutout.shape[:2]
    long_side = side * rng.uniform(0.28, 0.55)
    scale = long_side / max(h, w)
    angle = np.deg2rad(rng.uniform(-20, 20))
    flip = -1 if rng.random() < 0.5 else 1
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    matrix = np.array([[cos * flip, -sin, 0], [sin * flip, cos, 0]])
    half_w = (abs(cos) * w + abs(sin) * h) / 2
    half_h = (abs(sin) * w + abs(cos) * h) / 2
    # Up to a tenth of the object may lie outside.
    cx = rng.uniform(0.8 * half_w, side - 0.8 * half_w)
    cy = rng.uniform(0.8 * half_h, side - 0.8 * half_h)
    matrix[:, 2] = (cx, cy) - matrix[:, :2] @ (w / 2, h / 2)

    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    cover = ((abs(x) ** order + abs(y) ** order) <= 1).astype(np.float64)
    # Averaged down before warping, which alone would alias.
    small = max(1, int(round(1 / scale)))
    if small > 1:
        cutout = cv2.blur(cutout, (small, small))
    colours = cv2.warpAffine(
        cutout.astype(np.float64), matrix, (side, side), borderMode=cv2.BORDER_REPLICATE
    )
    cover = cv2.warpAffine(cover, matrix, (side, side))
    return _relight(colours, rng, tint=0.08), cover


def make_scene(
    cutouts: dict[str, list[tuple[np.ndarray, int]]],
    textures: list[np.ndarray],
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Paint one image.

    Args:
        cutouts (dict): Cut-outs and the orders of their outlines by class.
        textures (list[np.ndarray]): Backgrounds, uint8, (H, W, 3).
        size (int): Side of the square image in pixels.
        rng (np.random.Generator): Where the randomness comes from.

    Returns:
        tuple: The image, uint8, (size, size, 3), RGB, and one dict per object
        with ``label`` (int), ``bbox`` (x, y, w, h) and ``segmentation`` (a
        list of polygons), in pixels.
    """
    side = size * _SUPERSAMPLING
    img = _background(textures, side, rng)
    occupied = np.zeros((side, side), bool)
    objects = []
    wanted = int(rng.integers(1, 5))
    for _ in range(8 * wanted):
        if len(objects) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        choices = cutouts[CLASSES[label]]
        cutout, order = choices[rng.integers(len(choices))]
        colours, cover = _place(cutout, order, side, rng)
        visible = cover > 0.5
        if (visible & occupied).sum() > 0.05 * visible.sum():
            continue
        # Later objects lie under earlier ones, so no box loses its extent.
        cover = np.where(occupied, 0, cover)[..., None]
        img = img * (1 - cover) + colours * cover
        visible &= ~occupied
        occupied |= visible
        outline = max(
            cv2.findContours(visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)[
                0
            ],
            key=cv2.contourArea,
        )
        polygon = (outline.reshape(-1, 2) + 0.5) / _SUPERSAMPLING
        ys, xs = np.nonzero(visible)
        x, y = xs.min() / _SUPERSAMPLING, ys.min() / _SUPERSAMPLING
        objects.append(
            dict(
                label=label,
                bbox=[
                    float(x),
                    float(y),
                    (xs.max() + 1) / _SUPERSAMPLING - float(x),
                    (ys.max() + 1) / _SUPERSAMPLING - float(y),
                ],
                area=float(visible.sum()) / _SUPERSAMPLING**2,
                segmentation=[[float(v) for v in polygon.ravel()]],
            )
        )
    img = cv2.resize(img, (size, size), interpolation=cv2.INTER_AREA)
    return np.round(img).astype(np.uint8), objects
