# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What ``compare_commits.py`` lets each commit do, and the data that it does it with.

Runs with one commit's package on PYTHONPATH, in a folder that has ``source/``, and writes to
``out/``; all paths are relative, so that messages do not depend on the side.  Only what people use
is used: ``hime_mm.apis``, ``hime_mm.ciphers`` and the command's ``main``.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

SECRET = bytes(range(200, 232))
DATASET_ID = 'the-same-at-both-commits'
BOXES = np.array([[3.0, 5.5, 40, 61.25], [20, 20, 21, 21], [0, 0, 90, 70], [50.5, 2, 93, 30]])
MANY = dict(resize=(96, 80), keep_ratio=True, augment=dict(flip=0.5, crop=(0.3, 1), jitter=0.2))
#: Calls of ``encrypt_coco``: the cipher, and what differs from the defaults.
COCO = [
    ('paper-rs', {}),
    ('paper-mi', {}),
    ('paper-mi', dict(segmentation=True, licenses=False)),
    ('mix2:tiled', dict(segmentation=True, preprocess=dict(fit='pad', pad_val=(10.0, 20.0, 30.0)))),
    ('mix2+shuffle', dict(views=2, names='ids', preprocess=MANY, workers=2)),
    ('center+erode2+shuffle', dict(preprocess=dict(resize=(133, 80), keep_ratio=True))),
    ('drop50+shuffle', dict(names='ids', preprocess=dict(fit='pad'))),
    ('noise25+shuffle', dict(fmt='webp', preprocess=dict(resize=(96, 64)))),
    ('orient+negate+permute_channels+permute_pixels', {}),
    ('orient+negate+permute_pixels+shuffle', dict(preprocess=dict(color_type='grayscale'))),
    ('shuffle', dict(patch_size=8, preprocess=dict(color_type='unchanged'), compression=3)),
    (
        'erode1:filled+shuffle',
        dict(views=3, preprocess=dict(short_side=(48, 64, 80), max_side=100), workers=2),
    ),
    ('erode2', dict(segmentation=True, preprocess=dict(color_type='color_ignore_orientation'))),
]
#: Calls of ``encrypt_folder``.
FOLDER = [
    ('paper-rs', dict(lists=('meta/val.txt',))),
    ('paper-mi', dict(lists=('meta/val.txt',))),
    ('mix4+shuffle', dict(views=2, names='ids', lists=('meta/val.txt',), workers=2)),
    ('center+erode2+shuffle', dict(preprocess=dict(short_side=64, center_crop=(64, 64)))),
    (
        'noise25+shuffle',
        dict(compression=9, preprocess=dict(interpolation='area', resize=(64, 48))),
    ),
    ('orient+negate+permute_channels+permute_pixels+shuffle', dict(workers=2)),
    ('shuffle', dict(preprocess=dict(color_type='unchanged'), names='ids')),
    ('drop50+shuffle', dict(preprocess=dict(color_type='grayscale', fit='pad', pad_val=128.0))),
    ('center+drop20', {}),
    ('shuffle', dict(fmt='webp', preprocess=dict(fit='error'))),
    (
        'permute_pixels',
        dict(
            views=2,
            preprocess=dict(
                short_side=(40, 56),
                interpolation='bicubic',
                augment=dict(flip=0.5, crop=(0.5, 0.9)),
            ),
        ),
    ),
]
#: Ciphers that are applied to arrays of every type.
CIPHERS = (
    'shuffle',
    'mix2',
    'mix2:tiled+shuffle',
    'erode2:filled',
    'center+erode2+shuffle',
    'drop30',
    'noise25',
    'orient+negate+permute_pixels+shuffle',
    'permute_channels',
)


# The source


def picture(height, width, channels=3, dtype=np.uint8, seed=0):
    """Smooth and noisy parts; every patch differs."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x / rng.uniform(5, 30) + y / rng.uniform(5, 30)) for _ in range(channels)]
    img = np.stack(waves, -1) * 0.3 + 0.5 + rng.uniform(-0.2, 0.2, (height, width, channels))
    return np.round(np.squeeze(img.clip(0, 1)) * np.iinfo(dtype).max).astype(dtype)


def write(path, img, exif=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(path.suffix, img)[1].tobytes()
    if exif is not None:  # the orientation, as a camera writes it
        tiff = (
            b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0'
            + bytes([exif])
            + b'\0\0\0\0\0\0'
        )
        data = data[:2] + b'\xff\xe1' + (len(tiff) + 2).to_bytes(2, 'big') + tiff + data[2:]
    path.write_bytes(data)


def pictures(folder, seed):
    """Write pictures of all kinds; return ``{name: (height, width)}``."""
    write(folder / '01.jpg', picture(96, 128, seed=seed))
    write(folder / '02.png', picture(70, 101, 1, seed=seed))
    write(folder / '03.png', picture(64, 80, 3, np.uint16, seed))
    write(folder / '04.png', picture(65, 97, 1, np.uint16, seed))
    write(folder / '05 ü.png', picture(80, 64, 4, seed=seed))
    write(folder / '06.jpg', picture(72, 100, seed=seed), exif=6)
    write(folder / '07.webp', picture(75, 51, seed=seed))
    write(folder / '08.png', picture(9, 13, seed=seed))
    write(folder / '09.bmp', picture(48, 160, seed=seed))
    (folder / '10.jpg').write_bytes((folder / '01.jpg').read_bytes()[:900])
    return {
        '01.jpg': (96, 128),
        '02.png': (70, 101),
        '03.png': (64, 80),
        '04.png': (65, 97),
        '05 ü.png': (80, 64),
        '06.jpg': (100, 72),
        '07.webp': (75, 51),
        '08.png': (9, 13),
        '09.bmp': (48, 160),
        '10.jpg': (96, 128),
    }


def make_source(root):
    """Write the COCO data set and the image folder that both commits encrypt.

    Args:
        root (Path): Gets ``coco/`` and ``folder/``.
    """
    for seed, split in enumerate(('train2017', 'val2017')):
        sizes = pictures(root / 'coco' / split, seed)
        rng = np.random.default_rng(seed)
        annotations = []
        for image_id, (height, width) in enumerate(sizes.values(), 7):
            for n in range(image_id % 4):
                x, y = rng.uniform(0, [0.6 * width, 0.6 * height]).round(2).tolist()
                w, h = rng.uniform(0.02, 0.4, 2) * (width, height)
                w, h = round(float(w), 2), round(float(h), 2)
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        category_id=(3, 90)[n % 2],
                        bbox=[x, y, w, h],
                        area=w * h / 2,
                        iscrowd=0,
                        caption='left out',
                        segmentation=[[x, y, x + w, y, x + w, y + h]],
                    )
                )
            if image_id % 3 == 1:
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        category_id=3,
                        iscrowd=1,
                        bbox=[0, 0, width, height],
                        area=height * width - height,
                        segmentation=dict(
                            counts=[height, height * width - height], size=[height, width]
                        ),
                    )
                )
        images = [
            dict(
                id=image_id,
                file_name=name,
                height=size[0],
                width=size[1],
                license=2,
                coco_url=f'http://plain/{name}',
            )
            for image_id, (name, size) in enumerate(sizes.items(), 7)
        ]
        path = root / 'coco' / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(
                dict(
                    info=dict(description='plain'),
                    licenses=[dict(id=2, name='Free', url='http://free')],
                    images=images,
                    annotations=annotations,
                    categories=[
                        dict(id=3, name='cat', supercategory='animal'),
                        dict(id=90, name='cup', supercategory='thing'),
                    ],
                )
            )
        )
    names = []
    for label, group in enumerate(('cats', 'cups/blue')):
        sizes = pictures(root / 'folder' / group, 9 + label)
        names += [f'{group}/{name} {label}' for name in sizes]
    (root / 'folder' / 'meta').mkdir()
    (root / 'folder' / 'meta' / 'val.txt').write_text('\n'.join(names[::2]) + '\n')


# What a commit makes of it


def record(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))


def encrypt_all():
    """Encrypt, describe, decrypt, and map results back."""
    from click.testing import CliRunner

    from hime_mm.apis import decrypt_dataset, encrypt_coco, encrypt_folder
    from hime_mm.ciphers import Key
    from hime_mm.cli import main

    key = Key(SECRET)
    jobs = [('coco', encrypt_coco, *case) for case in COCO]
    jobs += [('folder', encrypt_folder, *case) for case in FOLDER]
    for number, (kind, encrypt, cipher, settings) in enumerate(jobs):
        out = Path('out', f'{number:02d}_{kind}_{cipher}'.replace(':', '-'))
        needs_key = cipher not in ('paper-mi', 'mix2:tiled', 'erode2')
        summary = asdict(
            encrypt(
                str(Path('source', kind)),
                str(out / 'encrypted'),
                cipher,
                progress=False,
                dataset_id=DATASET_ID,
                key=key if needs_key else None,
                **settings,
            )
        )
        summary.pop('seconds')
        record(out / 'summary.json', summary)
        for command in (('info',), ('verify', '-q')):
            result = CliRunner().invoke(main, [*command, str(out / 'encrypted')])
            record(out / f'{command[0]}.txt', f'{result.exit_code}\n{result.output}')
        for partial in (False, True):
            try:
                report = decrypt_dataset(
                    str(out / 'encrypted'),
                    str(out / f'decrypted{partial:d}'),
                    key,
                    partial,
                    progress=False,
                )
                record(out / f'decrypted{partial:d}.json', asdict(report))
            except ValueError as error:
                record(out / f'decrypted{partial:d}.json', type(error).__name__)
        if kind == 'coco':
            map_back(out, key if needs_key else None)


def map_back(out, key):
    """Boxes of a perfect detector, with and without suppression."""
    from hime_mm.apis import map_coco_results

    results = []
    for path in sorted((out / 'encrypted' / 'annotations').glob('*.json')):
        results = [
            dict(
                image_id=ann['image_id'],
                category_id=ann['category_id'],
                bbox=ann['bbox'],
                score=1 / (2 + n),
            )
            for n, ann in enumerate(json.loads(path.read_text())['annotations'])
        ]
        record(out / 'results.json', results)
        for nms in (None, 0.3):
            try:
                summary = map_coco_results(
                    str(out / 'results.json'),
                    str(out / f'mapped_{path.stem}_{nms}.json'),
                    str(out / 'encrypted'),
                    str(path),
                    key,
                    nms,
                    progress=False,
                )
                record(out / f'mapped_{path.stem}_{nms}_summary.json', asdict(summary))
            except ValueError as error:
                record(out / f'mapped_{path.stem}_{nms}_summary.json', type(error).__name__)


def encrypt_arrays():
    """Ciphers and the client, without files."""
    from hime_mm.apis import Client
    from hime_mm.ciphers import Cipher, Key

    key, out = Key(SECRET), Path('out', 'arrays')
    out.mkdir(parents=True)
    # What it was called in 0.1.
    image_rng = key.image_rng if hasattr(key, 'image_rng') else key.source
    for cipher in CIPHERS:
        for channels, dtype in ((1, 'uint8'), (3, 'uint8'), (3, 'uint16'), (4, 'float32')):
            if cipher == 'permute_channels' and channels == 1:
                continue
            img = picture(80, 96, channels, np.uint16 if dtype == 'uint16' else np.uint8)
            img = img.astype(dtype)
            name = f'{cipher}_{channels}_{dtype}'.replace(':', '-')
            encrypted, layout, drawn = Cipher(cipher).encrypt(
                img, image_rng(DATASET_ID, 'a picture')
            )
            np.save(out / f'{name}.npy', encrypted)
            record(
                out / f'{name}.json',
                dict(
                    layout.to_dict(),
                    drawn=[None if d is None else np.asarray(d).tolist() for d in drawn],
                    boxes=layout.map_boxes(BOXES).tolist(),
                    back=layout.unmap_boxes(layout.map_boxes(BOXES)).tolist(),
                ),
            )
    for cipher in ('paper-mi', 'mix2:tiled', 'erode2', 'center'):
        for number, preprocess in enumerate(
            (None, dict(resize=(90, 70), keep_ratio=True), dict(fit='pad'))
        ):
            if cipher == 'center' and number == 2:
                continue  # the padding would show the means
            sealed = Client(cipher, preprocess).encrypt(picture(77, 103))
            name = f'client_{cipher}_{number}'.replace(':', '-')
            np.save(out / f'{name}.npy', sealed.img)
            record(
                out / f'{name}.json',
                dict(
                    sealed.layout.to_dict(),
                    boxes=sealed.layout.map_boxes(BOXES).tolist(),
                    back=Client(cipher, preprocess).restore(BOXES / 3, sealed).tolist(),
                ),
            )


def train(config, data, iterations):
    """The first losses of the demo's config."""
    import torch
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    from hime_mm.apis import check_config

    losses = []

    class Recorder(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            losses.append({name: value.item() for name, value in outputs.items()})

    torch.set_num_threads(1)
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset.dataset.data_root = data + os.sep
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations)
    cfg.param_scheduler = cfg.param_scheduler[:1]
    for name in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{name}_{part}'] = None
    cfg.work_dir = 'train'
    runner = Runner.from_cfg(check_config(cfg))
    runner.register_hook(Recorder())
    runner.train()
    record(Path('losses.json'), losses)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('what', choices=('encrypt', 'train'))
    parser.add_argument('--tree', required=True, help="the commit's files")
    parser.add_argument('--data', help='painted scenes, for `train`')
    parser.add_argument('--iterations', type=int, default=6)
    args = parser.parse_args()
    import hime_mm

    if not Path(hime_mm.__file__).is_relative_to(args.tree):
        raise SystemExit(f'{hime_mm.__file__} is not of {args.tree}')
    if args.what == 'encrypt':
        encrypt_all()
        encrypt_arrays()
    else:
        train(
            os.path.join(args.tree, 'configs/demo/peyolos_mi2_demo.py'), args.data, args.iterations
        )
