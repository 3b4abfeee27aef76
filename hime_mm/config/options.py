# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Options of tools."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from mmengine.config import Config

from .rewriters.differences import config_diff
from .rewriters.stock import encrypt_config


def positive(text: str) -> int:
    """The value of an option that counts, at least 1.

    Raises:
        ArgumentTypeError: If it is less.
    """
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f'{number} is below 1')
    return number


def add_cipher_options(parser: ArgumentParser, required: bool = False) -> None:
    """Add ``--cipher``, ``--backbone`` and ``--patch-size``.

    Args:
        parser (ArgumentParser): That of a tool.
        required (bool): Whether there has to be a cipher. Defaults to False.
    """
    parser.add_argument(
        '--cipher',
        required=required,
        help="encrypt in every pipeline of an unmodified config: 'mix2', "
        "'center+erode2+shuffle', …, or the folder of an encrypted data set for its cipher and "
        'statistics; what changes in the config is printed',
    )
    parser.add_argument(
        '--backbone',
        help='with --cipher, the backbone that takes the place of the one in the config: '
        'pevit-tiny, pevit-small, pevit-base or timm:NAME',
    )
    parser.add_argument(
        '--patch-size', type=int, help='with --cipher, the side of a patch in pixels, else 16'
    )


def encrypt_as_asked(cfg: Config, args: Namespace) -> Config:
    """Have a config encrypt, if the options say so, and print what changed.

    Args:
        cfg (:obj:`Config`): The config; it stays as it is.
        args (Namespace): What was parsed.

    Returns:
        :obj:`Config`: A new one, or the same.

    Raises:
        ConfigError: If the config cannot work on images that are encrypted so.
        SystemExit: If there is a backbone or a patch size without a cipher.
    """
    if args.cipher is None:
        for name in ('backbone', 'patch_size'):
            if getattr(args, name) is not None:
                raise SystemExit(f'--{name.replace("_", "-")} needs --cipher')
        return cfg
    new = encrypt_config(cfg, args.cipher, args.backbone, args.patch_size)
    # Of torchrun, or of slurm; the runner has not started yet.
    if (os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0') == '0':
        print(config_diff(cfg, new))
    return new
