# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Data sets to encrypt: which pictures there are, and what is said of them."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import (Any, Callable, Dict, Iterable, Iterator, List, NamedTuple,
                    Optional, Sequence, Set, Tuple)

from hime_mm.ciphers import Cipher
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.images import EXTENSIONS, write_atomic
from hime_mm.datasets.lists import read_list, write_list
from hime_mm.datasets.manifest import MANIFEST_NAME
from hime_mm.datasets.preprocess import Preprocess

from .journal import WORK_NAME, EncryptionError


class Item(NamedTuple):
    """One picture of a data set.

    Attributes:
        source (str): Its path relative to the source folder.
        target (str): Path of its encrypted file relative to the output, with
            forward slashes and without extension.
        boxes (list, optional): Of its annotations, (x1, y1, x2, y2).
        shape (tuple[int, int], optional): Height and width that the
            annotations say.
    """

    source: str
    target: str
    boxes: Optional[List[List[float]]] = None
    shape: Optional[Tuple[int, int]] = None


@dataclass(frozen=True)
class Job:
    """What a worker has to know; the key is handed over apart from it."""

    src: str
    out: str
    cipher: Cipher
    preprocess: Preprocess
    dataset_id: str
    views: int
    names: str
    fmt: str
    compression: Optional[int]

    def target(self, item: Item, view: int) -> str:
        suffix = f'_v{view}' if self.views > 1 else ''
        return f'{item.target}{suffix}.{self.fmt}'


def _relative_files(src: str,
                    inside: str = '',
                    above: Tuple[str, ...] = ()) -> Iterator[str]:
    """All files below a folder, sorted, hidden ones left out."""
    here = os.path.join(src, inside)
    real = os.path.realpath(here)
    if real in above:  # a link that leads back
        return
    try:
        with os.scandir(here) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise EncryptionError(
            f'cannot list the folder {here}: {error.strerror}') from None
    folders = []
    for entry in entries:
        path = f'{inside}/{entry.name}' if inside else entry.name
        if entry.name.startswith('.'):
            continue
        # `DirEntry.is_dir` raises for a link to itself.
        if (os.path.isdir(entry.path)
                if entry.is_symlink() else entry.is_dir()):
            folders.append(path)
        else:
            yield path
    for path in folders:
        yield from _relative_files(src, path, (*above, real))


def check_targets(job: Job, data: Any) -> None:
    """Refuse two things that would be written to one place.

    Args:
        job (Job): The run.
        data (Folder | Coco): The data set.

    Raises:
        EncryptionError: Names both.
    """
    seen: Dict[str, str] = {}
    folders: Set[str] = set()

    def add(path: str, what: str) -> None:
        # Lower case: some file systems do not tell the difference.
        low = path.lower()
        other = seen.setdefault(low, what)
        if other != what or low in folders:
            raise EncryptionError(
                f'{other if other != what else "a folder"} and {what} would '
                f'both become {path}: rename one of them' +
                ("" if job.names == 'ids' else
                 ", or replace the names by ids (names='ids')"))
        while '/' in low:
            low = low.rpartition('/')[0]
            if low in seen:
                raise EncryptionError(
                    f'{seen[low]} would become the file {low}, but {what} '
                    'lies in a folder of that name: rename one of them')
            if low in folders:
                return
            folders.add(low)

    add(MANIFEST_NAME, 'the manifest')
    folders.add(WORK_NAME)
    for path, _ in data.texts:
        add(path, path)
    for item in data.items:
        for view in range(job.views):
            add(job.target(item, view), item.source)


def _inside(src: str, path: str) -> str:
    """A path relative to the source, with forward slashes."""
    if os.path.isabs(path) or '..' in Path(path).parts:
        raise EncryptionError(f'{path} is not inside {src}: give paths '
                              'relative to it')
    return Path(path).as_posix()


class Folder:
    """A tree of pictures, such as ImageNet's, or a flat folder."""

    kind = 'folder'

    def __init__(self, src: str, names: str, lists: Sequence[str]) -> None:
        self.items: List[Item] = []
        self.ignored = self.tiny = 0
        numbers: Dict[str, int] = {}
        lists = [_inside(src, path) for path in lists]
        for path in _relative_files(src):
            stem, extension = os.path.splitext(path)
            if extension.lower() not in EXTENSIONS:
                self.ignored += path not in lists
                continue
            if names == 'ids':
                folder = os.path.dirname(path)
                numbers[folder] = number = numbers.get(folder, 0) + 1
                stem = str(PurePosixPath(folder, f'{number:08d}'))
            self.items.append(Item(path, stem))
        if not self.items:
            raise EncryptionError(
                f'no pictures in {src}: looked for '
                f'{", ".join(EXTENSIONS)} in it and its folders')
        self.dropped: List[str] = []
        self.lists: List[Tuple[str, str, List[Tuple[int, str]]]] = []
        if lists:
            index = {item.source: i for i, item in enumerate(self.items)}
            for path in lists:
                self.lists.append((path, *read_list(src, path, index)))

    @property
    def texts(self) -> List[Tuple[str, str]]:
        """list[tuple[str, str]]: Lists, and the folders of their images."""
        return [(path, folder) for path, folder, _ in self.lists]

    def digest(self) -> Iterable[str]:
        yield from (item.source for item in self.items)
        for path, folder, rows in self.lists:
            yield json.dumps([path, folder, rows])

    def write(self, job: Job, outcomes: Callable[[int], Optional[dict]]
              ) -> List[dict]:
        """Write the lists, of the encrypted files."""
        written = []
        for path, folder, rows in self.lists:

            def files(number: int) -> List[str]:
                outcome = outcomes(number) or {}
                return [row['path'] for row in outcome.get('rows', ())]

            text = write_list(folder, rows, files)
            write_atomic(os.path.join(job.out, path), text)
            written.append(
                dict(
                    kind='list',
                    path=path,
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    images_folder=folder,
                    images=text.count('\n')))
        return written


class Coco:
    """Pictures with COCO annotation files."""

    kind = 'coco'

    def __init__(self, src: str, annotations: Optional[Sequence[str]],
                 images: Optional[Sequence[str]], names: str, licenses: bool,
                 segmentation: bool) -> None:
        self.licenses, self.segmentation = licenses, segmentation
        pairs = self._pairs(src, annotations, images)
        self.files = []
        self.items: List[Item] = []
        self.ignored = self.tiny = 0
        self._digests: List[str] = []
        dropped: Set[str] = set()
        numbers: Dict[Tuple[str, str], int] = {}
        for ann_file, folder in pairs:
            path = os.path.join(src, ann_file)
            coco = coco_format.load_coco(path, segmentation)
            groups = coco_format.group_annotations(coco)
            # Of each image: which item it is, and where its boxes start.
            places: List[Tuple[int, int]] = []
            self.files.append((ann_file, folder, coco, groups, places))
            for image in coco['images']:
                name = image['file_name'].replace('\\', '/')
                stem = os.path.splitext(name)[0]
                if names == 'ids':
                    stem = f'{image["id"]:012d}'
                boxes = coco_format.to_corners(
                    [ann['bbox'] for ann in groups.get(image['id'], [])])
                shape = None
                if 'height' in image and 'width' in image:
                    shape = (image['height'], image['width'])
                item = Item(
                    str(PurePosixPath(folder, name)),
                    str(PurePosixPath(folder, stem)), boxes, shape)
                number = numbers.setdefault(item[:2], len(self.items))
                if number == len(self.items):
                    self.items.append(item)
                    places.append((number, 0))
                    continue
                # Listed before: encrypted once, with the boxes of both.
                known = self.items[number]
                if known.shape != shape:
                    raise coco_format.CocoError(
                        f'{path} gives {name} another size than before: '
                        f'{shape}, not {known.shape}')
                places.append((number, len(known.boxes)))
                known.boxes.extend(boxes)
            dropped.update(coco_format.dropped_fields(coco, segmentation))
            self._digests.append(
                hashlib.sha256(Path(path).read_bytes()).hexdigest())
        if not self.items:
            raise EncryptionError('the annotation files of '
                                  f'{src} list no image')
        self.dropped = sorted(dropped)

    @staticmethod
    def _pairs(src: str, annotations: Optional[Sequence[str]],
               images: Optional[Sequence[str]]) -> List[Tuple[str, str]]:
        """Annotation files and image folders, relative to the source."""
        if annotations is None:
            found = sorted(Path(src, 'annotations').glob('instances_*.json'))
            if not found:
                raise EncryptionError(
                    f'no annotations/instances_*.json in {src}: name the '
                    'annotation files')
            annotations = [f'annotations/{path.name}' for path in found]
        if images is None:
            images = []
            for ann_file in annotations:
                stem = Path(ann_file).stem
                folder = stem.split('_', 1)[-1]
                if not Path(src, folder).is_dir():
                    raise EncryptionError(
                        f'{ann_file} would belong to the folder {folder}, '
                        f'which {src} does not have: name the image folders')
                images.append(folder)
        if len(images) != len(annotations):
            raise EncryptionError(
                f'{len(annotations)} annotation files, but {len(images)} '
                'image folders: give one folder for each file')
        annotations = [_inside(src, path) for path in annotations]
        images = [_inside(src, path) for path in images]
        for folder in images:
            if not Path(src, folder).is_dir():
                raise EncryptionError(f'{src} has no folder {folder}')
        if len(set(annotations)) != len(annotations):
            raise EncryptionError('an annotation file is named twice')
        return list(zip(annotations, images))

    @property
    def texts(self) -> List[Tuple[str, str]]:
        """list[tuple[str, str]]: Annotation files, and their folders."""
        return [(ann_file, folder) for ann_file, folder, *_ in self.files]

    def digest(self) -> Iterable[str]:
        yield from self._digests
        for ann_file, folder, *_ in self.files:
            yield f'{ann_file}:{folder}'

    def write(self, job: Job, outcomes: Callable[[int], Optional[dict]]
              ) -> List[dict]:
        """Write the annotation files, in encrypted coordinates."""
        written = []
        for ann_file, folder, coco, groups, places in self.files:
            images, annotations = [], []
            for image, (number, first) in zip(coco['images'], places):
                outcome = outcomes(number)
                if outcome is None or 'rows' not in outcome:
                    continue
                for view in range(job.views):
                    self._add_view(job, folder, image,
                                   groups.get(image['id'], []),
                                   outcome['rows'][view],
                                   outcome['boxes'][view], first, view,
                                   images, annotations)
            text = json.dumps(
                coco_format.encrypted_coco(
                    coco, images, annotations, self.licenses,
                    f'encrypted with hime_mm, cipher {job.cipher}'))
            write_atomic(os.path.join(job.out, ann_file), text)
            written.append(
                dict(
                    kind='coco',
                    path=ann_file,
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    images_folder=folder,
                    images=len(images),
                    annotations=len(annotations)))
        return written

    def _add_view(self, job: Job, folder: str, image: dict,
                  group: List[dict], row: dict, boxes: dict, first: int,
                  view: int, images: List[dict],
                  annotations: List[dict]) -> None:
        # Ids stay where there is one view of each picture.
        image_id = image['id'] * job.views + view
        new = dict(
            id=image_id,
            file_name=os.path.relpath(row['path'], folder).replace(
                os.sep, '/'),
            height=row['shape'][0],
            width=row['shape'][1])
        if 'license' in image:
            new['license'] = image['license']
        images.append(new)
        for k, box in zip(boxes['kept'], boxes['boxes']):
            k -= first
            if not 0 <= k < len(group):
                continue  # of another annotation file
            segmentation = None
            if self.segmentation and group[k].get('segmentation'):
                segmentation = coco_format.scale_segmentation(
                    group[k]['segmentation'], tuple(row['scale']),
                    tuple(row['shape']))
            ann = coco_format.encrypted_annotation(
                group[k], box, tuple(row['scale']),
                job.preprocess.augment.crop is not None, segmentation)
            ann['id'] = ann['id'] * job.views + view
            ann['image_id'] = image_id
            annotations.append(ann)
            self.tiny += min(box[2:]) < 1 <= min(group[k]['bbox'][2:])
