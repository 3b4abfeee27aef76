# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The steps a cipher is made of.

A step knows its parameters, what randomness it needs for an image, how to
apply itself with that randomness, and how it changes the layout.  To add a
step, subclass :class:`Step` and decorate it with :func:`register_step`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Dict, Optional, Tuple, Type

import numpy as np

from . import functional as F
from .layout import PatchLayout
from .randomness import (RandomSource, draw_codes, draw_noise,
                         draw_permutation, draw_permutations)

#: Values that a step clipped, and of how many, by the step's short form.
ClipStats = Dict[str, Tuple[int, int]]

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
    #: 'image' draws anew for every image, 'dataset' once for all of them.
    scope: ClassVar[str] = 'image'
    #: Whether pixels change places, so that masks cannot follow.
    moves_pixels: ClassVar[bool] = False
    #: Whether patches change places, so that boxes travel.
    moves_patches: ClassVar[bool] = False

    @property
    def keeps_grey(self) -> bool:
        """bool: Whether mid-grey stands for nothing in what this gives."""
        return getattr(self, 'form', None) == 'filled'

    @property
    def shared(self) -> bool:
        """bool: Whether all images of a data set share what is drawn."""
        return self.scope == 'dataset'

    @classmethod
    def parse(cls, number: str, option: str) -> 'Step':
        """Build the step from its short form ``name[number][:option]``.

        The first parameter of the step is its number, the second its option.
        """
        names = [field.name for field in fields(cls)]
        given = [int(number) if number else None, option or None]
        if any(value is not None for value in given[len(names):]):
            kinds = ('number', 'option')[len(names):]
            raise ValueError(f'{cls.name!r} takes no {" and no ".join(kinds)}')
        return cls(**{
            name: value
            for name, value in zip(names, given) if value is not None
        })

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
        """Raise ValueError if the step cannot work on patches of this side."""

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        """The layout after this step, without any randomness."""
        return layout

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> Any:
        """Draw what :meth:`apply` needs for one image of this layout.

        ``channels`` is the shape of a pixel: () of a grayscale image.
        """
        return None

    def add_drawn(self, layout: PatchLayout, drawn: Any) -> PatchLayout:
        """The layout with what the key holder knows from ``drawn``."""
        return layout

    @abstractmethod
    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        """Encrypt ``img``, whose layout before this step is ``layout``.

        A step that clips adds to ``stats`` where that is given.
        """

    def _count(self, stats: Optional[ClipStats], clipped: int,
               img: np.ndarray) -> None:
        if stats is not None:
            before = stats.get(str(self), (0, 0))
            stats[str(self)] = (before[0] + clipped, before[1] + img.size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        """Decrypt ``img``, whose layout before this step was ``layout``."""
        raise ValueError(f'{self.name!r} deletes data: nothing can undo it')


def _whole(step: str, name: str, value: Any, low: int, high: int) -> None:
    """Refuse what is no whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not (
            low <= value <= high):
        raise ValueError(f'{step!r} needs a whole number as `{name}`, from '
                         f'{low} to {high}, got {value!r}')


def _choice(step: str, value: Any, choices: Tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{step!r} has no form {value!r}: choose '
                         + ' or '.join(map(repr, choices)))


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
    moves_pixels: ClassVar[bool] = True
    moves_patches: ClassVar[bool] = True
    leaves: ClassVar[str] = (
        'every pixel of every patch, colour histograms, text and objects '
        'smaller than a patch; a jigsaw solver without the key put 97.5 % of '
        'the neighbouring patches back (16-pixel patches, 224x224)')

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        return replace(layout, shuffled=True)

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        return draw_permutation(layout.num_patches, source)

    def add_drawn(self, layout: PatchLayout, drawn: Any) -> PatchLayout:
        return replace(layout, permutation=drawn)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.shuffle_patches(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        return F.unshuffle_patches(img, drawn, layout.patch_size)


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
        _whole(self.name, 'num_splits', self.num_splits, 2, 1 << 12)
        _choice(self.name, self.form, ('compact', 'tiled'))

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

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.mix_patches(img, layout.patch_size, self.num_splits,
                             self.form)


@register_step
@dataclass(frozen=True)
class Erode(Step):
    """Drop a border of every patch, which is what a jigsaw solver looks at.

    Needs no key and cannot be undone. Boxes scale with the grid: a point
    keeps its relative place in its patch.

    Args:
        border (int): Pixels dropped at each side. Defaults to 1.
        form (str): ``'compact'`` shrinks the patches, and the image with
            them; ``'filled'`` paints the border in mid-grey. Defaults to
            'compact'.
    """

    border: int = 1
    form: str = 'compact'

    name: ClassVar[str] = 'erode'
    invertible: ClassVar[bool] = False
    leaves: ClassVar[str] = (
        'the image itself, but for a grid of lines; after shuffling, a jigsaw '
        'solver put 60 / 32 / 20 / 12 % of the neighbouring patches back with '
        '1 / 2 / 3 / 4 pixels dropped per side (16-pixel patches, 224x224), '
        'lower bounds, since learned solvers do better')

    def __post_init__(self) -> None:
        _whole(self.name, 'border', self.border, 1, 1 << 12)
        _choice(self.name, self.form, ('compact', 'filled'))

    def check(self, patch_size: int) -> None:
        if 2 * self.border >= patch_size:
            raise ValueError(f'{str(self)!r} leaves nothing of patches of '
                             f'side {patch_size}: drop less')

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        erosion = layout.erosion + self.border
        if self.form == 'filled':
            return replace(layout, erosion=erosion)
        side = layout.patch_size - 2 * self.border
        return replace(
            layout,
            patch_size=side,
            scale=tuple(s * side / layout.patch_size for s in layout.scale),
            erosion=erosion)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.erode_patches(img, layout.patch_size, self.border, self.form)


@register_step
@dataclass(frozen=True)
class Drop(Step):
    """Leave out a share of the patches, chosen anew for every image.

    They are painted in mid-grey, so that the grid, boxes and batches stay as
    they are. Cannot be undone.

    Args:
        percent (int): Share of the patches in percent, rounded down to whole
            patches. Defaults to 50.
    """

    percent: int = 50

    name: ClassVar[str] = 'drop'
    keeps_grey: ClassVar[bool] = True
    invertible: ClassVar[bool] = False
    leaves: ClassVar[str] = (
        'everything of the other patches; after shuffling with half of the '
        'patches left out, a jigsaw solver found 86 % of the neighbours that '
        'remained (16-pixel patches, 224x224)')

    def __post_init__(self) -> None:
        _whole(self.name, 'percent', self.percent, 1, 99)

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        num = layout.num_patches
        dropped = np.zeros(num, bool)
        order = draw_permutation(num, source)
        dropped[order[:num * self.percent // 100]] = True
        return dropped

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.drop_patches(img, drawn, layout.patch_size)


@register_step
@dataclass(frozen=True)
class Center(Step):
    """Remove each patch's mean per channel, and put mid-grey in its place.

    Needs no key and cannot be undone: the means are gone. Values that leave
    the range of integer pixels are clipped and counted.
    """

    name: ClassVar[str] = 'center'
    keeps_grey: ClassVar[bool] = True
    invertible: ClassVar[bool] = False
    leaves: ClassVar[str] = (
        'edges and textures of every patch: faces at 640x480 are outlines; '
        'after shuffling, a jigsaw solver put 40 % of the neighbouring '
        'patches back, 10 % after mixing with g = 2 too (16-pixel patches, '
        '224x224)')

    def check(self, patch_size: int) -> None:
        if patch_size == 1:
            raise ValueError("'center' on patches of one pixel leaves plain "
                             'grey')

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        centred, clipped = F.center_patches(img, layout.patch_size)
        self._count(stats, clipped, img)
        return centred


@register_step
@dataclass(frozen=True)
class Noise(Step):
    """Add Gaussian noise, drawn anew for every image and value.

    Cannot be undone exactly, not even with the key: values that leave the
    range of integer pixels are clipped, and counted.

    Args:
        std (int): Standard deviation in steps of 1/255 of the range. Defaults
            to 25.
    """

    std: int = 25

    name: ClassVar[str] = 'noise'
    invertible: ClassVar[bool] = False
    leaves: ClassVar[str] = (
        'the image under grain that a denoiser removes; after shuffling with '
        'noise of std 25, a jigsaw solver put 29 % of the neighbouring '
        'patches back (16-pixel patches, 224x224)')

    def __post_init__(self) -> None:
        _whole(self.name, 'std', self.std, 1, 255)

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        return draw_noise((*layout.shape, *channels), self.std, source)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        noisy, clipped = F.add_noise(img, drawn)
        self._count(stats, clipped, img)
        return noisy


class _Comparison(Step):
    """A step for comparison with the literature on block encryption.

    Never part of a recommended preset.
    """

    invertible: ClassVar[bool] = True


@register_step
@dataclass(frozen=True)
class Orient(_Comparison):
    """Mirror and rotate every patch by one of eight ways, drawn anew.

    For comparison with block encryption (Kiya et al.); never part of a
    recommended preset. Undone with what was drawn.
    """

    name: ClassVar[str] = 'orient'
    moves_pixels: ClassVar[bool] = True
    leaves: ClassVar[str] = (
        'nearly what there was: the rate of best matches of a jigsaw solver '
        'that tries all orientations fell from 0.90 to 0.85 (16-pixel '
        'patches, 224x224)')

    def check(self, patch_size: int) -> None:
        if patch_size == 1:
            raise ValueError("'orient' does nothing to patches of one pixel")

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        return draw_codes(layout.num_patches, 3, source)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.orient_patches(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        return F.orient_patches(img, drawn, layout.patch_size, inverse=True)


@register_step
@dataclass(frozen=True)
class Negate(_Comparison):
    """Turn about half of the patches into their negative, drawn anew.

    For comparison with block encryption (Kiya et al.); never part of a
    recommended preset. Undone with what was drawn.
    """

    name: ClassVar[str] = 'negate'
    leaves: ClassVar[str] = (
        'nearly what there was: with permuted channels too, the rate of best '
        'matches of a jigsaw solver that tries all variants fell from 0.90 to '
        '0.89 (16-pixel patches, 224x224)')

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        return draw_codes(layout.num_patches, 1, source).astype(bool)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.negate_patches(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        return F.negate_patches(img, drawn, layout.patch_size)


@register_step
@dataclass(frozen=True)
class PermuteChannels(_Comparison):
    """Permute the channels of every patch, drawn anew.

    For comparison with block encryption (Kiya et al.); never part of a
    recommended preset. Undone with what was drawn.
    """

    name: ClassVar[str] = 'permute_channels'
    leaves: ClassVar[str] = (
        'nearly what there was: with negatives too, the rate of best matches '
        'of a jigsaw solver that tries all variants fell from 0.90 to 0.89 '
        '(16-pixel patches, 224x224)')

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        if not channels or channels[0] < 2:
            raise ValueError(
                f'{self.name!r} needs an image with at least two channels: '
                'leave it out of the cipher for grayscale images')
        return draw_permutations(layout.num_patches, channels[0], source)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.permute_patch_channels(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        return F.permute_patch_channels(
            img, drawn, layout.patch_size, inverse=True)


@register_step
@dataclass(frozen=True)
class PermutePixels(_Comparison):
    """Permute the pixels of all patches alike, one permutation for all images.

    A linear patch embedding absorbs it exactly. For comparison with pixel
    shuffling in the literature; never part of a recommended preset. Undone
    with the permutation.
    """

    name: ClassVar[str] = 'permute_pixels'
    scope: ClassVar[str] = 'dataset'
    moves_pixels: ClassVar[bool] = True
    leaves: ClassVar[str] = (
        'the mean colour of every patch, and the permutation itself: it was '
        'found exactly from a single 224x224 image in 2.5 s (16-pixel '
        'patches)')

    def check(self, patch_size: int) -> None:
        if patch_size == 1:
            raise ValueError(
                "'permute_pixels' does nothing to patches of one pixel")

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        return draw_permutation(layout.patch_size**2, source)

    def apply(self,
              img: np.ndarray,
              layout: PatchLayout,
              drawn: Any,
              stats: Optional[ClipStats] = None) -> np.ndarray:
        return F.permute_patch_pixels(img, drawn, layout.patch_size)

    def undo(self, img: np.ndarray, layout: PatchLayout,
             drawn: Any) -> np.ndarray:
        return F.permute_patch_pixels(
            img, drawn, layout.patch_size, inverse=True)


def check_steps(steps: Tuple[Step, ...], patch_size: int) -> None:
    """Refuse a list of steps that makes no sense, with the reason.

    Args:
        steps (tuple[Step]): In order of application.
        patch_size (int): Side of a patch of the plain image in pixels.

    Raises:
        ValueError: If there is no step, a step comes twice, one does not fit
            the patch size, or the order makes one of them useless.
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
        if (step.name == 'mix' and 'center' in names
                and step.num_splits == layout.patch_size):
            raise ValueError(
                f'{str(step)!r} leaves the mean of each patch of side '
                f"{layout.patch_size}, and 'center' removes just that: "
                'nothing but grey would be left. Mix with fewer splits')
        layout = step.next_layout(layout)
    _check_order({step.name: (i, step) for i, step in enumerate(steps)})


def _check_order(found: Dict[str, Tuple[int, Step]]) -> None:
    """Refuse orders in which one step undoes the point of another."""

    def before(first: str, second: str) -> bool:
        return (first in found and second in found
                and found[first][0] < found[second][0])

    def form(name: str) -> Optional[str]:
        return found[name][1].form if name in found else None

    if before('mix', 'erode') and form('mix') == 'tiled':
        raise ValueError(
            "'erode' after 'mix' in its tiled form drops nothing: the pixels "
            "of the border are repeated inside. Put 'erode' first, or use the "
            'compact form of "mix"')
    if before('erode', 'mix') and form('erode') == 'filled':
        raise ValueError(
            "'mix' after 'erode' in its filled form averages the grey border "
            "into the image. Use the compact form of 'erode', or put 'mix' "
            'first')
    if form('erode') == 'filled':
        if before('erode', 'center'):
            raise ValueError(
                "'center' after 'erode' in its filled form takes the grey "
                'border into the mean, and writes the mean into the border. '
                "Use the compact form of 'erode', or put 'center' first")
        if before('erode', 'permute_pixels'):
            raise ValueError(
                "'permute_pixels' after 'erode' in its filled form is told by "
                "where the grey pixels go. Use the compact form of 'erode'")
    if before('permute_pixels', 'erode'):
        raise ValueError(
            "'erode' after 'permute_pixels' drops arbitrary pixels instead of "
            "the border that a jigsaw solver compares. Put 'erode' first")
    if before('permute_pixels', 'mix'):
        raise ValueError(
            "'mix' after 'permute_pixels' averages arbitrary pixels instead "
            "of sub-patches. Put 'mix' first")
    if before('mix', 'noise') and form('mix') == 'tiled':
        raise ValueError(
            "'noise' after 'mix' in its tiled form is averaged away over the "
            "copies. Put 'noise' first, or use the compact form of 'mix'")
    if before('drop', 'noise'):
        raise ValueError(
            "'noise' after 'drop' adds noise to patches that are left out. "
            "Put 'noise' first")
