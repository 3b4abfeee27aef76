# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
from pixel_parts import PATCH, evidence, guesses, psnr, real, scenes

from hime_mm.attacks.pixels.mosaic import Mosaic, filled_means, thumbnail
from hime_mm.attacks.pixels.observed import Observed
from hime_mm.attacks.pixels.tv import TotalVariation, least_variation


def variation(values: np.ndarray) -> float:
    return sum(float(np.abs(np.diff(values, axis=axis)).sum()) for axis in (0, 1))


@pytest.mark.parametrize(('steps', 'gain'), [('mix2', 1.5), ('erode1', 5), ('mix4:tiled', 0.7)])
def test_more_comes_back_than_the_means(steps, gain):
    plain, held = scenes(), evidence(steps)
    better = psnr(plain, guesses(TotalVariation(), held))
    assert better > psnr(plain, guesses(Mosaic(), held)) + gain


@pytest.mark.parametrize('steps', ['mix2', 'erode1:filled', 'drop25+mix2'])
def test_it_varies_less_than_the_thumbnail_and_shows_the_same(steps):
    held = evidence(steps)
    observed = Observed(held.cipher)
    pieces = observed.pieces(held.images[0], held.layouts[0])
    there, grid = observed.there(pieces), held.layouts[0].grid
    found = least_variation(observed, pieces, grid)
    shown = observed.apply(observed.plain(found))[there]
    np.testing.assert_allclose(shown, pieces[there], atol=1e-2)
    start = observed.plain(thumbnail(filled_means(pieces, there, grid), PATCH))
    start[there] = observed.project(start[there], pieces[there])
    rough = start.reshape(*grid, PATCH, PATCH, 3).swapaxes(1, 2).reshape(found.shape)
    assert variation(found) < variation(rough)


def test_a_straight_edge_comes_back():
    plain = np.full((96, 96, 3), 60, np.uint8)
    plain[:, 44:] = 180
    guessed = guesses(TotalVariation(), evidence('erode2', [plain]))
    assert psnr([plain], guessed) > 34


def test_grey_pictures():
    plain = [cv2.cvtColor(x, cv2.COLOR_BGR2GRAY) for x in scenes()]
    held = evidence('mix2', plain)
    assert psnr(plain, guesses(TotalVariation(), held)) > psnr(plain, guesses(Mosaic(), held)) + 1


def test_nothing_comes_from_nothing():
    plain = [np.full((64, 64, 3), 77, np.uint8)]
    np.testing.assert_array_equal(guesses(TotalVariation(), evidence('mix2', plain)), plain)


def test_the_order_of_pictures_and_the_day_change_nothing():
    first = guesses(TotalVariation(), evidence('mix2', public=()))
    turned = guesses(TotalVariation(), evidence('mix2', scenes()[::-1], ()))
    np.testing.assert_array_equal(first, turned[::-1])


def test_why_not():
    assert 'means' in TotalVariation.why_not(evidence('center'))
    assert 'exact' in TotalVariation.why_not(evidence('noise'))
    assert 'undone' in TotalVariation.why_not(evidence('mix2+shuffle'))
    assert not TotalVariation.why_not(evidence('mix2', public=()))


@pytest.mark.slow
def test_strength_on_real_pictures(coco_tiny):
    plain = real(coco_tiny / 'val2017', 20, (224, 224))
    assert psnr(plain, guesses(TotalVariation(), evidence('mix2', plain, patch_size=16))) > 20.9
