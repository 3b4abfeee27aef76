# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from hime_mm.ciphers import Cipher

DET_TRANSFORMS = pytest.importorskip('mmdet.registry').TRANSFORMS


# Flips after the encryption ----------------------------------------------------


@pytest.mark.parametrize(
    'cipher',
    [
        'mix2',
        'mix4:tiled',
        'center',
        'erode2',
        'erode3:filled',
        'erode2+mix2+center',
        'shuffle',
        'center+erode2+shuffle',
        'drop50',
        'negate+permute_channels',
    ],
)
@pytest.mark.parametrize('direction', ['horizontal', 'vertical'])
def test_flips_commute_with_encryption(cipher, direction, make_image):
    """The mirror image of an encrypted one is the mirrored one encrypted.

    With patches in the places that the mirror moves them to, so the random
    steps stay what they are.
    """
    cipher = Cipher(cipher)
    img = make_image((64, 96, 3))
    drawn = cipher.draw(img.shape, np.random.default_rng(0))
    boxes = np.array([[3.0, 5, 20, 30], [40, 31, 93, 60], [66, 2, 70, 13]])
    axis = 0 if direction == 'vertical' else 1
    places = np.flip(np.arange(24).reshape(4, 6), axis).ravel()
    mirrored = list(drawn)
    for i, step in enumerate(cipher.steps):
        if step.name == 'shuffle':
            mirrored[i] = places[drawn[i]][places]
        elif drawn[i] is not None:
            mirrored[i] = drawn[i][places]

    def mirror(results):
        flip = DET_TRANSFORMS.build(dict(type='mmdet.RandomFlip', prob=1.0, direction=direction))
        return flip(results)

    def encrypt(results, draw):
        shape = results['img'].shape
        layout = cipher.secret_layout(shape[:2], draw)
        encrypted = cipher.apply(results['img'], draw)
        return dict(
            img=encrypted,
            img_shape=encrypted.shape[:2],
            gt_bboxes=boxes_of(layout.map_boxes(results['gt_bboxes'].numpy())),
        )

    def boxes_of(values):
        from mmdet.structures.bbox import HorizontalBoxes

        return HorizontalBoxes(torch.tensor(values, dtype=torch.float32))

    def sample():
        return dict(img=img.copy(), img_shape=(64, 96), gt_bboxes=boxes_of(boxes))

    after = mirror(encrypt(sample(), drawn))
    before = encrypt(mirror(sample()), mirrored)
    np.testing.assert_array_equal(after['img'], before['img'])
    np.testing.assert_allclose(
        after['gt_bboxes'].numpy(), before['gt_bboxes'].numpy(), rtol=0, atol=1e-3
    )


def test_flips_do_not_commute_with_permuted_pixels(make_image):
    cipher = Cipher('permute_pixels')
    img = make_image((32, 32, 3))
    drawn = cipher.draw(img.shape, np.random.default_rng(0))
    after = cipher.apply(img, drawn)[:, ::-1]
    before = cipher.apply(np.ascontiguousarray(img[:, ::-1]), drawn)
    assert (after != before).any()
