# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Convert weights of other implementations for models of hime_mm."""

import argparse
import sys

from mmengine.config import DictAction
from mmengine.logging import MMLogger

from hime_mm.apis import convert_checkpoint
from hime_mm.config.options import positive
from hime_mm.errors import HimeError
from hime_mm.models.weights import FORMATS
from hime_mm.models.weights.infer import format_parts


def parse_args():
    known = '\n'.join(f'  {name:17} {what}' for name, what in FORMATS.items())
    parser = argparse.ArgumentParser(
        description=__doc__ + ' What SRC is is recognised:\n' + known,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        'src',
        help='a .pth, .pt, .bin or .safetensors file, or a folder of '
        'Hugging Face; nothing in it is executed',
    )
    add('dst', help='file to write, for load_from and init_cfg')
    add('--config', help='config of the model the weights are for; inferred from SRC without it')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value pairs such as '
        'model.backbone.mid_positions=True',
    )
    add(
        '--num-classes',
        type=positive,
        help='without --config: classes of the '
        "model (default: SRC's; of the COCO ids in YOLOS the 80 classes)",
    )
    add(
        '--img-size',
        type=positive,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images SRC was trained with, where neither SRC nor a '
        'config.json beside it says so and the patches are no square',
    )
    add(
        '--pos-encoding',
        choices=('rpe', 'none', 'learned'),
        help="without --config: positions of the model (default: SRC's)",
    )
    add(
        '--num-heads',
        type=positive,
        help='without --config: attention heads (default: one per 64 channels)',
    )
    add(
        '--num-splits', type=positive, default=2, help='g, if SRC embeds mixed patches (default: 2)'
    )
    add(
        '--cipher',
        help="without --config: what encrypts the model's images, such as "
        "'center+erode2+shuffle'; the patch embedding is made for what it leaves of SRC's patches",
    )
    add(
        '--ema',
        action='store_true',
        help='take the smoothed weights that SRC holds beside the others',
    )
    add(
        '--allow-missing',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="weights of the model that may stay as initialised, such as 'head.*'",
    )
    add(
        '--allow-drop',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="weights of SRC that may be left out, such as 'dist_token' 'head_dist.*'",
    )
    add('--overwrite', action='store_true', help='replace DST')
    return parser.parse_args()


def with_options(message, args):
    """A message that names parameters, with the options that set them."""
    for name in vars(args):
        message = message.replace(f'`{name}`', f'--{name.replace("_", "-")}')
    return message


def main():
    args = parse_args()
    # The report says it all.
    MMLogger.get_current_instance().setLevel('WARNING')
    try:
        report, parts = convert_checkpoint(**vars(args))
    except (HimeError, OSError) as error:
        print(f'convert.py: {with_options(str(error), args)}', file=sys.stderr)
        return 1
    print(report)
    if parts:
        print('\nthe weights are for\n\n' + format_parts(parts))
    print(f'\nwrote {args.dst}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
