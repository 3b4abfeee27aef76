# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A page of boxes on originals, read back without a browser."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
from owner_data import annotation, coco_file, photo, write

from hime_mm.apis import BoxView, encrypt_coco, map_coco_results
from hime_mm.ciphers import Key

KEY = Key(bytes(range(32)))
ANN = 'annotations/instances_val.json'


class Reader(HTMLParser):
    """Tags with their attributes, and the figures of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.figures, self._inside = [], [], []
        self.text = Path(path).read_text('utf-8')
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == 'figure':
            self.figures.append(
                dict(name='', text='', img=None, boxes=[], truth=[], labels=[], rows=[])
            )
        self._inside.append((tag, attrs))
        if not self.figures:
            return
        figure = self.figures[-1]
        group = next((a for t, a in reversed(self._inside) if t == 'g'), {})
        if tag == 'img':
            figure['img'] = attrs['src']
        if tag == 'svg' and 'viewbox' in attrs:
            figure['view'] = attrs['viewbox']
        if tag == 'rect' and attrs.get('class') != 'under' and 'view' in figure:
            box = [attrs[name] for name in ('x', 'y', 'width', 'height')]
            if 'truth' in group.get('class', ''):
                figure['truth'].append([*map(float, box)])
            elif 'label' not in group.get('class', ''):
                low = 'low' in group['class'].split()
                number, score = int(group['data-class']), float(group['data-score'])
                figure['boxes'].append((number, score, [*map(float, box)], low))
        if tag == 'tr' and 'data-score' in attrs:
            figure['rows'].append(attrs)
        if tag in ('img', 'meta', 'link', 'input'):
            self._inside.pop()

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self._inside.pop()

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags = [tag for tag, _ in self._inside]
        if 'figure' in tags:
            figure = self.figures[-1]
            figure['text'] += data
            if 'h2' in tags:
                figure['name'] += data
            if tags[-1] == 'text':
                figure['labels'].append(data)


def pixels(figure):
    """The picture that a figure shows, BGR."""
    data = base64.b64decode(figure['img'].split(',', 1)[1])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def make_plain(root, images, boxes, categories=None):
    """A COCO data set of ``{name: picture}``, or of bytes and a size, with boxes in each.

    They are the same in all, or what a function of height and width gives.
    """
    sizes = {}
    for name, img in images.items():
        path = Path(root, 'val', name)
        if isinstance(img, tuple):
            img, sizes[name] = img
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(img)
        else:
            write(path, img)
            sizes[name] = img.shape[:2]
    extra = {} if categories is None else dict(categories=categories)
    ids = [3, 90] if categories is None else [c['id'] for c in categories]
    annotations = [
        annotation(1000 * i + k, 7 + i, list(box), category_id=ids[k % len(ids)])
        for i, size in enumerate(sizes.values())
        for k, box in enumerate(boxes(*size) if callable(boxes) else boxes)
    ]
    path = Path(root, ANN)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco_file(sizes, annotations, **extra)))
    return Path(root)


def encrypt(src, out, cipher='mix2', key=None, **options):
    encrypt_coco(str(src), str(out), cipher, key=key, progress=False, dataset_id='d', **options)
    return Path(out)


def perfect(data, scores=(0.9, 0.2, 0.6)):
    """The data set's own annotations as results; scores take turns."""
    coco = json.loads((data / ANN).read_text())
    return [
        dict(
            image_id=ann['image_id'],
            category_id=ann['category_id'],
            bbox=ann['bbox'],
            score=scores[i % len(scores)],
        )
        for i, ann in enumerate(coco['annotations'])
    ]


def show(tmp_path, data, originals, results=None, key=None, **options):
    """Map results and write the page; what was mapped, and the page."""
    results = perfect(data) if results is None else results
    (tmp_path / 'results.json').write_text(json.dumps(results))
    names = ('pictures', 'score')
    view = {name: options.pop(name) for name in names if name in options}
    page, out = tmp_path / 'page.html', tmp_path / 'out.json'
    map_coco_results(
        str(tmp_path / 'results.json'),
        str(out),
        str(data),
        key=key,
        progress=False,
        view=BoxView(str(page), str(originals), **view),
        **options,
    )
    return json.loads(out.read_text()), Reader(page)


def some_pictures():
    """Sides that are no multiples of the patches."""
    return {f'{i}.png': photo(*size, i) for i, size in enumerate(((70, 101), (96, 64), (50, 130)))}
