# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where configs come from."""

from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from hime_mm.errors import ConfigError


def load_config(path: str) -> Config:
    """Load a config.

    Args:
        path (str): A file; or one that an OpenMMLab package brings along, such as
            ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``.

    Returns:
        :obj:`Config`: It.

    Raises:
        ConfigError: If there is no such package, or it has no such config.
        FileNotFoundError: If there is no such file.
    """
    package, found, name = path.partition('::')
    if not found:
        return Config.fromfile(path)
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise ConfigError(f'there is no package {package!r} for the config {path!r}: install it')
    folder = Path(spec.origin).parent / '.mim/configs'
    if not (folder / name).is_file():
        raise ConfigError(
            f'there is no config {path!r}: write PACKAGE::FOLDER/FILE.py, as in '
            f"'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'; all lie in {folder}"
        )
    return Config.fromfile(folder / name)
