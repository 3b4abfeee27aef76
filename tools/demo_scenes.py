# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `make demo` trains on: a small COCO data set of photographic cut-outs.

The same arguments give the same bytes. Objects cut from the photos that
scikit-image ships are pasted, turned, scaled and re-lit, onto photographic
textures. The photos are in the public domain or CC0; they include a person's
face, so that the pictures show what the encryption does to one.
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

#: Class names in the order of their COCO category ids, from 1.
CLASSES = ('person', 'cat', 'cup', 'coin', 'motorcycle')

# What is cut from which photo: (class, photo, centre x, y, radius x, y) of an
# ellipse in pixels, a superellipse of higher order for the motorcycle.
_CUTOUTS = (
    ('person', 'astronaut', 226, 102, 66, 88, 2),
    ('cat', 'chelsea', 240, 134, 146, 130, 2),
    ('cup', 'coffee', 281, 207, 200, 189, 2),
    ('coin', 'coins', 345, 187, 34, 34, 2),
    ('coin', 'coins', 333, 43, 30, 30, 2),
    ('coin', 'coins', 171, 260, 30, 30, 2),
    ('coin', 'coins', 45, 260, 30, 30, 2),
    ('motorcycle', 'motorcycle_left', 390, 255, 272, 190, 5),
)
_TEXTURES = ('brick', 'grass', 'gravel', 'moon', 'hubble_deep_field')
_SUPERSAMPLING = 2


def _photo(name: str) -> np.ndarray:
    """One of scikit-image's photos, uint8, (H, W, 3), RGB."""
    try:
        import skimage
    except ImportError as error:
        raise ImportError(
            'the demo data set is made from the photos that '
            'scikit-image ships: `pip install scikit-image`'
        ) from error
    folder = Path(skimage.__file__).parent / 'data'
    for suffix in ('.png', '.jpg'):
        path = folder / f'{name}{suffix}'
        if path.is_file():
            return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    raise FileNotFoundError(
        f'scikit-image {skimage.__version__} does not '
        f'ship the photo {name!r} in {folder}: install '
        'scikit-image 0.26'
    )


def _load_cutouts() -> dict[str, list[tuple[np.ndarray, int]]]:
    photos = {name: _photo(name) for name in {c[1] for c in _CUTOUTS}}
    cutouts = {name: [] for name in CLASSES}
    for label, photo, cx, cy, rx, ry, order in _CUTOUTS:
        crop = photos[photo][cy - ry : cy + ry, cx - rx : cx + rx]
        cutouts[label].append((crop, order))
    return cutouts


def _relight(img: np.ndarray, rng: np.random.Generator, tint: float) -> np.ndarray:
    """Change contrast, brightness and colour; float in and out, 0 to 255."""
    gain = rng.uniform(0.75, 1.2) * rng.uniform(1 - tint, 1 + tint, 3)
    return np.clip((img - 128) * gain + 128 + rng.uniform(-25, 25), 0, 255)


def _background(textures: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    texture = textures[rng.integers(len(textures))]
    crop = int(rng.integers(side // 2, min(texture.shape[:2]) + 1))
    y = int(rng.integers(texture.shape[0] - crop + 1))
    x = int(rng.integers(texture.shape[1] - crop + 1))
    img = np.rot90(texture[y : y + crop, x : x + crop], int(rng.integers(4)))
    img = cv2.resize(np.ascontiguousarray(img), (side, side), interpolation=cv2.INTER_AREA).astype(
        np.float64
    )
    return _relight(img, rng, tint=0.25)


def _place(
    cutout: np.ndarray, order: int, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A cut-out on an empty canvas: its colours and its cover (0 to 1)."""
    h, w = cutout.shape[:2]
    long_side = side * rng.uniform(0.28, 0.55)
    scale = long_side / max(h, w)
    angle = np.deg2rad(rng.uniform(-20, 20))
    flip = -1 if rng.random() < 0.5 else 1
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    matrix = np.array([[cos * flip, -sin, 0], [sin * flip, cos, 0]])
    half_w = (abs(cos) * w + abs(sin) * h) / 2
    half_h = (abs(sin) * w + abs(cos) * h) / 2
    # Up to a tenth of the object may lie outside.
    cx = rng.uniform(0.8 * half_w, side - 0.8 * half_w)
    cy = rng.uniform(0.8 * half_h, side - 0.8 * half_h)
    matrix[:, 2] = (cx, cy) - matrix[:, :2] @ (w / 2, h / 2)

    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    cover = ((abs(x) ** order + abs(y) ** order) <= 1).astype(np.float64)
    # Averaged down before warping, which alone would alias.
    small = max(1, int(round(1 / scale)))
    if small > 1:
        cutout = cv2.blur(cutout, (small, small))
    colours = cv2.warpAffine(
        cutout.astype(np.float64), matrix, (side, side), borderMode=cv2.BORDER_REPLICATE
    )
    cover = cv2.warpAffine(cover, matrix, (side, side))
    return _relight(colours, rng, tint=0.08), cover


def make_scene(
    cutouts: dict[str, list[tuple[np.ndarray, int]]],
    textures: list[np.ndarray],
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[dict]]:
    """Paint one image.

    Args:
        cutouts (dict): Cut-outs and the orders of their outlines by class.
        textures (list[np.ndarray]): Backgrounds, uint8, (H, W, 3).
        size (int): Side of the square image in pixels.
        rng (np.random.Generator): Where the randomness comes from.

    Returns:
        tuple: The image, uint8, (size, size, 3), RGB, and one dict per object
        with ``label`` (int), ``bbox`` (x, y, w, h) and ``segmentation`` (a
        list of polygons), in pixels.
    """
    side = size * _SUPERSAMPLING
    img = _background(textures, side, rng)
    occupied = np.zeros((side, side), bool)
    objects = []
    wanted = int(rng.integers(1, 5))
    for _ in range(8 * wanted):
        if len(objects) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        choices = cutouts[CLASSES[label]]
        cutout, order = choices[rng.integers(len(choices))]
        colours, cover = _place(cutout, order, side, rng)
        visible = cover > 0.5
        if (visible & occupied).sum() > 0.05 * visible.sum():
            continue
        # Later objects lie under earlier ones, so no box loses its extent.
        cover = np.where(occupied, 0, cover)[..., None]
        img = img * (1 - cover) + colours * cover
        visible &= ~occupied
        occupied |= visible
        outline = max(
            cv2.findContours(visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)[
                0
            ],
            key=cv2.contourArea,
        )
        polygon = (outline.reshape(-1, 2) + 0.5) / _SUPERSAMPLING
        ys, xs = np.nonzero(visible)
        x, y = xs.min() / _SUPERSAMPLING, ys.min() / _SUPERSAMPLING
        objects.append(
            dict(
                label=label,
                bbox=[
                    float(x),
                    float(y),
                    (xs.max() + 1) / _SUPERSAMPLING - float(x),
                    (ys.max() + 1) / _SUPERSAMPLING - float(y),
                ],
                area=float(visible.sum()) / _SUPERSAMPLING**2,
                segmentation=[[float(v) for v in polygon.ravel()]],
            )
        )
    img = cv2.resize(img, (size, size), interpolation=cv2.INTER_AREA)
    return np.round(img).astype(np.uint8), objects


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
    cutouts = _load_cutouts()
    textures = [_photo(name) for name in _TEXTURES]
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
