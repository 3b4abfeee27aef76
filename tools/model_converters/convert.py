# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Convert weights of other implementations for models of hime_mm."""
import argparse
import sys

from mmengine.config import DictAction
from mmengine.logging import MMLogger

from hime_mm.apis import convert_checkpoint
from hime_mm.apis.convert import FORMATS, format_parts


def parse_args():
    known = '\n'.join(f'  {name:17} {what}' for name, what in FORMATS.items())
    parser = argparse.ArgumentParser(
        description=__doc__ + ' What SRC is is recognised:\n' + known,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'src',
        help='a .pth, .pt, .bin or .safetensors file, or a folder of Hugging '
        'Face; nothing in it is executed')
    parser.add_argument(
        'dst', help='file to write, for load_from and init_cfg')
    parser.add_argument(
        '--config',
        help='config of the model the weights are for; inferred from SRC '
        'without it')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value pairs such as '
        'model.backbone.mid_positions=True')
    parser.add_argument(
        '--num-classes',
        type=int,
        help="without --config: classes of the model (default: SRC's; of the "
        'COCO ids in YOLOS the 80 classes)')
    parser.add_argument(
        '--img-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images SRC was trained with, where neither SRC nor a '
        'config.json beside it says so and the patches are no square')
    parser.add_argument(
        '--pos-encoding',
        choices=('rpe', 'none', 'learned'),
        help="without --config: positions of the model (default: SRC's)")
    parser.add_argument(
        '--num-heads',
        type=int,
        help='without --config: attention heads (default: one per 64 '
        'channels)')
    parser.add_argument(
        '--num-splits',
        type=int,
        default=2,
        help='g, if SRC embeds mixed patches (default: 2)')
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the smoothed weights that SRC holds beside the others')
    parser.add_argument(
        '--allow-missing',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="weights of the model that may stay as initialised, such as "
        "'head.*'")
    parser.add_argument(
        '--allow-drop',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="weights of SRC that may be left out, such as 'dist_token' "
        "'head_dist.*'")
    parser.add_argument(
        '--overwrite', action='store_true', help='replace DST')
    args = parser.parse_args()
    for name in ('num_classes', 'num_heads', 'num_splits'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} {value} is below 1')
    if args.img_size and min(args.img_size) < 1:
        parser.error('--img-size must be positive')
    return args


def main():
    args = parse_args()
    # The report says it all.
    MMLogger.get_current_instance().setLevel('WARNING')
    try:
        report, parts = convert_checkpoint(**vars(args))
    except (ValueError, OSError) as error:
        print(f'convert.py: {error}', file=sys.stderr)
        return 1
    print(report)
    if parts:
        print('\nthe weights are for\n\n' + format_parts(parts))
    print(f'\nwrote {args.dst}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
