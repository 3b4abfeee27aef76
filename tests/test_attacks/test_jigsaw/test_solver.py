# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The solvers on encrypted photos."""

from dataclasses import replace

import numpy as np
import pytest
from attack_parts import encrypted, neighbors_found, photo, public, true_cells
from tiers import trials_but

from hime_mm.attacks.base import cut
from hime_mm.attacks.jigsaw import Jigsaw, PaikinTal, solve
from hime_mm.attacks.jigsaw.learned import StripModel
from hime_mm.attacks.jigsaw.solver import shown
from hime_mm.attacks.keys import FixedPermutation
from hime_mm.ciphers import Cipher, split_patches

SOLVERS = (Jigsaw, PaikinTal)


def attack(kind, evidence):
    solver = kind()
    solver.prepare(evidence)
    return solver


@pytest.mark.parametrize('kind', SOLVERS)
def test_shuffled_photos_come_back(kind):
    pictures = [photo('astronaut'), photo('coffee', 192, 320)]
    evidence, layouts = encrypted('shuffle', pictures)
    solver = attack(kind, evidence)
    for i, layout in enumerate(layouts):
        guess = solver.guess(i)
        assert neighbors_found(guess.spots, true_cells(layout), guess.parts) > 0.9
        assert (solver.undo(i, guess) == pictures[i]).mean() > 0.8
        assert guess.confidence > 0.8


@pytest.mark.parametrize('kind', SOLVERS)
def test_noise_gets_chance(kind):
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    evidence, (layout,) = encrypted('shuffle', [noise])
    guess = attack(kind, evidence).guess(0)
    assert neighbors_found(guess.cells, true_cells(layout)) < 0.03
    assert guess.confidence < 0.5


@pytest.mark.parametrize('kind', SOLVERS)
def test_order_of_the_slots_changes_nothing(kind):
    found = []
    for seed in range(3):
        evidence, (layout,) = encrypted('erode1+shuffle', [photo('chelsea')], seed)
        guess = attack(kind, evidence).guess(0)
        found.append(neighbors_found(guess.spots, true_cells(layout), guess.parts))
        again = attack(kind, evidence).guess(0)
        assert (guess.cells == again.cells).all()
    # Only ties, of equal flat patches, may fall otherwise.
    assert np.ptp(found) < 0.03
    assert min(found) > 0.3


@pytest.mark.parametrize('cipher', ['noise5+shuffle', 'erode1+noise5+shuffle'])
def test_slots_in_another_order_go_to_the_same_places(cipher):
    """Each patch by itself: noise leaves no two that are alike."""
    evidence, (layout,) = encrypted(cipher, [photo('astronaut')])
    pieces = evidence.pieces(0)
    order = np.random.default_rng(1).permutation(len(pieces))
    one, other = (solve(part, layout.grid) for part in (pieces, pieces[order]))
    parts, spots = one.parts[order], one.spots[order]
    together = parts[:, None] == parts
    assert (together == (other.parts[:, None] == other.parts)).all()
    apart = [where[:, None] - where for where in (spots, other.spots)]
    assert (apart[0] == apart[1])[together].all()
    # What is filled up goes by capped costs, of which many are the same.
    if cipher == 'noise5+shuffle':
        assert (one.cells[order] == other.cells).all()


def test_unknown_grid():
    evidence, (layout,) = encrypted('shuffle', [photo('coffee', 160, 240)])
    guess = solve(evidence.pieces(0), None)
    assert (guess.cells.max(axis=0) + 1 == layout.grid).all()
    assert neighbors_found(guess.cells, true_cells(layout)) > 0.9


@pytest.mark.parametrize('kind', SOLVERS)
@pytest.mark.parametrize('shape', [(16, 16), (16, 32), (16, 48), (48, 16)])
def test_tiny_puzzles(kind, shape):
    for img in (photo('coffee', *shape), photo('coffee', *shape)[..., 0].copy()):
        evidence, _ = encrypted('shuffle', [img])
        guess = attack(kind, evidence).guess(0)
        grid = (shape[0] // 16, shape[1] // 16)
        assert sorted(map(tuple, guess.cells.tolist())) == [
            (y, x) for y in range(grid[0]) for x in range(grid[1])
        ]


@pytest.mark.parametrize('cipher', ['mix16+shuffle', 'mix8+shuffle', 'center+erode7+shuffle'])
def test_patches_of_a_pixel_or_two(cipher):
    evidence, _ = encrypted(cipher, [photo('coffee', 64, 64)], learn=public('coffee'))
    guess = attack(Jigsaw, evidence).guess(0)
    assert len(np.unique(guess.cells, axis=0)) == 16


@pytest.mark.parametrize('kind', SOLVERS)
def test_dropped_patches_are_no_pieces(kind):
    evidence, (layout,) = encrypted('drop50+shuffle', [photo('coffee')])
    pieces = evidence.pieces(0)
    there = ~(pieces == 128).all(axis=(1, 2, 3))
    assert shown(pieces, evidence.cipher)[1].tolist() == there.tolist()
    guess = attack(kind, evidence).guess(0)
    assert len(np.unique(guess.cells, axis=0)) == len(pieces)
    assert neighbors_found(guess.spots, true_cells(layout), guess.parts, there) > 0.6


def test_grey_patches_are_pieces_where_none_is_dropped():
    pieces = np.full((4, 8, 8, 3), 128, np.uint8)
    assert shown(pieces, Cipher('center+shuffle'))[1].all()


def test_painted_borders_are_cut_off():
    filled, _ = encrypted('erode2:filled+shuffle', [photo('coffee')], 3)
    compact, _ = encrypted('erode2+shuffle', [photo('coffee')], 3)
    found, _ = shown(filled.pieces(0), filled.cipher)
    assert (found == compact.pieces(0)).all()


@pytest.mark.parametrize('kind', SOLVERS)
def test_pictures_that_are_too_large(kind):
    evidence, _ = encrypted('shuffle', [np.zeros((80 * 8, 80 * 8), np.uint8)], patch_size=8)
    assert 'more than 6000 patches' in kind.why_not(evidence)


def test_nothing_is_learnt_from_next_to_nothing():
    evidence, _ = encrypted('drop99+shuffle', [photo('coffee', 96, 96)], learn=public('coffee'))
    solver = attack(Jigsaw, evidence)
    assert solver.model is None
    assert len(np.unique(solver.guess(0).cells, axis=0)) == 36


def test_nothing_is_chosen_where_no_two_are_neighbours(recwarn):
    learn = [photo(name, 96, 128) for name in ('chelsea', 'coffee', 'rocket')]
    evidence, _ = encrypted('drop90+shuffle', [photo('astronaut', 96, 128)], learn=learn)
    assert attack(Jigsaw, evidence).guess(0).cells.shape == (48, 2)
    assert not recwarn


def test_grey_all_over():
    evidence, _ = encrypted('erode2:filled+shuffle', [np.full((48, 48, 3), 128, np.uint8)])
    assert len(np.unique(attack(Jigsaw, evidence).guess(0).cells, axis=0)) == 9


def test_what_is_learnt_solves_centred_patches():
    evidence, (layout,) = encrypted('center+shuffle', [photo('coffee')], learn=public('coffee')[:2])
    learnt = attack(Jigsaw, evidence).guess(0)
    alone = solve(evidence.pieces(0), layout.grid)
    cells = true_cells(layout)
    found = [neighbors_found(one.spots, cells, one.parts) for one in (learnt, alone)]
    assert found[0] > 0.6 > found[1] + 0.2


def test_without_public_pictures_nothing_is_learnt():
    evidence, _ = encrypted('center+shuffle', [photo('coffee')])
    solver = attack(Jigsaw, evidence)
    assert solver.model is None
    assert solver.powers == (1, 0)


def test_what_has_nothing_to_solve():
    evidence, _ = encrypted('mix2', [photo('coffee')])
    assert 'no patch' in Jigsaw.why_not(evidence)
    evidence, _ = encrypted('permute_pixels+shuffle', [photo('coffee')])
    assert 'permuted' in Jigsaw.why_not(evidence)
    evidence, _ = encrypted('orient+shuffle', [photo('coffee')])
    assert 'oriented-jigsaw' in Jigsaw.why_not(evidence)
    evidence, _ = encrypted('shuffle', [photo('coffee')])
    assert not Jigsaw.why_not(evidence)


STRENGTHS = {
    'shuffle': (0.95, 40),
    'erode1+shuffle': (0.58, 40),
    'erode2+shuffle': (0.31, 40),
    'center+shuffle': (0.80, 40),
    'center+erode2+shuffle': (0.10, 40),
    'mix2+shuffle': (0.26, 40),
}


@pytest.mark.slow
@pytest.mark.parametrize('cipher', trials_but(lambda cipher: cipher == 'shuffle', STRENGTHS))
def test_strength_on_coco(cipher, coco_tiny):
    import cv2

    least, num = STRENGTHS[cipher]
    files = sorted((coco_tiny / 'val2017').iterdir())[:num]
    pictures = [
        cv2.resize(cv2.imread(str(file)), (224, 224), interpolation=cv2.INTER_AREA)
        for file in files
    ]
    learn = [cv2.imread(str(file)) for file in sorted((coco_tiny / 'train2017').iterdir())]
    evidence, layouts = encrypted(cipher, pictures, learn=learn)
    solver = attack(Jigsaw, evidence)
    found = []
    for i, layout in enumerate(layouts):
        guess = solver.guess(i)
        found.append(neighbors_found(guess.spots, true_cells(layout), guess.parts))
    assert np.mean(found) >= least


def test_pieces_are_patches_by_slot():
    img = photo('coffee')
    evidence, (layout,) = encrypted('shuffle', [img])
    assert (cut(evidence.images[0], layout) == split_patches(img, 16)[layout.permutation]).all()


def test_the_cost_is_learnt_once_of_each_evidence(monkeypatch):
    fitted = []
    fit = StripModel.fit

    def counted(*args):
        fitted.append(args)
        return fit(*args)

    monkeypatch.setattr(StripModel, 'fit', counted)
    learn = [photo(name, 96, 96) for name in ('chelsea', 'coffee', 'rocket', 'astronaut')]
    evidence, _ = encrypted('center+shuffle', [photo('astronaut', 96, 96)] * 2, learn=learn)
    attack(Jigsaw, evidence)
    first = len(fitted)
    assert first
    attack(FixedPermutation, evidence)
    assert len(fitted) == first
    attack(Jigsaw, replace(evidence))
    assert len(fitted) == 2 * first
