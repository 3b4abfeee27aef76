# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Small data sets of a data owner, and what is looked for in the result."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SECRET = bytes(range(101, 133))


def photo(height, width, seed=0, channels=3, dtype=np.uint8):
    """Something between noise and a flat picture: every patch differs."""
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    most = np.iinfo(dtype).max
    slope = np.linspace(0, most / 2, width)
    img = rng.integers(0, most // 2, shape) + (slope if channels == 1 else slope[:, None])
    return img.astype(dtype)


def write(path, img, *params):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `imwrite`, which wants names in the locale's encoding.
    done, data = cv2.imencode(path.suffix.lower(), img, params)
    assert done
    path.write_bytes(data.tobytes())
    return path


def read(path):
    return cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def coco_file(images, annotations=(), **extra):
    """A COCO file of ``{name: (height, width)}`` or image dicts."""
    if isinstance(images, dict):
        images = [
            dict(
                id=7 + i,
                file_name=name,
                height=h,
                width=w,
                license=2,
                coco_url=f'http://plain/{name}',
                date_captured='today',
            )
            for i, (name, (h, w)) in enumerate(images.items())
        ]
    coco = dict(
        info=dict(description='the plain pictures', year=1999),
        licenses=[dict(id=2, name='Free', url='http://free')],
        images=images,
        annotations=list(annotations),
        categories=[
            dict(id=3, name='cat', supercategory='animal'),
            dict(id=90, name='cup', supercategory='thing'),
        ],
    )
    coco.update(extra)
    return coco


def annotation(number, image_id, bbox, **extra):
    return dict(
        dict(
            id=number,
            image_id=image_id,
            category_id=3,
            bbox=bbox,
            area=bbox[2] * bbox[3] / 2,
            iscrowd=0,
        ),
        **extra,
    )


def make_coco(folder, sizes=((96, 128), (80, 112), (64, 64), (70, 101)), split='val2017'):
    """Pictures with objects, one crowd, and the last one without any."""
    names = {f'{i:06d}.jpg': size for i, size in enumerate(sizes, 1)}
    annotations = []
    for i, (name, (h, w)) in enumerate(names.items()):
        write(Path(folder, split, name), photo(h, w, i))
        if i == len(names) - 1:
            continue
        x, y = 3 + i % 20, 5.5
        annotations += [
            annotation(
                10 * i + 1,
                7 + i,
                [x, y, 20, 30.25],
                segmentation=[[x, y, x + 20, y, x + 20, y + 30.25]],
                keypoints=[1, 2, 2],
                caption='a cat',
            ),
            annotation(
                10 * i + 2,
                7 + i,
                [0, 0, w, h],
                category_id=90,
                iscrowd=1,
                segmentation=dict(counts=[h, h * w - h], size=[h, w]),
            ),
        ]
    path = Path(folder, 'annotations', f'instances_{split}.json')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco_file(names, annotations)))
    return Path(folder)


def make_large_boxes(path):
    """A picture with boxes that fill it, nearly fill it, stick out of it, and a small one."""
    write(path / 'val2017' / 'a.png', photo(64, 96))
    boxes = [[0, 0, 96, 64], [2, 3, 90, 58], [10, -20, 30, 130], [5, 5, 10, 10]]
    anns = [annotation(i, 7, box) for i, box in enumerate(boxes, 1)]
    anns[1]['iscrowd'] = 1
    (path / 'annotations').mkdir()
    state = coco_file({'a.png': (64, 96)}, anns)
    (path / 'annotations/instances_val2017.json').write_text(json.dumps(state))
    return path


def edit_json(path, change):
    state = json.loads(Path(path).read_text())
    change(state)
    Path(path).write_text(json.dumps(state))


def tree(folder):
    """``{path: content}`` of all files, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob('*')
        if path.is_file()
    }


def png_chunks(data):
    """Names of a PNG file's chunks; nothing may follow the last one."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    at, names = 8, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += 12 + int.from_bytes(data[at : at + 4], 'big')
    assert at == len(data)
    return names


def key_file(path, secret=SECRET):
    path = Path(path)
    path.write_text(f'hime-key-v1:{secret.hex()}\n')
    path.chmod(0o600)
    return path


def hime_command(*args):
    return [sys.executable, '-m', 'hime_mm.cli', *map(str, args)]


def hime_env(**env):
    return dict(
        {k: v for k, v in os.environ.items() if k != 'HIME_KEY'},
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS='1',
        **env,
    )


def hime(*args, env=None, **kwargs):
    """Run the command as a person does: status, output and errors."""
    done = subprocess.run(
        hime_command(*args),
        capture_output=True,
        text=True,
        timeout=100,
        env=env or hime_env(),
        **kwargs,
    )
    assert 'Traceback' not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def forms_of_key(secret):
    """What a key could be found as."""
    forms = {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret)[2:-1].encode(),
        str(list(secret))[1:-1].encode(),
    }
    for shift in range(3):
        # In the middle of something longer, the outer characters differ.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(bytes(shift) + secret)[4:40])
    return forms


def forms_of_permutation(permutation):
    """What a permutation, or its inverse, could be found as."""
    forms = set()
    for order in (permutation, np.argsort(permutation)):
        for dtype in ('<i8', '>i8', '<i4', '>i4', '<u2', '>u2', 'u1'):
            if len(order) <= np.iinfo(dtype).max:
                forms.add(order.astype(dtype).tobytes())
        for between in (', ', ',', ' '):
            forms.add(between.join(map(str, order.tolist())).encode())
        forms.add(str(order)[1:-1].encode())
    return forms


def named(*things):
    """A pattern of messages that name all of the things, in whatever words."""
    return '(?s)^' + ''.join(f'(?=.*{re.escape(str(thing))})' for thing in things)


def found(forms, contents):
    """Which of the forms are part of one of the contents."""
    return [form for form in forms for data in contents if form in data]
