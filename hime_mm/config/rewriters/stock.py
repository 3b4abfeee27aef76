# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encryption inside a config that knows nothing of it."""

import os
from copy import deepcopy

from mmengine.config import Config

from hime_mm.ciphers.cipher import CipherLike
from hime_mm.datasets.manifest import load_manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import CipherError
from hime_mm.images import Recipe

from ..check import check_config, report
from ..hosts import CHECK_HOOK
from ..loading import load_config
from ..plan import Plan
from ..reading import read
from ..ways import used_keys
from .augments import adapt_augments
from .backbone import Swap
from .job import Job
from .metrics import adapt_metrics
from .pipelines import encrypt_pipelines
from .preprocessor import adapt_preprocessor
from .priors import adapt_priors
from .refusals import refusals
from .vits import adapt_vit, adapt_windows


def encrypt_config(
    cfg: Config | str,
    cipher: CipherLike,
    backbone: str | None = None,
    patch_size: int | None = None,
) -> Config:
    """Have an unmodified config of MMDetection or MMPretrain encrypt.

    The encryption comes into every pipeline that a run can use; what would leak,
    or would not fit encrypted images, is adapted: hooks that draw the files, batch
    augmentations, statistics, priors of detectors, patches of ViTs, and metrics
    where patches move. :func:`config_diff` says what changed. The result needs
    hime_mm to be installed, and none of its tools.

    Args:
        cfg (:obj:`Config` | str): A whole config, which stays as it is; or the
            path of one, ``'mmdet::...'`` or ``'mmpretrain::...'``.
        cipher (str | dict | Sequence | :obj:`Cipher`): As of
            :class:`hime_mm.transforms.Encrypt`, such as ``'mix2'`` or
            ``'center+erode2+shuffle'``; or the folder of an encrypted data set, for
            its cipher and the statistics of its pictures (``'./mix2'`` if a
            cipher has its name).
        backbone (str, optional): Takes the place of the model's backbone, with
            neck and head that fit: ``'pevit-tiny'``, ``'pevit-small'``,
            ``'pevit-base'``, or ``'timm:NAME'`` with a name of timm. It starts
            from trained weights (DeiT's, timm's) if the backbone before did, and
            images are normalized as for these then.
            Where patches move a detector becomes a
            :class:`PESingleStageDetector` with a :class:`PatchTokenHead`. None
            keeps the backbone. Defaults to None.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.

    Returns:
        :obj:`Config`: The new config.

    Raises:
        ConfigError: If the config cannot work on images that are encrypted so;
            it names each reason with its place, and what would make it work.
        CipherError: If the cipher makes no sense.
        ManifestError: If its manifest is damaged.
    """
    cfg = load_config(cfg) if isinstance(cfg, str) else deepcopy(cfg)
    statistics = {}
    try:
        recipe = Recipe.build(cipher, patch_size, {})
    except CipherError:
        path = os.path.join(cipher, MANIFEST_NAME) if isinstance(cipher, str) else ''
        if not os.path.isfile(path):
            raise
        manifest = load_manifest(path)
        cipher, statistics = manifest.cipher, manifest.statistics
        recipe = Recipe.build(cipher, patch_size, {})
    recipe.cipher.check_unshared()
    written = dict(cipher=cipher if isinstance(cipher, (str, dict)) else recipe.cipher.to_dict())
    if patch_size is not None:
        written['patch_size'] = patch_size
    plan = read(cfg)
    job = Job(plan, recipe.cipher, written, statistics)
    swap = None if backbone is None else Swap(job, backbone)
    report([*refusals(job, swap is not None), *(swap.refusals() if swap else ())])

    encrypt_pipelines(job)
    adapt_augments(job)
    if swap is not None:
        swap.normalize()
    adapt_preprocessor(job)
    adapt_metrics(job)
    if swap is not None:
        swap.make()
    else:
        adapt_priors(job)
        adapt_vit(job)
        adapt_windows(job)
    _tidy(plan)
    report(job.notes)
    return check_config(cfg)


def _tidy(plan: Plan) -> None:
    """Have other tools check the run, too, and drop variables that say what is no more."""
    root = plan.find('').value
    hooks = root.setdefault('default_hooks', {})
    hooks['encryption'] = dict(type=CHECK_HOOK)
    for key in [key for key in root if 'pipeline' in key and key not in used_keys()]:
        del root[key]
