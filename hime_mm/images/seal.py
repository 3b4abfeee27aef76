# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How one picture becomes an encrypted one: fit, draw, apply, layout.

The one place where this is done: the pipeline transform, the run over a data
set, the client and the benchmarks call it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hime_mm.ciphers import ImageRNG, PatchLayout
from hime_mm.ciphers.grid import check_image
from hime_mm.ciphers.randomness import RNG
from hime_mm.ciphers.travel import blunted

from .recipe import Recipe


@dataclass(frozen=True, eq=False, repr=False)
class Sealed:
    """An encrypted picture, and what its owner knows of it.

    Attributes:
        img (np.ndarray): The encrypted picture; all that may be handed over.
        layout (PatchLayout): Between the original, or what augmentation left
            of it, and the encrypted picture, with the permutation.
        boxes (np.ndarray): float64 of shape (n, 4), (x1, y1, x2, y2) in
            pixels of the encrypted picture. Where patches moved, they and
            ``sizes`` are rounded to 2^-26 pixels: finer digits would tell
            where a box was.
        sizes (np.ndarray): float64 of shape (n, 2), their widths and heights,
            below 1 where they are so where no patch moves: whoever leaves out
            boxes below one pixel leaves out the same.
        kept (np.ndarray): int64 of shape (n, ), which of the boxes that came
            in these are.
        clipped (dict[str, tuple[int, int]]): Values that each step clipped,
            and of how many, by the step's short form.
        plain (np.ndarray): What was encrypted, sized and perhaps augmented.
        drawn (list): What was drawn for it, see
            :meth:`~hime_mm.ciphers.Cipher.draw`.
    """

    img: np.ndarray
    layout: PatchLayout
    boxes: np.ndarray
    sizes: np.ndarray
    kept: np.ndarray
    clipped: dict[str, tuple[int, int]]
    plain: np.ndarray
    drawn: list[Any]


def seal(
    img: np.ndarray,
    recipe: Recipe,
    rng: RNG | ImageRNG = None,
    boxes: Any = None,
) -> Sealed:
    """Augment, size and encrypt one picture, and its boxes with it.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C), uint8, uint16, float32
            or float64.
        recipe (Recipe): The settings.
        rng (ImageRNG | RNG): ``key.image_rng(...)`` derives it from a key;
            for the others see
            :func:`~hime_mm.ciphers.randomness.draw_bytes`. Defaults to None,
            the operating system.
        boxes (array-like, optional): Shape (n, 4), (x1, y1, x2, y2) in pixels
            of the picture. Defaults to None.

    Returns:
        Sealed: The encrypted picture and its geometry.

    Raises:
        TypeError: If the pixels are of another type.
        PictureError: If the picture is empty or does not fit the recipe.
    """
    cipher, preprocess = recipe.cipher, recipe.preprocess
    augment_rng: Any = rng
    if isinstance(rng, ImageRNG):
        # Drawn from only where there is something to draw.
        augment_rng = rng.augmentation(cipher.canonical) if preprocess.random else None
    prepared = preprocess.prepare(check_image(img), cipher.patch_size, boxes, augment_rng)
    drawn = cipher.draw(prepared.img.shape, rng)
    clipped: dict[str, tuple[int, int]] = {}
    encrypted = cipher.apply(prepared.img, drawn, clipped)
    layout = cipher.secret_layout(prepared.img.shape[:2], drawn).within(
        prepared.ori_shape, prepared.scale, preprocess.crops
    )
    # Whoever reads them from a file has them in single precision.
    moved = layout.map_boxes(prepared.boxes, np.float32)
    scaled = layout.in_place().map_boxes(prepared.boxes)
    sizes = scaled[:, 2:] - scaled[:, :2]
    if layout.shuffled:
        moved, sizes = blunted(moved), blunted(sizes)
    return Sealed(encrypted, layout, moved, sizes, prepared.kept, clipped, prepared.img, drawn)
