# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What encryption costs those who fine-tune trained weights, and what adapting them first gives.

    python tools/experiments/adaptation.py run --weights vit_s.pth \\
        --data-root data/caltech101 --photos data/photos data/coco/train2017
    python tools/experiments/adaptation.py report --curves adaptation.png

A ViT-S (timm's vit_small_patch14_dinov2) is fine-tuned on few pictures a class of
Caltech-101: of the classes 51 to 101, the private task, or of all. It starts from
the weights as they are (direct); from the same, for as many more epochs as
adapting takes of computation (control); or from weights that ShuffleDistillation
adapted to the cipher (adapted) on --photos and pictures of the classes 1 to 50,
without labels. Of a cipher that changes patches, the patch embedding is made to
fit them (`warm_start`), but in two more starts: resized, and random. Three more adapt
longer (with a control of its own), with RPE, or the last six blocks only.
Interrupted runs go on from their last checkpoint; a folder of other settings is
refused. Images are encrypted on the device, anew in every epoch.
"""

import json
import math
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import runs as shared
import torch
from mmengine.config import Config

from hime_mm.ciphers import Cipher
from hime_mm.images.codec import EXTENSIONS
from hime_mm.images.files import file_sha256
from hime_mm.models.weights import read_checkpoint

FINETUNE = shared.ROOT / 'configs/finetune/vit-small-dinov2_plain_1xb8-20e_caltech101-224px.py'
ADAPT = shared.ROOT / 'configs/adapt/pevit-small-dinov2_rs_1xb16-10e_photos-224px.py'
PATCH = 14
#: Forward and backward pass of the student and forward pass of the teacher, to
#: forward and backward pass of the student alone.
COST = 4 / 3
#: Of each public class of Caltech-101, so that none is seen far more than others.
PUBLIC_PER_CLASS = 40
#: How much longer a second adaptation takes, and its control.
LONGER = 3
STARTS = ('direct', 'control', 'adapted', 'control_longer', 'longer')
#: Adapted otherwise: options of the student. The `frozen` half stays as it was.
VARIANTS = {'rpe': dict(pos_encoding='rpe'), 'frozen': dict(frozen_stages=6)}
ADAPTED = ('adapted', 'longer', *VARIANTS)
#: Without a warm start of the patch embedding.
COLD = ('resized', 'random')


@dataclass(frozen=True)
class Row:
    """A cipher.

    Attributes:
        name (str): In names of folders.
        title (str): What the table says.
        cipher (str, optional): None is plain.
        std (float, optional): For images without means: what they are divided
            by, after 128 is taken off; measured on 450 photos. None normalizes
            as for ImageNet.
    """

    name: str
    title: str
    cipher: str | None = None
    std: float | None = None


ROWS = [
    Row('plain', 'plain'),
    Row('mi2', 'MI, g = 2', 'mix2'),
    Row('rs', 'RS', 'shuffle'),
    Row('rs_center', 'RS + center', 'center+shuffle', 35.0),
    Row('rs_center_erode2', 'RS + center + erode 2', 'center+erode2+shuffle', 32.5),
    Row('rs_mi2', 'RS + MI, g = 2', 'mix2+shuffle'),
]


@dataclass(frozen=True)
class Profile:
    """A budget that all rows share.

    Attributes:
        about (str): What ``--help`` says.
        crop (int): Side of an image, in pixels.
        resize (int): Shorter side of a test image before its middle is cut out.
        epochs (int): Of fine-tuning.
        adapt_epochs (int): Of adapting.
        per_class (int, optional): Training pictures of a class; None are all.
        workers (int): Of each loader.
        larger (int): A batch to that of the config; rates grow with its root.
        amp (bool): Whether to train in mixed precision.
    """

    about: str
    crop: int
    resize: int
    epochs: int
    adapt_epochs: int
    per_class: int | None
    workers: int
    larger: int = 1
    amp: bool = False


PROFILES = {
    'gpu': Profile('224 px, all training pictures, 20 epochs', 224, 256, 20, 50, None, 4, 4, True),
    # What a CPU core fine-tunes in ten minutes.
    'cpu': Profile('112 px, 15 training pictures a class, 6 epochs', 112, 128, 6, 4, 15, 0),
}
#: Which classes, by their sorted names, and how many test pictures of each.
PROTOCOLS = {'private': (slice(50, 101), None), 'all': (slice(0, 101), 8)}


def classes_of(data_root: str) -> list[str]:
    return sorted(os.listdir(os.path.join(data_root, 'train')))


def write_list(path: Path, lines: list[str]) -> str:
    """An annotation file of MMPretrain, unless it is there."""
    text = '\n'.join(lines)
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(path)


def labelled(data_root: str, split: str, classes: list[str], count: int | None) -> list[str]:
    """So many pictures of each class, with its number."""
    lines = []
    for label, name in enumerate(classes):
        files = sorted(os.listdir(os.path.join(data_root, split, name)))[:count]
        lines += [f'{name}/{file} {label}' for file in files]
    return lines


def public(data_root: str, photos: list[str]) -> list[str]:
    """Paths of public photos, and of pictures of the classes that are no private task."""
    folders = [os.path.join(data_root, 'train', name) for name in classes_of(data_root)[:50]]
    counts = [PUBLIC_PER_CLASS] * 50 + [None] * len(photos)
    return [
        os.path.join(folder, file)
        for folder, count in zip(folders + photos, counts, strict=True)
        for file in sorted(f for f in os.listdir(folder) if f.lower().endswith(EXTENSIONS))[:count]
    ]


def use_cipher(cfg: Config, row: Row, profile: Profile, weights: str) -> None:
    """Cipher, statistics, backbone and size of a run."""
    preprocessor = cfg.get('data_preprocessor') or cfg.model.data_preprocessor
    mean, std = list(preprocessor.mean), list(preprocessor.std)
    backbone = cfg.model.backbone
    backbone.update(model_name='vit_small_patch14_dinov2', pretrained=False, img_size=profile.crop)
    if row.cipher is not None:
        cipher = Cipher(row.cipher, PATCH)
        side = cipher.encrypted_patch_size
        encrypted = dict(mean=mean, std=std)
        if row.std is not None:
            encrypted = dict(mean=[128.0] * 3, std=[row.std] * 3)
        preprocessor.update(cipher=row.cipher, patch_size=PATCH, seed=0, **encrypted)
        backbone.update(
            patch_size=side,
            img_size=profile.crop // PATCH * side,
            pos_encoding='none' if cipher.shuffles else 'learned',
            warm_start=dict(
                cipher=row.cipher, patch_size=PATCH, plain_mean=mean, plain_std=std, **encrypted
            ),
        )
    backbone.init_cfg = dict(type='Pretrained', checkpoint=weights)


def adapt_config(
    row: Row, args, profile: Profile, work_dir: Path, start: str = 'adapted'
) -> Config:
    cfg = Config.fromfile(ADAPT)
    mean, std = cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std
    cfg.model.data_preprocessor.update(plain_mean=mean, plain_std=std)
    use_cipher(cfg, row, profile, args.weights)
    cfg.model.backbone.update(VARIANTS.get(start, {}))
    cfg.model.teacher.update(
        model_name='vit_small_patch14_dinov2',
        pretrained=False,
        img_size=profile.crop,
        init_cfg=dict(type='Pretrained', checkpoint=args.weights),
    )
    loader = cfg.train_dataloader
    listed = write_list(work_dir / 'public.txt', public(args.data_root, args.photos))
    loader.dataset.update(ann_file=listed, data_root='', data_prefix='')
    loader.dataset.pipeline[1].scale = profile.crop
    set_budget(cfg, profile.adapt_epochs, profile)
    cfg.randomness = dict(seed=0)
    record(cfg, args)
    return cfg


def record(cfg: Config, args) -> None:
    """What a run depends on beside its settings, so that other pictures or weights are noticed."""
    loaders = [cfg[name] for name in ('train_dataloader', 'val_dataloader') if name in cfg]
    cfg.source = args.source
    cfg.pictures = [file_sha256(loader.dataset.ann_file)[:12] for loader in loaders]


def set_budget(cfg: Config, epochs: int, profile: Profile) -> None:
    cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler[1].end = epochs
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=2, max_keep_ckpts=1)
    cfg.train_dataloader.batch_size *= profile.larger
    cfg.optim_wrapper.optimizer.lr *= math.sqrt(profile.larger)
    if profile.amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    for name in ('train_dataloader', 'val_dataloader'):
        if name in cfg:
            cfg[name].num_workers = profile.workers
            cfg[name].persistent_workers = profile.workers > 0


def finetune_config(
    row: Row, start: str, protocol: str, seed: int, args, profile: Profile, work_dir: Path
) -> Config:
    cfg = Config.fromfile(FINETUNE)
    weights = args.weights
    if row.cipher is not None:
        cfg.data_preprocessor.type = 'hime_mm.EncryptClsDataPreprocessor'
    if start in ADAPTED:
        weights = str(work_dir / start / row.name / 'backbone.pth')
    elif start == 'random':
        weights = str(work_dir / 'no_embedding.pth')
    use_cipher(cfg, row, profile, weights)
    if start in COLD:
        del cfg.model.backbone.warm_start
    elif start == 'rpe':
        cfg.model.backbone.pos_encoding = 'rpe'
    chosen, tested = PROTOCOLS[protocol]
    classes = classes_of(args.data_root)[chosen]
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = len(classes)
    for split, count in (('train', profile.per_class), ('test', tested)):
        loader = cfg.train_dataloader if split == 'train' else cfg.val_dataloader
        lines = labelled(args.data_root, split, classes, count)
        loader.dataset.update(
            ann_file=write_list(work_dir / protocol / f'{split}.txt', lines),
            data_root=args.data_root,
            data_prefix=split,
        )
        if split == 'train':
            pictures = len(lines)
    cfg.train_dataloader.dataset.pipeline[1].scale = profile.crop
    cfg.val_dataloader.dataset.pipeline[1].scale = profile.resize
    cfg.val_dataloader.dataset.pipeline[2].crop_size = profile.crop
    epochs = profile.epochs
    if start.startswith('control'):
        adapted = profile.adapt_epochs * len(public(args.data_root, args.photos))
        epochs += round(adapted * COST / pictures)
    set_budget(cfg, epochs, profile)
    cfg.train_cfg.val_interval = max(epochs // 5, 2)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1,)
    cfg.randomness = dict(seed=seed)
    record(cfg, args)
    return cfg


def budget(start: str, args) -> Profile:
    """The profile, with the epochs that an adaptation takes."""
    profile = PROFILES[args.profile]
    if start in ('longer', 'control_longer'):
        profile = replace(profile, adapt_epochs=LONGER * profile.adapt_epochs)
    return profile


def applies(row: Row, start: str) -> bool:
    """Whether there is something to adapt, or an embedding to make."""
    if start in COLD:
        return row.cipher not in (None, 'shuffle')
    if start == 'rpe':
        return row.cipher is not None and Cipher(row.cipher, PATCH).shuffles
    return row.cipher is not None or start in ('direct', 'control')


def write_random(args, work_dir: Path) -> None:
    """The weights without their patch embedding."""
    state, _ = read_checkpoint(args.weights)
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in state.items() if 'patch_embed' not in name}
    torch.save(kept, work_dir / 'no_embedding.pth')


def adapt(row: Row, start: str, args, work_dir: Path) -> None:
    """Adapt the weights to a cipher, or go on with it."""
    profile = budget(start, args)
    folder = work_dir / start / row.name
    cfg = adapt_config(row, args, profile, work_dir, start)

    def work(config: Path) -> dict:
        log = folder / 'output.txt'
        shared.call('tools/train.py', str(config), '--work-dir', str(folder), '--resume', log=log)
        state, _ = read_checkpoint(str(folder / f'epoch_{profile.adapt_epochs}.pth'))
        prefix = 'backbone.'
        student = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        torch.save(dict(state_dict=student), folder / 'backbone.pth')
        losses = [[line['step'], line['loss']] for line in shared.scalars(folder, 'loss')]
        return dict(
            row=row.name,
            start=start,
            weights=cfg.source,
            pictures=cfg.pictures,
            epochs=profile.adapt_epochs,
            curve=losses,
        )

    shared.run_one(cfg, folder, work, ['mmpretrain', 'timm'])


def finetune(row: Row, start: str, protocol: str, seed: int, args, work_dir: Path) -> None:
    profile = budget(start, args)
    folder = work_dir / protocol / f'{row.name}-{start}' / f'seed{seed}'
    cfg = finetune_config(row, start, protocol, seed, args, profile, work_dir)
    epochs = cfg.train_cfg.max_epochs

    def work(config: Path) -> dict:
        last, curve = shared.train(config, folder, 'accuracy/top1', epochs)
        return dict(
            row=row.name,
            start=start,
            seed=seed,
            weights=cfg.source,
            pictures=cfg.pictures,
            epochs=epochs,
            top1=last['accuracy/top1'],
            curve=curve,
            losses=[[line['step'], line['loss']] for line in shared.scalars(folder, 'loss')],
        )

    shared.run_one(cfg, folder, work, ['mmpretrain', 'timm'])


def cross(tested: Row, on: Row, start: str, protocol: str, seed: int, args, work_dir) -> None:
    """Test what was fine-tuned for one cipher on pictures of another."""
    trained = work_dir / protocol / f'{tested.name}-{start}' / f'seed{seed}'
    cfg = finetune_config(tested, start, protocol, seed, args, budget(start, args), work_dir)
    weights = trained / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    other = finetune_config(on, 'direct', protocol, seed, args, budget(start, args), work_dir)
    cfg.data_preprocessor = other.data_preprocessor
    if on.cipher is None:
        cfg.data_preprocessor.update(
            type='hime_mm.EncryptClsDataPreprocessor', cipher=None, patch_size=PATCH
        )
    folder = work_dir / protocol / f'{tested.name}-{start}-on-{on.name}' / f'seed{seed}'

    def work(config: Path) -> dict:
        found = shared.test(config, folder, weights)
        return dict(
            row=tested.name, on=on.name, start=start, seed=seed, top1=found['accuracy/top1']
        )

    shared.run_one(cfg, folder, work, ['mmpretrain', 'timm'])


def run(args) -> None:
    rows = shared.choose(ROWS, args.rows)
    args.data_root = os.path.abspath(args.data_root)
    args.photos = [os.path.abspath(folder) for folder in args.photos]
    args.weights = os.path.abspath(args.weights)
    args.source = f'{os.path.basename(args.weights)} (SHA-256 {file_sha256(args.weights)[:12]})'
    work_dir = Path(args.work_dir or f'work_dirs/adaptation-{args.profile}').resolve()
    ciphers = [row for row in rows if row.cipher]
    adapting = [
        partial(adapt, row, start, args, work_dir)
        for start in ADAPTED
        if start in args.starts
        for row in ciphers
        if applies(row, start)
    ]
    shared.run_all(adapting, args.jobs)
    if 'random' in args.starts:
        write_random(args, work_dir)
    tasks = [
        partial(finetune, row, start, protocol, seed, args, work_dir)
        for protocol in args.protocols
        for seed in args.seeds
        for start in args.starts
        for row in rows
        if applies(row, start)
    ]
    shared.run_all(tasks, args.jobs)
    by_name = {row.name: row for row in rows}
    crossed = [
        partial(cross, by_name[one], by_name[other], start, protocol, seed, args, work_dir)
        for one, other, start in (('plain', 'rs', 'direct'), ('rs', 'plain', 'adapted'))
        if one in by_name and other in by_name and start in args.starts
        for protocol in args.protocols
        for seed in args.seeds
    ]
    shared.run_all(crossed, args.jobs)


def results(work_dir: Path, protocol: str) -> dict[str, list[dict]]:
    """By names of folders."""
    return {
        folder.name: runs
        for folder in sorted((work_dir / protocol).glob('*-*'))
        if (runs := [json.loads(p.read_text()) for p in sorted(folder.glob('seed*/result.json'))])
    }


def report(args) -> None:
    work_dir = Path(args.work_dir or f'work_dirs/adaptation-{args.profile}')
    every = {}
    for protocol in PROTOCOLS:
        found = results(work_dir, protocol)
        if not found:
            continue
        every |= {f'{protocol}/{name}': some for name, some in found.items()}
        print(f'{protocol}:\n')
        print_table(found)
        print_embeddings(found)
        print()
    if not every:
        raise SystemExit(f'no results in {work_dir}: use `run` first')
    for start in ADAPTED:
        for path in sorted((work_dir / start).glob('*/result.json')):
            one = json.loads(path.read_text())
            last = sum(loss for _, loss in one['curve'][-5:]) / len(one['curve'][-5:])
            print(
                f'{start}, to {one["row"]}: {one["epochs"]} epochs, {one["seconds"] / 60:.0f} min, '
                f'loss {one["curve"][0][1]:.3f} to {last:.3f}'
            )
    sources = {one['weights'] for runs in every.values() for one in runs if 'weights' in one}
    print('weights: ' + ' / '.join(sorted(sources)))
    shared.print_environment(every)
    if args.curves:
        draw_curves(work_dir, Path(args.curves))


def print_table(found: dict[str, list[dict]]) -> None:
    """Top-1 of each row and start: mean and standard deviation of the seeds."""

    def cell(name: str) -> str:
        runs = found.get(name)
        if not runs:
            return ''
        count = f' ({len(runs)})' if len(runs) > 1 else ''
        return shared.mean_std([one['top1'] for one in runs]) + count

    def gap(row: Row, start: str, base: str) -> str:
        # Of the seeds that both have.
        runs, bases = (found.get(f'{row.name}-{one}', ()) for one in (start, base))
        pairs = [(a, b) for a in runs for b in bases if a['seed'] == b['seed']]
        if not pairs:
            return ''
        return f'{sum(a["top1"] - b["top1"] for a, b in pairs) / len(pairs):+.1f}'

    epochs = {
        one['start']: one['epochs'] for some in found.values() for one in some if 'epochs' in one
    }
    heads = dict(
        direct='direct,',
        control='control,',
        adapted='adapted, then',
        control_longer='control,',
        longer=f'adapted {LONGER} times as long, then',
    )
    # Where a row has none, there is no column.
    starts = [start for start in STARTS if start in epochs]
    bases = [base for base in ('direct', 'control') if {base, 'adapted'} <= set(starts)]
    titles = ['row', 'cipher', *(f'{heads[start]} {epochs[start]} epochs' for start in starts)]
    titles += [f'adapted to {base}' for base in bases]
    print(f'| {" | ".join(titles)} |\n|{" --- |" * len(titles)}')
    for row in ROWS:
        cells = [cell(f'{row.name}-{start}') for start in starts]
        if any(cells):
            cipher = f'`{row.cipher}`' if row.cipher else ''
            gaps = [gap(row, 'adapted', base) for base in bases]
            print('| ' + ' | '.join([row.title, cipher, *cells, *gaps]) + ' |')
    for name, runs in found.items():
        if '-on-' in name or name.endswith(tuple(VARIANTS)):
            print(f'{name}: {shared.mean_std([one["top1"] for one in runs])} ({len(runs)})')


def print_embeddings(found: dict[str, list[dict]]) -> None:
    """What a warm start of the patch embedding gives: losses and top-1 of each start."""
    starts = ('random', 'resized', 'direct')
    rows = [row for row in ROWS if all(f'{row.name}-{start}' in found for start in starts)]
    if not rows:
        return
    print('\n| row | random | resized | warm start |\n| --- | --- | --- | --- |')
    for row in rows:
        cells = []
        for start in starts:
            one = found[f'{row.name}-{start}'][0]
            losses = [next(pair for pair in one['losses'] if pair[0] > step) for step in (50, 200)]
            told = ', '.join(f'{loss:.2f} (step {step})' for step, loss in losses)
            cells.append(f'{told}, {one["top1"]:.1f}')
        print('| ' + ' | '.join([row.title, *cells]) + ' |')


def draw_curves(work_dir: Path, path: Path) -> None:
    """Top-1 on the private task against computation, in passes over its pictures."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    found = results(work_dir, 'private')
    rows = [row for row in ROWS if {f'{row.name}-{one}' for one in STARTS[:3]} <= set(found)]
    if not rows:
        raise SystemExit(f'no row of {work_dir} has its direct, control and adapted runs')
    fig, axes = plt.subplots(1, len(rows), figsize=(5 * len(rows), 3.6), sharey=True, squeeze=False)
    colors = dict(direct='C7', control='C0', adapted='C1', control_longer='C2', longer='C3')
    shifts = dict(adapted='control', longer='control_longer')
    for ax, row in zip(axes[0], rows, strict=True):
        direct = found[f'{row.name}-direct'][0]['epochs']
        for start, color in colors.items():
            for i, one in enumerate(found.get(f'{row.name}-{start}', ())):
                label = None if i else start.replace('_', ', ')
                epochs, top1 = zip(*one['curve'], strict=True)
                ax.plot(epochs, top1, color=color, marker='.', label=label)
                control = found.get(f'{row.name}-{shifts.get(start)}')
                if control:
                    # As if this engineer had adapted the weights for himself.
                    shift = control[0]['epochs'] - direct
                    ax.plot(
                        [shift + epoch for epoch in epochs],
                        top1,
                        color=color,
                        marker='.',
                        linestyle=':',
                        label=label and f'{label}, its computation counted',
                    )
        ax.set_title(row.title)
        ax.set_xlabel('epochs of fine-tuning')
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel('private task, top-1 (%)')
    axes[0][0].legend(fontsize='small')
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    print(f'curves: {path}')


def parse_args():
    parser, run_parser, table = shared.make_parser(
        __doc__, PROFILES, 'data/caltech101', 'work_dirs/adaptation-PROFILE'
    )
    run_parser.add_argument('--weights', required=True, help="of timm's vit_small_patch14_dinov2")
    run_parser.add_argument('--photos', nargs='*', default=[], help='folders of public photos')
    every = (*STARTS, *VARIANTS, *COLD)
    run_parser.add_argument('--starts', nargs='+', choices=every, default=list(every))
    run_parser.add_argument('--protocols', nargs='+', choices=PROTOCOLS, default=list(PROTOCOLS))
    table.add_argument('--curves', help='picture to write')
    return parser.parse_args()


def main():
    args = parse_args()
    dict(run=run, report=report)[args.command](args)


if __name__ == '__main__':
    main()
