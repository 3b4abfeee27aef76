# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a tool asks of a config before it runs it."""

import logging
from collections.abc import Iterator, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from hime_mm.ciphers import Cipher
from hime_mm.errors import ConfigError

from .findings import Finding, validate
from .hosts import QUIET_HOOKS, SAFE_HOOK
from .plan import Plan
from .reading import read
from .rewriters.mending import drop_scopes, replace_hooks
from .validators.evaluation import harmful_hooks

#: Warnings that were given in this process.
_TOLD: set[str] = set()


def check_config(cfg: Config) -> Config:
    """Find what would fail late or leak, before work starts.

    What that is, :mod:`hime_mm.config.validators` says; where data are not
    there yet, a warning says what was not checked.

    In a config that encrypts in its pipeline or on the device, a default hook
    that would draw the plain images is replaced by
    :class:`EncryptedVisualizationHook`, with a warning. For an encrypted data
    set the hosts' hooks stay, since they can show encrypted files only; but
    not with ``coordinates='original'``, whose boxes they would misplace.

    ``_scope_``, which configs inherit from another package, is taken out of
    such dicts as ``collate_fn``, with a warning: MMEngine fails on it.

    Args:
        cfg (:obj:`Config`): The config, modified in place.

    Returns:
        :obj:`Config`: The same.

    Raises:
        ConfigError: Names every error with its place and the remedy.
    """
    plan = read(cfg)
    report(validate(plan))
    report(replace_hooks(plan))
    report(drop_scopes(plan))
    return cfg


def check_run(cfg: Config | dict) -> None:
    """Find the same in the config of a run that others have begun.

    Nothing is replaced there any more: a default hook that would draw the
    plain images is an error, unless it is off. What was warned of in this
    process is not said again.

    Args:
        cfg (:obj:`Config` | dict): That of the runner; it stays as it is.

    Raises:
        ConfigError: Names every error with its place and the remedy.
    """
    plan = read(cfg)
    findings = [*validate(plan), *_drawing(plan)]
    report([new for new in findings if new.level == 'error' or str(new) not in _TOLD])


def _drawing(plan: Plan) -> Iterator[Finding]:
    """Default hooks that draw what they should not."""
    plain = any(use.online for use in plan.uses)
    for hook, effect in harmful_hooks(plan, 'default_hooks'):
        asked = [hook.value[key] for key in ('draw', 'enable') if key in hook.value]
        if any(asked) or not (asked or hook.short in QUIET_HOOKS):
            yield Finding(
                'error' if plain else 'warning',
                hook.place,
                f'is {hook.name}, which {effect}',
                f"use `type='{SAFE_HOOK}'`, or leave it off",
            )


def cipher_on_device(cfg: Config) -> Cipher | None:
    """The cipher with which a config's data preprocessor encrypts.

    Args:
        cfg (:obj:`Config` | dict): A whole config.

    Returns:
        Cipher | None: None where the data preprocessor does not encrypt.

    Raises:
        ConfigError: If its cipher makes no sense, or is in a data
            preprocessor that the model would not use.
    """
    plan = read(cfg)
    report([one for one in plan.findings if one.place.endswith('data_preprocessor')])
    return None if plan.device is None else plan.device.cipher


def report(findings: Sequence[Finding]) -> None:
    """Warn of warnings, then raise all errors at once."""
    errors = [str(finding) for finding in findings if finding.level == 'error']
    for finding in findings:
        if finding.level == 'warning':
            _TOLD.add(str(finding))
            print_log(str(finding), logger='current', level=logging.WARNING)
    if len(errors) > 1:
        errors.insert(0, f'{len(errors)} errors in the config:')
    if errors:
        raise ConfigError('\n'.join(errors))
