# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from leakage_twins import flood, puzzle_twin, touching, turned

from hime_mm.ciphers.steps import orient_patches
from hime_mm.errors import HimeError
from hime_mm.evaluation.leakage import score_pixel_order, score_puzzle
from hime_mm.evaluation.leakage.symmetries import BETWEEN, move_cells


def cells_of(rows, cols):
    return np.stack(np.divmod(np.arange(rows * cols), cols), axis=1)


@st.composite
def puzzles(draw, most=5):
    """A true and a guessed arrangement of a shuffled grid, somewhat right, and a generator."""
    rows, cols = draw(st.integers(1, most)), draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = rng.permutation(cells_of(rows, cols))
    return truth, mixed_up(truth, draw(st.integers(0, rows * cols)), rng), rng


def mixed_up(cells, count, rng):
    """A copy in which some pieces have changed places."""
    cells = cells.copy()
    some = rng.choice(len(cells), count, replace=False)
    cells[some] = cells[rng.permutation(some)]
    return cells


class TestPuzzle:
    @given(puzzles(), st.booleans(), st.booleans())
    def test_equals_loops(self, puzzle, in_parts, dropped):
        truth, guess, rng = puzzle
        parts = rng.integers(0, 3, len(truth)) if in_parts else None
        empty = rng.random(len(truth)) < 0.4 if dropped else None
        assume(empty is None or not empty.all())
        scores = score_puzzle(guess, truth, parts, empty=empty)
        assert astuple(scores) == pytest.approx(puzzle_twin(guess, truth, parts, empty))

    def test_by_hand(self):
        # a b c      b c a
        # d e f  as  d e f: of 7 borders bc, de, ef, and of the vertical ones none.
        truth = cells_of(2, 3)
        guess = np.array([[0, 2], [0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
        assert astuple(score_puzzle(guess, truth)) == pytest.approx((3 / 6, 3 / 7, 3 / 6))

    @given(puzzles(), st.booleans())
    def test_order_of_pieces_does_not_matter(self, puzzle, symmetries):
        truth, guess, rng = puzzle
        parts, order = rng.integers(0, 2, len(truth)), rng.permutation(len(truth))
        turns, empty = rng.integers(0, 8, (2, len(truth))), np.arange(len(truth)) % 3 == 1
        colors = rng.integers(0, 2, len(truth))
        one = score_puzzle(
            guess,
            truth,
            parts,
            empty=empty,
            turns=tuple(turns),
            colors=colors,
            symmetries=symmetries,
        )
        other = score_puzzle(
            guess[order],
            truth[order],
            parts[order],
            empty=empty[order],
            turns=tuple(turns[:, order]),
            colors=colors[order],
            symmetries=symmetries,
        )
        assert one == other

    @settings(max_examples=30)
    @given(puzzles())
    def test_the_truth_scores_1(self, puzzle):
        truth, _, rng = puzzle
        codes = rng.integers(0, 8, len(truth))
        for options in ({}, {'symmetries': True}, {'turns': (codes, codes)}):
            scores = score_puzzle(truth, truth, **options)
            assert scores.direct == scores.largest == 1
            assert scores.neighbor == (1 if len(truth) > 1 else None)

    @given(puzzles(), st.sampled_from([(0, 1), (1, 0), (-1, 2)]))
    def test_shifted_by_a_cell(self, puzzle, step):
        truth, guess, _ = puzzle
        shifted, scores = score_puzzle(guess + step, truth), score_puzzle(guess, truth)
        assert (shifted.neighbor, shifted.largest) == (scores.neighbor, scores.largest)
        assert score_puzzle(truth + step, truth).direct == 0

    @given(puzzles())
    def test_one_part_is_no_part(self, puzzle):
        truth, guess, _ = puzzle
        one = score_puzzle(guess, truth, np.full(len(truth), 7))
        whole = score_puzzle(guess, truth)
        assert (one.neighbor, one.largest) == (whole.neighbor, whole.largest)
        assert one.direct is None and whole.direct is not None

    @given(puzzles())
    def test_pieces_of_their_own_are_no_neighbours(self, puzzle):
        truth, _, _ = puzzle
        scores = score_puzzle(truth, truth, np.arange(len(truth)))
        assert scores.largest == 1 / len(truth) and not scores.neighbor

    @given(puzzles())
    def test_parts_may_lie_over_each_other(self, puzzle):
        truth, _, _ = puzzle
        parts = truth[:, 0]
        scores = score_puzzle(truth * [0, 1], truth, parts)
        cols = truth[:, 1].max() + 1
        assert scores.largest == cols / len(truth)

    @given(puzzles())
    def test_what_was_dropped_counts_for_nothing(self, puzzle):
        truth, guess, rng = puzzle
        empty = rng.random(len(truth)) < 0.5
        assume(not empty.all())
        elsewhere = guess.copy()
        elsewhere[empty] = 0
        scores = score_puzzle(elsewhere, truth, empty=empty)
        assert scores == score_puzzle(guess[~empty], truth[~empty])

    def test_of_a_large_picture(self):
        truth = cells_of(50, 83)
        guess = truth.copy()
        guess[[0, 4149]] = truth[[4149, 0]]
        scores = score_puzzle(guess, truth)
        borders = 2 * 50 * 83 - 50 - 83
        assert scores.direct == 4148 / 4150 and scores.largest == 4148 / 4150
        assert scores.neighbor == (borders - 4) / borders


class TestSymmetries:
    @settings(max_examples=50)
    @given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 7))
    def test_cells_move_as_pixels_do(self, rows, cols, code):
        img = np.arange(rows * cols).reshape(rows, cols)
        moved = move_cells(cells_of(rows, cols), (rows, cols), code)
        assert (turned(img, code)[tuple(moved.T)] == img.ravel()).all()

    @pytest.mark.parametrize('code', range(8))
    def test_numbers_are_those_of_orient(self, code):
        patch = np.arange(9, dtype=np.uint8).reshape(3, 3)
        there = orient_patches(patch, np.array([code]), 3)
        assert (there == turned(patch, code)).all()
        back = orient_patches(there, BETWEEN[0][np.array([code])], 3)
        assert (back == patch).all()

    @settings(max_examples=30)
    @given(puzzles(), st.integers(0, 7))
    def test_of_the_whole_picture(self, puzzle, code):
        truth, _, _ = puzzle
        grid = tuple(truth.max(axis=0) + 1)
        guess = move_cells(truth, grid, code)
        scores = score_puzzle(guess, truth, symmetries=True)
        assert scores.direct == scores.largest == 1
        if code and min(grid) > 2:
            # A mirror leaves the borders along its axis, a turn none.
            assert score_puzzle(guess, truth).neighbor < 0.9
            assert code in (4, 6) or score_puzzle(guess, truth).neighbor == 0

    @given(puzzles(4), st.booleans())
    def test_the_best_of_eight(self, puzzle, dropped):
        truth, guess, rng = puzzle
        empty = rng.random(len(truth)) < 0.3 if dropped else np.zeros(len(truth), bool)
        assume(not empty.all())
        grid = tuple(truth.max(axis=0) + 1)
        start = move_cells(guess, grid, int(rng.integers(8)))
        eight = []
        for code in range(8):
            # Of a mirrored picture's border the first piece may be the second.
            moved = move_cells(truth, grid, code)
            eight.append(puzzle_twin(start, moved, None, empty))
        best = max(sum(one or 0 for one in scores) for scores in eight)
        scores = score_puzzle(start, truth, empty=empty, symmetries=True)
        assert sum(one or 0 for one in astuple(scores)) == pytest.approx(best)

    def test_one_symmetry_for_all_scores(self):
        # The left half stands as it is, the right half upside down: no symmetry has both.
        truth = cells_of(4, 4)
        guess = truth.copy()
        right = truth[:, 1] > 1
        guess[right, 0] = 3 - truth[right, 0]
        scores = score_puzzle(guess, truth, symmetries=True)
        assert scores.direct == 1 / 2 and scores.largest == 1 / 2
        # Of the left half all, of the right half the vertical ones.
        assert scores.neighbor == (10 + 4) / 24


class TestTurns:
    @given(puzzles(4), st.integers(0, 7), st.integers(0, 3), st.booleans(), st.booleans())
    def test_what_counts_is_the_edges_that_meet(self, puzzle, code, wrong, in_parts, colored):
        truth, guess, rng = puzzle
        n, grid = len(truth), tuple(truth.max(axis=0) + 1)
        rows, cols = grid
        # Every pixel has a number of its own, so that it is known again.
        plain = np.arange(9 * n).reshape(rows, 3, cols, 3).swapaxes(1, 2)
        plain = [plain[tuple(cell)] for cell in truth]
        drawn = rng.integers(0, 8, n)
        encrypted = [turned(patch, code) for patch, code in zip(plain, drawn, strict=True)]
        # Back, then as the whole picture is turned; but for a few.
        guess = move_cells(guess, grid, code)
        turns = np.array([turn_that_makes(encrypted[i], turned(plain[i], code)) for i in range(n)])
        some = rng.choice(n, min(wrong, n), replace=False)
        turns[some] = rng.integers(0, 8, len(some))
        parts = rng.integers(0, 2, n) if in_parts else None
        # A colour is so many thousands in each pixel.
        colors = rng.integers(0, 2, n) if colored else np.zeros(n, int)
        assembled = [
            turned(patch, turn) + 1000 * color
            for patch, turn, color in zip(encrypted, turns, colors, strict=True)
        ]
        true, found = touching(plain, truth), touching(assembled, guess)
        right = []
        for pair, pixels in true.items():
            whole = [{frozenset(p + more for p in two) for two in pixels} for more in (0, 1000)]
            if found.get(pair) in whole and (parts is None or len(set(parts[list(pair)])) == 1):
                right.append(set(pair))
        back = BETWEEN[0][drawn]
        scores = score_puzzle(guess, truth, parts, turns=(turns, back), colors=colors)
        assert scores.neighbor == (pytest.approx(len(right) / len(true)) if true else None)
        assert scores.largest == pytest.approx(flood(n, right) / n)
        if parts is None:
            same = [
                tuple(guess[i]) == tuple(truth[i]) and (assembled[i] == plain[i]).all()
                for i in range(n)
            ]
            assert scores.direct == pytest.approx(sum(map(int, same)) / n)

    @settings(max_examples=30)
    @given(puzzles(4), st.integers(1, 7))
    def test_the_whole_picture_turned(self, puzzle, code):
        truth, _, rng = puzzle
        grid, back = tuple(truth.max(axis=0) + 1), rng.integers(0, 8, len(truth))
        true = BETWEEN[0][back]
        patch = np.arange(9).reshape(3, 3)
        turns = np.array([turn_that_makes(turned(patch, one), turned(patch, code)) for one in back])
        guess = move_cells(truth, grid, code)
        scores = score_puzzle(guess, truth, turns=(turns, true))
        assert scores.direct == 0 and scores.largest == 1
        assert score_puzzle(guess, truth, turns=(turns, true), symmetries=True).direct == 1
        negative = np.full(len(truth), 3)
        options = dict(turns=(turns, true), colors=negative)
        assert score_puzzle(guess, truth, **options).direct == 0
        assert score_puzzle(guess, truth, **options).largest == 1
        assert score_puzzle(guess, truth, **options, symmetries=True).direct == 1

    def test_a_piece_in_its_cell_but_recoloured(self):
        truth = cells_of(3, 3)
        colors = np.zeros(9, int)
        colors[4] = 1
        scores = score_puzzle(truth, truth, colors=colors)
        assert astuple(scores) == pytest.approx((8 / 9, 8 / 12, 8 / 9))
        assert score_puzzle(truth, truth, colors=1 - colors).direct == pytest.approx(1 / 9)
        best = score_puzzle(truth, truth, colors=1 - colors, symmetries=True)
        assert best.direct == pytest.approx(8 / 9)

    def test_a_piece_in_its_cell_but_turned_wrong(self):
        truth = cells_of(3, 3)
        turns = np.zeros((2, 9), int)
        turns[0, 4] = 2
        scores = score_puzzle(truth, truth, turns=tuple(turns))
        assert astuple(scores) == pytest.approx((8 / 9, 8 / 12, 8 / 9))


def turn_that_makes(patch, wanted):
    return next(code for code in range(8) if np.array_equal(turned(patch, code), wanted))


class TestPixelOrder:
    @given(st.integers(1, 5), st.integers(0, 7), st.integers(0, 25), st.integers(0, 2**32))
    def test_equals_loops(self, side, code, wrong, seed):
        rng = np.random.default_rng(seed)
        truth = rng.permutation(side * side)
        cells = move_cells(np.stack(np.divmod(truth, side), axis=1), (side, side), code)
        guess = mixed_up(cells @ [side, 1], min(wrong, side * side), rng)
        # What the adversary sees of a patch whose pixels are numbered.
        plain, seen = np.arange(side * side).reshape(side, side), np.empty(side * side, int)
        for k in range(side * side):
            seen[guess[k]] = truth[k]
        shares = [
            sum(int(a) == int(b) for a, b in zip(seen, turned(plain, c).ravel(), strict=True))
            for c in range(8)
        ]
        assert score_pixel_order(guess, truth) == pytest.approx(max(shares) / side**2)
        if not wrong:
            assert score_pixel_order(guess, truth) == 1

    @pytest.mark.parametrize(
        'order', [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4], [[0, 1], [2, 3]], list(range(9))]
    )
    def test_no_permutations(self, order):
        with pytest.raises(HimeError, match='order of pixels'):
            score_pixel_order(np.array(order), np.arange(4))
        with pytest.raises(HimeError, match='order of pixels'):
            score_pixel_order(np.arange(4), np.array(order))


def wrong(**changes):
    return dict(guess=cells_of(2, 2), truth=cells_of(2, 2)) | changes


@pytest.mark.parametrize(
    'arguments, message',
    [
        (wrong(guess=cells_of(2, 3)), '6 pieces .* there are 4'),
        (wrong(guess=np.zeros((4, 2), int)), 'two pieces are in one cell of the guess'),
        (wrong(guess=np.array([[0, 0], [0, 1], [1, 0], [0, 0]])), 'one cell of the guess'),
        (wrong(truth=np.zeros((4, 2), int)), 'one cell of the truth'),
        (wrong(truth=cells_of(2, 2) - 1), 'begin at 0'),
        (wrong(guess=cells_of(2, 2) * 1.0), '`guess` has whole numbers'),
        (wrong(truth=np.arange(4)), '`truth` has whole numbers'),
        (wrong(guess=np.empty((0, 2), int), truth=np.empty((0, 2), int)), 'no piece'),
        (wrong(empty=np.ones(4, bool)), 'all patches were dropped'),
        (wrong(empty=np.ones(3, bool)), '`empty` has one entry'),
        (wrong(parts=np.zeros(5, int)), '`parts` has one entry'),
        (wrong(parts=np.zeros(4, int), guess=np.zeros((4, 2), int)), 'one cell of the guess'),
        (wrong(turns=(np.zeros(4, int), np.zeros(3, int))), '`turns` has one entry'),
        (wrong(colors=np.zeros(3, int)), '`colors` has one entry'),
        (wrong(turns=(np.full(4, 8), np.zeros(4, int))), 'from 0 to 7'),
        (wrong(turns=(np.zeros(4, int), np.full(4, -1))), 'from 0 to 7'),
        (wrong(turns=(np.full(4, 0.5), np.zeros(4, int))), 'from 0 to 7'),
    ],
)
def test_what_makes_no_sense(arguments, message):
    with pytest.raises(HimeError, match=message):
        score_puzzle(**arguments)
