# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an adversary holds, what an attack is, and what comes out of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from typing import ClassVar, NamedTuple

import cv2
import numpy as np

from hime_mm.ciphers import Cipher, PatchLayout, Step, join_patches, split_patches
from hime_mm.errors import AttackError

#: Of a picture, for attacks that compare all pairs: so many take some gigabytes.
MOST_PATCHES = 6000
#: What an owner may have scaled pictures by, the default first.
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)
ATTACKS: dict[str, type['Attack']] = {}


def register_attack(cls: type['Attack']) -> type['Attack']:
    """Make an attack known by its name."""
    ATTACKS[cls.name] = cls
    return cls


class Practice(NamedTuple):
    """A public picture that the adversary encrypted, so that all of it is known."""

    plain: np.ndarray  #: uint8 of shape (H, W) or (H, W, C), sides multiples of the patch size.
    encrypted: np.ndarray
    layout: PatchLayout  #: With the permutation that the adversary drew.
    drawn: list  #: All that was drawn.


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an adversary without the key holds: never the truth.

    The cipher is public (Kerckhoffs), and with it all but what the key draws.

    Attributes:
        images (list[np.ndarray]): Encrypted pictures, uint8 of shape (H, W)
            or (H, W, C).
        layouts (Sequence[PatchLayout]): Their public layouts.
        cipher (Cipher): What they were encrypted by.
        public (Sequence[np.ndarray]): Plain pictures of others, uint8, of any
            size: to learn from.
        labels (Sequence[int]): Classes of the public pictures, where known.
        gallery (Sequence[np.ndarray]): Plain pictures, uint8, some of which
            may be the originals.
        pairs (Sequence[tuple[np.ndarray, np.ndarray]]): Known plaintext: plain
            pictures, sized as encryption sizes them, and what the owner's key
            made of them.
        oracle (Callable, optional): Chosen plaintext: encrypts, with the
            owner's key, a plain picture whose sides are multiples of the patch
            size. Defaults to None.
        seed (int): Of all randomness of the attacks. Defaults to 0.

    Raises:
        AttackError: If a layout holds a permutation, or the numbers of
            pictures and layouts differ.
    """

    images: list[np.ndarray]
    layouts: Sequence[PatchLayout]
    cipher: Cipher
    public: Sequence[np.ndarray] = ()
    labels: Sequence[int] = ()
    gallery: Sequence[np.ndarray] = ()
    pairs: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    oracle: Callable[[np.ndarray], np.ndarray] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.images) != len(self.layouts):
            raise AttackError(
                f'{len(self.images)} pictures came with {len(self.layouts)} layouts: give one each'
            )
        if any(layout.permutation is not None for layout in self.layouts):
            raise AttackError(
                'a layout holds its permutation, which an adversary does not know: '
                'hand over `layout.public()`'
            )

    def __getstate__(self) -> dict:
        # The oracle holds the owner's key, and what was learnt from is not needed to guess.
        state = {name: value for name, value in vars(self).items() if name != 'practice'}
        return {**state, 'oracle': None, 'public': (), 'labels': ()}

    def pieces(self, index: int) -> np.ndarray:
        """The patches of an encrypted picture by slot, of shape (n, p, p, C)."""
        return cut(self.images[index], self.layouts[index])

    @cached_property
    def practice(self) -> list[Practice]:
        """list[Practice]: The public pictures, sized like the encrypted ones, and encrypted.

        With randomness of the adversary's own.
        """
        rng = np.random.default_rng(self.seed)
        channels = self.images[0].shape[2:]
        found = []
        for picture, layout in zip(self.public, cycle(self.layouts), strict=False):
            plain = matched(sized(picture, layout.grid, self.cipher.patch_size), channels)
            encrypted, secret, drawn = self.cipher.encrypt(plain, rng)
            found.append(Practice(plain, encrypted, secret, drawn))
        return found

    def left(self, images: list[np.ndarray], *undone: Step) -> 'Evidence | None':
        """The evidence once these steps have been undone, or believed to be.

        Args:
            images (list[np.ndarray]): What the pictures are then.
            undone (Step): Steps of the cipher.

        Returns:
            Evidence | None: As if the steps had never been part of the
            cipher; None if there were no others, so that the pictures are
            plain.
        """
        steps = [step for step in self.cipher.steps if step not in undone]
        if not steps:
            return None
        cipher = Cipher(steps, self.cipher.patch_size)
        layouts = [
            cipher.plan((rows * cipher.patch_size, cols * cipher.patch_size))
            for rows, cols in (layout.grid for layout in self.layouts)
        ]
        return replace(self, images=images, layouts=layouts, cipher=cipher)


@dataclass(frozen=True, eq=False)
class Guess:
    """What an attack says.

    Attributes:
        confidence (float): The larger, the surer; comparable between pictures
            of one attack only.
    """

    confidence: float


@dataclass(frozen=True, eq=False)
class Arrangement(Guess):
    """Where the patches of one picture go.

    Attributes:
        cells (np.ndarray): int64 of shape (n, 2), row and column in the
            picture of the patch in each slot.
        parts (np.ndarray): int64 of shape (n, ), the part that it was merged
            into, before anything was filled up.
        spots (np.ndarray): int64 of shape (n, 2), row and column within it.
        costs (np.ndarray): Shape (2, n, n): that the second patch is right of
            the first, or below it, capped. What was minimised is their sum.
        turns (np.ndarray, optional): int64 of shape (n, ), which of the
            changes of a patch that the attack considers brings it back, where
            ``cells`` has it; 0 is none. None where it considers none.
        part_turns (np.ndarray, optional): Likewise, where ``spots`` has it.
    """

    cells: np.ndarray
    parts: np.ndarray
    spots: np.ndarray
    costs: np.ndarray
    turns: np.ndarray | None = None
    part_turns: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PixelOrder(Guess):
    """How the pixels of all patches were permuted.

    Attributes:
        order (np.ndarray): int64 of shape (p², ), as the step draws it: place
            k of an encrypted patch holds pixel ``order[k]``.
    """

    order: np.ndarray


@dataclass(frozen=True, eq=False)
class Picture(Guess):
    """What a picture looked like.

    Attributes:
        img (np.ndarray): uint8, of the size that the original was encrypted
            in, (H, W) or (H, W, C).
    """

    img: np.ndarray


@dataclass(frozen=True, eq=False)
class Ranking(Guess):
    """Which picture of the gallery it is.

    Attributes:
        scores (np.ndarray): float64 of shape (m, ), the larger, the likelier.
    """

    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class Labels(Guess):
    """Of what class a picture is.

    Attributes:
        scores (np.ndarray): float64 of shape (k, ), the larger, the likelier.
    """

    scores: np.ndarray


class Attack(ABC):
    """One attack.

    It is made without arguments but its settings, learns once what the
    pictures share, and then guesses at each of them on its own.

    Examples:
        >>> import numpy as np
        >>> from hime_mm.attacks.base import Evidence
        >>> from hime_mm.attacks.jigsaw import Jigsaw
        >>> from hime_mm.ciphers import Cipher
        >>> img = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        >>> encrypted, layout, _ = Cipher('shuffle').encrypt(img)
        >>> attack = Jigsaw()
        >>> attack.prepare(Evidence([encrypted], [layout.public()], Cipher('shuffle')))
        >>> attack.guess(0).cells.shape
        (16, 2)
    """

    #: Name in commands and reports.
    name: ClassVar[str]
    #: What it does, in a line.
    title: ClassVar[str]
    #: Where the method is from.
    source: ClassVar[str]
    #: What the adversary holds beside public facts: 'ciphertext-only',
    #: 'known-plaintext' or 'chosen-plaintext'.
    setting: ClassVar[str] = 'ciphertext-only'
    #: Packages that must be there beside NumPy, SciPy and OpenCV.
    requires: ClassVar[tuple[str, ...]] = ()
    #: What its guesses are.
    guesses: ClassVar[type[Guess]]

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        """Why there is nothing to attack here; empty where there is."""
        return ''

    def prepare(self, evidence: Evidence) -> None:
        """Learn from the public pictures, and from all encrypted ones together."""
        self.evidence = evidence

    @abstractmethod
    def guess(self, index: int) -> Guess:
        """Attack one of the encrypted pictures; the same each time it is asked."""


class LayoutAttack(Attack):
    """An attack that says where the patches of each picture were."""

    guesses = Arrangement

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        return too_large(evidence) if evidence.cipher.shuffles else 'no patch is moved'

    def undo(self, index: int, guess: Arrangement) -> np.ndarray:
        """The picture with its patches where the guess has them."""
        return assemble(self.evidence.images[index], self.evidence.layouts[index], guess.cells)


def scattered(evidence: Evidence) -> str:
    """Why patches cannot be compared yet; empty if they can."""
    if any(step.scatters for step in evidence.cipher.steps):
        return 'the pixels within patches are permuted, and have to be put back first'
    return ''


def too_large(evidence: Evidence) -> str:
    """Why costs of all pairs of patches do not fit into the memory; empty if they do."""
    if any(layout.num_patches > MOST_PATCHES for layout in evidence.layouts):
        return f'a picture has more than {MOST_PATCHES} patches'
    return ''


def cut(img: np.ndarray, layout: PatchLayout) -> np.ndarray:
    """The patches of a picture by slot, of shape (n, p, p, C), grey ones with C = 1."""
    return split_patches(img if img.ndim == 3 else img[..., None], layout.patch_size)


def assemble(img: np.ndarray, layout: PatchLayout, cells: np.ndarray) -> np.ndarray:
    """The picture with the patch of each slot moved to its cell, int64 of shape (n, 2)."""
    patches = split_patches(img, layout.patch_size)
    moved = np.empty_like(patches)
    moved[cells[:, 0] * layout.grid[1] + cells[:, 1]] = patches
    return join_patches(moved, layout.grid)


def matched(picture: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    """A picture with the channels of the encrypted ones, () or (3, )."""
    if picture.ndim == 3 and not channels:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    if picture.ndim == 2 and channels:
        return np.repeat(picture[..., None], channels[0], axis=2)
    return picture


def sized(picture: np.ndarray, grid: tuple[int, int], patch_size: int) -> np.ndarray:
    """A public picture as large as this grid of patches, or smaller, but never blown up.

    Blown up it would be smoother than pictures are.
    """
    height, width = (side * patch_size for side in grid)
    scale = max(height / picture.shape[0], width / picture.shape[1])
    if scale < 1:
        size = tuple(max(round(side * scale), patch_size) for side in picture.shape[1::-1])
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    rows, cols = (
        min(side, most) // patch_size
        for side, most in zip(picture.shape[:2], (height, width), strict=True)
    )
    return np.ascontiguousarray(picture[: rows * patch_size, : cols * patch_size])


def resized(
    picture: np.ndarray,
    grid: tuple[int, int],
    patch_size: int,
    interpolations: Sequence[int] = INTERPOLATIONS[:1],
) -> Iterator[np.ndarray]:
    """A picture scaled to a grid of patches by each way; as it is where it has that size."""
    size = (grid[1] * patch_size, grid[0] * patch_size)
    if picture.shape[1::-1] == size:
        yield picture
        return
    for interpolation in interpolations:
        # OpenCV drops a channel axis of length one.
        yield cv2.resize(picture, size, interpolation=interpolation).reshape(
            *size[::-1], *picture.shape[2:]
        )
