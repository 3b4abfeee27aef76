# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Changes of a config, made in place on the nodes of its plan.

The plan stays that of the config before.
"""

from copy import deepcopy

from mmengine.config import Config, ConfigDict

from hime_mm.errors import ConfigError

from ..findings import Finding, warning
from ..hosts import CALLED, HOOK_OPTIONS, SAFE_HOOK
from ..plan import Plan
from ..reading import read
from ..validators.evaluation import harmful_hooks


def replace_hooks(plan: Plan) -> list[Finding]:
    """Replace default hooks that would draw on the files of the data set; warnings say which."""
    done = []
    for hook, effect in harmful_hooks(plan, 'default_hooks'):
        kept = {key: hook.value[key] for key in HOOK_OPTIONS if key in hook.value}
        hook.owner[hook.key] = dict(type=SAFE_HOOK, **kept)
        done.append(
            warning(hook.place, f'is {hook.name}, which {effect}', f'replaced by {SAFE_HOOK}')
        )
    return done


def drop_scopes(plan: Plan) -> list[Finding]:
    """Take out what inheritance leaves where it becomes an argument that no function has."""
    done = []
    for node in plan.nodes:
        if node.key in CALLED and '_scope_' in node.value:
            del node.value['_scope_']
            text = 'has inherited `_scope_`, which MMEngine would pass on as an argument'
            remedy = (
                f'taken out; for other tools override it with `{node.key}=dict(_delete_=True, …)`'
            )
            done.append(warning(node.place, text, remedy))
    return done


def use_tta(cfg: Config) -> Config:
    """Have a test predict on several views of each image, and merge what is predicted.

    As the hosts' ``tools/test.py --tta`` have it, ``tta_model`` wraps the model,
    and ``tta_pipeline`` is put in place of the pipeline of the test data set:
    within all wrappers, of each that they hold.

    Args:
        cfg (:obj:`Config`): The config, modified in place.

    Returns:
        :obj:`Config`: The same.

    Raises:
        ConfigError: If one of the two is missing.
    """
    needs = dict(
        tta_model="for instance MMDetection's `DetTTAModel` with a `tta_cfg`, or "
        "`dict(type='AverageClsScoreTTA')` of MMPretrain",
        tta_pipeline='with `TestTimeAug` and its flips before the encryption',
    )
    for key, example in needs.items():
        if cfg.get(key) is None:
            raise ConfigError(
                f'test-time augmentation needs `{key}` in the config: write it there, {example}'
            )
    for way in read(cfg).ways:
        if way.phase == 'test':
            way.data.value['pipeline'] = deepcopy(cfg.tta_pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=deepcopy(cfg.model))
    return cfg
