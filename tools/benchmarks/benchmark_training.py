# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What training on encrypted images costs, as ratios measured in one run.

A training step (forward, loss, backward, AdamW) of each PEViT against the
plain DeiT of MMPretrain, and what encrypting adds to the data preprocessor
against that step.  Times depend on the machine; quote the ratios.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial

import mmpretrain
import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import hime_mm
from hime_mm.models import EncryptClsDataPreprocessor

WIDTHS = dict(tiny=192, small=384, base=768)
STEP_GOAL, CIPHER_GOAL = 1.03, 0.02
PLAIN = "MMPretrain's DeiT"
BACKBONES = {
    PLAIN: dict(type='VisionTransformer'),
    'PEViT, no position': dict(type='hime_mm.PEViT', pos_encoding='none'),
    'PEViT, RPE': dict(type='hime_mm.PEViT', pos_encoding='rpe'),
    'PEViT, MI g = 2': dict(
        type='hime_mm.PEViT', pos_encoding='learned', patch_embed='mixed', num_splits=2
    ),
}
MAIN = 'PEViT, RPE'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time training steps and the encryption of a batch'
    )
    parser.add_argument('--size', choices=sorted(WIDTHS), default='small')
    parser.add_argument(
        '--backbones',
        nargs='*',
        default=list(BACKBONES),
        choices=list(BACKBONES),
        help=f'beside {PLAIN!r} and {MAIN!r}',
    )
    parser.add_argument('--batch', type=int, default=16, help='images of a training step')
    parser.add_argument(
        '--cipher-batch', type=int, default=256, help='images that are encrypted at once'
    )
    parser.add_argument(
        '--ciphers',
        nargs='+',
        default=['shuffle', 'mix2', 'mix2+shuffle', 'center+erode2+shuffle', 'noise25+shuffle'],
    )
    parser.add_argument('--repeats', type=int, default=10, help='timed calls of each row')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 mixed precision')
    args = parser.parse_args()
    if min(args.batch, args.cipher_batch, args.repeats) < 1:
        parser.error('all numbers must be positive')
    return args


def training_step(backbone: dict, args: argparse.Namespace) -> Callable:
    """A step as the runner does it, on a batch that is there already."""
    torch.manual_seed(0)
    model = (
        MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(arch=f'deit-{args.size}', img_size=224, **backbone),
                head=dict(
                    type='VisionTransformerClsHead',
                    num_classes=1000,
                    in_channels=WIDTHS[args.size],
                    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
                ),
            )
        )
        .to(args.device)
        .train()
    )
    kind = dict(type='OptimWrapper')
    if args.amp:
        kind = dict(type='AmpOptimWrapper', dtype='bfloat16')
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-4), **kind))
    side = 112 if backbone.get('patch_embed') == 'mixed' else 224
    inputs = torch.randn(args.batch, 3, side, side, device=args.device)
    samples = [DataSample().set_gt_label(i % 1000).to(args.device) for i in range(args.batch)]

    def step() -> None:
        with optimizer.optim_context(model):
            losses = model(inputs, samples, mode='loss')
        optimizer.update_params(model.parse_losses(losses)[0])

    return step


def preprocess(
    module: ClsDataPreprocessor, inputs: torch.Tensor, samples: list[DataSample]
) -> dict:
    """What a training step starts with."""
    # Mixup would add up over the rounds.
    samples = [DataSample().set_gt_label(s.gt_label) for s in samples]
    return module(dict(inputs=inputs, data_samples=samples), training=True)


def time_all(calls: dict[str, Callable], repeats: int, device: str) -> dict[str, list[float]]:
    """Time the calls in turn, so that a busy moment hits all of them."""

    def wait() -> None:
        if device.startswith('cuda'):
            torch.cuda.synchronize()

    seconds = {name: [] for name in calls}
    for i in range(repeats + 2):
        # In another order each time: what runs after what has its cost too.
        names = list(calls)
        names = names[i % len(names) :] + names[: i % len(names)]
        for name in names:
            wait()
            start = time.perf_counter()
            calls[name]()
            wait()
            if i >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def verdict(best: float, median: float, limit: float) -> str:
    """Whether what was measured keeps to a limit: a median alone may be a lucky one."""
    return 'reached' if best <= limit and median <= limit else 'not reached'


def main() -> None:
    args = parse_args()
    init_default_scope('mmpretrain')
    device = args.device
    name = torch.cuda.get_device_name() if device.startswith('cuda') else f'{os.cpu_count()} CPUs'
    print(
        f'hime_mm {hime_mm.__version__}, torch {torch.__version__}, '
        f'mmpretrain {mmpretrain.__version__}, Python '
        f'{platform.python_version()}, {name}'
    )
    print(
        f'DeiT-{args.size}, 224x224, batch {args.batch}, '
        f'{"bfloat16 AMP" if args.amp else "float32"}, {args.repeats} '
        'repeats; ratios are best / median\n'
    )

    steps = time_all(
        {
            key: training_step(value, args)
            for key, value in BACKBONES.items()
            if key in (PLAIN, MAIN, *args.backbones)
        },
        args.repeats,
        device,
    )
    print(f'{"training step":26} {"best ms":>9} {"median ms":>10} {"x plain":>17}')
    plain = steps[PLAIN]
    ratios = {}
    for key, values in steps.items():
        # Each round's own plain step: a slow round is slow for both.
        pairs = np.array(values) / np.array(plain)
        ratios[key] = (min(values) / min(plain), float(np.median(pairs)))
        print(
            f'{key:26} {min(values) * 1e3:9.1f} '
            f'{np.median(values) * 1e3:10.1f} '
            f'{ratios[key][0]:8.3f} /{ratios[key][1]:7.3f}'
        )

    batch = torch.randint(0, 256, (args.cipher_batch, 3, 224, 224), dtype=torch.uint8)
    inputs = batch.to(device)
    samples = [DataSample().set_gt_label(i % 1000) for i in range(args.cipher_batch)]
    norm = dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True, num_classes=1000
    )
    calls = {}
    # After Mixup pixels have to be rounded first.
    for title, augments in (('', None), (', with Mixup', dict(type='Mixup', alpha=0.8))):
        options = dict(norm)
        if augments:
            options['batch_augments'] = dict(augments=augments)
        modules = {f'no cipher{title}': ClsDataPreprocessor(**options)}
        for text in args.ciphers:
            modules[text + title] = EncryptClsDataPreprocessor(text, **options)
        for name, module in modules.items():
            calls[name] = partial(preprocess, module.to(device), inputs, samples)
    times = time_all(calls, args.repeats, device)
    # A step of as many images as are encrypted.
    factor = args.cipher_batch / args.batch
    best = min(steps[MAIN]) * factor
    median = np.median(steps[MAIN]) * factor
    title = f'preprocessing {args.cipher_batch} images'
    print(f'\n{title:36} {"best ms":>9} {"median ms":>10} {"% of their step":>17}')
    shares = {}
    for name, values in times.items():
        none = times['no cipher, with Mixup' if name.endswith('Mixup') else 'no cipher']
        low = min(values) - min(none)
        mid = float(np.median(np.array(values) - np.array(none)))
        shares[name] = (low / best, mid / median)
        added = ''
        if values is not none:
            added = f'+{low / best:7.2%} /{mid / median:7.2%}'
        print(f'{name:36} {min(values) * 1e3:9.1f} {np.median(values) * 1e3:10.1f} {added:>17}')

    print()
    ratio = ratios[MAIN]
    share = shares[f'{args.ciphers[0]}, with Mixup']
    for what, (low, mid), goal, form in (
        (f'{MAIN} <= {STEP_GOAL} x plain', ratio, STEP_GOAL, '.3f'),
        (f'{args.ciphers[0]} <= {CIPHER_GOAL:.0%} of a step', share, CIPHER_GOAL, '.2%'),
    ):
        print(f'{what:36} best {low:{form}}, median {mid:{form}}: {verdict(low, mid, goal)}')


if __name__ == '__main__':
    main()
