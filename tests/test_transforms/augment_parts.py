# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypted samples for the tests of their augmentation."""

import numpy as np
from hypothesis import strategies as st

from hime_mm.ciphers import Cipher

DTYPES = ['uint8', 'uint16', 'float32']
GREY = dict(uint8=128, uint16=32768, float32=128)
SIZES = st.tuples(
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([(), (1,), (3,)]),
    st.sampled_from(DTYPES),
)


def cut(img, side):
    """The patches of an image, one after the other."""
    h, w = img.shape[:2]
    return [img[y : y + side, x : x + side] for y in range(0, h, side) for x in range(0, w, side)]


def sample(img, cipher='shuffle', boxes=None, **kwargs):
    """As the loading transforms leave an encrypted image."""
    cipher = Cipher(cipher, patch_size=16)
    side = cipher.encrypted_patch_size
    grid = (img.shape[0] // side, img.shape[1] // side)
    layout = cipher.plan((grid[0] * 16, grid[1] * 16))
    results = dict(
        img=img,
        img_shape=img.shape[:2],
        ori_shape=img.shape[:2],
        cipher=cipher,
        patch_layout=layout,
        **kwargs,
    )
    if boxes is not None:
        results['gt_bboxes'] = np.array(boxes, np.float32).reshape(-1, 4)
        results['gt_bboxes_labels'] = np.arange(len(boxes))
    return results


def some_boxes(height, width, num, seed=0):
    """Boxes with centres inside the image."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, (width, height), (num, 2))
    half = rng.uniform(1, 25, (num, 2))
    return np.concatenate([centre - half, centre + half], 1)
