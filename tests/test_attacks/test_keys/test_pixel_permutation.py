# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import replace

import numpy as np
import pytest
from keys_parts import order_score, owner, photos, read

from hime_mm.attacks.keys import PixelPermutation
from hime_mm.attacks.keys.pixel_permutation import correlations
from hime_mm.attacks.keys.square import (
    _by_offset,
    _grown,
    _improved,
    _refined,
    arrange,
    partial,
    symmetries,
)


def attack(evidence):
    assert not PixelPermutation.why_not(evidence)
    one = PixelPermutation()
    one.prepare(evidence)
    return one


@pytest.mark.parametrize(
    ('steps', 'patch_size', 'size'),
    [
        ('shuffle+permute_pixels', 8, (96, 96)),
        ('permute_pixels+center+shuffle', 8, (96, 128)),
        ('mix2+shuffle+permute_pixels', 16, (160, 160)),
        ('center+erode2+permute_pixels+shuffle', 12, (120, 120)),
        ('negate+permute_channels+permute_pixels+shuffle', 8, (96, 96)),
        ('drop25+permute_pixels+shuffle', 8, (128, 128)),
        ('noise8+permute_pixels+shuffle', 8, (128, 128)),
    ],
)
def test_one_picture_gives_the_order_up_to_symmetry(steps, patch_size, size):
    # Public pictures are no must.
    public = 4 if steps.startswith('shuffle') or 'drop' in steps or 'noise' in steps else 0
    plain = photos(5, size)
    evidence, _, orders = owner(steps, patch_size).evidence(plain[:1], public=plain[1 : 1 + public])
    assert order_score(attack(evidence).guess(0).order, orders[0]) == 1


@pytest.mark.parametrize('picture', [[0], [1], [2], [2, 3]])
def test_grey_pictures_are_solved(picture):
    plain = photos(4, (128, 128), grey=True)
    evidence, _, orders = owner('shuffle+permute_pixels', 8).evidence([plain[i] for i in picture])
    assert order_score(attack(evidence).guess(0).order, orders[0]) == 1


@pytest.mark.parametrize(
    'steps', ['permute_pixels', 'center+permute_pixels', 'mix2+permute_pixels']
)
def test_patches_that_keep_their_places_tell_the_symmetry(steps):
    evidence, _, orders = owner(steps, 8, seed=3).evidence(photos(2, (96, 128)))
    assert (attack(evidence).guess(0).order == orders[0]).all()


def test_undone_the_picture_is_that_without_the_step():
    person = owner('permute_pixels', 8)
    plain = photos(1, (96, 128))
    evidence, _, _ = person.evidence(plain)
    one = attack(evidence)
    np.testing.assert_array_equal(one.undo(0, one.guess(0)), plain[0])


def test_repeated_pixels_are_put_in_order_though_no_one_tells_them_apart():
    evidence, _, orders = owner('mix2:tiled+permute_pixels', 16).evidence(photos(1, (160, 160)))
    one = attack(evidence)
    guess = one.guess(0)
    assert sorted(guess.order) == [*range(256)]
    tiled = owner('mix2:tiled').cipher.apply(photos(1, (160, 160))[0], [None])
    np.testing.assert_array_equal(one.undo(0, guess), tiled)


def test_pictures_in_any_order_give_the_same():
    evidence, _, orders = owner('shuffle+permute_pixels', 8).evidence(photos(2, (96, 96)))
    first = attack(evidence)
    again = attack(replace(evidence, images=evidence.images[::-1], layouts=evidence.layouts[::-1]))
    np.testing.assert_array_equal(first.guess(0).order, again.guess(1).order)
    assert first.guess(0).confidence == again.guess(1).confidence


def test_without_anything_to_find_it_is_at_chance():
    rng = np.random.default_rng(0)
    plain = [rng.integers(0, 256, (96, 96, 3), np.uint8)]
    evidence, _, orders = owner('shuffle+permute_pixels', 8).evidence(plain)
    guess = attack(evidence).guess(0)
    # Of 64 places in the best of eight symmetries, several sevens of chance.
    assert order_score(guess.order, orders[0]) < 0.2
    assert abs(guess.confidence) < 0.1


@pytest.mark.parametrize('value', [0, 128])
def test_plain_colours_are_no_error(value):
    plain = [np.full((32, 32, 3), value, np.uint8)]
    evidence, _, _ = owner('shuffle+permute_pixels', 8).evidence(plain)
    assert sorted(attack(evidence).guess(0).order) == [*range(64)]


@pytest.mark.parametrize(
    ('steps', 'words'),
    [('shuffle', 'no step permutes'), ('orient+permute_pixels', 'turned in a way of its own')],
)
def test_it_says_why_not(steps, words):
    evidence, _, _ = owner(steps, 8).evidence(photos(1, (32, 32)))
    assert words in PixelPermutation.why_not(evidence)


def test_squares_of_any_side_are_found_from_exact_correlations():
    rng = np.random.default_rng(1)
    for side in (2, 3, 4, 5, 7):
        grid = np.stack(np.divmod(np.arange(side * side), side), axis=1)
        expected = np.exp(-np.linalg.norm(grid[:, None] - grid, axis=2) / side)
        truth = rng.permutation(side * side)
        found = arrange(expected[np.ix_(truth, truth)], expected)
        assert order_score(found, truth) == 1


@pytest.mark.parametrize('corner', [(0, 0), (1, 2), (3, 3)])
def test_a_square_is_grown_from_a_block_that_lay_anywhere(corner):
    """Also where the cells of the others are those of a dislocated solution."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.divmod(np.arange(36), 6), axis=1)
    expected = np.exp(-np.linalg.norm(grid[:, None] - grid, axis=2) / 6)
    truth = rng.permutation(36)
    seen = expected[np.ix_(truth, truth)]
    pixels = np.argsort(truth).reshape(6, 6)
    dislocated = np.roll(pixels, 1, axis=0)
    start = _refined(seen, expected, np.argsort(dislocated.ravel()))
    assert order_score(start[1], truth) < 0.9
    assert order_score(_improved(seen, expected, [start]), truth) == 1
    block = pixels[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3]
    near = partial(expected)
    kernels = _by_offset(expected, 6), _by_offset(near, 6)
    assert (_grown((seen, partial(seen)), kernels, 0.3, block, 6) == truth).all()


def test_there_are_eight_symmetries_and_each_keeps_distances():
    ways = symmetries(4)
    assert len({tuple(way) for way in ways}) == 8
    grid = np.stack(np.divmod(np.arange(16), 4), axis=1)
    apart = np.linalg.norm(grid[:, None] - grid, axis=2)
    for way in ways:
        np.testing.assert_array_equal(apart[np.ix_(way, way)], apart)


def test_correlations_are_those_of_loops():
    rng = np.random.default_rng(2)
    pieces = rng.integers(0, 256, (6, 2, 2, 3), np.uint8)
    pieces[0] = 7
    total = np.zeros((4, 4))
    for piece in pieces[1:]:
        for channel in range(3):
            values = piece[..., channel].ravel().astype(float)
            values = (values - values.mean()) / values.std()
            total += np.outer(values, values)
    np.testing.assert_allclose(correlations([pieces[:3], pieces[3:]]), total / 15)


@pytest.mark.slow
@pytest.mark.parametrize('steps', ['shuffle+permute_pixels', 'erode2+shuffle+permute_pixels'])
def test_coco_pictures_at_224_give_all_256_pixels(coco_tiny, data_root, steps):
    """Two of them together, and most alone."""
    plain = read(coco_tiny / 'val2017', 2)
    public = read(data_root / 'photos_256', 10)
    evidence, _, orders = owner(steps).evidence(plain, public=public)
    assert order_score(attack(evidence).guess(0).order, orders[0]) == 1
    alone = replace(evidence, images=evidence.images[:1], layouts=evidence.layouts[:1])
    assert order_score(attack(alone).guess(0).order, orders[0]) == 1
