# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `make demo` trains on: a small COCO data set of photographic cut-outs.

The same arguments give the same bytes. ``hime_mm/visualization/scenes.py``
paints the scenes, from the photos that scikit-image ships.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from hime_mm.visualization.scenes import CLASSES, load_cutouts, load_textures, make_scene


def _write_split(
    folder: Path, split: str, num: int, size: int, seed: int, cutouts: dict, textures: list
) -> None:
    (folder / split).mkdir()
    images, annotations = [], []
    for number in tqdm(range(num), desc=f'demo data, {split}', unit='img'):
        key = hashlib.sha256(f'{seed}/{split}/{number}'.encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:16], 'big'))
        img, objects = make_scene(cutouts, textures, size, rng)
        name = f'{number:06d}.png'
        if not cv2.imwrite(str(folder / split / name), cv2.cvtColor(img, cv2.COLOR_RGB2BGR)):
            raise OSError(f'could not write {folder / split / name}')
        images.append(dict(id=number + 1, file_name=name, height=size, width=size))
        for item in objects:
            item = dict(item)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number + 1,
                    category_id=item.pop('label') + 1,
                    iscrowd=0,
                    **item,
                )
            )
    (folder / 'annotations').mkdir(exist_ok=True)
    with open(folder / 'annotations' / f'instances_{split}.json', 'w') as file:
        json.dump(
            dict(
                info=dict(
                    description='hime_mm demo data set, made from photos that scikit-image ships'
                ),
                images=images,
                annotations=annotations,
                categories=[
                    dict(id=i + 1, name=name, supercategory='object')
                    for i, name in enumerate(CLASSES)
                ],
            ),
            file,
        )


def make_demo_coco(
    folder: str | os.PathLike,
    num_train: int = 400,
    num_val: int = 100,
    size: int = 192,
    seed: int = 0,
) -> Path:
    """Write the demo data set, or keep the one that is there.

    The same arguments give the same images and boxes. The folder appears
    whole or not at all.

    Args:
        folder (str | os.PathLike): Where ``train/``, ``val/`` and
            ``annotations/instances_{train,val}.json`` go.
        num_train (int): Number of training images. Defaults to 400.
        num_val (int): Number of validation images. Defaults to 100.
        size (int): Side of the square images in pixels. Defaults to 192.
        seed (int): Another seed gives other images. Defaults to 0.

    Returns:
        Path: The folder.

    Raises:
        FileExistsError: If the folder is there and was made otherwise.
        ImportError: If scikit-image is not installed.
    """
    folder = Path(folder)
    recipe = dict(version=1, num_train=num_train, num_val=num_val, size=size, seed=seed)
    stamp = folder / 'recipe.json'
    if folder.exists():
        if stamp.is_file() and json.loads(stamp.read_text()) == recipe:
            return folder
        raise FileExistsError(
            f'{folder} exists and does not hold the demo '
            f'data set {recipe}: remove it or name another'
        )
    cutouts, textures = load_cutouts(), load_textures()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        for split, num in (('train', num_train), ('val', num_val)):
            _write_split(scratch, split, num, size, seed, cutouts, textures)
        (scratch / 'recipe.json').write_text(json.dumps(recipe))
        scratch.chmod(0o755)
        os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder
