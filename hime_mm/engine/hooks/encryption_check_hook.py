# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A hook that checks the config of a run before its first batch."""

from typing import Any
from weakref import WeakSet

from mmengine.hooks import Hook

from hime_mm.config import check_run
from hime_mm.registry import HOOKS

#: Runners that were checked, or are just being.
_CHECKED: WeakSet[Any] = WeakSet()


@HOOKS.register_module()
class EncryptionCheckHook(Hook):
    """Stop a run whose config would let plain images pass.

    The tools of hime_mm check a config before they run it. This hook does so
    in runs that other tools start, with the config of the runner; it changes
    nothing there. Transforms, data preprocessors and backbones of hime_mm call
    it when a runner builds them. A run that builds none of them, such as
    ``tools/test.py --tta`` of MMDetection with its stock pipeline and a
    ResNet, is checked if the config lists the hook, under a name of its own or
    in ``custom_hooks``, a list that replaces the one of a base config::

        default_hooks = dict(encryption=dict(type='hime_mm.EncryptionCheckHook'))

    Each runner is checked once.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Any) -> None:
        """Check the config of a run.

        Args:
            runner (:obj:`Runner`): Of any kind. One without a config, made of
                objects, has nothing to check.

        Raises:
            ConfigError: Names every error with its place and the remedy.
        """
        if runner in _CHECKED:
            return
        # First: the check itself builds transforms, which call this again.
        _CHECKED.add(runner)
        try:
            check_run(getattr(runner, 'cfg', None) or {})
        except BaseException:
            # Whoever catches this and goes on is stopped again.
            _CHECKED.discard(runner)
            raise
