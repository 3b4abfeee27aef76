# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What training on encrypted images costs, as ratios measured in one run.

A training step (forward, loss, backward, AdamW) of each PEViT against the
plain DeiT of MMPretrain, and the encryption of a batch on the device against
that step.  Times depend on the machine; quote the ratios.
"""

import argparse
import os
import platform
import time
from typing import Callable, Dict, List

import mmpretrain
import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import hime_mm
from hime_mm.models import BatchCipher

WIDTHS = dict(tiny=192, small=384, base=768)
STEP_GOAL, CIPHER_GOAL = 1.03, 0.02
PLAIN = "MMPretrain's DeiT"
BACKBONES = {
    PLAIN: dict(type='VisionTransformer'),
    'PEViT, no position': dict(type='hime_mm.PEViT', pos_encoding='none'),
    'PEViT, RPE': dict(type='hime_mm.PEViT', pos_encoding='rpe'),
    'PEViT, MI g = 2': dict(
        type='hime_mm.PEViT',
        pos_encoding='learned',
        patch_embed='mixed',
        num_splits=2),
}
MAIN = 'PEViT, RPE'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time training steps and the encryption of a batch')
    parser.add_argument('--size', choices=sorted(WIDTHS), default='small')
    parser.add_argument(
        '--batch', type=int, default=16, help='images of a training step')
    parser.add_argument(
        '--cipher-batch',
        type=int,
        default=256,
        help='images that are encrypted at once')
    parser.add_argument(
        '--ciphers',
        nargs='+',
        default=[
            'shuffle', 'mix2', 'mix2+shuffle', 'center+erode2+shuffle',
            'noise25+shuffle'
        ])
    parser.add_argument(
        '--repeats', type=int, default=10, help='timed calls of each row')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--amp', action='store_true', help='bfloat16 mixed precision')
    args = parser.parse_args()
    if min(args.batch, args.cipher_batch, args.repeats) < 1:
        parser.error('all numbers must be positive')
    return args


def training_step(backbone: dict, args: argparse.Namespace) -> Callable:
    """A step as the runner does it, on a batch that is there already."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(arch=f'deit-{args.size}', img_size=224, **backbone),
            head=dict(
                type='VisionTransformerClsHead',
                num_classes=1000,
                in_channels=WIDTHS[args.size],
                loss=dict(
                    type='LabelSmoothLoss',
                    label_smooth_val=0.1,
                    mode='original')))).to(args.device).train()
    kind = dict(type='OptimWrapper')
    if args.amp:
        kind = dict(type='AmpOptimWrapper', dtype='bfloat16')
    optimizer = build_optim_wrapper(
        model, dict(optimizer=dict(type='AdamW', lr=1e-4), **kind))
    side = 112 if backbone.get('patch_embed') == 'mixed' else 224
    inputs = torch.randn(args.batch, 3, side, side, device=args.device)
    samples = [
        DataSample().set_gt_label(i % 1000).to(args.device)
        for i in range(args.batch)
    ]

    def step() -> None:
        with optimizer.optim_context(model):
            losses = model(inputs, samples, mode='loss')
        optimizer.update_params(model.parse_losses(losses)[0])

    return step


def time_all(calls: Dict[str, Callable], repeats: int,
             device: str) -> Dict[str, List[float]]:
    """Time the calls in turn, so that a busy moment hits all of them."""

    def wait() -> None:
        if device.startswith('cuda'):
            torch.cuda.synchronize()

    seconds = {name: [] for name in calls}
    for i in range(repeats + 2):
        # In another order each time: what runs after what has its cost too.
        names = list(calls)
        names = names[i % len(names):] + names[:i % len(names)]
        for name in names:
            wait()
            start = time.perf_counter()
            calls[name]()
            wait()
            if i >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    args = parse_args()
    init_default_scope('mmpretrain')
    device = args.device
    name = (torch.cuda.get_device_name()
            if device.startswith('cuda') else f'{os.cpu_count()} CPUs')
    print(f'hime_mm {hime_mm.__version__}, torch {torch.__version__}, '
          f'mmpretrain {mmpretrain.__version__}, Python '
          f'{platform.python_version()}, {name}')
    print(f'DeiT-{args.size}, 224x224, batch {args.batch}, '
          f'{"bfloat16 AMP" if args.amp else "float32"}, {args.repeats} '
          'repeats; ratios are best / median\n')

    steps = time_all(
        {key: training_step(value, args)
         for key, value in BACKBONES.items()}, args.repeats, device)
    print(f'{"training step":26} {"best ms":>9} {"median ms":>10} '
          f'{"x plain":>17}')
    plain = steps[PLAIN]
    ratios = {}
    for key, values in steps.items():
        # Each round's own plain step: a slow round is slow for both.
        pairs = np.array(values) / np.array(plain)
        ratios[key] = (min(values) / min(plain), float(np.median(pairs)))
        print(f'{key:26} {min(values) * 1e3:9.1f} '
              f'{np.median(values) * 1e3:10.1f} '
              f'{ratios[key][0]:8.3f} /{ratios[key][1]:7.3f}')

    batch = torch.randint(
        0, 256, (args.cipher_batch, 3, 224, 224), dtype=torch.uint8)
    batch = batch.to(device)
    calls = {}
    for text in args.ciphers:
        for kind in ('uint8', 'float32'):
            images = batch.to(getattr(torch, kind))
            calls[f'{text}, {kind}'] = (
                lambda cipher=BatchCipher(text), images=images: cipher(images))
    times = time_all(calls, args.repeats, device)
    # A step of as many images as are encrypted.
    factor = args.cipher_batch / args.batch
    best = min(steps[MAIN]) * factor
    median = np.median(steps[MAIN]) * factor
    print(f'\n{"encrypting " + str(args.cipher_batch) + " images":26} '
          f'{"best ms":>9} {"median ms":>10} {"% of their step":>17}')
    for key, values in times.items():
        print(f'{key:26} {min(values) * 1e3:9.1f} '
              f'{np.median(values) * 1e3:10.1f} '
              f'{min(values) / best:8.2%} /{np.median(values) / median:7.2%}')

    print()
    ratio = ratios[MAIN]
    share = (min(times[f'{args.ciphers[0]}, uint8']) / best,
             float(np.median(times[f'{args.ciphers[0]}, uint8']) / median))
    for what, (low, mid), goal, form in (
        (f'{MAIN} <= {STEP_GOAL} x plain', ratio, STEP_GOAL, '.3f'),
        (f'{args.ciphers[0]} <= {CIPHER_GOAL:.0%} of a step', share,
         CIPHER_GOAL, '.2%')):
        reached = 'reached' if mid <= goal else 'not reached'
        print(f'{what:36} best {low:{form}}, median {mid:{form}}: {reached}')


if __name__ == '__main__':
    main()
