# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a person calls.

Names are imported when they are first used: an owner's machine has neither
torch nor an OpenMMLab package, which the checks of a config need.
"""

import importlib
from typing import Any

_PLACES = {
    'Client': 'client',
    'EncryptedPicture': 'client',
    'check_config': 'config',
    'cipher_on_device': 'config',
    'check_environment': 'doctor',
    'convert_checkpoint': 'convert',
    'force_safe_loading': 'config',
    'encrypt_coco': 'encrypt',
    'decrypt_dataset': 'dataset',
    'describe_dataset': 'dataset',
    'encrypt_folder': 'encrypt',
    'map_coco_results': 'boxes',
    'verify_dataset': 'dataset',
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = importlib.import_module(f'.{_PLACES[name]}', __name__)
    return getattr(module, name)


def __dir__() -> list:
    return __all__
