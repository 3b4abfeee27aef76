# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Child registries of scope ``hime_mm``.

MMEngine imports ``<scope>.registry`` when a config names ``<scope>.<Type>``,
and each registry imports its ``locations`` when it is first asked.  So
``type='hime_mm.PEViT'`` works in any MMPretrain or MMDetection config once the
package is installed, without ``custom_imports``.
"""

from inspect import Parameter, signature
from typing import Any

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

try:
    # MMEngine has no such registry. Not later: MMPretrain's finds ours as its
    # child when it first imports this module.
    from mmpretrain.registry import BATCH_AUGMENTS as MMPRETRAIN_BATCH_AUGMENTS
except (ImportError, AssertionError):
    # Not installed, or made for another mmcv: nothing would ask for them.
    MMPRETRAIN_BATCH_AUGMENTS = None

#: Backbones, heads, detectors and their layers.
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='hime_mm', locations=['hime_mm.models'])
#: Augmentations of batches, in MMPretrain's data preprocessor.
BATCH_AUGMENTS = Registry(
    'batch augment',
    parent=MMPRETRAIN_BATCH_AUGMENTS,
    scope='hime_mm',
    locations=['hime_mm.models.batch_augments'],
)
#: Pipeline transforms: the registered wrappers of the ciphers.
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='hime_mm', locations=['hime_mm.transforms']
)
#: Assigners and box coders of heads.
TASK_UTILS = Registry(
    'task util', parent=MMENGINE_TASK_UTILS, scope='hime_mm', locations=['hime_mm.models']
)
#: Runner hooks.
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='hime_mm', locations=['hime_mm.engine'])
#: Metrics of evaluators.
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='hime_mm',
    locations=['hime_mm.evaluation.metrics'],
)

__all__ = [
    'BATCH_AUGMENTS',
    'HOOKS',
    'METRICS',
    'MODELS',
    'TASK_UTILS',
    'TRANSFORMS',
    'extra_repr',
    'heirs',
    'own_types',
]


def own_types() -> dict[str, type]:
    """All that hime_mm registers, by name without prefix."""
    types: dict[str, type] = {}
    for registry in (BATCH_AUGMENTS, HOOKS, METRICS, MODELS, TASK_UTILS, TRANSFORMS):
        registry.import_from_location()
        types.update(registry.module_dict)
    return types


def heirs() -> dict[str, type]:
    """Classes that users have derived from ours, by name."""
    types: dict[str, type] = {}
    kinds = list(own_types().values())
    while kinds:
        derived = kinds.pop().__subclasses__()
        kinds += derived
        types.update((kind.__name__, kind) for kind in derived)
    return types


def extra_repr(built: Any) -> str:
    """Options of an object of ours, as ``name=value, ...`` for its ``repr``.

    They are the arguments of its constructor that it has as attributes. Where
    it passes ``**kwargs`` on to a base class of ours, that one's follow.
    """
    names: dict[str, None] = {}
    for cls in type(built).__mro__:
        if not cls.__module__.startswith('hime_mm.'):
            break
        if '__init__' not in vars(cls):
            continue
        arguments = list(signature(cls).parameters.values())
        names.update((argument.name, None) for argument in arguments)
        if not any(argument.kind is Parameter.VAR_KEYWORD for argument in arguments):
            break
    return ', '.join(f'{name}={getattr(built, name)!r}' for name in names if hasattr(built, name))
