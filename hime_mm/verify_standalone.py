#!/usr/bin/env python3
# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Check a folder that ``hime encrypt`` made, without hime_mm.

    python verify_standalone.py FOLDER [--key FILE | --key-env NAME | --key-fd N] [--json]

One file, Python 3.10 or later, the standard library and nothing else: copy it anywhere. It is
written from ``docs/format.md``, section "What a verifier checks", and shares no code with the
program that encrypts, so that a mistake there is not made here again. Each problem is a line
``<path>: <what>`` on standard output. The exit status is 0 if there is none, 1 if there is one, and
2 if the arguments make no sense.

Nothing in the folder is trusted: links are not followed, only regular files are opened, and memory
is used for what is there, not for what something says is there.  Not checked: whether the bits
inside a lossless WebP decode, which takes a decoder, and whether the pixels are encrypted at all.
"""

import argparse
import hashlib
import hmac
import json
import os
import posixpath
import re
import stat
import struct
import sys
import time
import zlib

MANIFEST = 'hime.json'
BLOCK = 1 << 20
KEY_TEXT = re.compile(r'(?:hime-key-v1:)?([0-9a-fA-F]{64})')
KEY_IN_A_FILE = re.compile(rb'hime-key-v1:[0-9a-fA-F]{64}|\A\s*[0-9a-fA-F]{64}\s*\Z')
# fmt: off
#: Keys of every manifest, and those of some.
HEAD_KEYS = {
    'format', 'format_version', 'tool_version', 'kind', 'mode', 'key_id', 'dataset_id', 'cipher',
    'cipher_text', 'preprocess', 'image_format', 'views', 'names', 'options', 'counts', 'clipped',
    'skipped', 'annotations', 'files', 'checksum',
}
MORE_KEYS = {'mac', 'classes', 'noticed'}
FILE_KEYS = {'path', 'sha256', 'size', 'shape', 'channels', 'ori_shape', 'scale'}
TEXT_KEYS = {'kind', 'path', 'sha256', 'images_folder', 'images', 'annotations'}
# fmt: on
#: Parameters of each step, and the values that they may have.
STEPS = dict(
    shuffle={},
    mix=dict(num_splits=range(2, 4097), form=('compact', 'tiled')),
    erode=dict(border=range(1, 4097), form=('compact', 'filled')),
    drop=dict(percent=range(1, 100)),
    center={},
    noise=dict(std=range(1, 256)),
    orient={},
    negate={},
    permute_channels={},
    permute_pixels={},
)
CHANGED = 'it was changed: its SHA-256 is not the one in the manifest'


class Fault(Exception):
    """What is wrong with one thing in the folder."""


class UsageError(Exception):
    """What is wrong with the arguments."""


def require(ok, what):
    """Raise a fault unless something holds."""
    if not ok:
        raise Fault(what)


# --- Values ---------------------------------------------------------------------------------------


def is_whole(value, low=None, high=2**63):
    """Whether a JSON value is a whole number; with ``low`` one in [low, high)."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and (low is None or low <= value < high)


def is_number(value):
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def is_list(value, check, length=None):
    """Whether a JSON value is a list, perhaps of a length, of what ``check`` accepts."""
    return isinstance(value, list) and length in (None, len(value)) and all(map(check, value))


def is_text(value):
    """Whether a JSON value may stand in a list of categories or licences."""
    return value is None or isinstance(value, (str, int, float))


def is_flag(value):
    """Whether a JSON value is 0 or 1."""
    return value in (0, 1)


def is_segmentation(value):
    """Whether a JSON value is polygons, or run lengths as numbers."""
    if isinstance(value, dict):
        return (
            set(value) == {'counts', 'size'}
            and is_list(value['counts'], is_number)
            and is_list(value['size'], is_number, 2)
        )
    return is_list(value, lambda polygon: is_list(polygon, is_number))


# --- Reading --------------------------------------------------------------------------------------


def open_regular(path):
    """Open a regular file; a link or a pipe that has just taken its place is refused."""
    flags = os.O_RDONLY
    for name in ('O_NONBLOCK', 'O_NOFOLLOW', 'O_BINARY'):
        flags |= getattr(os, name, 0)
    fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Fault('it is no regular file')
    return os.fdopen(fd, 'rb')


def unique(pairs):
    """The object of a JSON text; of a key that stands there twice, readers would differ."""
    state = dict(pairs)
    require(len(state) == len(pairs), 'a key occurs twice in an object')
    return state


def read_json(path):
    """The object that a JSON file holds."""
    with open_regular(path) as file:
        try:
            state = json.loads(file.read(), object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise Fault(f'it is no JSON file, or damaged: {error}') from None
    require(isinstance(state, dict), 'it holds no object')
    return state


def sha256(path):
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# --- The key --------------------------------------------------------------------------------------


def read_key(args):
    """The 32 bytes of the key that the arguments name, or None. No message shows any of it."""
    try:
        if args.key is not None:
            with open_regular(args.key) as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if os.name == 'posix' and mode & 0o077:
                    raise UsageError(f'others may use the key file, it has the mode {mode:04o}')
                text = file.read(256).decode('ascii', 'replace')
        elif args.key_fd is not None:
            with os.fdopen(int(args.key_fd), 'rb', closefd=False) as file:
                text = file.read(256).decode('ascii', 'replace')
        elif args.key_env is not None:
            text = os.environ.get(args.key_env, '')
        else:
            return None
    except (OSError, ValueError, Fault):
        raise UsageError('the key cannot be read') from None
    match = KEY_TEXT.fullmatch(text.strip())
    if match is None:
        raise UsageError('what was named as the key is none')
    return bytes.fromhex(match[1])


def sub_key(key, label, *names, length=32):
    """HKDF with SHA-256, without a salt, of at most 32 bytes."""
    info = b'hime_mm/1/' + label.encode() + b'\0'
    for name in names:
        info += struct.pack('>I', len(name.encode())) + name.encode()
    extracted = hmac.digest(bytes(32), key, 'sha256')
    return hmac.digest(extracted, info + b'\1', 'sha256')[:length]


def authenticate(state, key):
    """Refuse a manifest that the holder of the key has not written."""
    require(state['key_id'] is not None, 'it names no key, so no key can authenticate it')
    key_id = sub_key(key, 'key id', length=8).hex()
    require(state['key_id'] == key_id, f'it was made with another key than {key_id}')
    code = hmac.new(
        sub_key(key, 'manifest', state['dataset_id']), state['checksum'].encode(), 'sha256'
    ).hexdigest()
    require(
        hmac.compare_digest(code.encode(), str(state.get('mac')).encode(errors='replace')),
        'somebody without the key has changed it: its authentication code does not fit',
    )


# --- The manifest ---------------------------------------------------------------------------------


def read_manifest(path):
    """The manifest, of which all that is used later has the right type."""
    state = read_json(path)
    require(state.get('format') == 'hime_mm encrypted data set', 'it is no manifest of hime_mm')
    require(state.get('format_version') == 1, 'its format version is not 1')
    missing = sorted(HEAD_KEYS - set(state))
    require(not missing, f'it says nothing of {", ".join(missing)}')
    body = {name: value for name, value in state.items() if name not in ('checksum', 'mac')}
    try:
        text = json.dumps(body, sort_keys=True, separators=(',', ':'))
    except RecursionError:
        raise Fault('it is nested too deeply') from None
    require(
        state.get('checksum') == hashlib.sha256(text.encode()).hexdigest(),
        'it was changed after it was written: its checksum does not fit',
    )
    for name in ('files', 'skipped', 'annotations'):
        if name != 'files' and state.get(name) is None:
            state[name] = []
        require(
            is_list(state.get(name), lambda row: isinstance(row, dict))
            and all(is_text_row(row) for row in state[name]),
            f'`{name}` is no list of rows with a path',
        )
    for name in ('cipher', 'preprocess', 'image_format', 'options', 'counts'):
        require(isinstance(state.get(name), dict), f'`{name}` is no object')
    require(is_utf8(state.get('dataset_id')), '`dataset_id` is no text')
    require(state.get('key_id') is None or isinstance(state['key_id'], str), '`key_id` is no text')
    require(all(map(is_file_row, state['files'])), 'a row of `files` is not as the format has it')
    return state


def is_text_row(row):
    """Whether a row has a path, and texts where its other texts are."""
    return 'path' in row and all(
        isinstance(row.get(name, ''), str) for name in ('path', 'kind', 'images_folder', 'reason')
    )


def is_utf8(value):
    """Whether a value is a text that UTF-8 can hold."""
    return isinstance(value, str) and not any('\ud800' <= char <= '\udfff' for char in value)


def is_scale(value):
    """Whether a value may be a scale."""
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return numeric and 0 < value <= sys.float_info.max and float(value) == value


def is_file_row(row):
    """Whether a row of ``files`` has the fields of the format, and no others."""

    def is_side(value):
        return is_whole(value, 1, 2**31)

    return (
        set(row) == FILE_KEYS
        and isinstance(row['sha256'], str)
        and bool(re.fullmatch('[0-9a-f]{64}', row['sha256']))
        and is_whole(row['size'], 0)
        and is_list(row['shape'], is_side, 2)
        and is_list(row['ori_shape'], lambda side: is_whole(side, 0, 2**31), 2)
        and is_whole(row['channels'], 1, 5)
        and row['channels'] != 2
        and is_list(row['scale'], is_scale, 2)
    )


def encrypted_patch_size(cipher):
    """Side in pixels of a patch after the last step."""
    side, steps = cipher.get('patch_size'), cipher.get('steps')
    require(
        set(cipher) == {'version', 'patch_size', 'steps'}
        and is_whole(side, 1)
        and is_list(steps, is_step)
        and cipher['version'] == 1
        and len({step['type'] for step in steps}) == len(steps) > 0,
        '`cipher` is none of version 1',
    )
    for step in steps:
        parts, border = step.get('num_splits', 1), step.get('border', 0)
        require(side % parts == 0 and side > 2 * border, f'{step["type"]!r} leaves no patch')
        if step.get('form') == 'compact':
            side = side // parts - 2 * border
    return side


def is_step(step):
    """Whether a value is a step of a cipher in its JSON form."""
    known = isinstance(step, dict) and isinstance(step.get('type'), str) and step['type'] in STEPS
    return (
        known
        and set(step) == {'type', *STEPS[step['type']]}
        and all(
            step[name] in values and not isinstance(step[name], (bool, float))
            for name, values in STEPS[step['type']].items()
        )
    )


def head_problems(state):
    """What the head of a manifest says that does not go together."""
    keyed = {state.get('mode') == 'keyed', state['key_id'] is not None, 'mac' in state}
    if len(keyed) > 1:
        yield '`mode`, `key_id` and `mac` do not agree on whether there is a key'
    if (
        state['image_format'].get('format') not in ('png', 'webp')
        or state.get('kind') not in ('coco', 'folder')
        or state.get('names') not in ('keep', 'ids')
        or state.get('mode') not in ('keyed', 'keyless', 'one-way')
        or not is_whole(state.get('views'), 1)
        or not isinstance(state.get('tool_version'), str)
    ):
        yield '`image_format`, `kind`, `mode`, `names`, `views` or `tool_version` is none'
    counted = [state['counts'].get(name) for name in ('images', 'files', 'bytes', 'skipped')]
    clipped = state.get('clipped')
    if not isinstance(clipped, dict) or not all(
        is_list(pair, lambda count: is_whole(count, 0), 2) for pair in clipped.values()
    ):
        yield '`clipped` is no object of pairs of counts'
    found = dict(
        files=len(state['files']),
        bytes=sum(row['size'] for row in state['files']),
        skipped=len(state['skipped']),
    )
    if not all(is_whole(count, 0) for count in counted) or counted[1:] != list(found.values()):
        yield f'its counts are not those of its lists: {found}'
    if not all(set(row) <= {'path', 'reason'} for row in state['skipped']) or not all(
        set(row) <= TEXT_KEYS for row in state['annotations']
    ):
        yield 'a row of `skipped` or `annotations` is not as the format has it'
    if not is_classes(state.get('classes')):
        yield '`classes` is no object of lists of names'


def is_classes(classes):
    """Whether a value may be the key ``classes`` of a manifest, or its absence."""
    return classes is None or (
        isinstance(classes, dict)
        and all(is_list(names, lambda name: isinstance(name, str)) for names in classes.values())
    )


def row_problems(state):
    """What the rows of a manifest say that does not go together, with the path of each."""
    for name in head_problems(state):
        yield MANIFEST, name
    try:
        side = encrypted_patch_size(state['cipher'])
    except Fault as fault:
        yield MANIFEST, str(fault)
        return
    stem = '.*'
    if state.get('names') == 'ids':
        stem = r'-?\d{11}\d*' if state.get('kind') == 'coco' else r'\d{8,}|[0-9a-f]{16}'
    view = r'_v\d+' if is_whole(state.get('views')) and state['views'] > 1 else ''
    name = re.compile(rf'(?s:{stem}){view}\.{state["image_format"].get("format")}')
    seen = {MANIFEST}
    for row in state['files']:
        if not is_utf8(row['path']):
            yield row['path'], 'its name is no UTF-8'
        elif not name.fullmatch(row['path'].rpartition('/')[2]):
            yield row['path'], 'its name is not one that the settings of the manifest give'
        elif row['shape'][0] % side or row['shape'][1] % side:
            yield row['path'], f'its sides are no multiples of the {side} pixels of a patch'
    for row in state['files'] + state['annotations']:
        if row['path'].lower() in seen:
            yield row['path'], 'the manifest lists it twice, or with another case'
        seen.add(row['path'].lower())


# --- The folder -----------------------------------------------------------------------------------


def list_folder(root):
    """Regular files, folders, and ``{path: why it must not be there}``; no link is followed."""
    files, folders, others, pending = set(), set(), {}, ['']
    while pending:
        inside = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, inside)))
        except OSError as error:
            others[inside or '.'] = f'the folder cannot be listed: {error.strerror}'
            continue
        for entry in entries:
            path = f'{inside}/{entry.name}' if inside else entry.name
            if entry.is_symlink():
                others[path] = 'it is a link'
            elif entry.is_file(follow_symlinks=False):
                files.add(path)
            elif not entry.is_dir(follow_symlinks=False):
                others[path] = 'it is neither a regular file nor a folder'
            elif entry.name == '.hime-work':
                others[path] = 'the data set is unfinished and must not be handed over'
            else:
                folders.add(path)
                pending.append(path)
    return files, folders, others


def stranger(path):
    """What a file seems to be that the manifest does not list."""
    try:
        with open_regular(path) as file:
            if KEY_IN_A_FILE.search(file.read(1 << 16)):
                return 'it holds a key: if somebody may have seen it, make a new one'
    except (OSError, Fault):
        pass
    return 'the manifest does not list it'


def class_problems(classes, folders, listed):
    """Folders that are missing, or too many, by the subfolders that each folder has to have."""
    named = {
        name if above == '.' else f'{above}/{name}'
        for above, names in classes.items()
        for name in names
    }
    holding = set()
    for path in named | listed:
        while path := posixpath.dirname(path).rstrip('/'):
            holding.add(path)
    for path in named - folders:
        yield path, 'the folder is missing: classes would get other numbers'
    for path in folders - named - holding:
        yield path, 'the manifest names no such folder: classes would get other numbers'


# --- Pictures -------------------------------------------------------------------------------------


def check_picture(path, row, fmt, deep):
    """Refuse a file that is not as its row says, or holds more than pixels."""
    height, width = row['shape']
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        require(size == row['size'], f'it has {size} bytes, not {row["size"]}')
        require(
            size <= 3 * height * width * row['channels'] + height + 65536,
            'so few pixels do not need so many bytes',
        )
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
        require(digest.hexdigest() == row['sha256'], CHANGED)
        file.seek(0)
        (check_png if fmt == 'png' else check_webp)(file, size, row, deep)


def check_png(file, size, row, deep):
    """Refuse a PNG that is not IHDR, IDAT and IEND with exactly the rows of an image."""
    require(file.read(8) == b'\x89PNG\r\n\x1a\n', 'it is no PNG file')
    name, rows, first = b'', None, True
    while name != b'IEND':
        head = file.read(8)
        require(len(head) == 8, 'its PNG is truncated')
        length, name = struct.unpack('>I4s', head)
        require(name in (b'IHDR', b'IDAT', b'IEND'), f'its PNG holds a chunk {name!r}')
        require((name == b'IHDR') == first, 'its PNG does not begin with its only IHDR')
        require(file.tell() + length + 4 <= size, 'its PNG is truncated')
        crc = zlib.crc32(name)
        while length:
            block = file.read(min(length, BLOCK))
            require(block, 'its PNG is truncated')
            length -= len(block)
            crc = zlib.crc32(block, crc)
            if name == b'IHDR':
                require(length == 0, 'its IHDR is too long')
                rows = Rows(block, row, deep)
            elif name == b'IDAT':
                rows.add(block)
            else:
                raise Fault('its IEND is not empty')
        require(file.read(4) == struct.pack('>I', crc), 'the CRC of a chunk does not fit')
        require(rows is not None, 'its IHDR is empty')
        first = False
    require(file.tell() == size, f'{size - file.tell()} bytes follow the end of its PNG')
    require(rows.seen == rows.total and rows.inflate.eof, 'rows of its PNG are missing')


class Rows:
    """Counts the bytes of a PNG's rows, and looks at the filter that each begins with."""

    def __init__(self, header, row, deep):
        require(len(header) == 13, 'its IHDR is too short')
        width, height, depth, *kind = struct.unpack('>IIBBBBB', header)
        require(
            [height, width] == row['shape'], f'it is {height}x{width}, not as the manifest says'
        )
        require(
            kind == [{1: 0, 3: 2, 4: 6}[row['channels']], 0, 0, 0],
            f'it is of the PNG type {kind}, not as the {row["channels"]} channels need',
        )
        require(depth == 8 or (depth == 16 and deep), f'it has {depth} bits')
        self.length = 1 + width * row['channels'] * depth // 8
        self.seen, self.total = 0, height * self.length
        self.inflate = zlib.decompressobj()

    def add(self, data):
        """Take the next compressed bytes."""
        while data:
            require(not self.inflate.eof, 'something follows the rows of its PNG')
            try:
                part = self.inflate.decompress(data, BLOCK)
            except zlib.error as error:
                raise Fault(f'its PNG cannot be inflated: {error}') from None
            require(
                max(part[-self.seen % self.length :: self.length], default=0) <= 4,
                'a row of its PNG has an unknown filter',
            )
            self.seen += len(part)
            require(self.seen <= self.total, 'its PNG has too many rows')
            data = self.inflate.unconsumed_tail or self.inflate.unused_data


def check_webp(file, size, row, deep):
    """Refuse a WebP that is not one lossless picture of the right size."""
    head = file.read(25)
    require(len(head) == 25 and head[:4] == b'RIFF' and head[8:12] == b'WEBP', 'it is no WebP file')
    whole, length, bits = (struct.unpack_from('<I', head, at)[0] for at in (4, 16, 21))
    require(
        head[12:16] == b'VP8L' and size == whole + 8 == 20 + length + length % 2,
        'its WebP is not one lossless picture and nothing else',
    )
    file.seek(20 + length)
    require(not any(file.read()), 'something follows the picture of its WebP')
    require(head[20] == 0x2F and bits >> 28 == 0, 'its lossless picture is of no known version')
    found = [(bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1]
    require(found == row['shape'] and row['channels'] == 3, f'it is {found[0]}x{found[1]}')


# --- Annotations and lists ------------------------------------------------------------------------

NEEDED = dict(
    images=dict(
        id=is_whole, file_name=lambda v: isinstance(v, str), height=is_whole, width=is_whole
    ),
    annotations=dict(
        id=is_whole,
        image_id=is_whole,
        category_id=is_whole,
        bbox=lambda v: is_list(v, is_number, 4),
        area=is_number,
        iscrowd=is_flag,
    ),
    categories={},
    licenses={},
)
ALLOWED = dict(
    images=dict(license=is_whole),
    annotations=dict(ignore=is_flag, segmentation=is_segmentation),
    categories=dict(id=is_text, name=is_text, supercategory=is_text),
    licenses=dict(id=is_text, name=is_text, url=is_text),
)


def check_text(path, row, state, shapes):
    """Refuse an annotation file or list that was changed, or says more than the format has."""
    require(sha256(path) == row.get('sha256'), CHANGED)
    if row.get('kind', 'coco') == 'list':
        check_list(path, row, shapes)
    else:
        require(row.get('kind', 'coco') == 'coco', 'it is of no known kind')
        coco = read_json(path)
        check_fields(coco, state['options'])
        check_references(coco, row, shapes)


def check_list(path, row, shapes):
    """Refuse a list that names anything but pictures of the data set."""
    with open_regular(path) as file:
        try:
            lines = file.read().decode().split('\n')
        except UnicodeDecodeError:
            raise Fault('it is no UTF-8 text') from None
    require(lines.pop() == '', 'its last line has no end')
    require(row.get('images', len(lines)) == len(lines), f'it has {len(lines)} lines')
    for line in lines:
        names = [name for name in (line, line.rpartition(' ')[0]) if name]
        require(any(in_folder(row, name) in shapes for name in names), f'{line[:99]!r} is unknown')


def in_folder(row, name):
    """The path in the data set of a name in an annotation file or list."""
    path = posixpath.join(row.get('images_folder', ''), name)
    return '/'.join(part for part in path.split('/') if part not in ('', '.'))


def check_fields(coco, options):
    """Refuse all keys and fields of COCO files that are not handed over."""
    lists = ['images', 'annotations', 'categories']
    without = set()
    if options.get('licenses'):
        lists.append('licenses')
    else:
        without.add('license')
    if not options.get('segmentation'):
        without.add('segmentation')
    require(set(coco) == {'info', *lists}, f'its keys are {sorted(coco)}')
    info = coco['info']
    require(
        isinstance(info, dict) and set(info) == {'description'} and is_text(info['description']),
        'its `info` is not a description only',
    )
    for name in lists:
        known = {k: v for k, v in {**NEEDED[name], **ALLOWED[name]}.items() if k not in without}
        require(is_list(coco[name], lambda item: isinstance(item, dict)), f'`{name}` is no list')
        for i, item in enumerate(coco[name]):
            place = f'`{name}[{i}]`'
            require(set(NEEDED[name]) <= set(item), f'{place} lacks a field')
            for field, value in item.items():
                require(field in known, f'{place} says more than the format has: {field[:99]!r}')
                require(known[field](value), f'the `{field}` of {place} is none')


def check_references(coco, row, shapes):
    """Refuse images of other names or sizes than the manifest's, and ids that lead nowhere."""
    for image in coco['images']:
        shape = shapes.get(in_folder(row, image['file_name']))
        require(shape is not None, f'{image["file_name"][:999]!r} is not in the manifest')
        require(
            [image['height'], image['width']] == shape,
            f'the size of {image["file_name"][:999]!r} is not that of the manifest',
        )
    images = {image['id'] for image in coco['images']}
    categories = {category.get('id') for category in coco['categories']}
    for name in ('images', 'annotations'):
        number = len({item['id'] for item in coco[name]})
        require(number == len(coco[name]), f'an id of its `{name}` occurs twice')
        require(row.get(name, number) == number, f'it has {number} {name}, not {row.get(name)}')
    for i, item in enumerate(coco['annotations']):
        require(
            item['image_id'] in images and item['category_id'] in categories,
            f'`annotations[{i}]` is of an image or category that is not listed',
        )


# --- All together ---------------------------------------------------------------------------------


class Report:
    """What was found: ``problems`` and ``warnings`` are pairs of a path and a text."""

    def __init__(self):
        self.files, self.authenticated = 0, False
        self.problems, self.warnings = [], []

    def attempt(self, path, function, *args):
        """Call a function; what it finds wrong is a problem of the path."""
        try:
            return function(*args)
        except Fault as fault:
            self.problems.append((path, str(fault)))
        except (OSError, MemoryError) as error:
            text = getattr(error, 'strerror', None) or type(error).__name__
            self.problems.append((path, f'it cannot be read: {text}'))
        return None


def verify(root, key=None):
    """Check a folder; the report of all that is wrong with it."""
    report = Report()
    state = report.attempt(MANIFEST, read_manifest, os.path.join(root, MANIFEST))
    if state is None:
        return report
    report.files = len(state['files'])
    if key is not None:
        report.attempt(MANIFEST, authenticate, state, key)
        report.authenticated = not report.problems
    report.problems += row_problems(state)
    unknown = sorted(set(state) - HEAD_KEYS - MORE_KEYS)
    if unknown:
        report.warnings.append((MANIFEST, f'keys that are not known here: {", ".join(unknown)}'))
    rows = {row['path']: row for row in state['files']}
    texts = {row['path']: row for row in state['annotations']}
    there = folder_problems(root, state, {MANIFEST, *rows, *texts}, report)
    check_pictures(root, state, [row for row in rows.values() if row['path'] in there], report)
    shapes = {path: row['shape'] for path, row in rows.items()}
    for path in texts.keys() & there:
        report.attempt(path, check_text, os.path.join(root, path), texts[path], state, shapes)
    report.problems.sort()
    return report


def folder_problems(root, state, listed, report):
    """Report what should not be there, or is missing; the regular files that are there."""
    files, folders, others = list_folder(root)
    report.problems += others.items()
    report.problems += ((path, stranger(os.path.join(root, path))) for path in files - listed)
    for path in listed - files - others.keys():
        report.problems.append((path, 'it is missing, or no file of this folder'))
    for row in state['skipped']:
        report.problems.append((row['path'], f'left out when encrypting: {row.get("reason")}'))
    classes = state.get('classes')
    if classes and is_classes(classes) and state.get('kind') == 'folder':
        report.problems += class_problems(classes, folders, listed)
    return files


def check_pictures(root, state, rows, report):
    """Report what is wrong with pictures, and which of them are equal."""
    deep = state['preprocess'].get('color_type') == 'unchanged'
    shown, first = time.monotonic(), {}
    for i, row in enumerate(rows):
        path = os.path.join(root, row['path'])
        report.attempt(
            row['path'], check_picture, path, row, state['image_format'].get('format'), deep
        )
        other = first.setdefault(row['sha256'], row['path'])
        if other != row['path']:
            report.warnings.append((row['path'], f'it is the same picture as {other}'))
        if sys.stderr.isatty() and time.monotonic() > shown + 0.5:
            shown = time.monotonic()
            print(f'\r{i + 1} of {len(rows)} files', end='', file=sys.stderr)
    if sys.stderr.isatty():
        print('\r\x1b[K', end='', file=sys.stderr)


def printable(text):
    """A text without control characters, and without half characters."""
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode() for char in text
    )


def main(args=None):
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder')
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument('--key', metavar='FILE', help='key file')
    keys.add_argument('--key-env', metavar='NAME', help='environment variable that holds the key')
    keys.add_argument('--key-fd', metavar='N', help='open file descriptor to read the key from')
    parser.add_argument('--json', action='store_true', help='the report as one JSON object')
    options = parser.parse_args(args)
    try:
        if not os.path.isdir(options.folder):
            raise UsageError('there is no such folder')
        report = verify(options.folder, read_key(options))
    except UsageError as error:
        print(f'verify_standalone: {error}', file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(dict(vars(report), ok=not report.problems)))
        return int(bool(report.problems))
    for path, what in report.warnings:
        print(printable(f'warning: {path}: {what}'), file=sys.stderr)
    for path, what in report.problems:
        print(printable(f'{path}: {what}'))
    if not report.problems:
        known = 'authenticated with the key' if report.authenticated else 'not authenticated'
        print(f'{report.files} files are as they were written; the manifest is {known}')
    return int(bool(report.problems))


if __name__ == '__main__':
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')
    sys.exit(main())
