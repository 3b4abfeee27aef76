# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the texts of an encrypted data set may say: the manifest, annotations and lists.

``docs/format.md`` has the rules, under "What a verifier checks".
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from hime_mm.errors import CocoError, HimeError, ManifestError
from hime_mm.images.codec import FORMATS
from hime_mm.images.files import parse_json

from .coco import is_id
from .entries import FileEntry
from .manifest import Manifest
from .writing import MANIFEST_NAME

#: Keys of every manifest.
# fmt: off
_HEAD = {
    'format', 'format_version', 'tool_version', 'kind', 'mode', 'key_id', 'dataset_id', 'cipher',
    'cipher_text', 'preprocess', 'image_format', 'views', 'names', 'options', 'counts', 'clipped',
    'skipped', 'annotations', 'files', 'checksum',
}
#: Those of some, of which a reader may ignore all but the first.
_MORE = {'mac', 'classes', 'noticed', 'statistics'}
#: Of version 2: what its shards have of it, and what it has instead.
_LISTS = {'files', 'skipped'}
_SHARDED = {'storage', 'shards'}
_SHARD = {'path', 'sha256', 'files', 'bytes', 'skipped'}
_TAR = {'path', 'size', 'sha256'}
_SHARD_HEAD = {'format', 'format_version', 'dataset_id', 'shard', 'files', 'skipped'}
_ROWS = dict(
    skipped={'path', 'reason'},
    annotations={'kind', 'path', 'sha256', 'images_folder', 'images', 'annotations'},
)
# fmt: on
_IDS = dict(coco='-?[0-9]{12,}|-[0-9]{11}', folder='[0-9]{8,}|[0-9a-f]{16}')


def unknown_keys(state: Mapping) -> list[str]:
    """Keys of a manifest's head that this release does not know."""
    known = _HEAD if state['format_version'] == 1 else _HEAD - _LISTS | _SHARDED
    return sorted(set(state) - known - _MORE - _LISTS)


def head_problems(state: dict, manifest: Manifest) -> Iterator[str]:
    """What the head of a manifest says that does not go together, and its rows of shards.

    Args:
        state (dict): The content of ``hime.json``.
        manifest (Manifest): The same, as it was read.
    """
    needed = _HEAD if manifest.version == 1 else _HEAD - _LISTS | _SHARDED
    missing = sorted(needed - set(state))
    if missing:
        yield f'it says nothing of {", ".join(missing)}'
    for name, known in _ROWS.items():
        if not all(set(row) <= known for row in state.get(name) or ()):
            yield f'a row of `{name}` says more than the format has'
    image_format = state.get('image_format', {})
    if (
        set(image_format) != {'format', 'compression'}
        or image_format['format'] not in FORMATS
        or not _is_level(image_format['compression'])
        or state.get('kind') not in _IDS
        or state.get('names') not in ('keep', 'ids')
        or not is_id(state['format_version'])
        or not (is_id(state.get('views')) and state['views'] > 0)
        or state.get('mode') not in ('keyed', 'keyless', 'one-way')
        or not isinstance(state.get('options'), dict)
    ):
        yield '`image_format`, `kind`, `mode`, `names`, `views` or `options` is none'
    written, built = (
        json.dumps(cipher, sort_keys=True)
        for cipher in (state['cipher'], manifest.cipher.to_dict())
    )
    if written != built:
        yield '`cipher` is not in the JSON form'
    if {state.get('mode') == 'keyed', state['key_id'] is not None, 'mac' in state} not in (
        {True},
        {False},
    ):
        yield '`mode`, `key_id` and `mac` do not agree on whether there is a key'
    found = _sums(manifest.shards)
    if manifest.version == 1:
        found = _sizes(state['files'], manifest.skipped)
        if not all(map(is_as_written, state['files'])):
            yield 'a row of `files` is not as the format has it'
    else:
        yield from _shard_row_problems(state, manifest)
    counts = state.get('counts', {})
    if not all(is_id(counts.get(name)) for name in ('images', *found)) or any(
        counts[name] != number for name, number in found.items()
    ):
        yield f'its counts are not those of its lists: {found}'


def _shard_row_problems(state: dict, manifest: Manifest) -> Iterator[str]:
    if not all(
        set(row) - {'tar'} == _SHARD and set(row.get('tar', _TAR)) == _TAR
        for row in manifest.shards
    ):
        yield 'a row of `shards` is not as the format has it'
    if _LISTS & set(state):
        yield 'it has lists that belong to its shards'


def _sums(rows: Sequence[Mapping]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in ('files', 'bytes', 'skipped')}


def _sizes(files: Sequence[Mapping], skipped: Sequence) -> dict[str, int]:
    size = sum(int(row['size']) for row in files)
    return dict(files=len(files), bytes=size, skipped=len(skipped))


def shard_problem(state: dict, manifest: Manifest, number: int) -> str | None:
    """What is wrong with the manifest of a shard, None if nothing is.

    Args:
        state (dict): From :meth:`Manifest.read_shard`.
        manifest (Manifest): The manifest.
        number (int): Of the shard.
    """
    if set(state) != _SHARD_HEAD:
        return f'its keys are {sorted(state)}'
    try:
        for _ in manifest.shard_entries(number, state):
            pass
    except ManifestError as error:
        return str(error)
    if not all(map(is_as_written, state['files'])) or not all(
        set(row) <= _ROWS['skipped'] for row in state['skipped']
    ):
        return 'one of its rows is not as the format has it'
    found = _sizes(state['files'], state['skipped'])
    row = manifest.shards[number]
    if any(row[name] != value for name, value in found.items()):
        return f'it has not the files, bytes and skipped that {MANIFEST_NAME} says: {found}'
    return None


class RowChecks:
    """What rows say that does not go with the head, or with the rows before them.

    Args:
        state (dict): The head.
        manifest (Manifest): The manifest.
    """

    def __init__(self, state: Mapping, manifest: Manifest) -> None:
        self._side = manifest.cipher.encrypted_patch_size
        self._name = _name_pattern(state)
        self._format = state.get('image_format', {}).get('format')
        self._tar = manifest.storage == 'tar'
        self._seen = {MANIFEST_NAME, *shard_files(manifest)}

    def problems(self, entry: FileEntry) -> Iterator[str]:
        """What is wrong with the row of a picture."""
        stem, _, extension = entry.path.rpartition('/')[2].rpartition('.')
        if not _is_utf8(entry.path):
            yield 'its name is no UTF-8'
        elif extension != self._format:
            yield f'it is listed as a picture, and is no {self._format} file'
        elif not self._name.fullmatch(stem):
            yield 'its name is not one that the settings of the manifest give'
        elif entry.shape[0] % self._side or entry.shape[1] % self._side:
            yield f'its sides are no multiples of the {self._side} pixels of a patch'
        if self._tar and ('\0' in entry.path or set(entry.path.split('/')) & {'', '.', '..'}):
            yield 'the path leads out of the folder'
        if self.is_twice(entry.path):
            yield 'the manifest lists it twice, or with another case'

    def is_twice(self, path: str) -> bool:
        """Whether a path was asked for before."""
        twice = (low := path.lower()) in self._seen
        self._seen.add(low)
        return twice


def shard_files(manifest: Manifest) -> Iterator[str]:
    """Paths of the files of the shards: manifests and tars."""
    for row in manifest.shards:
        yield row['path']
        if 'tar' in row:
            yield row['tar']['path']


def _is_level(value: Any) -> bool:
    return value is None or (is_id(value) and 0 <= value <= 9)


def _is_utf8(text: str) -> bool:
    return not any('\ud800' <= char <= '\udfff' for char in text)


def is_as_written(row: dict) -> bool:
    """Whether a row has the fields of its entry, no more, and numbers where they belong."""
    if row['channels'] not in (1, 3, 4):
        return False
    return FileEntry.from_dict(row).to_dict() == row and not any(
        isinstance(number, bool) or (name != 'scale' and isinstance(number, float))
        for name, value in row.items()
        for number in (value if isinstance(value, list) else [value])
    )


def _name_pattern(state: Mapping) -> re.Pattern:
    """Of the file names of pictures, without their extension."""
    name = '.*'
    if state.get('names') == 'ids':
        name = _IDS.get(state.get('kind', ''), _IDS['coco'])
    views = state.get('views', 1)
    return re.compile(f'(?s:{name})' + ('_v[0-9]+' if views > 1 else ''))


def _listed(manifest: Manifest, row: dict, name: str) -> FileEntry | None:
    """The entry of a name in an annotation file or list."""
    path = PurePosixPath(row.get('images_folder', ''), name)
    return manifest.files.get(str(path))


def list_problem(data: bytes, row: dict, manifest: Manifest) -> str | None:
    """What is wrong with a list of pictures, None if nothing is.

    Args:
        data (bytes): The file.
        row (dict): What the manifest says of it.
        manifest (Manifest): The manifest.
    """
    try:
        lines = data.decode().split('\n')
    except (UnicodeDecodeError, MemoryError):
        return 'it cannot be read as UTF-8 text'
    if lines.pop() or len(lines) != row.get('images', len(lines)):
        return f'it has not the {row.get("images")} lines that the manifest says'
    for line in lines:
        if not any(
            name and _listed(manifest, row, name) for name in (line, line.rpartition(' ')[0])
        ):
            return f'{line!r:.99} is not in the manifest'
    return None


def _text(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _flag(value: Any) -> bool:
    return value in (0, 1)


def _segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        return (
            set(value) == {'counts', 'size'}
            and _numbers(value['counts'])
            and _box(value['size'], 2)
        )
    return isinstance(value, list) and all(map(_numbers, value))


def _box(value: Any, length: int = 4) -> bool:
    return _numbers(value) and len(value) == length


#: What each field has to be. Those in the second table need not be there.
_FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = dict(
    images=dict(id=is_id, file_name=lambda v: isinstance(v, str)),
    annotations=dict(
        id=is_id, image_id=is_id, category_id=is_id, bbox=_box, area=_number, iscrowd=_flag
    ),
    categories={},
    licenses={},
)
_OPTIONAL: dict[str, dict[str, Callable[[Any], bool]]] = dict(
    images=dict(height=is_id, width=is_id, license=is_id),
    annotations=dict(ignore=_flag, segmentation=_segmentation),
    categories=dict(id=_text, name=_text, supercategory=_text),
    licenses=dict(id=_text, name=_text, url=_text),
)


def _check_fields(coco: dict, options: Mapping) -> None:
    """Refuse fields that are not handed over, whatever they hold."""
    lists = {'images', 'annotations', 'categories'} | (
        {'licenses'} if options.get('licenses') else set()
    )
    _require(set(coco) == lists | {'info'}, f'its keys are {sorted(coco)}')
    info = coco['info']
    _require(
        isinstance(info, dict)
        and set(info) == {'description'}
        and isinstance(info['description'], str),
        'its `info` is not a description only',
    )
    for name in lists:
        _require(isinstance(coco[name], list), f'its `{name}` are no list')
        needed, allowed = _FIELDS[name], {**_FIELDS[name], **_OPTIONAL[name]}
        if not options.get('licenses'):
            allowed.pop('license', None)
        if not options.get('segmentation'):
            allowed.pop('segmentation', None)
        for i, entry in enumerate(coco[name]):
            _require(isinstance(entry, dict), f'`{name}[{i}]` is no object')
            for field in needed.keys() - entry.keys():
                _require(False, f'`{name}[{i}]` has no `{field}`')
            for field, value in entry.items():
                _require(
                    field in allowed, f'`{name}[{i}]` says more than the format has: {field!r:.99}'
                )
                _require(allowed[field](value), f'the `{field}` of `{name}[{i}]` is none')


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise CocoError(what)


def coco_problem(data: bytes, row: dict, manifest: Manifest) -> str | None:
    """What is wrong with an annotation file, None if nothing is; see :func:`list_problem`."""
    try:
        place = manifest.store.place(row['path'])
        coco = parse_json(data, place, 'annotation file', CocoError, unique=True)
        _require(isinstance(coco, dict), 'it holds no object')
        options = manifest.state.get('options')
        _check_fields(coco, options if isinstance(options, dict) else {})
        _check_places(coco, row, manifest)
    except HimeError as error:
        return str(error)
    return None


def _check_places(coco: dict, row: dict, manifest: Manifest) -> None:
    """Refuse images that the manifest does not list so, and ids that lead nowhere."""
    for image in coco['images']:
        name = image['file_name']
        entry = _listed(manifest, row, name)
        _require(entry is not None, f'{name!r:.999} is not in the manifest')
        assert entry is not None
        _require(
            (image.get('height'), image.get('width')) == entry.shape,
            f"the size of {name!r:.999} is not the manifest's",
        )
    ids = {name: {entry.get('id') for entry in coco[name]} for name in ('images', 'annotations')}
    for name, found in ids.items():
        _require(len(found) == len(coco[name]), f'an id of its `{name}` occurs twice')
        number = row.get(name, len(found))
        _require(number == len(found), f'it has {len(found)} {name}, not {number}')
    categories = {entry.get('id') for entry in coco['categories']}
    for i, ann in enumerate(coco['annotations']):
        _require(
            ann['image_id'] in ids['images'] and ann['category_id'] in categories,
            f'`annotations[{i}]` is of an image or category that is not listed',
        )
