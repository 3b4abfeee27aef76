# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a step is, and what is asked of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from hime_mm.errors import CipherError

from ..figures import quoted
from ..layout import PatchLayout
from ..randomness import RNG

#: Values that a step clipped, and of how many, by the step's short form.
ClipStats = dict[str, tuple[int, int]]

STEPS: dict[str, type['Step']] = {}


def register_step(cls: type['Step']) -> type['Step']:
    """Make a step known by its name in cipher strings and config dicts."""
    cls.leaves = quoted(cls.leaves)
    STEPS[cls.name] = cls
    return cls


@dataclass(frozen=True)
class Step:
    """One step of a cipher: a frozen dataclass of its parameters.

    Its kernel is a function ``kernel(img, drawn, patch_size)``: ``img`` has
    the shape (H, W), (H, W, C) or (B, H, W, C) and one of the pixel types of
    :func:`~hime_mm.ciphers.grid.check_image`, ``drawn`` holds one value for
    each of N = HW/P² patches, of one image or of each of a batch; what comes
    out is a new image of the same type. With ``inverse=True`` it is undone,
    if the step is invertible. A kernel that takes something else is called by
    an :meth:`apply` of the step's own.

    The traits are all that others decide by; those that depend on a parameter
    are properties.
    """

    #: Name in cipher strings and config dicts.
    name: ClassVar[str]
    #: What people and machines can still read after this step alone; it quotes
    #: ``figures.json``, as ``figures.py`` says.
    leaves: ClassVar[str]
    #: Forms in which it comes, the usual one first.
    forms: ClassVar[tuple[str, ...]] = ()
    #: The computation, with its randomness handed in.
    kernel: ClassVar[Callable[..., np.ndarray]]

    #: Whether the step can be undone by whoever holds its randomness.
    invertible: ClassVar[bool]
    #: 'image' draws anew for every image, 'dataset' once for all of them.
    scope: ClassVar[str] = 'image'
    #: Whether pixels change places, so that masks cannot follow.
    moves_pixels: ClassVar[bool] = False
    #: Whether patches change places, so that boxes travel.
    moves_patches: ClassVar[bool] = False
    #: Whether the pixels of a patch go to arbitrary places in it.
    scatters: ClassVar[bool] = False
    #: Whether a pixel becomes the average of several of its patch.
    averages: ClassVar[bool] = False
    #: Whether the mean of each patch goes.
    removes_means: ClassVar[bool] = False
    #: Whether the border of each patch goes.
    drops_border: ClassVar[bool] = False
    #: Whether whole patches go.
    drops_patches: ClassVar[bool] = False
    #: Whether each value gets noise of its own.
    adds_noise: ClassVar[bool] = False
    #: What is the matter with patches of one pixel, if anything is.
    on_one_pixel: ClassVar[str] = ''

    @property
    def keeps_grey(self) -> bool:
        """bool: Whether mid-grey is no colour in what this gives, but stands for 'nothing here'."""
        return False

    @property
    def paints_border(self) -> bool:
        """bool: Whether each patch gets a border that shows nothing."""
        return False

    @property
    def repeats(self) -> bool:
        """bool: Whether each pixel stands several times in its patch."""
        return False

    @property
    def shared(self) -> bool:
        """bool: Whether all images of a data set share what is drawn."""
        return self.scope == 'dataset'

    def leaves_means_only(self, patch_size: int) -> bool:
        """Whether of patches of this side nothing but the means is left."""
        return False

    @classmethod
    def parse(cls, number: str, option: str) -> 'Step':
        """Build the step from its short form ``name[number][:option]``.

        The first parameter of the step is its number, the second its option.
        """
        names = [field.name for field in fields(cls)]
        given = [int(number) if number else None, option or None]
        if any(value is not None for value in given[len(names) :]):
            kinds = ('number', 'option')[len(names) :]
            raise CipherError(f'{cls.name!r} takes no {" and no ".join(kinds)}')
        return cls(
            **{name: value for name, value in zip(names, given, strict=False) if value is not None}
        )

    def __str__(self) -> str:
        """The short form, such that parsing it gives an equal step."""
        text = self.name
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str):
                text += str(value)
            elif value != field.default:
                text += f':{value}'
        return text

    def to_dict(self) -> dict:
        """The step as a config dict."""
        return dict(type=self.name, **vars(self))

    def check(self, patch_size: int) -> None:
        """Refuse patches of a side that the step cannot work on."""
        if patch_size == 1 and self.on_one_pixel:
            raise CipherError(f'{self.name!r} {self.on_one_pixel}')

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        """The layout after this step, without any randomness."""
        return layout

    def choices(self, channels: tuple[int, ...]) -> Sequence:
        """All values of which one is drawn for each patch, where there are few.

        ``channels`` is the shape of a pixel. Steps that draw something else,
        or nothing, have none.
        """
        return ()

    @property
    def draws(self) -> bool:
        """bool: Whether the key decides anything of what it does."""
        return type(self).draw is not Step.draw

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> Any:
        """Draw what :meth:`apply` needs for one image of this layout.

        ``channels`` is the shape of a pixel: () of a grayscale image.
        """
        return None

    def add_drawn(self, layout: PatchLayout, drawn: Any) -> PatchLayout:
        """The layout with what the key holder knows from ``drawn``."""
        return layout

    def apply(
        self, img: np.ndarray, layout: PatchLayout, drawn: Any, stats: ClipStats | None = None
    ) -> np.ndarray:
        """Encrypt ``img``, whose layout before this step is ``layout``.

        A step that clips adds to ``stats`` where that is given.
        """
        return self.kernel(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout, drawn: Any) -> np.ndarray:
        """Decrypt ``img``, whose layout before this step was ``layout``."""
        if not self.invertible:
            raise CipherError(f'{self.name!r} deletes data: nothing can undo it')
        return self.kernel(img, drawn, layout.patch_size, inverse=True)

    def _count_clipped(self, result: tuple[np.ndarray, int], stats: ClipStats | None) -> np.ndarray:
        """The image of a kernel that tells how many values it clipped."""
        img, clipped = result
        if stats is not None:
            before = stats.get(str(self), (0, 0))
            stats[str(self)] = (before[0] + clipped, before[1] + img.size)
        return img


def check_integer(step: Step, name: str, low: int, high: int) -> None:
    """Refuse a parameter that is no whole number in a range."""
    value = getattr(step, name)
    if isinstance(value, bool) or not isinstance(value, int) or not (low <= value <= high):
        raise CipherError(
            f'{step.name!r} needs a whole number as `{name}`, from {low} to {high}, got {value!r}'
        )


def check_form(name: str, form: str, forms: tuple[str, ...]) -> None:
    """Refuse a form that the step of this name has not."""
    if form not in forms:
        raise CipherError(f'{name!r} has no form {form!r}: choose ' + ' or '.join(map(repr, forms)))
