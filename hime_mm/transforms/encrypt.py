# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt images in a pipeline."""

from collections.abc import Sequence

import numpy as np

from hime_mm.ciphers import Cipher, Mix
from hime_mm.errors import HimeError
from hime_mm.images import Recipe, seal
from hime_mm.registry import TRANSFORMS
from hime_mm.run_check import check_current_run

from .annotations import MASKS, find_unmovable, move_boxes, resize_masks
from .base import NamedTransform
from .simulation import Simulated

BOX_MODES = ('patch', 'keep')
RANDOMNESS = ('os', 'numpy')


@TRANSFORMS.register_module()
class Encrypt(Simulated, NamedTransform):
    """Encrypt the image, and keep annotations and meta information right.

    It is the last geometric step of a pipeline: nothing after it may resize,
    flip, crop or recolour. In a *test* pipeline of MMDetection put it before
    ``LoadAnnotations``, whose boxes are in the original scale there.

    An input that cannot be encrypted raises; nothing passes through in plain.
    It gets the pixels that ``LoadImageFromFile`` gave: what
    :class:`~hime_mm.images.preprocess.Preprocess` says of reading
    (``color_type``, ``transparent``, ``frames``) is that transform's matter.

    Required Keys:

    - img (np.ndarray, (H, W) or (H, W, C), uint8, uint16 or float32; of
      another integer type if all values are from 0 to 255, which then becomes
      uint8)
    - gt_bboxes (BaseBoxes[torch.float32] | np.ndarray, (n, 4)) (optional)
    - proposals (np.ndarray, (n, 4)) (optional)
    - gt_masks (BitmapMasks | PolygonMasks) (optional)
    - gt_seg_map (np.ndarray, (H, W)) (optional)
    - scale_factor (tuple[float, float], (w, h)) (optional)
    - homography_matrix (np.ndarray, (3, 3)) (optional)

    Modified Keys:

    - img
    - img_shape
    - scale_factor (multiplied)
    - homography_matrix (multiplied from the left; the geometry before any
      shuffling)
    - pad_shape (if present)
    - gt_bboxes, proposals, gt_masks, gt_seg_map (if present)

    ``gt_bboxes_labels`` and ``gt_ignore_flags`` stay as they are: no box is
    dropped.

    Added Keys:

    - cipher (:obj:`Cipher`)
    - patch_layout (:obj:`PatchLayout`): between the image that came in and
      the encrypted one. Its permutation is left out unless
      ``keep_permutation`` is set.

    Args:
        cipher (str | dict | Sequence | :obj:`Cipher`): The steps in order of
            application, such as ``'shuffle'``, ``'mix2:tiled'`` or
            ``'center+erode2+shuffle'``, or a preset, ``'paper-rs'`` or
            ``'paper-mi'``. :mod:`hime_mm.ciphers.steps` says of each step
            what it leaves readable: ``shuffle``, ``mix``, ``erode``,
            ``drop``, ``center``, ``noise``, and for comparison ``orient``,
            ``negate`` and ``permute_channels``.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.
        fit (str): What to do with an image whose sides are no multiples of
            the patch size. ``'resize'`` scales them down to the next multiple
            (sides smaller than a patch up to one), ``'pad'`` fills up below
            and right, ``'error'`` raises. Defaults to 'resize'.
        interpolation (str): For ``fit='resize'``, as :func:`mmcv.imresize`.
            Defaults to 'bilinear'.
        pad_val (float | Sequence[float]): Value, or one per channel, for
            ``fit='pad'``. Defaults to 0.
        box_mode (str): What shuffling does to boxes: with ``'patch'`` each
            one travels with the patch that holds its centre. With ``'keep'``
            they stay where the object was, and ``patch_layout`` only scales:
            for one fixed permutation, or to measure what the order is worth.
            It gives away where in the original every object was, and so, as
            objects are learned, which slots hold its patches and are
            neighbours. Defaults to 'patch'.
        randomness (str): ``'os'`` draws from the operating system, anew for
            every image. ``'numpy'`` makes a simulation that a run with the
            same seed and the same workers repeats: it follows from NumPy's
            global state, which the runner seeds, and from rank, worker,
            epoch and iteration, so that within a run no draw comes twice, nor
            when it is resumed. Defaults to 'os'.
        keep_permutation (bool): Keep each image's permutation in
            ``patch_layout``, for whoever evaluates in the coordinates of the
            original and may see it. It stays in the processes of the run:
            files that are pickled, such as those of ``tools/test.py --out``,
            and results that ranks exchange have layouts without it. Defaults
            to False.

    Raises:
        HimeError: If an option is unknown, the cipher makes no sense, or one
            of its steps draws once for a whole data set.
    """

    def __init__(
        self,
        cipher: str | dict | Sequence | Cipher,
        patch_size: int | None = None,
        fit: str = 'resize',
        interpolation: str = 'bilinear',
        pad_val: float | Sequence[float] = 0,
        box_mode: str = 'patch',
        randomness: str = 'os',
        keep_permutation: bool = False,
    ) -> None:
        self._check_choice('box_mode', box_mode, BOX_MODES)
        self._check_choice('randomness', randomness, RANDOMNESS)
        # Anything else that is true would keep what undoes the encryption.
        if not isinstance(keep_permutation, bool):
            raise TypeError(
                f'{self._name}: `keep_permutation` must be True or False, got {keep_permutation!r}'
            )
        sizing = dict(fit=fit, interpolation=interpolation, pad_val=pad_val)
        with self._naming_errors():
            self.recipe = Recipe.build(cipher, patch_size, sizing)
            self.cipher.check_unshared()
        self.fit = fit
        self.interpolation = interpolation
        self.pad_val = pad_val
        self.box_mode = box_mode
        self.randomness = randomness
        self.keep_permutation = keep_permutation
        check_current_run()

    @property
    def cipher(self) -> Cipher:
        """Cipher: What images are encrypted with."""
        return self.recipe.cipher

    def transform(self, results: dict) -> dict:
        """Encrypt one sample.

        Raises:
            KeyError: If there is no ``img``.
            TypeError: If ``img`` or the boxes are of a kind that cannot be
                encrypted.
            HimeError: If the size does not fit with ``fit='error'``, or an
                annotation cannot follow the cipher.
        """
        img = self._image(results, 'behind `LoadImageFromFile`')
        self._check_annotations(results)
        # No `cache_randomness`: it can make several images share one draw,
        # and a permutation that is used twice protects neither.
        rng = self._simulated_rng() if self.randomness == 'numpy' else None
        with self._naming_errors():
            sealed = seal(img, self.recipe, rng)
        encrypted, layout = sealed.img, sealed.layout
        if self.box_mode == 'keep':
            # Boxes are scaled only, and have to come back so.
            layout = layout.in_place()

        # Collected aside, so that an error leaves no half-encrypted sample.
        new = dict(results)
        with self._naming_errors():
            move_boxes(new, layout, self._name)
        rows, cols = (n * self.cipher.patch_size for n in layout.grid)
        unscaled = self.recipe.preprocess.fit == 'pad' or layout.ori_shape == (rows, cols)
        resize_masks(new, layout, (rows, cols), pad=unscaled)

        new['img'] = encrypted
        new['img_shape'] = encrypted.shape[:2]
        if 'pad_shape' in results:
            new['pad_shape'] = encrypted.shape
        old = results.get('scale_factor')
        old = (1.0, 1.0) if old is None else np.broadcast_to(old, 2)
        new['scale_factor'] = tuple(float(a * b) for a, b in zip(old, layout.scale, strict=True))
        homography = np.diag([*layout.scale, 1.0]).astype(np.float32)
        if results.get('homography_matrix') is not None:
            homography = homography @ results['homography_matrix']
        new['homography_matrix'] = homography
        new['cipher'] = self.cipher
        new['patch_layout'] = layout if self.keep_permutation else layout.public()
        results.update(new)
        return results

    def _check_annotations(self, results: dict) -> None:
        key = find_unmovable(results)
        if key is not None:
            raise HimeError(
                f'{self._name} does not know how to encrypt `{key}` and would '
                'pass it on in plain: remove it from the pipeline before'
            )
        moving = ' and '.join(f'"{step.name}"' for step in self.cipher.steps if step.moves_pixels)
        for key in MASKS:
            if moving and results.get(key) is not None:
                raise HimeError(
                    f'{self._name} moves pixels (cipher {str(self.cipher)!r}) '
                    f'and cannot move `{key}` with them: load the annotations '
                    f'without masks, or use a cipher without {moving}'
                )


@TRANSFORMS.register_module()
class PatchShuffle(Encrypt):
    """Random shuffling (RS): :class:`Encrypt` with the cipher ``'shuffle'``.

    Args:
        patch_size (int): Side of a patch in pixels. Defaults to 16.
        **kwargs: As :class:`Encrypt`.
    """

    def __init__(self, patch_size: int = 16, **kwargs) -> None:
        super().__init__('shuffle', patch_size=patch_size, **kwargs)


@TRANSFORMS.register_module()
class SubPatchMix(Encrypt):
    """Mixing-up (MI): :class:`Encrypt` with the cipher ``'mix<g>'``.

    Args:
        patch_size (int): Side of a patch in pixels. Defaults to 16.
        num_splits (int): g, a patch is cut into g x g sub-patches. Defaults
            to 2.
        form (str): ``'compact'`` shrinks the image by g, ``'tiled'`` keeps
            its size. Defaults to 'compact'.
        **kwargs: As :class:`Encrypt`.
    """

    def __init__(
        self, patch_size: int = 16, num_splits: int = 2, form: str = 'compact', **kwargs
    ) -> None:
        super().__init__([Mix(num_splits, form)], patch_size=patch_size, **kwargs)
