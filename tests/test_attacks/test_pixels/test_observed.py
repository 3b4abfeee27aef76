# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from pixel_parts import IN_PLACE, PATCH, evidence, scenes

from hime_mm.attacks.pixels.observed import Observed, hindrance, opponents, turned_practice
from hime_mm.ciphers import Cipher


def encrypted(steps, plain):
    """By the steps themselves, in floating point."""
    cipher = Cipher(steps, 16)
    return cipher.apply(plain, [None] * len(cipher.steps)), cipher.plan(plain.shape[:2])


@pytest.mark.parametrize('steps', IN_PLACE)
def test_matrix_shows_what_the_steps_make(steps, make_image):
    plain = make_image((48, 32, 3), np.float64)
    observed = Observed(Cipher(steps, 16))
    pieces = observed.pieces(*encrypted(steps, plain))
    np.testing.assert_allclose(observed.apply(observed.plain(plain)), pieces, atol=1e-3)


@pytest.mark.parametrize(
    ('steps', 'side'),
    [
        ('mix2', 8),
        ('mix2:tiled', 8),
        ('erode2:filled', 12),
        ('mix2+erode1:filled', 6),
        ('drop', 16),
    ],
)
def test_each_value_is_seen_once_and_paint_never(steps, side):
    observed = Observed(Cipher(steps, 16))
    assert observed.side == side
    assert observed.matrix.shape == (side**2, 256)
    assert np.linalg.matrix_rank(observed.matrix) == side**2


@pytest.mark.parametrize('steps', IN_PLACE)
def test_projection_is_the_nearest_that_shows_the_pieces(steps, make_image):
    plain, guess = (make_image((32, 32, 3), np.float64, seed) for seed in (0, 1))
    observed = Observed(Cipher(steps, 16))
    pieces = observed.pieces(*encrypted(steps, plain))
    before = observed.plain(guess)
    after = observed.project(before, pieces)
    np.testing.assert_allclose(observed.apply(after), pieces, atol=1e-2)
    flat = (after - before).transpose(0, 3, 1, 2).reshape(-1, 256)
    exact = np.linalg.pinv(observed.matrix.astype(float))
    missing = (pieces - observed.apply(before)).transpose(0, 3, 1, 2).reshape(len(flat), -1)
    np.testing.assert_allclose(flat, missing @ exact.T, atol=1e-2)


@pytest.mark.parametrize('steps', ['drop50', 'drop25+mix2', 'drop50+erode1:filled'])
def test_patches_that_were_left_out_are_known(steps):
    cipher = Cipher(steps, PATCH)
    plain = scenes()[0]
    img, layout, drawn = cipher.encrypt(plain, np.random.default_rng(0))
    observed = Observed(cipher)
    np.testing.assert_array_equal(observed.there(observed.pieces(img, layout)), ~drawn[0])


def test_grey_patches_were_not_left_out_where_no_step_does_that():
    pieces = np.full((4, 8, 8, 3), 128, np.float32)
    assert Observed(Cipher('mix2', 16)).there(pieces).all()
    assert not Observed(Cipher('mix2+drop', 16)).there(pieces).any()


@pytest.mark.parametrize('steps', ['shuffle', 'orient', 'negate', 'permute_pixels', 'mix2+shuffle'])
def test_what_a_key_undoes_is_undone_first(steps):
    assert 'undone first' in hindrance(evidence(steps))


def test_learning_needs_two_public_pictures():
    assert not hindrance(evidence('mix2', public=scenes()[:1]))
    assert 'public' in hindrance(evidence('mix2', public=scenes()[:1]), learns=True)
    assert not hindrance(evidence('mix2', public=scenes()[:2]), learns=True)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_opponent_colours_turn_only(channels):
    axes = opponents(channels)
    np.testing.assert_allclose(axes.T @ axes, np.eye(channels), atol=1e-6)
    np.testing.assert_allclose(axes[:, 0], channels**-0.5, rtol=1e-6)


def test_few_pictures_are_turned_and_many_are_not():
    few = turned_practice(evidence('mix2'))
    assert [len(views) for views in few] == [8] * 3
    for views in few:
        assert len({one.plain.tobytes() for one in views}) == 8
        assert len({one.plain[..., 0].sum() for one in views}) < 8
    many = turned_practice(evidence('mix2', public=scenes() * 50))
    assert {len(views) for views in many} == {1}


@pytest.mark.parametrize('steps', ['mix2', 'erode2:filled'])
def test_settled_patches_keep_to_the_range_and_to_what_is_seen(steps, make_image):
    plain = make_image((32, 32, 3))
    observed = Observed(Cipher(steps, 16))
    pieces = observed.pieces(*encrypted(steps, plain.astype(np.float64)))
    wild = observed.plain(make_image((32, 32, 3), np.float64))
    settled = observed.settle(wild, pieces)
    np.testing.assert_allclose(observed.apply(settled), pieces, atol=1e-2)
    outside = [
        np.abs(x - np.clip(x, 0, 255)).mean() for x in (observed.project(wild, pieces), settled)
    ]
    assert outside[1] < 0.5 * outside[0] + 1e-3
