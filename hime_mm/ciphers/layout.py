# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Coordinates of an image before and after encryption."""

from dataclasses import dataclass, field, fields, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hime_mm.errors import BoxError

from .permutation import check_permutation, invert_permutation
from .travel import GRAIN, cells_of, centres_of, rounded, strays_of, travel

# Pixels by which a box that lay within the original may stick out of it where
# it came from, by rounding alone.
_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class PatchLayout:
    """What is needed to go between original and encrypted coordinates.

    Boxes are mapped in two steps: they are scaled, and where patches were
    shuffled each one travels with the patch that holds its centre,
    box' = box + (origin of the slot − origin of the patch).

    Args:
        ori_shape (tuple[int, int]): Height and width of the original in
            pixels.
        patch_size (int): Side of a patch in pixels of the *encrypted* image.
        grid (tuple[int, int]): Rows and columns of patches.
        scale (tuple[float, float]): Encrypted pixels per original pixel,
            (x, y).
        permutation (np.ndarray, optional): int64 of shape (rows·cols, ), slot
            k holds patch ``permutation[k]``. Only the key holder has it; it
            is left out of ``repr``, of :meth:`to_dict` and of pickles, but
            for those that go from one process of :mod:`multiprocessing` to
            another. Defaults to None.
        shuffled (bool): Whether patches were moved, with or without the
            permutation being known here. Defaults to False.
        erosion (int): Pixels that were dropped at each side of every patch.
            In an eroded image that shrank, ``scale`` is that of the grid: a
            point keeps its relative place in its patch. Defaults to 0.
        reshuffled (bool): Whether patches were moved once more by somebody
            who does not know how they had been moved, so that the key
            holder's permutation does not map this image's boxes either.
            Defaults to False.
        cropped (bool): Whether the original was cropped, flipped or
            recoloured before it was encrypted, so that ``ori_shape`` is that
            of what was left, and boxes have no place in the original.
            Defaults to False.

    Raises:
        BoxError: If ``permutation`` is given for a reshuffled image.
        CipherError: If it is no permutation of the patches.
    """

    ori_shape: tuple[int, int]
    patch_size: int
    grid: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    permutation: np.ndarray | None = field(default=None, repr=False)
    shuffled: bool = False
    erosion: int = 0
    reshuffled: bool = False
    cropped: bool = False

    def __post_init__(self) -> None:
        if self.permutation is not None:
            if self.reshuffled:
                raise BoxError(
                    'the patches of this image were shuffled once more after '
                    'the encryption: its permutation does not map its boxes'
                )
            object.__setattr__(
                self, 'permutation', check_permutation(self.permutation, self.num_patches)
            )
            object.__setattr__(self, 'shuffled', True)

    @property
    def num_patches(self) -> int:
        """int: Number of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def shape(self) -> tuple[int, int]:
        """tuple[int, int]: Height and width of the encrypted image."""
        return (self.grid[0] * self.patch_size, self.grid[1] * self.patch_size)

    def public(self) -> 'PatchLayout':
        """The layout without its permutation: what may be handed over."""
        return replace(self, permutation=None)

    def in_place(self) -> 'PatchLayout':
        """The layout as if no patch had moved: boxes are scaled only."""
        return replace(self, permutation=None, shuffled=False)

    def __getstate__(self) -> dict:
        """What is pickled, in whatever dump or checkpoint: no permutation."""
        return {**vars(self), 'permutation': None}

    def __copy__(self) -> 'PatchLayout':
        return self

    def __deepcopy__(self, memo: dict) -> 'PatchLayout':
        return self

    def within(
        self, ori_shape: tuple[int, int], scale: tuple[float, float], cropped: bool = False
    ) -> 'PatchLayout':
        """The layout of a picture that was sized before it was encrypted.

        Args:
            ori_shape (tuple[int, int]): Its height and width before.
            scale (tuple[float, float]): Pixels after per pixel before, (x, y).
            cropped (bool): Whether it was not the original any more. Defaults
                to False.

        Returns:
            PatchLayout: From the picture before it was sized.
        """
        return replace(
            self,
            ori_shape=ori_shape,
            scale=(scale[0] * self.scale[0], scale[1] * self.scale[1]),
            cropped=cropped,
        )

    @property
    def needs_key(self) -> bool:
        """bool: Whether boxes come back to the key holder only."""
        return (
            self.shuffled and self.permutation is None and not self.reshuffled and not self.cropped
        )

    @property
    def obstacle(self) -> str | None:
        """str | None: Why boxes do not come back to the original; None where they do.

        It goes by what is known here.
        """
        if self.reshuffled:
            return (
                'patches were shuffled once more after the encryption, '
                'with `hime_mm.PatchReshuffle`: nobody can map boxes. '
                'Leave that transform to training pipelines'
            )
        if self.cropped:
            return (
                'images were cropped, flipped or recoloured before they '
                'were encrypted, so boxes have no place in the originals: '
                'predict on images without augmentation and `center_crop`'
            )
        if self.needs_key:
            return (
                'patches were shuffled and the layout holds no '
                'permutation: only the key holder can map boxes'
            )
        return None

    def to_dict(self) -> dict:
        """The public part as plain numbers, for a manifest or a log.

        Returns:
            dict: The keys ``ori_shape``, ``patch_size``, ``grid``, ``scale``,
            ``shuffled`` and ``erosion``, and ``reshuffled`` and ``cropped``
            where they are set.
        """
        state = dict(
            ori_shape=list(self.ori_shape),
            patch_size=self.patch_size,
            grid=list(self.grid),
            scale=list(self.scale),
            shuffled=self.shuffled,
            erosion=self.erosion,
        )
        for name in ('reshuffled', 'cropped'):
            if getattr(self, name):
                state[name] = True
        return state

    @classmethod
    def from_dict(cls, state: dict) -> 'PatchLayout':
        """Build a layout from what :meth:`to_dict` gave.

        Args:
            state (dict): As given by :meth:`to_dict`.

        Returns:
            PatchLayout: The layout, without a permutation.
        """
        return cls(
            ori_shape=tuple(state['ori_shape']),
            patch_size=state['patch_size'],
            grid=tuple(state['grid']),
            scale=tuple(state['scale']),
            shuffled=state['shuffled'],
            erosion=state.get('erosion', 0),
            reshuffled=state.get('reshuffled', False),
            cropped=state.get('cropped', False),
        )

    def map_boxes(self, boxes: ArrayLike, precision: Any = np.float64) -> np.ndarray:
        """Boxes of the original image in encrypted coordinates.

        A moved box keeps its size and its offset to its patch, so it may
        stick out of the image. Its centre lies in the slot of its patch, also
        after it was rounded to ``precision``, or written as (x, y, w, h) and
        then read in it: one within a few roundings of the ends of its patch
        is moved off them, and one outside of the image to the nearest point
        of the nearest patch, for there is none to travel with.

        Args:
            boxes (array-like): Shape (n, 4), (x1, y1, x2, y2) in pixels of
                the original.
            precision (dtype): Floating-point type in which they will be kept.
                Defaults to float64.

        Returns:
            np.ndarray: float64, shape (n, 4), in pixels of the encrypted
            image.

        Raises:
            BoxError: If ``boxes`` has another shape, or if patches were
                shuffled and a centre is not finite or the permutation is not
                known here.
        """
        boxes = self._check_boxes(boxes)
        boxes *= np.tile(self.scale, 2)
        # What was cropped before does not matter in this direction.
        obstacle = replace(self, cropped=False).obstacle
        if obstacle:
            raise BoxError(obstacle)
        if self.permutation is not None:
            for i in np.flatnonzero(~np.isfinite(centres_of(boxes)).all(axis=1))[:1]:
                raise BoxError(f'box {i} has no centre: {boxes[i].tolist()}')
            inverse = invert_permutation(self.permutation)
            boxes = travel(boxes, inverse, self.patch_size, self.grid, precision)
        return boxes

    def unmap_boxes(self, boxes: ArrayLike) -> np.ndarray:
        """Boxes of the encrypted image in original coordinates.

        The inverse of :meth:`map_boxes`, exact up to rounding for boxes
        whose centre lies inside the image.

        Args:
            boxes (array-like): Shape (n, 4), (x1, y1, x2, y2) in pixels of
                the encrypted image.

        Returns:
            np.ndarray: float64, shape (n, 4), in pixels of the original.

        Raises:
            BoxError: If ``boxes`` has another shape, there is an
                :attr:`obstacle`, or patches were moved and a box is in no
                slot, see :meth:`find_strays`.
        """
        boxes = self._check_boxes(boxes)
        if self.obstacle:
            raise BoxError(self.obstacle)
        for i in self.find_strays(boxes)[:1]:
            raise BoxError(f'box {i} is in no slot: {self.describe_stray(boxes[i])}')
        if self.permutation is not None:
            boxes = travel(boxes, self.permutation, self.patch_size, self.grid)
        return boxes / np.tile(self.scale, 2)

    def find_strays(self, boxes: ArrayLike) -> np.ndarray:
        """Which boxes of the encrypted image are in no slot, though patches were moved.

        Their centre lies outside of the image, by more than rounding, or is
        not finite. No patch brings such a box back.

        Args:
            boxes (array-like): Shape (n, 4), (x1, y1, x2, y2) in pixels of
                the encrypted image.

        Returns:
            np.ndarray: int64, their indices in order; none where patches lie
            in their places.
        """
        if not self.shuffled:
            return np.zeros(0, np.int64)
        return np.flatnonzero(strays_of(self._check_boxes(boxes), self.shape))

    def describe_stray(self, box: ArrayLike) -> str:
        """What is wrong with a box that :meth:`find_strays` found, for a message."""
        (x, y), (h, w) = centres_of(np.array([box], np.float64))[0], self.shape
        return (
            f'its centre ({x:g}, {y:g}) lies outside of the encrypted image of {h}x{w} (height x '
            'width), so no patch takes it back. A model whose boxes leave the token that they come '
            'from, boxes that were scaled, or those of another image do that'
        )

    def cells(self, boxes: ArrayLike) -> np.ndarray:
        """The slots of the encrypted image that hold the centres of boxes.

        A centre on a border belongs to the slot behind it, to the right or
        below.

        Args:
            boxes (array-like): Shape (n, 4), (x1, y1, x2, y2) in pixels of
                the encrypted image.

        Returns:
            np.ndarray: int64, shape (n, ), numbered row-major. For a centre
            outside the image it is the nearest slot.

        Raises:
            BoxError: If ``boxes`` has another shape.
        """
        return cells_of(self._check_boxes(boxes), self.patch_size, self.grid)

    def round_boxes(self, boxes: ArrayLike, steps: ArrayLike) -> np.ndarray:
        """Moved boxes so coarse that their numbers do not tell where they were.

        Numbers that were multiples of a step in the original are such ones
        again in few places, see :meth:`count_places`. Rounded as coarsely in
        the encrypted image, they may come from any.

        Args:
            boxes (array-like): Shape (n, 4), (x1, y1, x2, y2) in pixels of
                the encrypted image.
            steps (array-like): Shape (n, ), what the numbers of each box are
                multiples of in the original, in its pixels; 0 for nothing.

        Returns:
            np.ndarray: float64, shape (n, 4), each box on multiples of the
            smallest power of two that is no smaller than its step, or of the
            largest that divides the patch size, and in the slot that it was
            in.
        """
        boxes, steps = self._check_boxes(boxes), np.asarray(steps, np.float64)
        need = np.maximum(steps * max(self.scale), GRAIN)
        grain = np.minimum(2.0 ** np.ceil(np.log2(need)), self.patch_size & -self.patch_size)
        coarse = rounded(boxes, grain[:, None], self.patch_size, self.grid)
        return np.where(steps[:, None] > 0, coarse, boxes)

    def count_places(self, boxes: ArrayLike, steps: ArrayLike = 0) -> np.ndarray:
        """From how many places the patches of boxes may come, for whoever has no key.

        Where a box lies in its patch does not change when the patch moves,
        and the box lay within the original: of a large one, only few patches
        can hold the centre. Where its numbers were multiples of a step in the
        original, they are such ones in few places, too. Crowds are boxes as
        any. A box that stuck out of the original leaves too few places, or
        wrong ones.

        Args:
            boxes (array-like): Shape (n, 4), (x1, y1, x2, y2) in pixels of
                the encrypted image, as they are handed over.
            steps (array-like): Shape (n, ), or one for all: what the numbers
                of each box are multiples of in the original, in its pixels; 0
                for nothing. Defaults to 0.

        Returns:
            np.ndarray: int64, shape (n, ), from 0 to the number of patches.

        Raises:
            BoxError: If ``boxes`` has another shape.
        """
        boxes = self._check_boxes(boxes)
        steps = np.broadcast_to(np.asarray(steps, np.float64), len(boxes))[:, None, None]
        cells, size, slack = self.cells(boxes), self.patch_size, _slack(boxes)[:, None, None]
        places = np.ones(len(boxes), np.int64)
        for axis, cell in enumerate((cells % self.grid[1], cells // self.grid[1])):
            num, scale = self.grid[1 - axis], self.scale[axis]
            extent = min(self.ori_shape[1 - axis] * scale, num * size)
            ends = boxes[:, [axis, axis + 2]] - cell[:, None] * size
            # Of each box both ends, with its patch in each row or column.
            ends = ends[:, None] + np.arange(num)[:, None] * size
            fits = (ends[..., 0] >= -_ROUNDING) & (ends[..., 1] <= extent + _ROUNDING)
            step = np.where(steps > 0, steps, 1) * scale
            off = np.abs(ends - np.rint(ends / step) * step)
            exact = fits & ((off <= slack) | (steps == 0)).all(axis=-1)
            # One that gave way to a border is nowhere exact.
            places *= np.where(exact.any(axis=1), exact.sum(axis=1), fits.sum(axis=1))
        return places

    def count_telling(self, boxes: np.ndarray, steps: ArrayLike = 0) -> int:
        """How many boxes leave their patches at most two places to come from.

        See :meth:`count_places`. None does where no patch was moved.
        """
        if not self.shuffled or not len(boxes):  # most pictures of a folder
            return 0
        return int((self.count_places(boxes, steps) <= 2).sum())

    @staticmethod
    def _check_boxes(boxes: ArrayLike) -> np.ndarray:
        boxes = np.array(boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise BoxError(f'boxes must have shape (n, 4), (x1, y1, x2, y2), got {boxes.shape}')
        return boxes


def _slack(boxes: np.ndarray) -> np.ndarray:
    """By how much at most each box was rounded: half of what its numbers are multiples of."""
    grains = np.full(len(boxes), GRAIN)
    grain = 2 * GRAIN
    while grain <= 8 and len(boxes):
        grains[(boxes % grain == 0).all(axis=1)] = grain
        grain *= 2
    return grains / 2 + GRAIN


def reduce_secret(layout: PatchLayout) -> tuple:
    """What :mod:`pickle` makes the layout of again, with its permutation.

    For objects that are the owner's alone; elsewhere a pickled layout has none.
    """
    return PatchLayout, tuple(getattr(layout, one.name) for one in fields(layout))


# Between the processes of a program it stays: data loaders have workers.
ForkingPickler.register(PatchLayout, reduce_secret)
