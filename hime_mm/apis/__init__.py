# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a person calls: a facade, nothing is defined here.

Names are imported when they are first used: an owner's machine has neither
torch nor an OpenMMLab package, which the checks of a config need.
"""

import importlib
from typing import Any

#: Where each name is defined.
_PLACES = {
    'AuditSettings': 'audit.settings',
    'BoxView': 'mapping.view',
    'Client': 'mapping.client',
    'EncryptedPicture': 'mapping.client',
    'KeyReference': 'ciphers.reference',
    'OnRay': 'encryption.engines',
    'Recipe': 'images.recipe',
    'audit_dataset': 'audit.run',
    'audit_pictures': 'audit.run',
    'check_config': 'config',
    'check_environment': 'environment',
    'cipher_on_device': 'config',
    'config_diff': 'config',
    'convert_checkpoint': 'models.weights.convert',
    'decrypt_dataset': 'encryption.decrypt',
    'describe_dataset': 'encryption.describe',
    'encrypt_coco': 'encryption.run',
    'encrypt_config': 'config',
    'encrypt_folder': 'encryption.run',
    'encrypt_shards': 'encryption.run',
    'evaluate_results': 'evaluation.coco',
    'finish_dataset': 'encryption.run',
    'force_safe_loading': 'engine.loading',
    'map_coco_results': 'mapping.results',
    'plan_coco': 'encryption.run',
    'plan_folder': 'encryption.run',
    'verify_dataset': 'encryption.verify',
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = importlib.import_module(f'hime_mm.{_PLACES[name]}')
    return getattr(module, name)


def __dir__() -> list:
    return __all__
