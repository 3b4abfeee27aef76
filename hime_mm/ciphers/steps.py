# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The steps a cipher is made of.

A step knows its parameters, what randomness it needs for an image, how to
apply itself with that randomness, and how it changes the layout.  To add a
step, subclass :class:`Step` and decorate it with :func:`register_step`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Dict, Tuple, Type

import numpy as np

from .functional import mix_patches, shuffle_patches, unshuffle_patches
from .layout import PatchLayout
from .randomness import RandomSource, draw_permutation

STEPS: Dict[str, Type['Step']] = {}


def register_step(cls: Type['Step']) -> Type['Step']:
    """Make a step known by its name in cipher strings and config dicts."""
    STEPS[cls.name] = cls
    return cls


class Step(ABC):
    """One step of a cipher."""

    #: Name in cipher strings and config dicts.
    name: ClassVar[str]
    #: Whether the step can be undone by whoever holds its randomness.
    invertible: ClassVar[bool]
    #: What people and machines can still read after this step alone.
    leaves: ClassVar[str]

    @classmethod
    @abstractmethod
    def parse(cls, number: str, option: str) -> 'Step':
        """Build the step from its short form ``name[number][:option]``."""

    @abstractmethod
    def __str__(self) -> str:
        """The short form, such that parsing it gives an equal step."""

    def to_dict(self) -> dict:
        """The step as a config dict."""
        return dict(type=self.name, **vars(self))

    def check(self, patch_size: int) -> None:
        """Raise ValueError if the step cannot work on patches of this side."""

    @abstractmethod
    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        """The layout after this step, without any randomness."""

    def draw(self, layout: PatchLayout, source: RandomSource) -> Any:
        """Draw what :meth:`apply` needs for one image of this layout."""
        return None

    def add_drawn(self, layout: PatchLayout, drawn: Any) -> PatchLayout:
        """The layout with what the key holder knows from ``drawn``."""
        return layout

    @abstractmethod
    def apply(self, img: np.ndarray, layout: PatchLayout,
              drawn: Any) -> np.ndarray:
        """Encrypt ``img``, whose layout before this step is ``layout``."""

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        """Decrypt ``img``, whose layout before this step was ``layout``."""
        raise ValueError(f'{self.name!r} deletes data: nothing can undo it')


@register_step
@dataclass(frozen=True)
class Shuffle(Step):
    """Random shuffling (RS): every patch moves to a random slot.

    Slot k of the encrypted image holds patch ``perm[k]``; the permutation is
    drawn anew for every image. Undone with the permutation.

    Reference: Hao et al., IJCAI 2025, RS.
    """

    name: ClassVar[str] = 'shuffle'
    invertible: ClassVar[bool] = True
    leaves: ClassVar[str] = (
        'every pixel of every patch, colour histograms, text and objects '
        'smaller than a patch; a jigsaw solver without the key put 97.5 % of '
        'the neighbouring patches back (16-pixel patches, 224x224)')

    @classmethod
    def parse(cls, number: str, option: str) -> 'Shuffle':
        if number or option:
            raise ValueError("'shuffle' takes no number and no option")
        return cls()

    def __str__(self) -> str:
        return self.name

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        return replace(layout, shuffled=True)

    def draw(self, layout: PatchLayout, source: RandomSource) -> np.ndarray:
        return draw_permutation(layout.num_patches, source)

    def add_drawn(self, layout: PatchLayout, drawn: Any) -> PatchLayout:
        return replace(layout, permutation=drawn)

    def apply(self, img: np.ndarray, layout: PatchLayout,
              drawn: Any) -> np.ndarray:
        return shuffle_patches(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        return unshuffle_patches(img, drawn, layout.patch_size)


@register_step
@dataclass(frozen=True)
class Mix(Step):
    """Mixing-up (MI): every patch becomes the average of its sub-patches.

    Needs no key and cannot be undone exactly: (g² − 1)/g² of the numbers are
    gone. Patch order is kept.

    Reference: Hao et al., IJCAI 2025, MI.

    Args:
        num_splits (int): g, each patch is cut into g x g sub-patches.
            Defaults to 2.
        form (str): ``'compact'`` or ``'tiled'``, see
            :func:`~hime_mm.ciphers.functional.mix_patches`. Defaults to
            'compact'.
    """

    num_splits: int = 2
    form: str = 'compact'

    name: ClassVar[str] = 'mix'
    invertible: ClassVar[bool] = False
    leaves: ClassVar[str] = (
        'the mean colour of every patch in its place, which is a mosaic of '
        'the image: at 640x480 faces are recognisable, and a linear inversion '
        'learnt from public images reached 22 dB (16-pixel patches, g = 2)')

    def __post_init__(self) -> None:
        if not isinstance(self.num_splits, int) or self.num_splits < 2:
            raise ValueError("'mix' needs a whole number of splits of at "
                             f'least 2, got {self.num_splits!r}')
        if self.form not in ('compact', 'tiled'):
            raise ValueError(f"'mix' has no form {self.form!r}: choose "
                             "'compact' or 'tiled'")

    @classmethod
    def parse(cls, number: str, option: str) -> 'Mix':
        return cls(int(number or 2), option or 'compact')

    def __str__(self) -> str:
        option = '' if self.form == 'compact' else f':{self.form}'
        return f'{self.name}{self.num_splits}{option}'

    @property
    def shrink(self) -> int:
        """int: By how much the image gets smaller."""
        return self.num_splits if self.form == 'compact' else 1

    def check(self, patch_size: int) -> None:
        if patch_size % self.num_splits:
            raise ValueError(
                f'{str(self)!r} cannot cut patches of side {patch_size} into '
                f'{self.num_splits}x{self.num_splits} sub-patches: choose a '
                f'divisor of {patch_size}')

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        return replace(
            layout,
            patch_size=layout.patch_size // self.shrink,
            scale=tuple(s / self.shrink for s in layout.scale))

    def apply(self, img: np.ndarray, layout: PatchLayout,
              drawn: Any) -> np.ndarray:
        return mix_patches(img, layout.patch_size, self.num_splits, self.form)


def check_steps(steps: Tuple[Step, ...], patch_size: int) -> None:
    """Refuse a list of steps that makes no sense, with the reason.

    Args:
        steps (tuple[Step]): In order of application.
        patch_size (int): Side of a patch of the plain image in pixels.

    Raises:
        ValueError: If there is no step, a step comes twice, or one does not
            fit the patch size.
    """
    if not steps:
        raise ValueError('a cipher needs at least one step: choose from '
                         f'{sorted(STEPS)}')
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f'{name!r} stands more than once in a cipher: a second time '
                'it adds nothing that one such step could not do')
    layout = PatchLayout((patch_size, patch_size), patch_size, (1, 1))
    for step in steps:
        step.check(layout.patch_size)
        layout = step.next_layout(layout)
