# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A cipher: an ordered list of steps."""

import json
from collections.abc import Sequence
from functools import lru_cache
from operator import index
from typing import Any, Union

import numpy as np

from hime_mm.errors import CipherError, PictureError

from .grid import check_image, grid_shape, spatial_shape
from .keys import ImageRNG
from .layout import PatchLayout
from .randomness import RNG
from .rules import check_steps
from .steps import ClipStats, Step
from .written import CIPHER_VERSION, build_steps, read_written

CipherLike = Union['Cipher', str, dict, Sequence]
AnyRNG = RNG | ImageRNG


@lru_cache(maxsize=64)
def _layouts(
    steps: tuple[Step, ...], patch_size: int, shape: tuple[int, int]
) -> tuple[PatchLayout, ...]:
    """See :meth:`Cipher.layouts`: asked for several times for one picture."""
    layouts = [PatchLayout(shape, patch_size, grid_shape(shape, patch_size))]
    for step in steps:
        layouts.append(step.next_layout(layouts[-1]))
    return tuple(layouts)


class Cipher:
    """Perceptual obfuscation of images by an ordered list of steps.

    What it leaves readable is stated on each step (:attr:`Step.leaves`); it
    is no encryption in the cryptographic sense.

    Args:
        steps (str | Sequence[Step | str | dict]): In order of application: a
            short string such as ``'shuffle'``, ``'mix2'`` or
            ``'center+erode2+shuffle'``, the name of a preset such as
            ``'paper-rs'``, or a sequence of steps or of dicts such as
            ``dict(type='mix', num_splits=2)``.
        patch_size (int, optional): Side P of a patch of the plain image in
            pixels. None is the preset's, or 16. Defaults to None.

    Raises:
        TypeError: If ``steps`` or ``patch_size`` has the wrong type.
        CipherError: If a step is unknown or the list makes no sense.

    Examples:
        >>> import numpy as np
        >>> from hime_mm.ciphers import Cipher
        >>> img = np.random.randint(0, 256, (64, 96, 3), np.uint8)
        >>> cipher = Cipher('mix2+shuffle')
        >>> encrypted, layout, drawn = cipher.encrypt(img)
        >>> encrypted.shape
        (32, 48, 3)
    """

    def __init__(
        self, steps: str | Sequence[Step | str | dict], patch_size: int | None = None
    ) -> None:
        self.steps, self.patch_size = build_steps(steps, patch_size)
        check_steps(self.steps, self.patch_size)

    @classmethod
    def build(cls, cipher: CipherLike, patch_size: int | None = None) -> 'Cipher':
        """Make a cipher from any of its written forms.

        Args:
            cipher (Cipher | str | dict | Sequence): A cipher, a short string
                or preset, a dict ``dict(steps=..., patch_size=...)``, also
                with the ``version`` that :meth:`to_dict` writes, or a
                sequence of steps.
            patch_size (int, optional): Side of a patch in pixels. None takes
                the cipher's own, or 16 where it names none. Defaults to None.

        Raises:
            CipherError: If ``cipher`` names another patch size than
                ``patch_size``, or was written by a later version.
        """
        if isinstance(cipher, Cipher):
            cipher = dict(steps=cipher.steps, patch_size=cipher.patch_size)
        return cls(*read_written(cipher, patch_size))

    def __str__(self) -> str:
        return '+'.join(map(str, self.steps))

    def __repr__(self) -> str:
        return f'Cipher({str(self)!r}, patch_size={self.patch_size})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cipher) and (
            (self.steps, self.patch_size) == (other.steps, other.patch_size)
        )

    def __hash__(self) -> int:
        return hash((self.steps, self.patch_size))

    def to_dict(self) -> dict:
        """The cipher as a config dict, such that :meth:`build` gives it back.

        It has ``version``, ``steps`` and ``patch_size``, and no secret.
        """
        steps = [step.to_dict() for step in self.steps]
        return dict(version=CIPHER_VERSION, steps=steps, patch_size=self.patch_size)

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON, always the same text for equal ciphers."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(',', ':'))

    @property
    def canonical(self) -> str:
        """str: Short form with patch size, as keys are derived for it."""
        return f'{self}/{self.patch_size}'

    @property
    def invertible(self) -> bool:
        """bool: Whether the key holder can undo it, floats up to rounding."""
        return all(step.invertible for step in self.steps)

    @property
    def shuffles(self) -> bool:
        """bool: Whether patches are moved."""
        return any(step.moves_patches for step in self.steps)

    @property
    def moves_pixels(self) -> bool:
        """bool: Whether pixels change places, so that masks cannot follow."""
        return any(step.moves_pixels for step in self.steps)

    @property
    def keeps_grey(self) -> bool:
        """bool: Whether mid-grey stands for nothing in encrypted images."""
        return any(step.keeps_grey for step in self.steps)

    @property
    def shared(self) -> tuple[Step, ...]:
        """tuple[Step]: Steps whose draw all images of a data set share."""
        return tuple(step for step in self.steps if step.shared)

    @property
    def random(self) -> bool:
        """bool: Whether any step draws randomness."""
        return any(step.draws for step in self.steps)

    @property
    def encrypted_patch_size(self) -> int:
        """int: Side of a patch of the encrypted image in pixels."""
        return self.plan((self.patch_size, self.patch_size)).patch_size

    def check_fit(self, fit: str) -> None:
        """Refuse a way of fitting sizes that tells what a step removes.

        Args:
            fit (str): What is done to sides that are no multiples of the patch
                size; ``'pad'`` fills up with a constant.

        Raises:
            CipherError: If the constant shows the means that a step removes.
        """
        for step in self.steps:
            if fit == 'pad' and step.removes_means:
                raise CipherError(
                    f"`fit='pad'` does not go with the cipher {str(self)!r}: the "
                    f'padding takes part in {step.name!r} and shows the mean. '
                    "Use `fit='resize'`, or `fit='error'` with sizes that fit"
                )

    def check_unshared(self) -> None:
        """Refuse a draw that all images share, where each process draws.

        Raises:
            CipherError: Names the step and what to do instead.
        """
        for step in self.shared:
            raise CipherError(
                f'{step.name!r} draws once for all images of a data set, which '
                'the processes of a run cannot share: use `hime encrypt`, and '
                'load what it made with `hime_mm.LoadEncryptedMeta`'
            )

    def layouts(self, shape: tuple[int, int]) -> list[PatchLayout]:
        """The public layouts before each step, and after the last.

        Args:
            shape (tuple[int, int]): Height and width of the plain image.

        Returns:
            list[PatchLayout]: One more than there are steps.

        Raises:
            PictureError: If a side is no multiple of the patch size.
        """
        height, width = map(index, shape)
        return [*_layouts(self.steps, self.patch_size, (height, width))]

    def plan(self, shape: tuple[int, int]) -> PatchLayout:
        """The public layout of an image of this size once it is encrypted."""
        return self.layouts(shape)[-1]

    def secret_layout(self, shape: tuple[int, int], drawn: Sequence) -> PatchLayout:
        """The layout of one encrypted image for the key holder.

        Args:
            shape (tuple[int, int]): Height and width of the plain image.
            drawn (Sequence): The draw it was encrypted with.

        Returns:
            PatchLayout: With the permutation, where patches were moved.
        """
        secret = self.plan(shape)
        for step, _, value in self.drawn_steps(shape, drawn):
            secret = step.add_drawn(secret, value)
        return secret

    def draw(self, shape: tuple[int, ...], rng: AnyRNG = None) -> list[Any]:
        """Draw all randomness for one image, each step's in its order.

        Args:
            shape (tuple[int]): Shape of the plain image, (H, W) or (H, W, C).
            rng (ImageRNG | RNG): ``key.image_rng(...)`` derives it from a
                key; for the others see
                :func:`~hime_mm.ciphers.randomness.draw_bytes`. Defaults to
                None, the operating system.

        Returns:
            list: What :meth:`apply` takes. Whoever holds it can undo what can
            be undone: keep it from logs and from who must not read the image.
        """
        height, width, *channels = shape
        layouts, drawn = self.layouts((height, width)), []
        for i, (step, layout) in enumerate(zip(self.steps, layouts, strict=False)):
            step_rng: Any = rng
            if isinstance(rng, ImageRNG):
                step_rng = rng.stream(self.canonical, i, step.scope)
            drawn.append(step.draw(layout, tuple(channels), step_rng))
        return drawn

    def apply(self, img: np.ndarray, drawn: Sequence, stats: ClipStats | None = None) -> np.ndarray:
        """Encrypt one image, or a batch with one draw, deterministically.

        Args:
            img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C); uint8,
                uint16, float32 or float64; the patch size divides H and W.
            drawn (Sequence): From :meth:`draw` for this size. For a batch,
                a step's draw may be stacked along a first axis of size B.
            stats (dict, optional): Where the numbers of clipped and of all
                values of each step that clips are added. Defaults to None.

        Returns:
            np.ndarray: The encrypted image, same dtype.

        Raises:
            TypeError: If the dtype is not supported.
            PictureError, CipherError: If the size or the draw does not fit.
        """
        shape = spatial_shape(img)
        for step, layout, value in self.drawn_steps(shape, drawn):
            img = step.apply(img, layout, value, stats)
        return img

    def encrypt(
        self, img: np.ndarray, rng: AnyRNG = None
    ) -> tuple[np.ndarray, PatchLayout, list[Any]]:
        """Draw and apply.

        Args:
            img (np.ndarray): Shape (H, W) or (H, W, C).
            rng (optional): See :meth:`draw`. Defaults to None.

        Returns:
            tuple: The encrypted image, its layout with what only the key
            holder knows, and the draw.
        """
        if check_image(img).ndim == 4:
            raise PictureError(
                '`encrypt` takes one image; draw for each image of a batch and use `apply`'
            )
        drawn = self.draw(img.shape, rng)
        layout = self.secret_layout(spatial_shape(img), drawn)
        return self.apply(img, drawn), layout, drawn

    def decrypt(self, img: np.ndarray, drawn: Sequence, partial: bool = False) -> np.ndarray:
        """Undo :meth:`apply` with the same draw.

        Args:
            img (np.ndarray): The encrypted image or batch.
            drawn (Sequence): What it was encrypted with.
            partial (bool): Undo the steps after the last one that deletes
                data, and stop there. Defaults to False.

        Returns:
            np.ndarray: The plain image, or as near to it as one gets.

        Raises:
            PictureError: If the size does not fit.
            CipherError: If the draw does not fit, or a step deletes data and
                ``partial`` is not set.
        """
        irreversible = [str(step) for step in self.steps if not step.invertible]
        if irreversible and not partial:
            raise CipherError(f'{self!r} cannot be undone: {", ".join(irreversible)} deletes data')
        rows, cols = grid_shape(spatial_shape(img), self.encrypted_patch_size)
        shape = (rows * self.patch_size, cols * self.patch_size)
        for step, layout, value in self.drawn_steps(shape, drawn)[::-1]:
            if not step.invertible:
                break
            img = step.undo(img, layout, value)
        return img

    def drawn_steps(
        self, shape: tuple[int, int], drawn: Sequence
    ) -> list[tuple[Step, PatchLayout, Any]]:
        """Each step, the layout before it and what was drawn for it."""
        if len(drawn) != len(self.steps):
            raise CipherError(
                f'{self!r} has {len(self.steps)} steps, but {len(drawn)} draws were given'
            )
        return list(zip(self.steps, self.layouts(shape), drawn, strict=False))
