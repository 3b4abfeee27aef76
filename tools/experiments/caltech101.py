# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What each cipher costs in accuracy: Caltech-101 from scratch, same budget.

    python tools/experiments/caltech101.py run --data-root data/caltech101
    python tools/experiments/caltech101.py report

The first trains every row with every seed through tools/train.py, skipping
what is there already; the second writes the table and the curves. Interrupted
runs go on from their last checkpoint, with draws that start over; a folder of
other settings is refused. Images are encrypted in the pipeline, as 8-bit
pictures, anew in every epoch.
"""

import os
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import runs as shared
from mmengine.config import Config

from hime_mm.ciphers import Cipher

CONFIG = shared.ROOT / 'configs/caltech101/vit-tiny_plain_1xb128-100e_caltech101-160px.py'


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name (str): Folder of its runs.
        title (str): What the table says.
        cipher (str, optional): None is plain.
        pos (str): ``pos_encoding`` of the PEViT. Learned positions start
            from the sine table: from random ones, short training learns none.
        mixed (int, optional): ``num_splits`` of the mixed embedding.
        std (float, optional): For images without means: what they are
            divided by, after 128 is taken off. Measured on 400 encrypted
            training images. None normalizes as for ImageNet.
        trained_as (str, optional): For a control: the row whose checkpoint
            is tested, without training, on the images of this one.
    """

    name: str
    title: str
    cipher: str | None = None
    pos: str = 'rpe'
    mixed: int | None = None
    std: float | None = None
    trained_as: str | None = None


ROWS = [
    Row('plain', 'plain ViT', pos='learned'),
    Row('rs_none', 'RS, no position', 'shuffle', 'none'),
    Row('rs_rpe', 'RS + RPE', 'shuffle'),
    Row('mi2', 'MI, g = 2', 'mix2', 'learned', 2),
    Row('mi4', 'MI, g = 4', 'mix4', 'learned', 4),
    Row('rs_mi2', 'RS + MI, g = 2', 'mix2+shuffle', mixed=2),
    Row('rs_mi2_center', 'RS + MI, g = 2, centred', 'mix2+center+shuffle', mixed=2, std=18.0),
    Row('rs_center', 'RS + center', 'center+shuffle', std=40.0),
    Row('rs_center_erode1', 'RS + center + erode 1', 'center+erode1+shuffle', std=38.0),
    Row('rs_center_erode2', 'RS + center + erode 2', 'center+erode2+shuffle', std=37.0),
    Row('rs_center_erode4', 'RS + center + erode 4', 'center+erode4+shuffle', std=35.0),
    Row('rs_erode2', 'RS + erode 2', 'erode2+shuffle'),
    Row('plain_on_rs', 'control: plain ViT tested on RS', 'shuffle', 'learned', trained_as='plain'),
    Row(
        'plain_on_mi2',
        'control: plain ViT tested on MI, g = 2',
        'mix2:tiled',
        'learned',
        trained_as='plain',
    ),
    Row('rs_rpe_on_plain', 'control: RS + RPE tested on plain images', None, trained_as='rs_rpe'),
]


@dataclass(frozen=True)
class Profile:
    """A budget that all rows share."""

    about: str
    crop: int
    resize: int
    epochs: int
    options: dict = field(default_factory=dict)


PROFILES = {
    'gpu': Profile('DeiT-Ti (12 layers, 192 wide), 160-px crops, 100 epochs', 160, 184, 100),
    # What a CPU core trains in five minutes.
    'cpu': Profile(
        '4 layers, 96 wide, 112-px crops, 12 epochs',
        112,
        128,
        12,
        {
            'model.backbone.arch': dict(
                embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384
            ),
            'model.head.in_channels': 96,
            'model.train_cfg': None,
            'optim_wrapper.optimizer.lr': 2e-3,
            'param_scheduler.0.end': 1,
            'param_scheduler.1.begin': 1,
            'train_cfg.val_interval': 3,
            'train_dataloader.batch_size': 64,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'default_hooks.checkpoint.interval': 3,
        },
    ),
}


def row_config(row: Row, seed: int, profile: Profile, data_root: str) -> Config:
    """The config of one run: the plain twin but for cipher and backbone."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            key: value
            for key, value in profile.options.items()
            if not key.endswith('.arch') and value is not None
        }
    )
    for key, value in profile.options.items():
        if value is None:
            node = cfg
            *path, last = key.split('.')
            for part in path:
                node = node[part]
            node[last] = None
    arch = profile.options.get('model.backbone.arch')
    if arch is not None:
        cfg.model.backbone.arch = dict(arch)
    cfg.train_cfg.max_epochs = profile.epochs
    cfg.model.backbone.img_size = profile.crop
    cfg.model.backbone.update(type='hime_mm.PEViT', pos_encoding=row.pos, pos_init='sincos')
    train, test = cfg.train_dataloader, cfg.val_dataloader
    train.dataset.pipeline[1].scale = profile.crop
    test.dataset.pipeline[1].scale = profile.resize
    test.dataset.pipeline[2].crop_size = profile.crop
    trained = next((r for r in ROWS if r.name == row.trained_as), row)
    if trained.std is not None:
        cfg.data_preprocessor.update(mean=[128.0] * 3, std=[trained.std] * 3)
    if trained.cipher is not None:
        if trained.mixed:
            cfg.model.backbone.update(patch_embed='mixed', num_splits=trained.mixed)
        else:
            side = Cipher.build(trained.cipher).encrypted_patch_size
            cfg.model.backbone.update(patch_size=side, img_size=profile.crop // 16 * side)
    if row.cipher is not None:
        for loader in (train, test):
            # A simulation that the seed repeats.
            loader.dataset.pipeline.insert(
                -1, dict(type='hime_mm.Encrypt', cipher=row.cipher, fit='error', randomness='numpy')
            )
    train.dataset.data_root = test.dataset.data_root = data_root
    cfg.test_dataloader = test
    cfg.randomness = dict(seed=seed)
    return cfg


def run_one(row: Row, seed: int, profile_name: str, data_root: str, work_dir: Path) -> None:
    profile = PROFILES[profile_name]
    folder = work_dir / row.name / f'seed{seed}'

    def work(config: Path) -> dict:
        if row.trained_as:
            weights = work_dir / row.trained_as / f'seed{seed}' / f'epoch_{profile.epochs}.pth'
            if not weights.is_file():
                raise RuntimeError(
                    f'{row.title!r} needs {weights}: run the row {row.trained_as!r} first'
                )
            last, curve = shared.test(config, folder, weights), []
        else:
            last, curve = shared.train(config, folder, 'accuracy/top1', profile.epochs)
        return dict(
            row=row.name,
            seed=seed,
            profile=profile_name,
            cipher=row.cipher,
            top1=last['accuracy/top1'],
            top5=last['accuracy/top5'],
            curve=curve,
        )

    shared.run_one(row_config(row, seed, profile, data_root), folder, work, ['mmpretrain'])


def run(args) -> None:
    rows = shared.choose(ROWS, args.rows)
    data_root = os.path.join(os.path.abspath(args.data_root), '')
    for split in ('train', 'test'):
        if not os.path.isdir(data_root + split):
            raise SystemExit(
                f'{data_root} has no folder {split!r}: it needs {{train,test}}/CLASS/*'
            )
    work_dir = Path(args.work_dir or f'work_dirs/caltech101-{args.profile}').resolve()
    # A table with fewer seeds is there before one with all of them; controls
    # come after what they test.
    for controls in (False, True):
        tasks = [
            partial(run_one, row, seed, args.profile, data_root, work_dir)
            for seed in args.seeds
            for row in rows
            if bool(row.trained_as) == controls
        ]
        shared.run_all(tasks, args.jobs)


def report(args) -> None:
    work_dir = Path(args.work_dir or f'work_dirs/caltech101-{args.profile}')
    results = shared.load_results(work_dir, ROWS)
    base = results.get('plain')
    print('| row | cipher | top-1 | to plain | top-5 | seeds |')
    print('| --- | --- | --- | --- | --- | --- |')
    for row in ROWS:
        runs = results.get(row.name)
        cipher = f'`{row.cipher}`' if row.cipher else ''
        if runs is None:
            print(f'| {row.title} | {cipher} | not run | | | 0 |')
            continue
        top1, top5 = (shared.mean_std([one[key] for one in runs]) for key in ('top1', 'top5'))
        gap = shared.gap(runs, base, 'top1')
        print(f'| {row.title} | {cipher} | {top1} | {gap} | {top5} | {len(runs)} |')
    print()
    shared.print_environment(results)
    if args.curves:
        draw_curves(results, Path(args.curves), PROFILES[args.profile])


def draw_curves(results: dict[str, list[dict]], path: Path, profile: Profile) -> None:
    """Mean and range over the seeds, in two panels that share the axis."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    panels = [
        ("the paper's ciphers", ['plain', 'rs_none', 'rs_rpe', 'mi2', 'mi4', 'rs_mi2']),
        (
            'hardened',
            [
                'plain',
                'rs_rpe',
                'rs_mi2_center',
                'rs_center',
                'rs_center_erode1',
                'rs_center_erode2',
                'rs_center_erode4',
                'rs_erode2',
            ],
        ),
    ]
    titles = {row.name: row.title for row in ROWS}
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for ax, (title, names) in zip(axes, panels, strict=True):
        for i, name in enumerate(names):
            runs = results.get(name)
            if not runs:
                continue
            # A run that was interrupted may lack a validation.
            curves = [dict(one['curve']) for one in runs]
            epochs = sorted(set.intersection(*map(set, curves)))
            values = [[curve[epoch] for curve in curves] for epoch in epochs]
            color = 'black' if name == 'plain' else f'C{i}'
            ax.plot(epochs, [statistics.mean(v) for v in values], color=color, label=titles[name])
            ax.fill_between(
                epochs, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15
            )
        ax.set_title(title)
        ax.set_xlabel('epoch')
        ax.legend(fontsize=8, loc='lower right')
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('Caltech-101 top-1 (%)')
    fig.suptitle(f'{profile.about}; mean and range of the seeds', fontsize=10)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    print(f'curves: {path}')


def parse_args():
    parser, _, table = shared.make_parser(
        __doc__, PROFILES, 'data/caltech101', 'work_dirs/caltech101-PROFILE'
    )
    table.add_argument('--curves', help='picture to write')
    return parser.parse_args()


def main():
    args = parse_args()
    dict(run=run, report=report)[args.command](args)


if __name__ == '__main__':
    main()
