# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What learns.

The backbones and the necks need MMPretrain only.  Detectors and heads need MMDetection,
which in turn needs mmcv's compiled ops: where it cannot be imported, the
classification half still works and the reason is logged.
"""

from .backbones import *  # noqa: F401,F403
from .batch_augments import *  # noqa: F401,F403
from .ciphers import BatchCipher  # noqa: F401
from .data_preprocessors import *  # noqa: F401,F403
from .layers import *  # noqa: F401,F403
from .necks import *  # noqa: F401,F403
from .selfsup import *  # noqa: F401,F403

try:
    import mmdet.models  # noqa: F401
except (ImportError, AssertionError) as error:  # pragma: no cover
    from mmengine.logging import print_log

    print_log(
        'hime_mm.PEYOLOS, hime_mm.PEDINO, hime_mm.PESingleStageDetector, hime_mm.PaddingAware, '
        'hime_mm.DetTokenHead, hime_mm.PatchTokenHead, its assigner and its '
        f'box coder are not registered, because MMDetection cannot be imported: {error}. For '
        'detection install it with `mim install onedl-mmdetection`, and mmcv with its compiled '
        'ops.',
        logger='current',
        level=30,
    )
else:
    from .dense_heads import *  # noqa: F401,F403
    from .detectors import *  # noqa: F401,F403
    from .task_modules import *  # noqa: F401,F403
