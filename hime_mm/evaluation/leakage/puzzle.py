# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How much of an assembled puzzle is right.

Dc, Nc and Lc are the scores of Kiya and others (Chuman, Kurihara and Kiya, "On
the security of block scrambling-based EtC systems against extended jigsaw
puzzle solver attacks", IEICE 2018), after Gallagher's for jigsaw puzzles
(CVPR 2012). 1 means that the picture is back; larger is a weaker cipher.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from hime_mm.ciphers.grid import cells_of
from hime_mm.errors import HimeError

from .extra import needed
from .symmetries import BETWEEN, MATRICES, move_cells


@dataclass(frozen=True)
class PuzzleScores:
    """Of one puzzle, each a share from 0 to 1.

    Attributes:
        direct (float, optional): Dc, pieces in their own cell. None for parts,
            which lie in no cell yet.
        neighbor (float, optional): Nc, borders between true neighbours that
            the guess has beside each other, too, in the true relation. None
            where no two pieces are neighbours.
        largest (float): Lc, pieces in the largest part that is right: all of
            it linked by borders that are right.
    """

    direct: float | None
    neighbor: float | None
    largest: float


class Borders(NamedTuple):
    """The borders between pieces that adjoin, those of rows first."""

    first: np.ndarray  #: int64 of shape (m, ), the piece left of the border, or above.
    second: np.ndarray  #: int64 of shape (m, ), the piece right of it, or below.
    below: np.ndarray  #: int64 of shape (m, ), 1 where one is above the other.


def score_puzzle(
    guess: np.ndarray,
    truth: np.ndarray,
    parts: np.ndarray | None = None,
    *,
    empty: np.ndarray | None = None,
    turns: tuple[np.ndarray, np.ndarray] | None = None,
    colors: np.ndarray | None = None,
    symmetries: bool = False,
) -> PuzzleScores:
    """Judge where the pieces of a puzzle were put.

    Args:
        guess (np.ndarray): int64 of shape (n, 2), row and column of each
            piece; with ``parts`` within its part. Where it begins to count
            matters for Dc only.
        truth (np.ndarray): int64 of shape (n, 2), its true row and column, from
            0.
        parts (np.ndarray, optional): int64 of shape (n, ), which part a piece
            was merged into. Pieces of different parts are no neighbours.
            Defaults to None, one part that fills the grid.
        empty (np.ndarray, optional): bool of shape (n, ), slots that hold
            nothing, since their patch was dropped. They are no pieces, and
            their borders count for nothing. Defaults to None.
        turns (tuple[np.ndarray, np.ndarray], optional): int64 of shape (n, ),
            guessed and true symmetry that brings each piece back, numbered as
            the step ``orient`` numbers them. A piece in its cell counts only
            as it was turned. Two neighbours count where both were turned wrong
            alike, or not at all, and lie as they would in a picture that is
            turned so: what is right is the edges that meet, as in puzzles whose
            pieces have no known orientation. Defaults to None.
        colors (np.ndarray, optional): int64 of shape (n, ), what is still wrong
            with the colours of each piece once the guess has been followed: 0
            is nothing, any other number one change, such as a negative. A piece
            in its cell counts only with 0, two neighbours only with the same.
            Defaults to None.
        symmetries (bool): Whether a picture that is mirrored, turned or
            recoloured as a whole is back, too: the scores are those for the one
            of eight symmetries, and of the colours, with the largest sum. For
            Dc the true grid must then be whole, dropped patches being in
            ``empty``. Defaults to False.

    Returns:
        PuzzleScores: The scores.

    Raises:
        HimeError: If there is no piece, shapes or numbers are wrong, or two
            pieces are in one cell; also if SciPy is missing.
    """
    guess, truth = check_cells(guess, 'guess'), check_cells(truth, 'truth')
    n = len(truth)
    if len(guess) != n:
        raise HimeError(f'{len(guess)} pieces were put into cells, but there are {n}')
    there = pieces_there(empty, n)
    label = check_flat(np.zeros(n, int) if parts is None else parts, n, 'parts')[there]
    wrong = None if turns is None else _wrong_turns(turns, n)[there]
    hues = check_flat(np.zeros(n, int) if colors is None else colors, n, 'colors')[there]
    grid = _size(truth)
    guess, truth = guess[there], truth[there]
    check_pieces(guess, truth, label)
    borders = find_borders(truth)
    first, second = borders.first, borders.second
    scores = []
    for code, hue in product(range(8), np.unique(hues)) if symmetries else [(0, 0)]:
        turned = np.full(len(truth), code) if wrong is None else wrong
        steps = np.einsum('nij,nj->ni', MATRICES[turned[first]], truth[second] - truth[first])
        right = (guess[second] - guess[first] == steps).all(axis=1)
        right &= (turned[first] == turned[second]) & (label[first] == label[second])
        right &= hues[first] == hues[second]
        in_cell = (guess == move_cells(truth, grid, code)).all(axis=1)
        in_cell &= (turned == code) & (hues == hue)
        scores.append(
            PuzzleScores(
                float(in_cell.mean()) if parts is None else None,
                float(right.mean()) if len(right) else None,
                largest_part(len(truth), first[right], second[right]),
            )
        )
    return max(scores, key=lambda one: (one.direct or 0) + (one.neighbor or 0) + one.largest)


def find_borders(cells: np.ndarray) -> Borders:
    """The borders of an arrangement, cells int64 of shape (n, 2), none of them twice."""
    cells = cells - cells.min(axis=0)
    board = np.full(_size(cells), -1)
    board[tuple(cells.T)] = np.arange(len(cells))
    first = np.concatenate([board[:, :-1].ravel(), board[:-1].ravel()])
    second = np.concatenate([board[:, 1:].ravel(), board[1:].ravel()])
    below = np.arange(len(first)) >= board[:, 1:].size
    both = (first >= 0) & (second >= 0)
    return Borders(first[both], second[both], below[both].astype(int))


def score_pixel_order(guess: np.ndarray, truth: np.ndarray) -> float:
    """The share of pixels of a patch whose place was found, up to a mirrored or turned patch.

    Which of the eight symmetries it is only mirrors or turns the whole picture.

    Args:
        guess (np.ndarray): int64 of shape (p², ): place k of an encrypted patch
            holds pixel ``guess[k]``, numbered row-major.
        truth (np.ndarray): int64 of shape (p², ), likewise.

    Raises:
        HimeError: If they are no permutations of the pixels of a square.
    """
    guess, truth = np.asarray(guess), np.asarray(truth)
    side = int(np.sqrt(guess.size))
    for order in (guess, truth):
        if order.shape != (side * side,) or (np.sort(order) != np.arange(side * side)).any():
            raise HimeError(
                f'an order of pixels holds each number from 0 to p² - 1 once, not {order.shape} '
                'numbers like these'
            )
    cells = cells_of(truth, (side, side))
    orders = (move_cells(cells, (side, side), code) @ [side, 1] for code in range(8))
    return max(float((guess == order).mean()) for order in orders)


def check_cells(cells: np.ndarray, name: str) -> np.ndarray:
    """Refuse what are no cells, int64 of shape (n, 2)."""
    cells = np.asarray(cells)
    if cells.ndim != 2 or cells.shape[1] != 2 or not np.issubdtype(cells.dtype, np.integer):
        raise HimeError(
            f'`{name}` has whole numbers and the shape (n, 2), got {cells.dtype} of {cells.shape}'
        )
    return cells.astype(np.int64)


def pieces_there(empty: np.ndarray | None, n: int) -> np.ndarray:
    """Which of n slots hold a piece, bool of shape (n, )."""
    return np.ones(n, bool) if empty is None else ~check_flat(empty, n, 'empty').astype(bool)


def check_flat(values: np.ndarray, n: int, name: str) -> np.ndarray:
    """Refuse what has not one entry for each of n pieces."""
    values = np.asarray(values)
    if values.shape != (n,):
        raise HimeError(f'`{name}` has one entry for each of {n} pieces, got {values.shape}')
    return values


def _wrong_turns(turns: tuple[np.ndarray, np.ndarray], n: int) -> np.ndarray:
    """By which symmetry each piece is turned wrong once the guess has been followed."""
    guess, truth = (check_flat(one, n, 'turns') for one in turns)
    if not np.isin([guess, truth], range(8)).all():
        raise HimeError('`turns` are whole numbers from 0 to 7, one for each symmetry of a square')
    return BETWEEN[guess.astype(int), truth.astype(int)]


def check_pieces(guess: np.ndarray, truth: np.ndarray, parts: np.ndarray) -> None:
    """Refuse a puzzle without pieces, and two pieces in one cell."""
    if not len(truth):
        raise HimeError('there is no piece to judge: all patches were dropped')
    if truth.min() < 0:
        raise HimeError('true rows and columns begin at 0')
    for name, columns in (('truth', [*truth.T]), ('guess', [parts, *guess.T])):
        table = np.stack(columns)[:, np.lexsort(columns)]
        if (np.diff(table) == 0).all(axis=0).any():
            raise HimeError(f'two pieces are in one cell of the {name}')


def largest_part(n: int, first: np.ndarray, second: np.ndarray) -> float:
    """The share of n pieces in the largest set that these links connect."""
    if not len(first):
        return 1 / n
    sparse, graph = needed('scipy.sparse'), needed('scipy.sparse.csgraph')
    linked, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
    ends = ends.reshape(2, -1)
    links = sparse.coo_matrix((np.ones(len(first)), (ends[0], ends[1])), (len(linked),) * 2)
    _, labels = graph.connected_components(links, directed=False)
    return float(np.bincount(labels).max() / n)


def _size(cells: np.ndarray) -> tuple[int, int]:
    rows, cols = cells.max(axis=0, initial=0) + 1
    return int(rows), int(cols)
