# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a tool asks of a config before it runs it."""

import logging
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from hime_mm.ciphers import Cipher
from hime_mm.errors import ConfigError

from .findings import Finding, validate
from .reading import read
from .rewrite import drop_scopes, replace_hooks


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
    _report(validate(plan))
    _report(replace_hooks(plan))
    _report(drop_scopes(plan))
    return cfg


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
    places = ('data_preprocessor', plan.preprocessor.place)
    _report([finding for finding in plan.findings if finding.place in places])
    return None if plan.device is None else plan.device.cipher


def _report(findings: Sequence[Finding]) -> None:
    """Warn of warnings, then raise all errors at once."""
    errors = [str(finding) for finding in findings if finding.level == 'error']
    for finding in findings:
        if finding.level == 'warning':
            print_log(str(finding), logger='current', level=logging.WARNING)
    if len(errors) > 1:
        errors.insert(0, f'{len(errors)} errors in the config:')
    if errors:
        raise ConfigError('\n'.join(errors))
