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
import bisect
import hashlib
import hmac
import io
import json
import math
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
CHANGED = 'it was changed: its SHA-256 is not the one in the manifest'


class Fault(Exception):
    """What is wrong with one thing in the folder."""


class UsageError(Exception):
    """What is wrong with the arguments."""


def require(ok, what):
    """Raise a fault unless something holds."""
    if not ok:
        raise Fault(what)


# --- The forms of JSON values ---------------------------------------------------------------------


def check(value, form, place):
    """Refuse a JSON value of another form.

    A form is a function that says whether a value fits; ``{key: form}`` of an object that has
    these keys and no others, where ``key?`` may be missing; ``[form]`` of a list; ``(form, form)``
    of a list of this length.
    """
    if isinstance(form, dict):
        require(isinstance(value, dict), f'{place} is no object')
        for key in value.keys() - {name.rstrip('?') for name in form}:
            raise Fault(f'{place} says more than the format has: {key[:99]!r}')
        for name, inner in form.items():
            key = name.rstrip('?')
            require(key in value or key != name, f'{place} has no {key!r}')
            if key in value:
                check(value[key], inner, f'{place}[{key!r}]')
    elif isinstance(form, (list, tuple)):
        require(isinstance(value, list), f'{place} is no list')
        require(isinstance(form, list) or len(value) == len(form), f'{place} has another length')
        for i, item in enumerate(value):
            check(item, form[0 if isinstance(form, list) else i], f'{place}[{i}]')
    else:
        require(form(value), f'{place} is none')


def number(value):
    """Any finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def whole(low=-math.inf, high=math.inf):
    """Whole numbers, from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def scale(value):
    """Positive numbers that a computer's floating-point number can be."""
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        return False
    return float(value) == value


def text(value):
    """Texts."""
    return isinstance(value, str)


def plain(value):
    """What may stand in categories and licences."""
    return value is None or isinstance(value, (str, int, float))


def segmentation(value):
    """Polygons, or run lengths as numbers."""
    runs = {'counts': [number], 'size': (number, number)}
    check(value, runs if isinstance(value, dict) else [[number]], 'segmentation')
    return True


def one_of(*values):
    """Some values and no others."""
    return lambda value: type(value) in (str, int, type(None)) and value in values


def anything(value):
    """All values."""
    return True


SIDE, COUNT = whole(1, 2**31 - 1), whole(0, 2**63 - 1)
TAR_BLOCK = 512


def level(value):
    """A level of grey."""
    return type(value) in (int, float) and 0 <= value <= 255


def digest(value):
    """SHA-256 in hexadecimal."""
    return isinstance(value, str) and re.fullmatch('[0-9a-f]{64}', value)


FILE = {
    'path': text,
    'sha256': digest,
    'size': COUNT,
    'shape': (SIDE, SIDE),
    'channels': one_of(1, 3, 4),
    'ori_shape': (whole(0, 2**31 - 1), whole(0, 2**31 - 1)),
    'scale': (scale, scale),
}
ANNOTATIONS = {
    'path': text,
    'sha256?': text,
    'kind?': one_of('coco', 'list'),
    'images_folder?': text,
    'images?': COUNT,
    'annotations?': COUNT,
}
SKIPPED = {'path': text, 'reason?': text}
SHARD = {'path': text, 'sha256': digest, 'files': COUNT, 'bytes': COUNT, 'skipped': COUNT}
TAR = {'path': text, 'size': COUNT, 'sha256': digest}
#: Parameters of each step of a cipher.
STEPS = {
    'shuffle': {},
    'mix': {'num_splits': whole(2, 4096), 'form': one_of('compact', 'tiled')},
    'erode': {'border': whole(1, 4096), 'form': one_of('compact', 'filled')},
    'drop': {'percent': whole(1, 99)},
    'center': {},
    'noise': {'std': whole(1, 255)},
    'orient': {},
    'negate': {},
    'permute_channels': {},
    'permute_pixels': {},
}
#: Of a step and its form, those that must not come later.
NOT_AFTER = {
    ('mix', 'tiled'): {'erode', 'noise'},
    ('erode', 'filled'): {'mix', 'center', 'permute_pixels'},
    ('permute_pixels', None): {'erode', 'mix'},
    ('drop', None): {'noise'},
}


def step(value):
    """A step of a cipher."""
    name = value.get('type') if isinstance(value, dict) else None
    require(text(name) and name in STEPS, 'the cipher has an unknown step')
    check(value, {'type': text, **STEPS[name]}, f'the step {name!r}')
    return True


HEAD = {
    'format': one_of('hime_mm encrypted data set'),
    'format_version': one_of(1, 2),
    'tool_version': text,
    'kind': one_of('coco', 'folder'),
    'mode': one_of('keyed', 'keyless', 'one-way'),
    'key_id': lambda value: value is None or isinstance(value, str),
    'dataset_id': lambda value: isinstance(value, str) and is_utf8(value),
    'cipher': {'version': one_of(1), 'patch_size': whole(1), 'steps': [step]},
    'cipher_text': anything,
    'preprocess': lambda value: isinstance(value, dict),
    'image_format': {
        'format': one_of('png', 'webp'),
        'compression': lambda value: value is None or whole(0, 9)(value),
    },
    'views': whole(1),
    'names': one_of('keep', 'ids'),
    'options': lambda value: isinstance(value, dict),
    'counts': lambda value: isinstance(value, dict),
    'clipped': lambda value: (
        isinstance(value, dict)
        and all(
            isinstance(pair, list) and list(map(COUNT, pair)) == [1, 1] for pair in value.values()
        )
    ),
    'annotations': lambda value: value is None or isinstance(value, list),
    'checksum': text,
    'mac?': anything,
    'classes?': lambda value: (
        isinstance(value, dict)
        and all(isinstance(names, list) and all(map(text, names)) for names in value.values())
    ),
    'statistics?': {
        'pixels': whole(1, 2**63 - 1),
        'mean': (level, level, level),
        'std': (level, level, level),
    },
    'noticed?': lambda value: isinstance(value, dict) and all(map(COUNT, value.values())),
}
#: What only one version has: the second has shards, and its lists in these.
ONLY = {
    1: {'skipped': lambda value: value is None or isinstance(value, list), 'files': [FILE]},
    2: {'storage': one_of('files', 'tar'), 'shards': lambda value: isinstance(value, list)},
}


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


def read_json(path, expected=None):
    """The object that a JSON file holds, of the SHA-256 that is expected."""
    with open_regular(path) as file:
        data = file.read()
        require(expected in (None, hashlib.sha256(data).hexdigest()), CHANGED)
        try:
            state = json.loads(data, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise Fault(f'it is no JSON file, or damaged: {error}') from None
    require(isinstance(state, dict), 'it holds no object')
    return state


def sha256(path):
    """SHA-256 of a file in hexadecimal."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


# --- The key --------------------------------------------------------------------------------------


def read_key(args):
    """The 32 bytes of the key that the arguments name, or None. No message shows any of it."""
    try:
        if args.key is not None:
            with open_regular(os.path.realpath(args.key)) as file:
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
    key_id = sub_key(key, 'key id', length=8).hex()
    require(state['key_id'] == key_id, f'it was made without a key, or with another than {key_id}')
    code = hmac.new(
        sub_key(key, 'manifest', state['dataset_id']), state['checksum'].encode(), 'sha256'
    ).hexdigest()
    require(
        hmac.compare_digest(code.encode(), str(state.get('mac')).encode(errors='replace')),
        'somebody without the key has changed it: its authentication code does not fit',
    )


# --- The manifest ---------------------------------------------------------------------------------


def read_manifest(path):
    """The manifest, of which all that is used later has the right form."""
    state = read_json(path)
    form = form_of(state)
    known = {key: value for key, value in state.items() if key in form or f'{key}?' in form}
    check(known, form, 'it')
    check(state['annotations'] or [], [ANNOTATIONS], "it['annotations']")
    if state['format_version'] == 1:
        check(state['skipped'] or [], [SKIPPED], "it['skipped']")
    else:
        require(not state.keys() & ONLY[1].keys(), 'it has lists that belong to its shards')
        check_shard_rows(state)
    body = {key: value for key, value in state.items() if key not in ('checksum', 'mac')}
    try:
        data = json.dumps(body, sort_keys=True, separators=(',', ':')).encode()
    except RecursionError:
        raise Fault('it is nested too deeply') from None
    require(
        state['checksum'] == hashlib.sha256(data).hexdigest(),
        'it was changed after it was written: its checksum does not fit',
    )
    return state


def form_of(state):
    """The form of a manifest of its version, or of any where it has none."""
    version = state.get('format_version')
    return {**HEAD, **(ONLY[version] if one_of(1, 2)(version) else {})}


def check_shard_rows(state):
    """Refuse rows of shards that are not named by their numbers, or are of another form."""
    tar = state['storage'] == 'tar'
    check(state['shards'], [{**SHARD, 'tar': TAR} if tar else SHARD], "it['shards']")
    for i, row in enumerate(state['shards']):
        names = [part['path'] for part in (row, row.get('tar')) if part]
        require(
            names == [f'hime-{i:06d}.json', f'hime-{i:06d}.tar'][: len(names)],
            f'shard {i} has another path',
        )


def read_shard(path, state, number):
    """The manifest of a shard, of which everything has the right form."""
    row = state['shards'][number]
    shard = read_json(path, row['sha256'])
    same = {
        'format': one_of('hime_mm shard'),
        'format_version': one_of(2),
        'dataset_id': one_of(state['dataset_id']),
        'shard': one_of(number),
    }
    tar = {'offset': COUNT} if state['storage'] == 'tar' else {}
    check(shard, {**same, 'files': [{**FILE, **tar}], 'skipped': [SKIPPED]}, 'it')
    for name, value in sizes(shard).items():
        require(row[name] == value, f'it has not the {row[name]} {name} that {MANIFEST} says')
    return shard


def sizes(lists):
    """How much is in lists of files and of pictures that are missing."""
    return {
        'files': len(lists['files']),
        'bytes': sum(row['size'] for row in lists['files']),
        'skipped': len(lists['skipped'] or []),
    }


def is_utf8(value):
    """Whether a text has no half characters."""
    return not any('\ud800' <= char <= '\udfff' for char in value)


def encrypted_patch_size(cipher):
    """Side in pixels of a patch after the last step."""
    side, steps = cipher['patch_size'], cipher['steps']
    names = [item['type'] for item in steps]
    require(len(set(names)) == len(names) > 0, 'a step comes twice, or none')
    for i, item in enumerate(steps):
        parts, border = item.get('num_splits', 1), item.get('border', 0)
        require(side % parts == 0 and side > 2 * border, f'{names[i]!r} leaves no patch')
        require(
            side > 1 or names[i] not in ('center', 'orient', 'permute_pixels'),
            f'{names[i]!r} gets patches of one pixel',
        )
        require(
            NOT_AFTER.get((names[i], item.get('form')), set()).isdisjoint(names[i:])
            and (names[i] != 'mix' or parts < side or 'center' not in names),
            f'{names[i]!r} makes no sense beside the other steps',
        )
        if item.get('form') == 'compact':
            side = side // parts - 2 * border
    return side


def check_head(state):
    """Refuse a head that contradicts itself; side in pixels of an encrypted patch."""
    keyed = {state['mode'] == 'keyed', state['key_id'] is not None, 'mac' in state}
    require(len(keyed) == 1, '`mode`, `key_id` and `mac` do not agree on whether there is a key')
    if state['format_version'] == 1:
        found = sizes(state)
    else:
        names = ('files', 'bytes', 'skipped')
        found = {name: sum(row[name] for row in state['shards']) for name in names}
    counts = {'images': COUNT, **{name: one_of(value) for name, value in found.items()}}
    check({key: state['counts'].get(key) for key in counts}, counts, 'of the lists, `counts`')
    return encrypted_patch_size(state['cipher'])


class Names:
    """What rows say that does not go with the head, or with the rows before them."""

    def __init__(self, state, side):
        stem = '.*'
        if state['names'] == 'ids':
            stem = (
                '-?[0-9]{12,}|-[0-9]{11}' if state['kind'] == 'coco' else '[0-9]{8,}|[0-9a-f]{16}'
            )
        view = '_v[0-9]+' if state['views'] > 1 else ''
        self.form = re.compile(rf'(?s:{stem}){view}\.{state["image_format"]["format"]}')
        self.side, self.seen = side, {MANIFEST, *shard_files(state)}

    def problems(self, row):
        """What is wrong with the row of a picture."""
        path, side = row['path'], self.side
        if not is_utf8(path):
            yield 'its name is no UTF-8'
        elif not self.form.fullmatch(path.rpartition('/')[2]):
            yield 'its name is not one that the settings of the manifest give'
        elif side and (row['shape'][0] % side or row['shape'][1] % side):
            yield f'its sides are no multiples of the {side} pixels of a patch'
        if 'offset' in row and ('\0' in path or {'', '.', '..'} & set(path.split('/'))):
            yield 'it leads out of the folder'
        yield from self.twice(path)

    def twice(self, path):
        """Whether a path was there before."""
        if path.lower() in self.seen:
            yield 'the manifest lists it twice, or with another case'
        self.seen.add(path.lower())


def shard_files(state):
    """Paths of manifests and tars of the shards."""
    for row in state.get('shards', ()) if state['format_version'] == 2 else ():
        yield row['path']
        if 'tar' in row:
            yield row['tar']['path']


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
    for path in named - folders:
        yield path, 'the folder is missing: classes would get other numbers'
    held = sorted(named | listed)
    for path in folders - named:
        at = bisect.bisect_left(held, f'{path}/')
        if at == len(held) or not held[at].startswith(f'{path}/'):
            yield path, 'the manifest names no such folder: classes would get other numbers'


# --- Pictures -------------------------------------------------------------------------------------


def check_picture(path, row, fmt, deep):
    """Refuse a picture that is not as its row says, or holds more than pixels."""
    height, width = row['shape']
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if 'offset' in row:
            size = max(0, min(size - row['offset'], row['size']))
        require(size == row['size'], f'it has {size} bytes, not {row["size"]}')
        require(
            size <= 3 * height * width * row['channels'] + height + 65536,
            'so few pixels do not need so many bytes',
        )
        if 'offset' in row:
            file.seek(row['offset'])
            file = io.BytesIO(file.read(size))
        found = hashlib.sha256()
        while block := file.read(BLOCK):
            found.update(block)
        require(found.hexdigest() == row['sha256'], CHANGED)
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
        require(length == 13 or not first, 'its IHDR has another length')
        require(file.tell() + length + 4 <= size, 'its PNG is truncated')
        crc = zlib.crc32(name)
        while length:
            block = file.read(min(length, BLOCK))
            require(block, 'its PNG is truncated')
            length -= len(block)
            crc = zlib.crc32(block, crc)
            if first:
                rows = Rows(block, row, deep)
            elif name == b'IDAT':
                rows.add(block)
            else:
                raise Fault('its IEND is not empty')
        require(file.read(4) == struct.pack('>I', crc), 'the CRC of a chunk does not fit')
        first = False
    require(file.tell() == size, f'{size - file.tell()} bytes follow the end of its PNG')
    require(rows.seen == rows.total and rows.inflate.eof, 'rows of its PNG are missing')


class Rows:
    """Counts the bytes of a PNG's rows, and looks at the filter that each begins with."""

    def __init__(self, header, row, deep):
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


# --- Tars -----------------------------------------------------------------------------------------


def tar_name(path):
    """Name in a tar: no dot but the one of the extension is in the name of the file."""
    folder, slash, name = path.rpartition('/')
    stem, dot, extension = name.rpartition('.')
    if not stem.strip('.'):
        stem, dot, extension = name, '', ''
    return f'{folder}{slash}{stem.replace("%", "%25").replace(".", "%2E")}{dot}{extension}'


def tar_block(name, kind, mode, size):
    """A header of 512 bytes: name, mode, user, group, size, time, sum, kind, link, version."""
    fields = [name.encode('ascii', 'replace')[:100].ljust(100, b'\0')]
    fields += [b'%07o\0' % value for value in (mode, 0, 0)]
    fields += [b'%011o\0' % value for value in (size, 0)]
    fields += [b' ' * 8, kind, bytes(100), b'ustar\x0000', bytes(247)]
    fields[6] = b'%06o\0 ' % sum(map(sum, fields))
    return b''.join(fields)


def tar_header(row):
    """What stands before a picture in a tar."""
    name = tar_name(row['path'])
    require(is_utf8(name), f'no tar has the name {name!r:.999}')
    require(row['size'] < 1 << 33, f'no tar has the {row["size"]} bytes of {name!r:.999}')
    header = tar_block(name, b'0', 0o644, row['size'])
    if name.isascii() and len(name) <= 100:
        return header
    text = f' path={name}\n'.encode()
    digits = next(n for n in range(1, 20) if len(str(len(text) + n)) == n)
    text = str(len(text) + digits).encode() + text
    before = tar_block('././@PaxHeader', b'x', 0, len(text))
    return before + text + bytes(-len(text) % TAR_BLOCK) + header


def tar_offsets(rows):
    """Where each picture has to begin, as far as there can be such a tar."""
    at = 0
    for row in rows:
        try:
            at += len(tar_header(row))
        except Fault:
            return
        yield at
        at += row['size'] + -row['size'] % TAR_BLOCK


def check_tar(path, tar, rows):
    """Refuse a tar of anything but its pictures; of one whose rows are not known, the hash."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        require(size == tar['size'], f'it has {size} bytes, not {tar["size"]}')
        require(sha256(path) == tar['sha256'], CHANGED)
        if rows is None:
            return
        at = 0
        for row in rows:
            header = tar_header(row)
            file.seek(at)
            require(file.read(len(header)) == header, f'{row["path"]!r:.999} has another header')
            at += len(header) + row['size']
            file.seek(at)
            pad = -at % TAR_BLOCK
            require(file.read(pad) == bytes(pad), f'{row["path"]!r:.999} is not padded by zeros')
            at += pad
        file.seek(at)
        end = bytes(2 * TAR_BLOCK)
        require(
            size == at + len(end) and file.read() == end,
            'it does not end with two blocks of zeros behind its last picture',
        )


# --- Annotations and lists ------------------------------------------------------------------------


def check_text(path, row, state, shapes):
    """Refuse an annotation file or list that was changed, or says more than the format has."""
    require(sha256(path) == row.get('sha256'), CHANGED)
    if row.get('kind') == 'list':
        check_list(path, row, shapes)
    else:
        coco = read_json(path)
        check(coco, coco_form(state['options']), 'it')
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
    parts = [part for part in path.split('/') if part not in ('', '.')]
    return '/' * path.startswith('/') + '/'.join(parts)


def coco_form(options):
    """The form of an annotation file: these fields are handed over, and no others."""

    def flag(value):
        return value in (0, 1)

    image = {'id': whole(), 'file_name': text, 'height': SIDE, 'width': SIDE}
    annotation = {
        'id': whole(),
        'image_id': whole(),
        'category_id': whole(),
        'bbox': (number,) * 4,
        'area': number,
        'iscrowd': flag,
        'ignore?': flag,
    }
    form = {
        'info': {'description': text},
        'images': [image],
        'annotations': [annotation],
        'categories': [{'id?': plain, 'name?': plain, 'supercategory?': plain}],
    }
    if options.get('licenses'):
        image['license?'] = whole()
        form['licenses'] = [{'id?': plain, 'name?': plain, 'url?': plain}]
    if options.get('segmentation'):
        annotation['segmentation?'] = segmentation
    return form


def check_references(coco, row, shapes):
    """Refuse images of other names or sizes than the manifest's, and ids that lead nowhere."""
    for image in coco['images']:
        shape = shapes.get(in_folder(row, image['file_name']))
        require(shape is not None, f'{image["file_name"][:999]!r} is not in the manifest')
        require(
            (image['height'], image['width']) == shape,
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
    if key is not None:
        report.attempt(MANIFEST, authenticate, state, key)
        report.authenticated = not report.problems
    side = report.attempt(MANIFEST, check_head, state)
    form = form_of(state)
    unknown = sorted(key for key in state if not {key, f'{key}?'} & form.keys())
    if unknown:
        report.warnings.append((MANIFEST, f'keys that are not known here: {", ".join(unknown)}'))
    folder = Folder(root, state, report)
    folder.check_rows(Names(state, side))
    folder.check_strangers()
    for path in folder.texts.keys() & folder.files:
        row = folder.texts[path]
        report.attempt(path, check_text, os.path.join(root, path), row, state, folder.shapes)
    report.problems.sort()
    return report


class Folder:
    """What is in the folder, and what the manifest lists."""

    def __init__(self, root, state, report):
        self.root, self.state, self.report = root, state, report
        self.files, self.folders, self.others = list_folder(root)
        self.texts = {row['path']: row for row in state['annotations'] or []}
        self.shapes, self.first = {}, {}
        self.listed = {MANIFEST, *shard_files(state), *self.texts}
        shards = state.get('shards', ())
        self.tar = state['format_version'] == 2 and state['storage'] == 'tar'
        old = state['format_version'] == 1
        report.files = len(state['files']) if old else sum(row['files'] for row in shards)
        self.done, self.shown = 0, time.monotonic()

    def check_rows(self, names):
        """Report what is wrong with rows and with pictures, shard by shard."""
        if self.state['format_version'] == 1:
            self.check_lists(self.state, names)
        else:
            for number, row in enumerate(self.state['shards']):
                self.check_shard(number, row, names)
        for row in self.state['annotations'] or []:
            self.report.problems += ((row['path'], what) for what in names.twice(row['path']))
        if sys.stderr.isatty():
            print('\r\x1b[K', end='', file=sys.stderr)

    def check_shard(self, number, row, names):
        """Report what is wrong with a shard; what its manifest lists counts if that is right."""
        shard, attempt = None, self.report.attempt
        if row['path'] in self.files:
            path = os.path.join(self.root, row['path'])
            shard = attempt(row['path'], read_shard, path, self.state, number)
        rows = None if shard is None else shard['files']
        if self.tar and row['tar']['path'] in self.files:
            path = os.path.join(self.root, row['tar']['path'])
            attempt(row['tar']['path'], check_tar, path, row['tar'], rows)
        if shard is not None:
            if self.tar:
                for place, offset in zip(rows, tar_offsets(rows), strict=False):
                    if place['offset'] != offset:
                        what = f'it does not begin at {place["offset"]} of its tar'
                        self.report.problems.append((place['path'], what))
            self.check_lists(shard, names, row['tar']['path'] if self.tar else None)

    def check_lists(self, lists, names, tar=None):
        """Report what is wrong with pictures, which are in a tar or not, and the missing ones."""
        for row in lists['files']:
            self.report.problems += ((row['path'], what) for what in names.problems(row))
            self.shapes[row['path']] = tuple(row['shape'])
            if tar is None:
                self.listed.add(row['path'])
        rows = lists['files'] if tar else {row['path']: row for row in lists['files']}.values()
        for row in rows:
            self.check_picture(row, tar or row['path'])
        for row in lists['skipped'] or []:
            what = f'left out when encrypting: {row.get("reason")}'
            self.report.problems.append((row['path'], what))

    def check_picture(self, row, path):
        """Report what is wrong with a picture, or that it is one of another path."""
        self.done += 1
        if path in self.files:
            deep = self.state['preprocess'].get('color_type') == 'unchanged'
            fmt, place = self.state['image_format']['format'], os.path.join(self.root, path)
            self.report.attempt(row['path'], check_picture, place, row, fmt, deep)
            other = self.first.setdefault(bytes.fromhex(row['sha256']), row['path'])
            if other != row['path']:
                self.report.warnings.append((row['path'], f'it is the same picture as {other}'))
        if sys.stderr.isatty() and time.monotonic() > self.shown + 0.5:
            self.shown = time.monotonic()
            print(f'\r{self.done} of {self.report.files} files', end='', file=sys.stderr)

    def check_strangers(self):
        """Report what should not be there, or is missing."""
        problems = self.report.problems
        problems += self.others.items()
        for path in self.files - self.listed:
            problems.append((path, stranger(os.path.join(self.root, path))))
        for path in self.listed - self.files - self.others.keys():
            problems.append((path, 'it is missing, or no file of this folder'))
        if 'classes' in self.state and self.state['kind'] == 'folder' and not self.tar:
            problems += class_problems(self.state['classes'], self.folders, self.listed)


def printable(text):
    """A text without control characters, and without half characters."""
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode() for char in text
    )


def parse_args(args=None):
    """What the command is given."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder')
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument('--key', metavar='FILE', help='key file')
    keys.add_argument('--key-env', metavar='NAME', help='environment variable that holds the key')
    keys.add_argument('--key-fd', metavar='N', help='open file descriptor to read the key from')
    parser.add_argument('--json', action='store_true', help='the report as one JSON object')
    return parser.parse_args(args)


def main(args=None):
    """Run the command; its exit status."""
    options = parse_args(args)
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
    try:
        status = main()
        sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt):  # nobody reads on
        os._exit(130)
    sys.exit(status)
