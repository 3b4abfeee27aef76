# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What each cipher costs a detector: blood cells (BCCD) and chess, same budget.

    python tools/experiments/detection.py run --dataset bccd --data-root data/bccd
    python tools/experiments/detection.py report --dataset bccd

The first trains every row with every seed through tools/train.py, skipping
what is there already; the second writes the table. The folder of the data
holds annotations/instances_{train,val}.json, train/ and val/. Rows from
trained weights need --weights, a file of timm's vit_small_patch14_dinov2
under timm's names, and take the first seed only. Interrupted runs go on from
their last checkpoint, with draws that start over; a folder of other settings
is refused. Images are encrypted in the pipeline, as 8-bit pictures, anew in
every epoch; boxes of shuffled images are evaluated in the originals.
"""

import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import runs as shared
from mmengine.config import Config

from hime_mm.ciphers import Cipher
from hime_mm.mapping.boxes import SHUFFLED_NMS

CENTER, ERODED = 'center+shuffle', 'center+erode2+shuffle'

#: RS, of which a row changes what it has to.
CONFIGS = {
    'bccd': 'configs/bccd/petoken-tiny_rs_1xb4-40e_bccd.py',
    'chess': 'configs/chess/petoken-tiny_rs_1xb4-40e_chess.py',
}
#: How likely boxes have to be, and how many an image has, before the suppression.
TEST = dict(score_thr=0.01, nms_pre=1000, max_per_img=300)
#: Learning rates: PEYOLOS; from weights, all that is new; the last block, and
#: each block before it less by the factor.
YOLOS_LR = 5e-4
NEW_LR, WEIGHTS_LR, LAYER_DECAY = 1e-3, 1e-4, 0.75
DEPTH = 12


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name (str): Folder of its runs.
        title (str): What the table says.
        cipher (str, optional): None is plain.
        base (str): The row with which the table compares.
        model (str): ``'scratch'``; ``'weights'``, from trained ones; or
            ``'peyolos'``.
    """

    name: str
    title: str
    cipher: str | None = None
    base: str = 'plain'
    model: str = 'scratch'

    @property
    def shuffled(self) -> bool:
        """Whether patches move, so that the model must do without positions."""
        return self.cipher is not None and Cipher.build(self.cipher).shuffles

    @property
    def patch(self) -> int:
        """Side of an encrypted patch, in pixels."""
        return 16 if self.cipher is None else Cipher.build(self.cipher).encrypted_patch_size


ROWS = [
    Row('plain', 'plain ViT'),
    Row('mi2', 'MI, g = 2', 'mix2'),
    Row('rs', 'RS', 'shuffle'),
    Row('rs_center', 'RS + center', CENTER),
    Row('rs_center_erode2', 'RS + center + erode 2', ERODED),
    Row('plain_weights', 'plain ViT, from weights', None, 'plain_weights', 'weights'),
    Row('rs_weights', 'RS, from weights', 'shuffle', 'plain_weights', 'weights'),
    Row(
        'rs_center_erode2_weights',
        'RS + center + erode 2, from weights',
        ERODED,
        'plain_weights',
        'weights',
    ),
    Row('peyolos_plain', 'PEYOLOS, plain', None, 'peyolos_plain', 'peyolos'),
    Row('peyolos_mi2', 'PEYOLOS, MI, g = 2', 'mix2', 'peyolos_plain', 'peyolos'),
]


@dataclass(frozen=True)
class Profile:
    """A budget that all rows share.

    Attributes:
        scales (dict): Width and height of the images of each data set.
        stds (dict): For images without means, by data set and cipher: what
            they are divided by, after 128 is taken off. Measured on 200
            encrypted training images.
        weights_epochs (int): Epochs of the rows from weights.
    """

    about: str
    scales: dict[str, tuple[int, int]]
    stds: dict[str, dict[str, float]]
    arch: str | dict
    width: int
    epochs: int
    weights_epochs: int
    options: dict = field(default_factory=dict)


PROFILES = {
    'gpu': Profile(
        'DeiT-S (12 layers, 384 wide) and ViT-S from weights, BCCD at 640x480, chess at 640x416, '
        '100 epochs',
        dict(bccd=(640, 480), chess=(640, 416)),
        dict(bccd={CENTER: 7.0, ERODED: 6.0}, chess={CENTER: 33.0, ERODED: 30.0}),
        'deit-small',
        384,
        100,
        100,
        {
            'train_dataloader.batch_size': 16,
            'train_dataloader.num_workers': 4,
            'train_dataloader.persistent_workers': True,
            'val_dataloader.batch_size': 16,
            'val_dataloader.num_workers': 4,
            'val_dataloader.persistent_workers': True,
        },
    ),
    'cpu': Profile(
        '6 layers, 128 wide, BCCD at 320x240, chess at 384x256, 40 epochs; ViT-S from weights, '
        '12 epochs',
        dict(bccd=(320, 240), chess=(384, 256)),
        dict(bccd={CENTER: 10.0, ERODED: 9.0}, chess={CENTER: 39.0, ERODED: 36.0}),
        dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        128,
        40,
        12,
        {
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
        },
    ),
}


def row_config(
    row: Row, seed: int, profile: Profile, dataset: str, data_root: str, weights: str | None = None
) -> Config:
    """The config of one run: RS's but for cipher, normalization, positions and head.

    `weights` is the path of a file, for a row from trained ones.
    """
    cfg = Config.fromfile(shared.ROOT / CONFIGS[dataset])
    cfg.merge_from_dict(profile.options)
    # What the loaders below no longer say.
    for name in ('encrypt', 'encrypt_owner', 'train_pipeline', 'test_pipeline', 'scale'):
        cfg.pop(name, None)
    _set_data(cfg, row, profile.scales[dataset], data_root)
    std = profile.stds[dataset].get(row.cipher)
    if std is not None:
        cfg.model.data_preprocessor.update(mean=[128.0] * 3, std=[std] * 3)
    width, height = (side // 16 for side in profile.scales[dataset])
    _set_model(cfg, row, profile, (height, width))
    epochs = profile.weights_epochs if row.model == 'weights' else profile.epochs
    _set_schedule(cfg, row, epochs)
    if row.model == 'weights':
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=weights)
        # Another file under the same name makes other settings.
        cfg.weights_sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    cfg.randomness = dict(seed=seed)
    return cfg


def _set_data(cfg: Config, row: Row, scale: tuple[int, int], data_root: str) -> None:
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = data_root
        pipeline = []
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = scale
            if step.type == 'hime_mm.Encrypt':
                if row.cipher is None:
                    continue
                # A simulation that the seed repeats.
                step.update(cipher=row.cipher, fit='error', randomness='numpy')
            pipeline.append(step)
        loader.dataset.pipeline = pipeline
    cfg.data_root = data_root
    cfg.val_evaluator.ann_file = data_root + 'annotations/instances_val.json'
    if not row.shuffled:
        cfg.val_evaluator = dict(
            type='CocoMetric', ann_file=cfg.val_evaluator.ann_file, metric='bbox'
        )
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator


def _set_model(cfg: Config, row: Row, profile: Profile, grid: tuple[int, int]) -> None:
    backbone, head = cfg.model.backbone, cfg.model.bbox_head
    positions = 'rpe' if row.shuffled else 'learned'
    # MI is embedded by a convolution of its own, from full-size patches' side.
    mixed = row.cipher is not None and not row.shuffled
    patch = 16 if mixed else row.patch
    size = tuple(side * patch for side in grid)
    if row.model == 'weights':
        cfg.model.backbone = dict(
            type='hime_mm.TIMMPEViT',
            model_name='vit_small_patch14_dinov2',
            pos_encoding=positions,
            out_type='featmap',
            img_size=size,
            patch_size=patch,
        )
        head.update(in_channels=384, feat_channels=384)
    else:
        backbone.update(arch=profile.arch, img_size=size, patch_size=patch, pos_encoding=positions)
        if mixed:
            backbone.update(patch_embed='mixed', num_splits=2)
        head.update(in_channels=profile.width, feat_channels=profile.width)
    if row.model == 'peyolos':
        cfg.model.type = 'hime_mm.PEYOLOS'
        backbone.update(out_type='det_tokens', num_det_tokens=100)
        cfg.model.bbox_head = dict(
            type='hime_mm.DetTokenHead', num_classes=head.num_classes, embed_dims=profile.width
        )
        cfg.model.test_cfg = dict(max_per_img=100)
        return
    head.patch_size = row.patch
    # The same suppression for all: in the originals, or here where patches stay in place.
    nms = None if row.shuffled else dict(type='nms', iou_threshold=SHUFFLED_NMS)
    cfg.model.test_cfg = dict(**TEST, nms=nms)


def _set_schedule(cfg: Config, row: Row, epochs: int) -> None:
    # Four validations: they cost little, and a run that stops loses little.
    interval = max(1, epochs // 4)
    cfg.max_epochs = epochs
    cfg.train_cfg.update(max_epochs=epochs, val_interval=interval)
    cfg.param_scheduler[1].update(end=epochs, T_max=epochs)
    cfg.default_hooks.checkpoint.update(interval=interval, max_keep_ckpts=1, save_best=None)
    optim = cfg.optim_wrapper
    if row.model == 'peyolos':
        optim.optimizer.lr = YOLOS_LR
    elif row.model == 'weights':
        optim.optimizer.lr = NEW_LR
        # As MMPretrain's constructor for layer-wise decay, which has no
        # other rate for what is new, head and positions.
        rate = WEIGHTS_LR / NEW_LR
        blocks = {
            f'timm_model.blocks.{i}.': dict(lr_mult=rate * LAYER_DECAY ** (DEPTH - 1 - i))
            for i in range(DEPTH)
        }
        optim.paramwise_cfg = dict(
            custom_keys={
                'timm_model.': dict(lr_mult=rate * LAYER_DECAY**DEPTH),
                'timm_model.norm.': dict(lr_mult=rate),
                **blocks,
            }
        )


def loaded(cfg: Config) -> str:
    """What a backbone gets from its file of weights.

    Raises:
        RuntimeError: If it leaves anything of timm's model as initialised.
    """
    from mmengine.runner import CheckpointLoader

    from hime_mm.registry import MODELS

    backbone = dict(cfg.model.backbone)
    path = backbone.pop('init_cfg')['checkpoint']
    state = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = state.get('state_dict', state)
    vit = MODELS.build(backbone)
    missing = {
        name
        for name in vit.load_state_dict(state, strict=False).missing_keys
        if name.startswith('timm_model.')
    }
    names = [name for name in vit.state_dict() if name.startswith('timm_model.')]
    if missing:
        raise RuntimeError(
            f'{path} lacks {len(missing)} of the {len(names)} tensors of {vit.model_name}, such '
            f'as {min(missing)!r}: give --weights a state dict with the names of timm'
        )
    return f'{len(names)} of {len(names)} tensors of {vit.model_name} from {Path(path).name}'


def run_one(row: Row, seed: int, args, data_root: str, work_dir: Path, weights: str | None) -> None:
    folder = work_dir / row.name / f'seed{seed}'
    cfg = row_config(row, seed, PROFILES[args.profile], args.dataset, data_root, weights)

    def work(config: Path) -> dict:
        source = None
        if row.model == 'weights':
            source = f'{loaded(cfg)} (SHA-256 {cfg.weights_sha256[:12]})'
        last, curve = shared.train(config, folder, 'coco/bbox_mAP', cfg.train_cfg.max_epochs)
        return dict(
            row=row.name,
            dataset=args.dataset,
            seed=seed,
            profile=args.profile,
            cipher=row.cipher,
            ap=last['coco/bbox_mAP'],
            ap50=last['coco/bbox_mAP_50'],
            ap75=last['coco/bbox_mAP_75'],
            epochs=cfg.train_cfg.max_epochs,
            weights=source,
            curve=curve,
        )

    shared.run_one(cfg, folder, work, ['mmdet', 'mmpretrain', 'mmcv'])


def run(args) -> None:
    rows = shared.choose(ROWS, args.rows)
    data_root = os.path.join(os.path.abspath(args.data_root or f'data/{args.dataset}'), '')
    parts = [
        f'{part}{split}{end}'
        for part, end in (('annotations/instances_', '.json'), ('', ''))
        for split in ('train', 'val')
    ]
    for part in parts:
        if not os.path.exists(data_root + part):
            raise SystemExit(f'{data_root} has no {part!r}: it needs {parts}')
    weights = args.weights and os.path.abspath(args.weights)
    if weights and not os.path.isfile(weights):
        raise SystemExit(f'--weights: there is no file {weights}')
    if not weights:
        needy = [row.name for row in rows if row.model == 'weights']
        if needy and args.rows:
            raise SystemExit(f'the rows {needy} need --weights')
        rows = [row for row in rows if row.model != 'weights']
        if needy:
            print(f'left out without --weights: {needy}')
    work_dir = Path(args.work_dir or default_work_dir(args)).resolve()
    # A table with fewer seeds is there before one with all of them.
    tasks = [
        partial(run_one, row, seed, args, data_root, work_dir, weights)
        for i, seed in enumerate(args.seeds)
        for row in rows
        if row.model != 'weights' or i == 0
    ]
    shared.run_all(tasks, args.jobs)


def report(args) -> None:
    results = shared.load_results(Path(args.work_dir or default_work_dir(args)), ROWS)
    print('| row | cipher | AP | to plain | AP50 | AP75 | seeds | epochs |')
    print('| --- | --- | --- | --- | --- | --- | --- | --- |')
    for row in ROWS:
        runs = results.get(row.name)
        cipher = f'`{row.cipher}`' if row.cipher else ''
        if runs is None:
            print(f'| {row.title} | {cipher} | not run | | | | 0 | |')
            continue
        ap, ap50, ap75 = (
            shared.mean_std([one[key] for one in runs], 3) for key in ('ap', 'ap50', 'ap75')
        )
        gap = shared.gap(runs, results.get(row.base), 'ap', 3)
        print(
            f'| {row.title} | {cipher} | {ap} | {gap} | {ap50} | {ap75} | {len(runs)} | '
            f'{runs[0]["epochs"]} |'
        )
    print()
    sources = {one['weights'] for runs in results.values() for one in runs} - {None}
    for source in sorted(sources):
        print(f'weights: {source}')
    shared.print_environment(results)


def default_work_dir(args) -> str:
    return f'work_dirs/detection-{args.dataset}-{args.profile}'


def parse_args():
    parser, run, table = shared.make_parser(
        __doc__, PROFILES, 'data/DATASET', 'work_dirs/detection-DATASET-PROFILE'
    )
    for command in (run, table):
        command.add_argument('--dataset', choices=sorted(CONFIGS), required=True)
    run.set_defaults(data_root=None)
    run.add_argument('--weights', help='trained weights, for the rows that start from some')
    return parser.parse_args()


def main():
    args = parse_args()
    dict(run=run, report=report)[args.command](args)


if __name__ == '__main__':
    main()
