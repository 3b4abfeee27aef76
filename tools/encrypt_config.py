# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Write a config that encrypts, from one that knows nothing of it."""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from hime_mm.config import load_config
from hime_mm.config.options import add_cipher_options, encrypt_as_asked


def parse_args():
    parser = argparse.ArgumentParser(
        description='Write a config that encrypts, from one that knows nothing of it; '
        "the hosts' own tools run it, where hime_mm is installed"
    )
    parser.add_argument('config', help='config file path, or mmdet::…, mmpretrain::…')
    parser.add_argument('out', type=Path, help='the file to write, NAME.py')
    add_cipher_options(parser, required=True)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config before: key=value pairs such as '
        'train_dataloader.batch_size=2',
    )
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    args = parser.parse_args()
    if args.out.suffix != '.py':
        parser.error(f'{args.out}: configs end with .py')
    if args.out.exists() and not args.force:
        parser.error(f'{args.out} is there already: name another, or take --force')
    return args


def main():
    args = parse_args()
    cfg = load_config(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg = encrypt_as_asked(cfg, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = f'# Made of {args.config} with the cipher {args.cipher!r}.\n{cfg.pretty_text}'
    # Whole or not at all.
    part = args.out.with_name(f'.{args.out.name}.part')
    part.write_text(text)
    part.replace(args.out)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
