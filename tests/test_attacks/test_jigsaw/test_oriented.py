# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Patches that were turned, negated or recoloured before they were shuffled."""

import numpy as np
import pytest
from attack_parts import encrypted, photo, public, true_cells

from hime_mm.attacks.jigsaw import OrientedJigsaw, oriented
from hime_mm.attacks.jigsaw.changes import Changes
from hime_mm.ciphers import Cipher, split_patches

CIPHERS = {'orient': 8, 'negate': 2, 'permute_channels': 6, 'negate+permute_channels': 12}


@pytest.mark.parametrize('cipher', CIPHERS)
def test_changes_are_a_group(cipher):
    changes = Changes(Cipher(f'{cipher}+shuffle'), 5, 3)
    k = CIPHERS[cipher]
    assert len(changes) == k
    assert (np.sort(changes.products, axis=1) == np.arange(k)).all()
    assert (changes.products[0] == np.arange(k)).all()
    assert (changes.products[np.arange(k), changes.inverses] == 0).all()
    pieces = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3)).astype(np.uint8)
    for a in range(k):
        for b in range(k):
            twice = changes.apply(changes.apply(pieces, b), a)
            assert (twice == changes.apply(pieces, changes.products[a, b])).all()
    turns = changes.turns
    assert (turns[changes.products] == np.einsum('aij,bjk->abik', turns, turns)).all()


def test_turns_are_where_pixels_go():
    changes = Changes(Cipher('orient+shuffle'), 3, 1)
    square = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    for change in range(8):
        moved = changes.apply(square, change)[0, ..., 0]
        for place, value in np.ndenumerate(square[0, ..., 0]):
            there = np.argwhere(moved == value)[0] - 1
            assert (there == changes.turns[change] @ (np.array(place) - 1)).all()


def changed_alike(evidence, guess, img, layout):
    """The change of the picture as a whole that each patch was left with."""
    changes = Changes(evidence.cipher, 16, 3)
    pieces, plain = evidence.pieces(0), split_patches(img, 16)[layout.permutation]
    left = []
    for slot in range(len(pieces)):
        back = changes.apply(pieces[slot : slot + 1], guess.turns[slot])
        same = [
            (changes.apply(plain[slot : slot + 1], c) == back).all() for c in range(len(changes))
        ]
        left.append(int(np.argmax(same)))
    return changes, left


@pytest.mark.parametrize(
    'cipher, least', [('orient+shuffle', 0.85), ('negate+permute_channels+shuffle', 0.85)]
)
def test_changed_photos_come_back(cipher, least):
    img = photo('coffee', 128, 160)
    evidence, (layout,) = encrypted(cipher, [img])
    solver = OrientedJigsaw()
    solver.prepare(evidence)
    guess = solver.guess(0)
    changes, left = changed_alike(evidence, guess, img, layout)
    cells, found, total = true_cells(layout), 0, 0
    at = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    for (y, x), i in at.items():
        for step in ((0, 1), (1, 0)):
            j = at.get((y + step[0], x + step[1]))
            if j is None:
                continue
            total += 1
            moved = changes.turns[left[i]] @ np.array(step)
            together = guess.parts[i] == guess.parts[j] and left[i] == left[j]
            found += int(together and (guess.spots[j] - guess.spots[i] == moved).all())
    assert found / total > least
    # The picture comes back as a whole, up to one change of all of it.
    undone = split_patches(solver.undo(0, guess), 16)
    grid, patches = np.array([8, 10]), split_patches(img, 16)
    same = []
    for change in range(len(changes)):
        moved = np.argwhere(np.ones(grid)) @ changes.turns[change].T
        moved -= moved.min(axis=0)
        if (moved.max(axis=0) < grid).all():
            there = undone[moved[:, 0] * grid[1] + moved[:, 1]]
            same.append((changes.apply(patches, change) == there).all(axis=(1, 2, 3)).mean())
    assert max(same) > 0.7
    assert len(np.unique(guess.cells, axis=0)) == len(cells)


def test_noise_stays_in_pieces():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    evidence, _ = encrypted('orient+shuffle', [noise])
    solver = OrientedJigsaw()
    solver.prepare(evidence)
    guess = solver.guess(0)
    assert guess.confidence < 1
    assert sorted(map(tuple, guess.cells.tolist())) == [(y, x) for y in range(6) for x in range(6)]


def test_what_has_no_changes():
    evidence, _ = encrypted('shuffle', [photo('coffee')])
    assert OrientedJigsaw.why_not(evidence)
    evidence, _ = encrypted('orient+shuffle', [photo('coffee')])
    assert not OrientedJigsaw.why_not(evidence)


@pytest.mark.parametrize('name', ['astronaut', 'coffee'])
def test_colours_of_the_whole_are_those_of_photos(name):
    img = photo(name, 128, 160)
    evidence, (layout,) = encrypted('negate+permute_channels+shuffle', [img], learn=public(name))
    solver = OrientedJigsaw()
    solver.prepare(evidence)
    guess = solver.guess(0)
    # Of twelve changes of the whole one is none.
    back = solver.changes.apply_each(evidence.pieces(0), guess.turns)
    right = (back == split_patches(img, 16)[layout.permutation]).all(axis=(1, 2, 3))
    assert right.mean() > 0.8


@pytest.mark.parametrize('name, shape', [('astronaut', (128, 160)), ('rocket', (224, 224))])
def test_gaps_are_filled_with_what_fits(monkeypatch, name, shape):
    """Of the pieces that no part holds more are right than in an order of chance."""
    img = photo(name, *shape)
    evidence, (layout,) = encrypted('orient+shuffle', [img])
    right = []
    for most in (0, oriented.MOST_FORMS):
        monkeypatch.setattr(oriented, 'MOST_FORMS', most)
        solver = OrientedJigsaw()
        solver.prepare(evidence)
        guess = solver.guess(0)
        assert len(np.unique(guess.cells, axis=0)) == layout.num_patches
        made = solver.undo(0, guess)
        views = [np.rot90(one, k) for one in (made, made[:, ::-1]) for k in range(4)]
        right.append(max(float((one == img).mean()) for one in views if one.shape == img.shape))
    assert right[1] > right[0] + 0.08
