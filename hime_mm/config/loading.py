# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where configs come from."""

from mmengine.config import Config
from mmengine.hub import get_config

from hime_mm.errors import ConfigError


def load_config(path: str) -> Config:
    """Load a config.

    Args:
        path (str): A file; or one that an OpenMMLab package brings along, such as
            ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``.

    Returns:
        :obj:`Config`: It.

    Raises:
        ConfigError: If the package has no such config.
        FileNotFoundError: If there is no such file.
    """
    if '::' not in path:
        return Config.fromfile(path)
    try:
        return get_config(path)
    except (ImportError, FileNotFoundError, ValueError, RuntimeError, AssertionError) as wrong:
        raise ConfigError(
            f'there is no config {path!r}: {wrong}. Write PACKAGE::FOLDER/FILE.py, as in '
            "'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'"
        ) from None
