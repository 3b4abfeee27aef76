# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Time and memory of training steps of detectors at COCO's full size.

Pictures, boxes and weights are random: this tells time and memory, and nothing of accuracy. Each
model gets the same pictures, in the form that its config trains on.
"""

import argparse
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.nn.attention import SDPBackend, sdpa_kernel

from hime_mm.config import load_config

_PLAIN = 'configs/peyolos/peyolos-small_plain_8xb1-150e_coco.py'
_PAPER = 'configs/hime_vit_coco.py'
_TILED = {'backbone.input_form': 'full', 'data_preprocessor.pad_size_divisor': 16}
_PEDINO = 'configs/pedino/pedino-small_mi2{}-dinov2_8xb2-50e_coco.py'
_RANDOM = {'backbone.pretrained': False}
#: Of each name the config, what changes in its `model`, and the form of the pictures.
CASES: dict[str, tuple[str, dict, str]] = {
    'YOLOS-S, plain': (_PLAIN, {}, 'full'),
    'PEYOLOS-S, MI compact': (_PAPER, {}, 'compact'),
    'PEYOLOS-S, MI tiled': (_PAPER, _TILED, 'tiled'),
    'YOLOS-S, plain, with_cp': (_PLAIN, {'backbone.with_cp': True}, 'full'),
    'PEYOLOS-S, compact, with_cp': (_PAPER, {'backbone.with_cp': True}, 'compact'),
    'DETR-R50, plain': ('mmdet::detr/detr_r50_8xb2-150e_coco.py', {}, 'full'),
    'DETR, PEViT-S, MI compact': ('configs/dropin/detr-small_mi2_8xb2-150e_coco.py', {}, 'compact'),
    'DINO-R50, plain': ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', {}, 'full'),
    'PEDINO-S, MI compact': (_PEDINO.format(''), _RANDOM, 'compact'),
    'PEDINO-S, MI tiled': (_PEDINO.format('-tiled'), _RANDOM, 'tiled'),
    'PatchTokenHead, PEViT-S, RS': ('configs/hime_vit_coco_rs.py', {}, 'full'),
}
_THREE = ('YOLOS-S, plain', 'PEYOLOS-S, MI compact', 'PEYOLOS-S, MI tiled')
_TWO = _THREE[:2]
_FULL = (800, 1328)
_UNEQUAL = [(800, 1328), (800, 1200), (800, 1056), (672, 1008)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Training steps of detectors at full size')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=3, help='of a row, at most')
    parser.add_argument('--budget', type=float, default=600, help='seconds of all rows')
    parser.add_argument('--shrink', type=float, default=1, help='factor of the sizes')
    parser.add_argument('--rows', type=int, help='only the first so many')
    return parser.parse_args()


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured, the most telling first."""
    for batch, predict in ((1, False), (1, True), (8, False)):
        yield from ((name, dict(batch=batch, predict=predict)) for name in _THREE)
    yield from ((name, dict(batch=1, amp='float32')) for name in _TWO)
    yield _TWO[0], dict(batch=1, maps=True)
    for name in _TWO:
        yield name, dict(batch=4)
        yield name, dict(batch=4, sizes=_UNEQUAL)
    yield from ((name, dict(batch=8)) for name in CASES if name.endswith('with_cp'))
    for name in _TWO:
        yield from ((name, dict(batch=1, sizes=[s])) for s in ((400, 656), (1600, 2656)))
    yield from ((name, dict(batch=1, amp='bfloat16')) for name in _TWO)
    yield from ((name, dict(batch=2)) for name in [*CASES][5:])
    yield from ((name, dict(batch=2)) for name in _TWO)
    yield _TWO[1], dict(batch=32)


def build(name: str, amp: str, device: str) -> tuple[Any, Any, str]:
    """A model of random weights, its optimizer, and the form of its pictures."""
    path, changes, form = CASES[name]
    cfg = load_config(path)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model = model.to(device).train()
    wrapper = cfg.optim_wrapper
    if amp != 'float32' and device == 'cuda':
        # As `tools/train.py --amp`.
        wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype=amp)
    return model, build_optim_wrapper(model, wrapper), form


def picture(rng: np.random.Generator, size: tuple[int, int], form: str) -> torch.Tensor:
    """Random pixels as a cipher would leave them."""
    h, w = size
    small = torch.from_numpy(rng.integers(0, 256, (3, h // 2, w // 2), np.uint8))
    if form == 'compact':
        return small
    if form == 'full':
        return torch.from_numpy(rng.integers(0, 256, (3, h, w), np.uint8))
    # Each mixed patch of 8 pixels, repeated 2 x 2.
    tiles = small.reshape(3, h // 16, 8, w // 16, 8)[:, :, None, :, :, None]
    return tiles.expand(3, h // 16, 2, 8, w // 16, 2, 8).reshape(3, h, w).contiguous()


def batch_of(sizes: list[tuple[int, int]], form: str) -> dict[str, list]:
    """The same pictures and seven boxes each for all models."""
    data: dict[str, list] = dict(inputs=[], data_samples=[])
    for i, (h, w) in enumerate(sizes):
        rng = np.random.default_rng(i)
        img = picture(rng, (h, w), form)
        sides = np.exp(rng.uniform(np.log(20), np.log(300), (7, 2)))
        corners = rng.uniform(0, 1, (7, 2)) * (np.array([w, h]) - sides)
        boxes = torch.tensor(np.concatenate([corners, corners + sides], 1), dtype=torch.float)
        shape = tuple(img.shape[1:])
        sample = DetDataSample(
            metainfo=dict(
                img_id=i,
                img_path='',
                ori_shape=(h, w),
                img_shape=shape,
                scale_factor=(shape[1] / w, shape[0] / h),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes / 2 if form == 'compact' else boxes,
            labels=torch.from_numpy(rng.integers(0, 80, 7)),
        )
        data['inputs'].append(img)
        data['data_samples'].append(sample)
    return data


def stepper(model: Any, optim: Any, data: dict, predict: bool, amp: str) -> Callable[[], None]:
    """What one step is."""
    if not predict:
        return lambda: model.train_step(
            dict(data, data_samples=[sample.clone() for sample in data['data_samples']]), optim
        )
    model.eval()
    device = next(model.parameters()).device.type
    half = amp != 'float32' and device == 'cuda'

    def step() -> None:
        with torch.no_grad(), torch.autocast(device, getattr(torch, amp), enabled=half):
            model.test_step(data)

    return step


def measure(
    args: argparse.Namespace,
    name: str,
    batch: int,
    sizes: list[tuple[int, int]] | None = None,
    amp: str = 'float16',
    predict: bool = False,
    maps: bool = False,
) -> str:
    """A row of the table."""
    cuda = args.device == 'cuda'
    shrunk = [
        (int(h * args.shrink) // 16 * 16, int(w * args.shrink) // 16 * 16)
        for h, w in sizes or [_FULL]
    ]
    model, optim, form = build(name, amp, args.device)
    all_sizes = (shrunk * batch)[:batch]
    step = stepper(model, optim, batch_of(all_sizes, form), predict, amp)
    wait = torch.cuda.synchronize if cuda else lambda: None
    seconds: list[float] = []
    with sdpa_kernel(SDPBackend.MATH) if maps else nullcontext():
        start = time.perf_counter()
        for _ in range(args.warmup):
            step()
        wait()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        while len(seconds) < args.repeats and (
            len(seconds) < 5 or time.perf_counter() - start < args.seconds
        ):
            begin = time.perf_counter()
            step()
            wait()
            seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float('nan')
    median = 1e3 * float(np.median(seconds))
    size = 'unequal' if len(set(all_sizes)) > 1 else '{}x{}'.format(*all_sizes[0])
    return (
        f'{name:30}{"predict" if predict else "train":8}{batch:6} {size:>10} '
        f'{amp if cuda else "float32":>9}{"maps" if maps else "fused":>7}{median:9.1f}'
        f'{1e3 * min(seconds):9.1f}{median / batch:8.1f}{peak:7.2f}'
    )


def main() -> None:
    args = parse_args()
    warnings.filterwarnings('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    what = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    print(f'torch {torch.__version__}, {what}; milliseconds of a step, peak GiB that are allocated')
    print(
        f'{"":38}{"batch":>6} {"size":>10} {"type":>9}{"maps":>7}{"median":>9}{"best":>9}'
        f'{"a pict.":>8}{"GiB":>7}'
    )
    begin = time.perf_counter()
    for name, case in [*cases()][: args.rows]:
        if time.perf_counter() - begin > args.budget:
            print(f'{name:30}{case}: left out, time is up', flush=True)
            continue
        print(measure(args, name, **case), flush=True)
        gc.collect()
        if args.device == 'cuda':
            torch.cuda.empty_cache()


if __name__ == '__main__':
    main()
