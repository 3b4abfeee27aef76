# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which detector for MI: PEDINO against PEYOLOS, same weights, same training time.

    python tools/experiments/detectors.py time --dataset bccd --weights vit_s.pth
    python tools/experiments/detectors.py run --dataset bccd --weights vit_s.pth
    python tools/experiments/detectors.py report --dataset bccd

The first measures what a step of training costs each of them, from which the
epochs of `EQUAL` were chosen; the second trains both through tools/train.py,
the third writes the table. Both are the small config of PEDINO under
configs/{bccd,chess} but for what reads the ViT: images, cipher, order and
size of batches, ViT, its weights and its rates are the same. The weights are
a file of timm's vit_small_patch14_dinov2 under timm's names, of which the
first half of the blocks is used; their patch embedding is resampled for both.
The folder of the data holds annotations/instances_{train,val}.json, train/
and val/. Interrupted runs go on from their last checkpoint.
"""

import argparse
import hashlib
import os
import resource
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import runs as shared
import torch
from mmengine.config import Config

CONFIGS = {
    'bccd': 'configs/bccd/pedino-tiny_mi2-dinov2_1xb1-12e_bccd.py',
    'chess': 'configs/chess/pedino-tiny_mi2-dinov2_1xb1-12e_chess.py',
}
#: Epochs of about the same CPU time, by `time`.
EQUAL = {
    'bccd': dict(pedino=4, peyolos=6),
    'chess': dict(pedino=3, peyolos=4),
}
#: PEYOLOS: the rate of head and detection tokens. The ViT has PEDINO's.
YOLOS_LR = 5e-4


@dataclass(frozen=True)
class Row:
    """One line of the table: `name` is the folder of its runs."""

    name: str
    title: str


ROWS = [Row('peyolos', 'PEYOLOS'), Row('pedino', 'PEDINO')]


def row_config(
    row: Row, seed: int, dataset: str, data_root: str, weights: str, resampled: str
) -> Config:
    """The config of one run; `resampled` is the file of weights that PEYOLOS gets."""
    cfg = Config.fromfile(shared.ROOT / CONFIGS[dataset])
    for name in ('encrypt', 'encrypt_owner', 'mixed', 'train_pipeline', 'test_pipeline', 'scale'):
        cfg.pop(name, None)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = data_root
        for step in loader.dataset.pipeline:
            if step.type == 'hime_mm.Encrypt':
                # A simulation that the seed repeats.
                step.update(fit='error', randomness='numpy')
    cfg.data_root = data_root
    cfg.val_evaluator.ann_file = f'{data_root}annotations/instances_val.json'
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.model.backbone.update(
        # Whose weights are in the file.
        model_name='vit_small_patch14_dinov2',
        pretrained=False,
        init_cfg=dict(type='Pretrained', checkpoint=weights),
    )
    if row.name == 'peyolos':
        _set_peyolos(cfg, resampled)
    epochs = EQUAL[dataset][row.name]
    cfg.max_epochs = epochs
    # Two validations: a run that stops loses half of it at most.
    cfg.train_cfg.update(max_epochs=epochs, val_interval=max(1, epochs // 2))
    cfg.param_scheduler[1].update(end=epochs, T_max=epochs)
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1, save_best=None)
    # Another file under the same name makes other settings.
    cfg.weights_sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    cfg.randomness = dict(seed=seed)
    return cfg


def _depth(cfg: Config) -> int:
    """How many of the ViT's blocks a config of PEDINO has."""
    return max(cfg.model.backbone.out_indices) + 1


def _set_peyolos(cfg: Config, resampled: str) -> None:
    """Detection tokens in place of projector and decoder."""
    dino, vit = cfg.model, cfg.model.backbone
    depth = _depth(cfg)
    cfg.model = dict(
        type='hime_mm.PEYOLOS',
        data_preprocessor=dino.data_preprocessor,
        backbone=dict(
            type='hime_mm.PEViT',
            arch=dict(embed_dims=384, num_layers=depth, num_heads=6, feedforward_channels=1536),
            layer_scale_init_value=1e-5,
            # What the weights have been made for, so that none starts anew.
            patch_embed='linear',
            pos_encoding='learned',
            out_type='det_tokens',
            num_det_tokens=100,
            init_cfg=dict(type='Pretrained', checkpoint=resampled),
            **{key: vit[key] for key in ('img_size', 'patch_size', 'drop_path_rate')},
        ),
        bbox_head=dict(
            type='hime_mm.DetTokenHead', num_classes=dino.bbox_head.num_classes, embed_dims=384
        ),
        test_cfg=dino.test_cfg,
    )
    optim = cfg.optim_wrapper
    lr, decay = optim.optimizer.lr / YOLOS_LR, optim.paramwise_cfg.layer_decay_rate
    optim.pop('constructor')
    optim.optimizer.lr = YOLOS_LR
    # The rates of PEDINO's ViT; that constructor would give detection tokens
    # the lowest of all.
    optim.paramwise_cfg = dict(
        custom_keys={
            'backbone.': dict(lr_mult=lr * decay ** (depth + 1)),
            **{
                f'backbone.layers.{i}.': dict(lr_mult=lr * decay ** (depth - i))
                for i in range(depth)
            },
            'backbone.ln1.': dict(lr_mult=lr),
            'backbone.det_': dict(lr_mult=1.0),
        }
    )


def resample(weights: str, patch: int, depth: int, path: Path) -> str:
    """Write the first blocks, and a patch embedding of another size, as TIMMPEViT takes them."""
    from timm.layers import resample_patch_embed

    state = torch.load(weights, map_location='cpu', weights_only=True)
    name = 'patch_embed.proj.weight'
    state[name] = resample_patch_embed(state[name], [patch, patch])
    for key in list(state):
        if key == 'mask_token' or key.startswith('blocks.') and int(key.split('.')[1]) >= depth:
            del state[key]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return str(path)


def seconds_per_epoch(configs: list[Config], steps: int, folder: Path) -> list[float]:
    """CPU time of each, measured in turns."""
    from mmengine.runner import Runner

    runs = []
    for cfg in configs:
        cfg.work_dir, cfg.experiment_name = str(folder), f'time_{len(runs)}'
        runner = Runner.from_cfg(cfg)
        loader = runner.build_dataloader(cfg.train_dataloader)
        runner.model.init_weights()
        runner.model.train()
        optim = runner.build_optim_wrapper(cfg.optim_wrapper)
        runs.append((runner.model, optim, loader, iter(loader)))
    spent = [0.0] * len(runs)
    for step in range(steps + 1):
        for i, (model, optim, _, batches) in enumerate(runs):
            start = time.process_time()
            model.train_step(next(batches), optim)
            # The first has to warm up.
            spent[i] += (time.process_time() - start) if step else 0
    return [one / steps * len(loader) for one, (_, _, loader, _) in zip(spent, runs, strict=True)]


def measure(args) -> None:
    torch.set_num_threads(1)
    settings = _settings(args)
    configs = [row_config(row, 0, *settings) for row in ROWS]
    found = seconds_per_epoch(configs, args.steps, work_dir(args) / 'time')
    for row, seconds in zip(ROWS, found, strict=True):
        epochs = EQUAL[args.dataset][row.name]
        print(
            f'{row.title}: {seconds:.1f} s of CPU time an epoch, {epochs} epochs '
            f'{seconds * epochs / 60:.1f} minutes'
        )


def _settings(args) -> tuple[str, str, str, str]:
    data_root = os.path.join(os.path.abspath(args.data_root or f'data/{args.dataset}'), '')
    weights = os.path.abspath(args.weights)
    for path in (weights, f'{data_root}annotations/instances_train.json'):
        if not os.path.isfile(path):
            raise SystemExit(f'there is no file {path}')
    cfg = Config.fromfile(shared.ROOT / CONFIGS[args.dataset])
    patch = cfg.model.backbone.patch_size
    path = work_dir(args) / f'weights_patch{patch}.pth'
    resampled = resample(weights, patch, _depth(cfg), path)
    return args.dataset, data_root, weights, resampled


def _children() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run_one(row: Row, seed: int, args, settings: tuple) -> None:
    folder = work_dir(args) / row.name / f'seed{seed}'
    cfg = row_config(row, seed, *settings)

    def work(config: Path) -> dict:
        before = _children()
        last, curve = shared.train(config, folder, 'coco/bbox_mAP', cfg.train_cfg.max_epochs)
        found = {f'ap{end}': last[f'coco/bbox_mAP{end}'] for end in ('', '_50', '_75')}
        return dict(
            row=row.name,
            dataset=args.dataset,
            seed=seed,
            epochs=cfg.train_cfg.max_epochs,
            weights=cfg.weights_sha256[:12],
            curve=curve,
            # Of a run that was interrupted, the last part.
            cpu_seconds=round(_children() - before, 1),
            **found,
        )

    shared.run_one(cfg, folder, work, ['mmdet', 'mmpretrain', 'mmcv'])


def run(args) -> None:
    rows, settings = shared.choose(ROWS, args.rows), _settings(args)
    tasks = [partial(run_one, row, seed, args, settings) for seed in args.seeds for row in rows]
    shared.run_all(tasks, 1)


def report(args) -> None:
    results = shared.load_results(work_dir(args), ROWS)
    print('| detector | AP | to PEYOLOS | AP50 | AP75 | epochs | CPU minutes | minutes | seeds |')
    print('| --- | --- | --- | --- | --- | --- | --- | --- | --- |')
    for row in ROWS:
        runs = results.get(row.name)
        if runs is None:
            print(f'| {row.title} | not run | | | | | | | 0 |')
            continue
        ap, ap50, ap75 = (
            shared.mean_std([one[key] for one in runs], 3) for key in ('ap', 'ap_50', 'ap_75')
        )
        gap = shared.gap(runs, results.get('peyolos'), 'ap', 3)
        cpu, minutes = (
            shared.mean_std([one[key] / 60 for one in runs]) for key in ('cpu_seconds', 'seconds')
        )
        print(
            f'| {row.title} | {ap} | {gap} | {ap50} | {ap75} | {runs[0]["epochs"]} | {cpu} | '
            f'{minutes} | {len(runs)} |'
        )
    print(f'\nweights: SHA-256 {" / ".join({o["weights"] for r in results.values() for o in r})}')
    shared.print_environment(results)


def work_dir(args) -> Path:
    return Path(args.work_dir or f'work_dirs/detectors-{args.dataset}').resolve()


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    sub = parser.add_subparsers(dest='command', required=True)
    timing = sub.add_parser('time', help='measure a step of training')
    timing.add_argument('--steps', type=int, default=10, help='default: 10')
    train = sub.add_parser('run', help='train and test the rows')
    train.add_argument('--rows', nargs='+', help='default: all')
    train.add_argument('--seeds', nargs='+', type=int, default=[0], help='default: 0')
    for command in (timing, train):
        command.add_argument('--data-root', help='default: data/DATASET')
        command.add_argument('--weights', required=True, help='trained weights of the ViT')
    for command in (timing, train, sub.add_parser('report', help='print the table')):
        command.add_argument('--dataset', choices=sorted(CONFIGS), required=True)
        command.add_argument('--work-dir', help='default: work_dirs/detectors-DATASET')
    return parser.parse_args()


def main():
    args = parse_args()
    dict(time=measure, run=run, report=report)[args.command](args)


if __name__ == '__main__':
    main()
