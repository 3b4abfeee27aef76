# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Adapt trained weights of a ViT to a cipher, on public plain photos without labels.

    python tools/adapt.py vit_small.pth data/photos --out adapted.pth \\
        --model timm:vit_small_patch14_dinov2 --cipher center+erode2+shuffle --patch-size 14

It needs no key and no private picture. Killed, the same command goes on from its
last epoch; with other settings it is refused. What it writes is a backbone for
whoever trains on pictures that are encrypted so; how to name it in a config is
printed.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner
from tqdm import tqdm

import hime_mm
from hime_mm.apis import Recipe, check_config, force_safe_loading
from hime_mm.config.options import positive
from hime_mm.errors import ConfigError, HimeError
from hime_mm.images import seal
from hime_mm.images.codec import EXTENSIONS, read_image
from hime_mm.images.files import atomic_file, file_sha256
from hime_mm.images.levels import add_levels, count_levels, statistics_of
from hime_mm.models.weights import read_checkpoint

CONFIG = Path(__file__).resolve().parents[1] / (
    'configs/adapt/pevit-small-dinov2_rs_1xb16-10e_photos-224px.py'
)
#: What ViTs of timm and of MMPretrain are trained with, most of them.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
#: Files in the folder of a run.
SETTINGS, PICTURES = 'settings.py', 'pictures.txt'
#: Pictures of which the statistics of encrypted ones are measured.
MEASURED = 200


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('weights', help='.pth file of the plain model, with its positions')
    add('photos', nargs='+', help='folders of public plain pictures, and those within')
    add('--out', required=True, help='file to write')
    add('--cipher', required=True, help="such as 'shuffle' or 'center+erode2+shuffle'")
    add(
        '--patch-size',
        type=positive,
        default=16,
        help='side of a plain patch in pixels (default: 16)',
    )
    add(
        '--model',
        default='pevit-small',
        help='pevit-tiny, pevit-small, pevit-base, or timm:NAME with a name of timm '
        '(default: pevit-small)',
    )
    add('--pos-encoding', choices=('none', 'rpe'), default='none', help='where patches move')
    add(
        '--size',
        type=positive,
        default=224,
        help='side of the plain crops in pixels (default: 224)',
    )
    add('--epochs', type=positive, default=10, help='passes over the pictures (default: 10)')
    add('--batch-size', type=positive, default=16, help='of each GPU (default: 16)')
    add('--workers', type=int, default=4, help='processes that read pictures (default: 4)')
    add(
        '--lr',
        type=float,
        help="learning rate behind the blocks, each of which has 0.8 of the next's (default: 2e-4)",
    )
    add('--mean', type=float, nargs=3, default=MEAN, help='of the plain model, 0–255, R G B')
    add('--std', type=float, nargs=3, default=STD, help='the same')
    add('--amp', action='store_true', help='automatic mixed precision, on a GPU')
    add('--ema', action='store_true', help='write the smoothed weights')
    add('--seed', type=int, default=0)
    add('--work-dir', help='checkpoints and logs (default: OUT without its ending, or OUT.work)')
    add('--overwrite', action='store_true', help='replace OUT')
    add('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    add('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    add('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if 'LOCAL_RANK' not in os.environ:
        os.environ['LOCAL_RANK'] = str(args.local_rank)
    stem, ending = os.path.splitext(args.out)
    args.work_dir = args.work_dir or (stem if ending else f'{args.out}.work')
    return args


def find_pictures(folders):
    """All that MMPretrain would read, and a word on a folder that has none."""
    found = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise ConfigError(f'there is no folder {folder}')
        own = [
            os.path.abspath(os.path.join(root, file))
            for root, _, files in os.walk(folder)
            for file in files
            if file.lower().endswith(EXTENSIONS)
        ]
        if not own:
            raise ConfigError(f'no pictures in {folder}: looked for {", ".join(EXTENSIONS)}')
        found += sorted(own)
    return found


def measure(pictures, recipe):
    """Mean and standard deviation of some pictures once they are encrypted."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(pictures))[:MEASURED]
    levels = [
        count_levels(seal(read_image(pictures[i]), recipe, rng).img)
        for i in tqdm(chosen, desc='statistics', leave=False)
    ]
    return statistics_of(add_levels(*levels))


def statistics(args, pictures):
    """What encrypted pictures are normalized by."""
    sizing = dict(short_side=args.size * 8 // 7, center_crop=[args.size] * 2, fit='error')
    recipe = Recipe.build(args.cipher, args.patch_size, sizing)
    if not any(step.removes_means for step in recipe.cipher.steps):
        return recipe.cipher, dict(mean=list(args.mean), std=list(args.std))
    std = [round(value, 1) for value in measure(pictures, recipe)['std']]
    return recipe.cipher, dict(mean=[128.0] * 3, std=std)


def vit(args, cipher, side, **kwargs):
    """The part of a config that is a backbone for patches of this side."""
    kind, _, name = args.model.partition(':')
    size = args.size // cipher.patch_size * side
    if kind == 'timm' and name:
        model = dict(type='hime_mm.TIMMPEViT', model_name=name)
    elif args.model in ('pevit-tiny', 'pevit-small', 'pevit-base'):
        model = dict(type='hime_mm.PEViT', arch=args.model.replace('pevit', 'deit'))
    else:
        raise ConfigError(
            f'unknown model {args.model!r}: choose from pevit-tiny, pevit-small, pevit-base, or '
            'timm:NAME with a name of timm'
        )
    init = dict(type='Pretrained', checkpoint=os.path.abspath(args.weights))
    if args.in_model:
        init['prefix'] = 'backbone.'
    return dict(model, patch_size=side, img_size=size, out_type='raw', init_cfg=init, **kwargs)


def make_config(args, pictures):
    """The config of the run."""
    cipher, encrypted = statistics(args, pictures)
    plain = dict(plain_mean=list(args.mean), plain_std=list(args.std))
    cfg = Config.fromfile(CONFIG)
    model = cfg.model
    model.data_preprocessor.update(
        cipher=args.cipher, patch_size=args.patch_size, seed=args.seed, **plain, **encrypted
    )
    model.teacher = vit(args, cipher, cipher.patch_size, pos_encoding='learned')
    model.backbone = vit(
        args,
        cipher,
        cipher.encrypted_patch_size,
        pos_encoding=args.pos_encoding if cipher.shuffles else 'learned',
        warm_start=dict(cipher=args.cipher, patch_size=args.patch_size, **plain, **encrypted),
    )
    cfg.work_dir = args.work_dir
    # So that others are noticed.
    cfg.pictures = hashlib.sha256('\n'.join(pictures).encode()).hexdigest()
    cfg.source = file_sha256(args.weights)
    loader = cfg.train_dataloader
    loader.update(batch_size=args.batch_size, num_workers=args.workers)
    listed = os.path.abspath(os.path.join(args.work_dir, PICTURES))
    loader.dataset.update(data_root='', data_prefix='', ann_file=listed)
    loader.dataset.pipeline[1].scale = args.size
    cfg.train_cfg.max_epochs = cfg.param_scheduler[1].end = args.epochs
    if args.lr is not None:
        cfg.optim_wrapper.optimizer.lr = args.lr
    if args.amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    if args.ema:
        cfg.custom_hooks.append(dict(type='EMAHook'))
    cfg.merge_from_dict(dict(randomness=dict(seed=args.seed), resume=True, launcher=args.launcher))
    cfg.merge_from_dict(args.cfg_options or {})
    return cfg


def check_begun(cfg):
    """Refuse to go on with what was begun with other settings."""
    path = Path(cfg.work_dir) / SETTINGS
    begun = (Path(cfg.work_dir) / 'last_checkpoint').is_file()
    if begun and path.is_file() and path.read_text() != cfg.pretty_text:
        raise ConfigError(
            f'{path} is of other settings than those of now: delete {cfg.work_dir}, or name '
            'another --work-dir'
        )


def train(cfg, pictures):
    """Train, or go on with it; the first process of several writes what all read."""
    runner = Runner.from_cfg(cfg)
    if is_main_process():
        Path(cfg.work_dir, SETTINGS).write_text(cfg.pretty_text)
        Path(cfg.work_dir, PICTURES).write_text('\n'.join(pictures))
    barrier()
    runner.train()


def write_backbone(cfg, args):
    """Write the student of the last checkpoint."""
    source = os.path.join(cfg.work_dir, f'epoch_{cfg.train_cfg.max_epochs}.pth')
    state, _ = read_checkpoint(source)
    backbone = {
        name.removeprefix('backbone.'): value.clone()
        for name, value in state.items()
        if name.startswith('backbone.')
    }
    student = {k: v for k, v in cfg.model.backbone.items() if k != 'init_cfg'}
    meta = dict(
        hime_mm_version=hime_mm.__version__,
        adapted_from=dict(file=os.path.basename(args.weights), sha256=file_sha256(args.weights)),
        backbone=Config(student).to_dict(),
        mean=list(cfg.model.data_preprocessor.mean),
        std=list(cfg.model.data_preprocessor.std),
    )
    with atomic_file(args.out) as stream:
        torch.save(dict(meta=meta, state_dict=backbone), stream)
    return meta


def adapt(args):
    force_safe_loading()
    if not os.path.isfile(args.weights):
        raise ConfigError(f'there is no file {args.weights}')
    if args.weights.endswith('.safetensors'):
        raise ConfigError(
            f'{args.weights}: MMEngine loads no such files: make one of it that it does, with '
            'tools/model_converters/convert.py'
        )
    # Those of a classifier or a detector, be it MMPretrain's or one that was converted.
    args.in_model = any(name.startswith('backbone.') for name in read_checkpoint(args.weights)[0])
    if os.path.isdir(args.out):
        raise ConfigError(f'{args.out} is a folder: --out is the file to write')
    if os.path.lexists(args.out) and not args.overwrite:
        raise ConfigError(f'{args.out} exists: choose another name, or replace it (--overwrite)')
    if args.amp and get_device() == 'cpu':
        raise ConfigError('--amp needs a GPU, and there is none: leave it out')
    if args.size % args.patch_size:
        raise ConfigError(
            f'crops of {args.size} pixels hold no whole patches of {args.patch_size}: choose '
            'another --size'
        )
    pictures = find_pictures(args.photos)
    cfg = check_config(make_config(args, pictures))
    check_begun(cfg)
    train(cfg, pictures)
    if is_main_process():
        meta = write_backbone(cfg, args)
        print(f'\nwrote {args.out}, for configs with\n')
        print(f'data_preprocessor=dict(mean={meta["mean"]}, std={meta["std"]}, to_rgb=True)')
        options = ', '.join(
            f'{k}={v!r}' for k, v in meta['backbone'].items() if k not in ('out_type', 'img_size')
        )
        print(
            f"backbone=dict({options},\n    init_cfg=dict(type='Pretrained', "
            f'checkpoint={args.out!r}))'
        )


def main():
    try:
        adapt(parse_args())
    except (HimeError, OSError) as error:
        print(f'adapt.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
