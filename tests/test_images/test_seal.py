# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from owner_data import SECRET, named, photo

from hime_mm.ciphers import Key
from hime_mm.errors import BoxError, PictureError
from hime_mm.images import Recipe, seal

KEY = Key(SECRET)
CIPHERS = (
    'shuffle',
    'mix2',
    'mix2:tiled+shuffle',
    'center+erode2+shuffle',
    'drop50+shuffle',
    'noise25',
    'orient+negate',
)
BOXES = np.array([[3.0, 5, 40, 60], [70, 20, 90, 21.5], [0, 0, 120, 90]])


def steps(img, recipe, rng):
    """The same, one step of a cipher after the other."""
    cipher = recipe.cipher
    ready = recipe.preprocess.prepare(
        img,
        cipher.patch_size,
        BOXES,
        rng.augmentation(cipher.canonical) if recipe.preprocess.random else None,
    )
    out, layouts = ready.img, cipher.layouts(ready.img.shape[:2])
    perm = None
    for i, (step, layout) in enumerate(zip(cipher.steps, layouts, strict=False)):
        stream = rng.stream(cipher.canonical, i, step.scope)
        drawn = step.draw(layout, out.shape[2:], stream)
        out = step.apply(out, layout, drawn)
        perm = drawn if step.name == 'shuffle' else perm
    return ready, out, perm


@pytest.mark.parametrize('cipher', CIPHERS)
@pytest.mark.parametrize(
    'preprocess',
    [
        {},
        dict(short_side=(48, 64)),
        dict(center_crop=(64, 48)),
        dict(augment=dict(flip=0.5, crop=(0.3, 1), jitter=0.2)),
    ],
)
def test_as_step_by_step(cipher, preprocess):
    img, recipe = photo(90, 120), Recipe.build(cipher, preprocess=preprocess)
    rng = KEY.image_rng('data', 'a.png')
    sealed = seal(img, recipe, rng, BOXES)
    ready, out, perm = steps(img, recipe, rng)
    np.testing.assert_array_equal(sealed.img, out)
    assert sealed.layout.ori_shape == ready.ori_shape
    assert sealed.layout.shape == out.shape[:2]
    assert sealed.layout.cropped == ('center_crop' in preprocess or 'augment' in preprocess)
    if perm is None:
        assert sealed.layout.permutation is None
    else:
        np.testing.assert_array_equal(sealed.layout.permutation, perm)
    np.testing.assert_array_equal(sealed.kept, ready.kept)
    scale = np.divide(out.shape[1::-1], ready.img.shape[1::-1]) * ready.scale
    np.testing.assert_allclose(sealed.layout.scale, scale)
    # Whole slots apart from where they would be without shuffling.
    scaled = ready.boxes * np.tile(sealed.layout.scale, 2)
    sizes = scaled[:, 2:] - scaled[:, :2]
    np.testing.assert_allclose(sealed.sizes, sizes, rtol=0, atol=0 if perm is None else 2**-26)
    np.testing.assert_array_equal(sealed.sizes < 1, sizes < 1)
    if perm is not None:  # a centre outside is moved to the edge before
        centre = (scaled[:, :2] + scaled[:, 2:]) / 2
        way = centre.clip(0, sealed.layout.shape[::-1]) - centre
        assert way.any() == ('center_crop' in preprocess)
        scaled += np.tile(way, 2)
    moved = sealed.boxes - scaled
    side = sealed.layout.patch_size
    np.testing.assert_allclose(moved, np.rint(moved / side) * side, atol=1e-4)
    assert (perm is not None) == bool(np.abs(moved).max() > 1e-9)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_kinds_of_pixels(dtype, channels):
    img = photo(50, 70, channels=channels).astype(dtype)
    sealed = seal(img, Recipe.build('mix2+shuffle'))
    assert sealed.img.dtype == dtype
    assert sealed.img.shape == (24, 32, *img.shape[2:])


def test_same_key_and_name_same_picture():
    img = photo(64, 96)
    recipe = Recipe.build('noise25+shuffle', preprocess=dict(augment=dict(flip=0.5, jitter=0.3)))
    first, again, other = [
        seal(img, recipe, KEY.image_rng('data', name)).img for name in ('a.png', 'a.png', 'b.png')
    ]
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (seal(img, recipe).img != seal(img, recipe).img).any()


def test_clipped_values_are_counted():
    img = np.zeros((32, 32, 3), np.uint8)
    img[::2] = 255
    clipped = seal(img, Recipe.build('noise25')).clipped
    assert clipped['noise25'][1] == img.size
    assert 0 < clipped['noise25'][0] < img.size


@pytest.mark.parametrize(
    'preprocess, match',
    [
        (dict(fit='error'), '50x70.*16'),
        (dict(center_crop=(80, 48)), '50x70.*48x80'),
        (dict(fit='pad', pad_val=(1, 2)), 'pad_val'),
    ],
)
def test_picture_that_does_not_fit(preprocess, match):
    with pytest.raises(PictureError, match=match):
        seal(photo(50, 70), Recipe.build('mix2', preprocess=preprocess))


def test_boxes_of_cropped_pictures_do_not_come_back():
    recipe = Recipe.build('mix2', preprocess=dict(center_crop=(32, 32)))
    layout = seal(photo(64, 64), recipe).layout
    with pytest.raises(BoxError, match='`center_crop`'):
        layout.unmap_boxes(BOXES)


@pytest.mark.parametrize('shape', [(0, 5, 3), (5, 0), (32, 32, 0)])
@pytest.mark.parametrize(
    'preprocess', [{}, dict(resize=(32, 32)), dict(augment=dict(crop=(0.5, 1)))]
)
def test_empty_picture(shape, preprocess):
    recipe = Recipe.build('mix2', preprocess=preprocess)
    with pytest.raises(PictureError, match=named(shape)):
        seal(np.zeros(shape, np.uint8), recipe)
