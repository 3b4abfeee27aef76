# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures with COCO annotation files to encrypt."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hime_mm.ciphers.travel import blunted
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.originals import id_name, is_picture
from hime_mm.datasets.segmentation import scale_segmentation
from hime_mm.errors import CocoError, EncryptionError
from hime_mm.images.files import write_atomic

from .coco_places import check_pictures, find_annotations, find_folder
from .job import Item, Job, Summary
from .source import path_inside
from .walk import NO_PICTURE, Tree


class _File(NamedTuple):
    """One annotation file."""

    path: str
    folder: str
    coco: dict
    groups: dict[int, list[dict]]  # annotations of each image
    # Of each image: which item it is, and where its boxes start.
    places: list[tuple[int, int]]


class CocoSource:
    """Pictures with COCO annotation files.

    Its arguments are those of :func:`~hime_mm.encryption.run.encrypt_coco`,
    and the ``names`` of its recipe.
    """

    kind = 'coco'
    renames = False  # ids are in the annotation files
    classes: dict[str, list[str]] | None = None
    folders: Sequence[str] = ()

    def __init__(
        self,
        src: str,
        names: str,
        annotations: Sequence[str] | None,
        images: Sequence[str] | None,
        licenses: bool,
        segmentation: bool,
        round_boxes: bool,
    ) -> None:
        self.options = dict(licenses=licenses, segmentation=segmentation)
        if round_boxes:
            self.options['round_boxes'] = True
        self.files: list[_File] = []
        self.items: list[Item] = []
        self._digests: list[str] = []
        self._dropped: set[str] = set()
        self._numbers: dict[tuple[str, str], int] = {}
        for ann_file, given in _pairs(src, annotations, images):
            path = os.path.join(src, ann_file)
            coco = coco_format.load_coco(path, segmentation)
            folder = given or find_folder(src, ann_file, _names(coco))
            groups = coco_format.group_annotations(coco)
            places = [
                self._add_image(path, folder, image, groups, names) for image in coco['images']
            ]
            self.files.append(_File(ann_file, folder, coco, groups, places))
            self._dropped.update(coco_format.dropped_fields(coco, segmentation))
            self._digests.append(hashlib.sha256(Path(path).read_bytes()).hexdigest())
        if not self.items:
            raise EncryptionError(f'the annotation files of {src} list no image')
        self._look_around(src)

    def _look_around(self, src: str) -> None:
        """Find what lies in the image folders and is not listed, and where they really lie."""
        self.real = {os.path.realpath(src)}
        self.linked: set[str] = set()
        listed = {item.path for item in self.items} | {file.path for file in self.files}
        left_out: dict[str, str] = {}
        for folder in {file.folder for file in self.files}:
            if not os.path.isdir(os.path.join(src, folder)):
                continue  # `check_pictures` says so
            tree = Tree(src, folder)
            self.real |= tree.real
            self.linked |= tree.linked
            left_out.update((path, reason) for path, reason in tree.left_out)
            for path in tree.files:
                left_out[path] = 'no annotation file lists it' if is_picture(path) else NO_PICTURE
        for path in listed.difference(left_out):  # in hidden folders, or missing
            listed.update(map(str, PurePosixPath(path).parents))
            with suppress(ValueError):  # such as a NUL in the name
                self.linked.add(os.path.dirname(os.path.realpath(os.path.join(src, path))))
        self.left_out: Sequence[tuple[str, str]] = sorted(
            (p, why) for p, why in left_out.items() if p not in listed
        )

    def _add_image(
        self, path: str, folder: str, image: dict, groups: dict[int, list[dict]], names: str
    ) -> tuple[int, int]:
        """Number of an image's item, and where its boxes start there."""
        name = image['file_name'].replace('\\', '/')
        stem = os.path.splitext(name)[0]
        if names == 'ids':
            stem = id_name(image['id'])
        boxes = coco_format.to_corners([ann['bbox'] for ann in groups.get(image['id'], [])])
        shape = None
        if 'height' in image and 'width' in image:
            shape = (image['height'], image['width'])
        item = Item(
            str(PurePosixPath(folder, name)), str(PurePosixPath(folder, stem)), boxes, shape
        )
        number = self._numbers.setdefault(item[:2], len(self.items))
        if number == len(self.items):
            self.items.append(item)
            return number, 0
        # Listed before: encrypted once, with the boxes of both.
        known = self.items[number]
        if known.shape is None or shape is None:
            known = self.items[number] = known._replace(shape=known.shape or shape)
        elif known.shape != shape:
            raise CocoError(
                f'{path} gives {name} another size than before: {shape}, not {known.shape}'
            )
        assert known.boxes is not None
        start = len(known.boxes)
        known.boxes.extend(boxes)
        return number, start

    def check_pictures(self, src: str) -> None:
        """Refuse annotation files of which no picture is there."""
        check_pictures(src, dict(self.texts), {file.path: _names(file.coco) for file in self.files})

    @property
    def texts(self) -> list[tuple[str, str]]:
        """list[tuple[str, str]]: Annotation files, and their folders."""
        return [(file.path, file.folder) for file in self.files]

    def digest(self) -> Iterable[str]:
        yield from self._digests
        for file in self.files:
            yield f'{file.path}:{file.folder}'

    def rename(self, secret: bytes) -> None:
        pass

    def report(self, summary: Summary) -> None:
        summary.dropped = sorted(self._dropped)

    def write(
        self, job: Job, outcomes: Callable[[int], dict | None], summary: Summary
    ) -> list[dict]:
        """Write the annotation files, in encrypted coordinates."""
        written = []
        for file in self.files:
            images: list[dict] = []
            annotations: list[dict] = []
            for image, (number, first) in zip(file.coco['images'], file.places, strict=True):
                outcome = outcomes(number)
                if outcome is None or 'rows' not in outcome:
                    continue
                group = file.groups.get(image['id'], [])
                for view in range(job.recipe.views):
                    row = outcome['rows'][view]
                    images.append(_encrypted_image(image, file.folder, row, view, job.recipe.views))
                    # Boxes of other annotation files are there, too.
                    kept = [
                        (group[k - first], box)
                        for k, box in zip(
                            *(outcome['boxes'][view][n] for n in ('kept', 'boxes')), strict=True
                        )
                        if 0 <= k - first < len(group)
                    ]
                    annotations += [
                        self._annotation(job, ann, box, row, images[-1]['id'], view)
                        for ann, box in kept
                    ]
                    summary.tiny += sum(
                        min(box[2:]) < 1 <= min(ann['bbox'][2:]) for ann, box in kept
                    )
            text = json.dumps(
                coco_format.encrypted_coco(
                    file.coco,
                    images,
                    annotations,
                    self.options['licenses'],
                    f'encrypted with hime_mm, cipher {job.recipe.cipher}',
                )
            )
            write_atomic(os.path.join(job.out, file.path), text)
            written.append(
                dict(
                    kind='coco',
                    path=file.path,
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    images_folder=file.folder,
                    images=len(images),
                    annotations=len(annotations),
                )
            )
        return written

    def _annotation(
        self, job: Job, ann: dict, box: list[float], row: dict, image_id: int, view: int
    ) -> dict:
        segmentation = None
        if self.options['segmentation'] and ann.get('segmentation'):
            segmentation = scale_segmentation(
                ann['segmentation'], tuple(row['scale']), tuple(row['shape'])
            )
        moved = job.recipe.cipher.shuffles
        new = coco_format.encrypted_annotation(
            ann,
            box,
            tuple(row['scale']),
            # The area of the original would tell the sides that were rounded.
            job.recipe.preprocess.augment.crop is not None or (moved and job.round_boxes),
            segmentation,
        )
        if moved:
            new['area'] = float(blunted(new['area']))
        new['id'] = ann['id'] * job.recipe.views + view
        new['image_id'] = image_id
        return new


def _encrypted_image(image: dict, folder: str, row: dict, view: int, views: int) -> dict:
    # Ids stay where there is one view of each picture.
    new = dict(
        id=image['id'] * views + view,
        file_name=os.path.relpath(row['path'], folder).replace(os.sep, '/'),
        height=row['shape'][0],
        width=row['shape'][1],
    )
    if 'license' in image:
        new['license'] = image['license']
    return new


def _names(coco: dict) -> list[str]:
    """File names of the pictures, with forward slashes."""
    return [image['file_name'].replace('\\', '/') for image in coco['images']]


def _pairs(
    src: str, annotations: Sequence[str] | None, images: Sequence[str] | None
) -> list[tuple[str, str | None]]:
    """Annotation files and image folders, relative to the source; None where it is not given."""
    if annotations is None:
        annotations = find_annotations(src)
    paths = [path_inside(src, path) for path in annotations]
    folders: list[str | None] = [None] * len(paths)
    if images is not None:
        folders = [path_inside(src, folder) for folder in images]
    if len(folders) != len(paths):
        raise EncryptionError(
            f'{len(paths)} annotation files, but {len(folders)} image folders: '
            'give one folder for each file with `images=...`'
        )
    pairs = list(zip(paths, folders, strict=True))
    for path, folder in pairs:
        if folder is not None and not Path(src, folder).is_dir():
            raise EncryptionError(
                f'{src} has no folder {folder} for {path}: '
                'name that of its pictures with `images=...`'
            )
    if len(set(paths)) != len(paths):
        raise EncryptionError('an annotation file is named twice')
    return pairs
