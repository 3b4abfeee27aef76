# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The eight ways to mirror and turn a picture of squares.

They are numbered as the step ``orient`` numbers them: symmetry c mirrors left
to right where c & 4, then turns counter-clockwise by (c & 3) · 90 degrees.
"""

import numpy as np

_MIRROR = np.array([[1, 0], [0, -1]])
_TURN = np.array([[0, -1], [1, 0]])

#: int64 of shape (8, 2, 2): what becomes of a step of (rows, columns).
MATRICES = np.stack(
    [
        np.linalg.matrix_power(_TURN, code & 3) @ np.linalg.matrix_power(_MIRROR, code >> 2)
        for code in range(8)
    ]
)
_CODES = {matrix.tobytes(): code for code, matrix in enumerate(MATRICES)}

#: int64 of shape (8, 8): entry (a, b) is the symmetry that, after b, makes a.
BETWEEN = np.array([[_CODES[(a @ b.T).tobytes()] for b in MATRICES] for a in MATRICES])


def move_cells(cells: np.ndarray, grid: tuple[int, int], code: int) -> np.ndarray:
    """Where the cells of a grid are once the whole of it is mirrored and turned.

    Args:
        cells (np.ndarray): int64 of shape (n, 2), row and column.
        grid (tuple[int, int]): Rows and columns; a quarter turn swaps them.
        code (int): Of the symmetry.
    """
    corners = np.array([[0, 0], [grid[0] - 1, grid[1] - 1]]) @ MATRICES[code].T
    return cells @ MATRICES[code].T - corners.min(axis=0)
