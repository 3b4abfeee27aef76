# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pixel_parts import PATCH, ROW, SIDE, evidence, guesses, others, psnr, real, scenes, ssim

from hime_mm.attacks.pixels.lmmse import Lmmse
from hime_mm.attacks.pixels.means import (
    BLIND,
    Grid,
    SeamModel,
    Seams,
    activity,
    ridge,
    row_features,
    solve,
)
from hime_mm.attacks.pixels.observed import Observed, opponents
from hime_mm.ciphers import Cipher


def grid_of(steps, plain):
    cipher = Cipher(steps, 16)
    img, layout, _ = cipher.encrypt(plain, np.random.default_rng(0))
    return Grid.of(Observed(cipher), img, layout)


def levels_of(plain):
    seen = Observed(Cipher('center', 16)).plain(plain).mean(axis=(1, 2))
    return seen @ opponents(seen.shape[1])


def learnt(steps='center', plain=None):
    """A model from pictures that were encrypted by ``steps``, which erode nothing."""
    samples = []
    for x in others() if plain is None else plain:
        x = cv2.resize(x, (160, 160), interpolation=cv2.INTER_AREA)
        grid, levels = grid_of(steps, x), levels_of(x)
        samples.append((grid.strips(), levels[grid.second] - levels[grid.first]))
    return SeamModel.fit(*map(np.concatenate, zip(*samples, strict=True)))


def test_means_come_back():
    plain, held = scenes(), evidence('center')
    guessed = guesses(Seams(), held)
    assert psnr(plain, guessed) > psnr(plain, held.images) + 8
    assert ssim(plain, guessed) > 0.9


def test_relative_levels_come_back():
    model = learnt()
    for plain in scenes():
        found, _ = solve(grid_of('center', plain), model)
        true = levels_of(plain).T
        true = true - true.mean(axis=1, keepdims=True)
        assert np.sqrt(((found - true)[0] ** 2).mean()) < 0.35 * true[0].std()
        np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize(
    'steps', ['mix2+center', 'center+erode1', 'erode1+center', 'center+noise5']
)
def test_what_else_is_missing_is_guessed_as_well(steps):
    plain, held = scenes(), evidence(steps, public=others()[:2])
    guessed = guesses(Seams(), held)
    assert [img.shape for img in guessed] == [x.shape for x in plain]
    shown = [cv2.resize(y, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for y in held.images]
    assert psnr(plain, guessed) > psnr(plain, shown) + 2


def test_left_out_patches():
    plain, held = scenes(), evidence('center+drop25', public=others()[:2])
    guessed = guesses(Seams(), held)
    assert psnr(plain, guessed) > psnr(plain, held.images) + 2


def test_grey_pictures():
    plain = [cv2.cvtColor(x, cv2.COLOR_BGR2GRAY) for x in scenes()]
    held = evidence('center', plain)
    guessed = guesses(Seams(), held)
    assert guessed[0].shape == plain[0].shape
    assert psnr(plain, guessed) > psnr(plain, held.images) + 6


def test_nothing_comes_from_nothing():
    """Where no patch shows anything the picture is of one colour, nothing of the public ones."""
    held = evidence('center')
    held = replace(held, images=[np.full_like(img, 128) for img in held.images])
    for img in guesses(Seams(), held):
        assert np.ptp(img, axis=(0, 1)).max() <= 1


def test_other_pictures_are_no_better_than_grey():
    plain = scenes()
    swapped = guesses(Seams(), evidence('center', plain[::-1]))
    assert psnr(plain, swapped) < psnr(plain, [np.full_like(x, 128) for x in plain]) + 1


def test_levels_cannot_tell_what_cannot_be_seen():
    """Pictures that differ in the mean of each patch alone get the same guess."""
    plain = [x // 2 for x in scenes()]
    rng = np.random.default_rng(1)
    moved = []
    for x in plain:
        shift = rng.integers(0, 120, (ROW, 1, ROW, 1, 3), np.uint8)
        moved.append((x.reshape(ROW, PATCH, ROW, PATCH, 3) + shift).reshape(x.shape))
    first, second = (
        guesses(Seams(), evidence('center', one, others()[:2])) for one in (plain, moved)
    )
    np.testing.assert_array_equal(first, second)


def test_the_order_of_pictures_and_the_day_change_nothing():
    first = guesses(Seams(), evidence('mix2+center', public=others()[:2]))
    turned = guesses(Seams(), evidence('mix2+center', scenes()[::-1], others()[:2]))
    np.testing.assert_array_equal(first, turned[::-1])


def test_two_public_pictures_suffice():
    plain, held = scenes(), evidence('center', public=others()[:2])
    assert psnr(plain, guesses(Seams(), held)) > psnr(plain, held.images) + 4


@pytest.mark.parametrize('shape', [(8, 8, 3), (8, 80, 3), (80, 8, 3)])
def test_narrow_pictures(shape):
    plain = [np.ascontiguousarray(scenes()[0][: shape[0], : shape[1]])]
    guessed = guesses(Seams(), evidence('center', plain))
    assert guessed[0].shape == shape


def test_confidence_is_that_seams_agree(make_image):
    attack = Seams()
    attack.prepare(evidence('center', [scenes()[0], make_image((SIDE, SIDE, 3))]))
    assert attack.guess(0).confidence > attack.guess(1).confidence


def test_why_not():
    assert 'no step' in Seams.why_not(evidence('mix2'))
    assert 'undone' in Seams.why_not(evidence('center+shuffle'))
    assert 'public' in Seams.why_not(evidence('center', public=()))
    assert not Seams.why_not(evidence('center+mix2'))
    # What is refused by the one is for the other.
    assert 'seams' in Lmmse.why_not(evidence('center'))


def test_seams_are_between_neighbours_and_seen_from_them(make_image):
    img = make_image((48, 32, 3))
    cipher = Cipher('noise', 16)
    grid = Grid.of(Observed(cipher), img, cipher.plan((48, 32)))
    pairs = list(zip(grid.first.tolist(), grid.second.tolist(), strict=True))
    assert pairs == [(0, 1), (2, 3), (4, 5), (0, 2), (1, 3), (2, 4), (3, 5)]
    strips = grid.strips()
    np.testing.assert_array_equal(strips[0, 0, :, 0], img[:16, 15])
    np.testing.assert_array_equal(strips[0, 1, :, 2], img[:16, 18])
    np.testing.assert_array_equal(strips[3, 0, :, 0], img[15, :16])
    np.testing.assert_array_equal(strips[3, 0, :, 3], img[12, :16])
    np.testing.assert_array_equal(strips[6, 1, :, 0], img[32, 16:])


def test_mirrored_seams_change_sign_only(make_image):
    strips = make_image((9, 2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(
        row_features(strips), -row_features(strips[:, ::-1]), rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(activity(strips), activity(strips[:, ::-1]), rtol=1e-5)
    levels = make_image((9, 2, 1, 1, 3), np.float32)
    detail = slice(0, -1)
    np.testing.assert_allclose(
        row_features(strips)[..., detail], row_features(strips + levels)[..., detail], atol=1e-2
    )


def test_ramps_are_followed():
    """Where the gradient goes on across seams, so do the levels."""
    ramp = np.arange(160, dtype=np.float32)
    plain = np.rint(np.add.outer(0.9 * ramp, 0.5 * ramp)).astype(np.uint8)
    plain = np.repeat(plain[..., None], 3, axis=2)
    found, _ = solve(grid_of('center', plain), learnt())
    true = levels_of(plain).T
    # With what was learnt from photos a jump is taken for a little less than it is.
    line = np.polyfit(true[0] - true[0].mean(), found[0], 1)
    assert 0.7 < line[0] < 1.1
    assert np.corrcoef(true[0], found[0])[0, 1] > 0.99


class Told:
    """A model that knows each difference, all rows equally well but for some that lie."""

    def __init__(self, apart, lies):
        self.apart, self.lies = apart, lies

    def predict(self, strips):
        rows = np.repeat(self.apart[..., None], strips.shape[2], axis=2)
        rows[:, self.lies, :5] += 200
        return rows, np.ones_like(rows)


def test_rows_that_lie_are_outvoted(make_image):
    plain = make_image((64, 80, 3))
    grid = grid_of('center', plain)
    true = np.random.default_rng(0).normal(0, 50, (3, 20))
    true -= true.mean(axis=1, keepdims=True)
    apart = true[:, grid.second] - true[:, grid.first]
    found, misfit = solve(grid, Told(apart, slice(0, 8)))
    np.testing.assert_allclose(found, true, atol=1)
    assert misfit < 10
    exact, misfit = solve(grid, Told(apart, slice(0, 0)))
    np.testing.assert_allclose(exact, true, atol=1e-3)
    assert misfit < 1e-3


def test_seams_of_patches_left_out_bind_next_to_nothing(make_image):
    grid = grid_of('center', make_image((48, 48, 3)))
    there = np.ones(9, bool)
    there[4] = False
    grid = grid._replace(there=there)
    true = np.random.default_rng(0).normal(0, 50, (3, 9))
    apart = true[:, grid.second] - true[:, grid.first]
    blind = ~grid.both_there
    assert blind.sum() == 4
    apart[:, blind] += [30, -500, 80, 900]
    found, _ = solve(grid, Told(apart, slice(0, 0)))
    others_apart = (found - true)[:, there]
    np.testing.assert_allclose(np.ptp(others_apart, axis=1), 0, atol=1e4 * BLIND)


def test_the_ridge_is_a_ridge():
    rng = np.random.default_rng(0)
    samples, truth = rng.normal(size=(1, 500, 4)), rng.normal(size=(1, 4, 1))
    back = samples.swapaxes(1, 2)
    np.testing.assert_allclose(ridge(back @ samples, back @ samples @ truth, 0), truth, atol=1e-8)
    half = ridge(back @ samples, back @ samples @ truth, 1.0)
    np.testing.assert_allclose(half, truth / 2, atol=0.2)


@pytest.mark.trial
@pytest.mark.parametrize(
    ('steps', 'least', 'similar'),
    [('center', 29.5, 0.96), ('center+erode2', 17.3, 0.7), ('mix2+center', 17, 0.5)],
)
def test_strength_on_real_pictures(coco_tiny, steps, least, similar):
    plain = real(coco_tiny / 'val2017', 20, (224, 224))
    guessed = guesses(Seams(), evidence(steps, plain, real(coco_tiny / 'train2017', None), 16))
    assert psnr(plain, guessed) > least
    assert ssim(plain, guessed) > similar
