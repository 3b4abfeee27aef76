# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypted folders, and what somebody may do to them."""

import hashlib
import json
import os
import shutil
import socket
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
from owner_data import SECRET, edit_json, key_file, make_coco, photo, write
from version_1 import as_version_1, sealed

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Key

KEY = Key(SECRET)
ANN = 'annotations/instances_val2017.json'
ONE, TWO = 'val2017/000001.png', 'val2017/000002.png'
SIGNATURE = b'\x89PNG\r\n\x1a\n'


def make_bases(folder):
    """Encrypted data sets of several kinds, by name."""
    coco, pictures = make_coco(folder / 'src' / 'coco'), folder / 'src' / 'pictures'
    for i, name in enumerate(['a/x.png', 'a/y.png', 'b/deep/z.png', 'b/deep/w.png']):
        write(pictures / name, photo(33, 48, i))
    (pictures / 'meta').mkdir()
    (pictures / 'meta' / 'all.txt').write_text('a/x.png 0\nb/deep/z.png 1\n')
    recipes = dict(
        coco=(encrypt_coco, coco, 'shuffle', dict(key=KEY)),
        keyless=(encrypt_coco, coco, 'mix2', dict(licenses=False)),
        outlines=(encrypt_coco, coco, 'mix2', dict(segmentation=True)),
        one_way=(encrypt_coco, coco, 'center+erode2+shuffle', dict(one_way=True, fmt='webp')),
        ids=(encrypt_coco, coco, 'mix2', dict(names='ids')),
        # A drawn id may give two views the same permutation, which is noted.
        views=(
            encrypt_folder,
            pictures,
            'shuffle',
            dict(key=KEY, views=2, names='ids', dataset_id='views'),
        ),
        folder=(encrypt_folder, pictures, 'mix2', dict(lists=['meta/all.txt'])),
    )
    # Of version 1, and one each of version 2 with several shards.
    for name, (encrypt, src, cipher, settings) in recipes.items():
        encrypt(str(src), str(folder / name), cipher, progress=False, **settings)
        as_version_1(folder / name, settings.get('key'))
    parts = dict(
        shards=(encrypt_coco, coco, 'shuffle', dict(key=KEY, shard_size=2)),
        folders=(encrypt_folder, pictures, 'mix2', dict(lists=['meta/all.txt'], shard_size=3)),
        tars=(
            encrypt_folder,
            pictures,
            'mix2',
            dict(key=KEY, lists=['meta/all.txt'], shard_size=2, storage='tar'),
        ),
    )
    for name, (encrypt, src, cipher, settings) in parts.items():
        encrypt(str(src), str(folder / name), cipher, progress=False, **settings)
    return {name: folder / name for name in (*recipes, *parts)}


class Tampering(NamedTuple):
    """What was done to a folder, and the paths that a verifier has to name."""

    base: str
    change: object
    paths: tuple
    key: bool = False

    def apply(self, base, folder):
        """The folder, and the paths that a verifier has to name."""
        root = shutil.copytree(base, folder / 'data')
        found = self.change(root)
        return root, found if isinstance(found, set) else set(self.paths)


TAMPERED = {}


def tampered(base, *paths, key=False):
    """Register a function that changes a folder."""

    def decorate(function):
        TAMPERED[function.__name__] = Tampering(base, function, paths, key)
        return function

    return decorate


def reseal(root, change=lambda state: None):
    """Change the manifest, with hashes and counts of what is there now."""

    def everything(state):
        for row in state['files'] + state['annotations']:
            data = (root / row['path']).read_bytes()
            row['sha256'] = hashlib.sha256(data).hexdigest()
            if 'size' in row:
                row['size'] = len(data)
        change(state)
        state['counts']['files'] = len(state['files'])
        state['counts']['bytes'] = sum(row['size'] for row in state['files'])
        sealed(state)

    edit_json(root / 'hime.json', everything)


def put(name, data=b'x'):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return change


# Strangers
for _number, (_name, _data) in enumerate(
    {
        'plain.gif': b'GIF89a',
        'val2017/Thumbs.db': b'x',
        'README.md': b'# hello',
        '.DS_Store': b'',
        'val2017/.hime-abc.part': SIGNATURE,
        'val2017/plain.jpg': b'\xff\xd8\xff\xd9',
        'new/deep/photo.tiff': b'II*\0',
        'HIME.JSON': b'{}',
        'hime.json.bak': b'{}',
    }.items()
):
    TAMPERED[f'stranger_{_number}'] = Tampering('coco', put(_name, _data), (_name,))


@tampered('coco', 'owner.key')
def key_is_handed_over(root):
    key_file(root / 'owner.key')


@tampered('keyless', 'val2017/.env')
def key_in_settings(root):
    (root / 'val2017' / '.env').write_text(f'A=1\nHIME_KEY=hime-key-v1:{SECRET.hex()}\n')


@tampered('coco', 'work')
def bare_key(root):
    (root / 'work').write_text(f' {SECRET.hex().upper()}\n')


@tampered('coco', '.hime-work')
def unfinished(root):
    put('.hime-work/journal')(root)


# Links and special files
@tampered('coco', 'link.png')
def link_to_a_file(root):
    (root / 'link.png').symlink_to(root / ONE)


@tampered('coco', 'val2017/gone')
def dangling_link(root):
    (root / 'val2017' / 'gone').symlink_to('nowhere')


@tampered('coco', 'outside')
def link_to_a_folder(root):
    (root / 'outside').symlink_to('/')


@tampered('coco', 'val2017/loop')
def link_that_leads_back(root):
    (root / 'val2017' / 'loop').symlink_to('..')


@tampered('coco', ONE)
def link_in_place_of_a_picture(root):
    (root / ONE).rename(root.parent / 'elsewhere')
    (root / ONE).symlink_to(root.parent / 'elsewhere')


@tampered('coco', 'val2017', ONE, TWO, 'val2017/000003.png', 'val2017/000004.png')
def link_in_place_of_the_folder(root):
    (root / 'val2017').rename(root.parent / 'elsewhere')
    (root / 'val2017').symlink_to(root.parent / 'elsewhere')


@tampered('coco', 'hime.json')
def link_in_place_of_the_manifest(root):
    (root / 'hime.json').rename(root.parent / 'elsewhere')
    (root / 'hime.json').symlink_to(root.parent / 'elsewhere')


@tampered('coco', 'val2017/pipe')
def pipe(root):
    os.mkfifo(root / 'val2017' / 'pipe')


@tampered('coco', ONE)
def pipe_in_place_of_a_picture(root):
    (root / ONE).unlink()
    os.mkfifo(root / ONE)


@tampered('coco', ANN)
def pipe_in_place_of_annotations(root):
    (root / ANN).unlink()
    os.mkfifo(root / ANN)


@tampered('coco', 'hime.json')
def pipe_in_place_of_the_manifest(root):
    (root / 'hime.json').unlink()
    os.mkfifo(root / 'hime.json')


@tampered('coco', 's')
def unix_socket(root):
    here = os.getcwd()
    os.chdir(root)  # its name may have 108 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind('s')
    finally:
        os.chdir(here)


# Files that are listed
@tampered('coco', ONE, ANN)
def missing(root):
    (root / ONE).unlink()
    (root / ANN).unlink()


@tampered('coco', 'hime.json')
def missing_manifest(root):
    (root / 'hime.json').unlink()


@tampered('coco', TWO)
def truncated(root):
    os.truncate(root / TWO, 1000)


@tampered('coco', ONE, TWO)
def sparse_and_empty(root):
    os.truncate(root / ONE, 1 << 40)
    os.truncate(root / TWO, 0)


@tampered('coco', TWO)
def one_bit(root):
    data = bytearray((root / TWO).read_bytes())
    data[len(data) // 2] ^= 4
    (root / TWO).write_bytes(data)


@tampered('coco', ONE)
def folder_in_place_of_a_picture(root):
    (root / ONE).unlink()
    (root / ONE).mkdir()


@tampered('coco', ONE, TWO)
def swapped(root):
    (root / ONE).rename(root / 'x')
    (root / TWO).rename(root / ONE)
    (root / 'x').rename(root / TWO)


@tampered('coco', ONE, 'val2017/000001.PNG')
def upper_case(root):
    (root / ONE).rename(root / 'val2017' / '000001.PNG')


@tampered('coco', ANN, 'Annotations/instances_val2017.json')
def upper_case_folder(root):
    (root / 'annotations').rename(root / 'Annotations')


@tampered('folder', 'a', 'a/x.png', 'a/y.png', 'c', 'c/x.png', 'c/y.png')
def moved_folder(root):
    (root / 'a').rename(root / 'c')


@tampered('coco', ANN)
def annotations_changed(root):
    edit_json(root / ANN, lambda coco: coco['annotations'].pop())


@tampered('coco', ANN)
def one_box_changed(root):
    edit_json(root / ANN, lambda coco: coco['annotations'][0].update(bbox=[1, 2, 3, 4]))


@tampered('folder', 'meta/all.txt')
def list_changed(root):
    put('meta/all.txt', b'a/x.png 1\n')(root)


# The manifest
def manifest(name, base, change, *paths, key=False, seal=True):
    def edit(root):
        edit_json(root / 'hime.json', lambda state: (change(state), seal and sealed(state)))

    TAMPERED[name] = Tampering(base, edit, paths or ('hime.json',), key)


def double_row(state, **fields):
    row = dict(state['files'][0], **fields)
    state['files'].append(row)
    state['counts']['files'] += 1
    state['counts']['bytes'] += row['size']


def swap_rows(state):
    one, two = state['files'][:2]
    for name in ('sha256', 'size', 'ori_shape', 'scale'):
        one[name], two[name] = two[name], one[name]


def hide_key(state):
    state.update(key_id=None, mode='one-way')
    state.pop('mac')


manifest('checksum', 'keyless', lambda s: s.update(dataset_id='e'), seal=False)
manifest('swapped_rows', 'keyless', swap_rows, ONE, TWO)
manifest('sizes_with_the_key', 'coco', lambda s: s['files'][0].update(ori_shape=[1, 1]), key=True)
manifest('cipher_with_the_key', 'coco', lambda s: s['cipher'].update(patch_size=8), key=True)
manifest('key_taken_out', 'coco', hide_key, key=True)
manifest('other_key', 'coco', lambda s: s.update(key_id='0' * 16), key=True)
manifest('mac_taken_out', 'coco', lambda s: s.pop('mac'))
manifest('mode', 'coco', lambda s: s.update(mode='keyless'))
manifest('row_twice', 'keyless', double_row, ONE)
for _number, _path in enumerate(['../x.png', '/x.png', 'val2017/../x.png', 'a\0.png', 'gone.png']):
    manifest(
        f'row_of_path_{_number}', 'keyless', lambda s, path=_path: double_row(s, path=path), _path
    )
manifest('row_without_utf8', 'keyless', lambda s: double_row(s, path='\udcff.png'), '\udcff.png')
manifest('counts', 'keyless', lambda s: s['counts'].update(bytes=1))
manifest('row_says_more', 'keyless', lambda s: s['files'][0].update(name='Anna.jpg'))
manifest('row_says_it_in_words', 'keyless', lambda s: s['files'][0].update(channels='3'))
manifest('annotations_say_more', 'keyless', lambda s: s['annotations'][0].update(source='/home'))
manifest('huge_number', 'keyless', lambda s: s['files'][0].update(size=10**30))
manifest('no_number', 'keyless', lambda s: s['files'][0].update(scale=[1, float('inf')]))
manifest('version', 'keyless', lambda s: s.update(format_version=3))
manifest('version_without_shards', 'keyless', lambda s: s.update(format_version=2))
manifest('no_rows', 'keyless', lambda s: s.update(files=None))
manifest('key_missing', 'keyless', lambda s: s.pop('clipped'))
manifest('names', 'keyless', lambda s: s.update(names='Anna'))
manifest('options', 'keyless', lambda s: s.update(options=None))
manifest('cipher_in_short', 'keyless', lambda s: s.update(cipher='mix2'))
manifest('cipher_without_a_form', 'keyless', lambda s: s['cipher']['steps'][0].pop('form'))
manifest('half_a_character', 'coco', lambda s: s.update(dataset_id='\ud800'), key=True)
manifest('classes_are_none', 'folder', lambda s: s.update(classes={'.': 'ab'}))
manifest('classes_are_null', 'folder', lambda s: s.update(classes=None))
manifest('noticed_is_a_list', 'keyless', lambda s: s.update(noticed=[]))
manifest('noticed_is_negative', 'keyless', lambda s: s.update(noticed=dict(turned=-1)))
for _number, _wrong in enumerate(
    (
        None,
        dict(pixels=1, mean=[1, 2, 3]),
        dict(pixels=1, mean=[1, 2, 3], std=[1, 2, 256]),
        dict(pixels=1, mean=[1, 2, 3], std=[1, 2]),
        dict(pixels=True, mean=[1, 2, 3], std=[1, 2, 3]),
        dict(pixels=1, mean=[1, 2, 3], std=[1, 2, 3], max=[4, 4, 4]),
    )
):
    manifest(f'statistics_{_number}', 'keyless', lambda s, wrong=_wrong: s.update(statistics=wrong))
manifest('count_is_true', 'keyless', lambda s: s.update(clipped=dict(center=[True, 1])))
manifest('mac_is_half_a_character', 'coco', lambda s: s.update(mac='\ud800'), key=True)
manifest('compression', 'keyless', lambda s: s['image_format'].update(compression=10))
manifest('step_is_unknown', 'keyless', lambda s: s['cipher'].update(steps=[dict(type='blur')]))
manifest('step_twice', 'keyless', lambda s: s['cipher'].update(steps=s['cipher']['steps'] * 2))
manifest('mix_of_no_patch', 'keyless', lambda s: s['cipher'].update(patch_size=17))
manifest('cipher_is_none', 'keyless', lambda s: s['cipher'].update(steps=[]))
manifest('sides_of_no_patch', 'keyless', lambda s: s['files'][0].update(shape=[49, 64]), ONE, ANN)
manifest(
    'left_out',
    'keyless',
    lambda s: (s['skipped'].append(dict(path='x', reason='r')), s['counts'].update(skipped=1)),
    'x',
)


@tampered('keyless', 'val2017/a.png')
def rows_that_differ_in_case(root):
    for name in ('val2017/A.png', 'val2017/a.png'):
        shutil.copy(root / ONE, root / name)
        edit_json(root / 'hime.json', lambda s, path=name: (double_row(s, path=path), sealed(s)))


@tampered('keyless', 'hime.json')
def manifest_nested_deeply(root):
    put('hime.json', b'[' * 100_000)(root)


@tampered('keyless', 'hime.json')
def manifest_is_a_list(root):
    put('hime.json', b'[]')(root)


@tampered('keyless', 'hime.json')
def manifest_cut_off(root):
    os.truncate(root / 'hime.json', 700)


@tampered('keyless', 'hime.json')
def manifest_with_a_key_twice(root):
    text = (root / 'hime.json').read_text()
    put('hime.json', text.replace('{', '{"files": [], ', 1).encode())(root)


@tampered('keyless', *(f'{i}.png' for i in range(5000)))
def many_rows(root):
    def fill(state):
        for i in range(5000):
            double_row(state, path=f'{i}.png', size=2**40, shape=[2**30, 2**30])
        sealed(state)

    edit_json(root / 'hime.json', fill)


# What a picture holds, with fresh hashes
def chunk(name, data, crc=0):
    return (
        struct.pack('>I', len(data))
        + name
        + data
        + struct.pack('>I', zlib.crc32(name + data) ^ crc)
    )


def chunks(data):
    at, found = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], 'big')
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(header, rows, *before, level=1):
    middle = b''.join(chunk(*part) for part in before)
    packed = rows if isinstance(rows, bytes) else zlib.compress(bytes(rows), level)
    return (
        SIGNATURE + chunk(b'IHDR', header) + middle + chunk(b'IDAT', packed) + chunk(b'IEND', b'')
    )


def parts(data):
    """Header and inflated rows of a PNG."""
    found = chunks(data)
    rows = zlib.decompress(b''.join(content for name, content in found if name == b'IDAT'))
    return found[0][1], bytearray(rows)


def picture(name, change, base='keyless', path=ONE, also=()):
    """Replace a picture, of which the manifest has the new hash then."""

    def edit(root):
        (root / path).write_bytes(change((root / path).read_bytes()))
        reseal(root)

    TAMPERED[name] = Tampering(base, edit, (path, *also))


def with_byte(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1 :]


def encoded(data, extension, change=lambda img: img, *params):
    img = cv2.imdecode(np.frombuffer(data, np.uint8), -1)
    return cv2.imencode(extension, change(img), params)[1].tobytes()


for _chunk in (b'tEXt', b'eXIf', b'iCCP', b'acTL', b'tIME', b'tRNS', b'xxXx'):
    picture(
        f'png_{_chunk.decode()}',
        lambda data, name=_chunk: data[:33] + chunk(name, b'Comment\0Anna') + data[33:],
    )
picture('png_palette', lambda d: png(with_byte(parts(d)[0], 9, 3), parts(d)[1], (b'PLTE', b'abc')))
picture('png_end', lambda data: data + b'\0')
picture('png_twice', lambda data: data + data)
picture('png_without_end', lambda data: data[:-12])
picture('png_cut_in_a_chunk', lambda data: data[:200])
picture('png_cut_in_a_crc', lambda data: data[:-14])
picture('png_cut_in_a_head', lambda data: data[:36])
picture('png_signature', lambda data: with_byte(data, 6, 0))
picture('png_end_that_is_not_empty', lambda data: data[:-12] + chunk(b'IEND', b'Anna'))
picture('png_crc', lambda data: data[:-1] + b'x')
picture('png_empty_chunk', lambda data: data[:33] + chunk(b'tEXt', b'') + data[33:])
picture('png_empty_header', lambda data: data[:8] + chunk(b'IHDR', b'') + data[33:])
picture('png_long_header', lambda data: data[:8] + chunk(b'IHDR', data[16:29] + b'x') + data[33:])
picture('png_two_headers', lambda data: data[:33] + data[8:])
picture('png_no_header', lambda data: data[:8] + data[33:])
picture('png_behind_the_rows', lambda d: png(parts(d)[0], zlib.compress(parts(d)[1]) + b'Anna'))
picture('png_another_idat', lambda d: d[:-12] + chunk(b'IDAT', b'Anna') + d[-12:])
picture('png_row_more', lambda d: png(parts(d)[0], parts(d)[1] + bytes(64 * 3 + 1)))
picture('png_row_less', lambda d: png(parts(d)[0], parts(d)[1][: -64 * 3 - 1]))
picture('png_bomb', lambda d: png(parts(d)[0], bytearray(1 << 25), level=9))
picture('png_stream_without_end', lambda d: png(parts(d)[0], zlib.compress(parts(d)[1])[:-4]))
picture('png_stream_of_nothing', lambda d: png(parts(d)[0], b'Anna'))
picture('png_filter', lambda d: png(parts(d)[0], bytearray([9]) + parts(d)[1][1:]))
picture('png_interlaced', lambda d: png(with_byte(parts(d)[0], 12, 1), parts(d)[1]))
picture('png_16_bits', lambda data: encoded(data, '.png', lambda img: img.astype(np.uint16) * 257))
picture('png_grey', lambda data: encoded(data, '.png', lambda img: img[..., 0]))
picture('png_alpha', lambda data: encoded(data, '.png', lambda i: np.dstack([i, i[..., 0]])))
picture('png_of_another_size', lambda data: encoded(data, '.png', lambda img: img[:32]))
picture('png_is_a_jpeg', lambda data: encoded(data, '.jpg'))
picture('png_is_a_webp', lambda data: encoded(data, '.webp'))
picture('png_is_empty', lambda data: b'')
_WEBP = dict(base='one_way', path='val2017/000001.webp')


def riff(*parts):
    body = b'WEBP' + b''.join(
        name + struct.pack('<I', len(data)) + data + bytes(len(data) % 2) for name, data in parts
    )
    return b'RIFF' + struct.pack('<I', len(body)) + body


def pixels(data):
    return data[20 : 20 + int.from_bytes(data[16:20], 'little')]


picture('webp_end', lambda data: data + b'xx', **_WEBP)
picture('webp_truncated', lambda data: data[:-20], **_WEBP)
picture('webp_xmp', lambda d: riff((b'VP8L', pixels(d)), (b'XMP ', b'Anna')), **_WEBP)
picture('webp_extended', lambda d: riff((b'VP8X', bytes(10)), (b'VP8L', pixels(d))), **_WEBP)
picture(
    'webp_lossy', lambda d: encoded(d, '.webp', lambda i: i, cv2.IMWRITE_WEBP_QUALITY, 80), **_WEBP
)
picture(
    'webp_padding',
    lambda d: riff((b'VP8L', pixels(d) + bytes(1 - len(pixels(d)) % 2)))[:-1] + b'A',
    **_WEBP,
)
picture('webp_empty_chunk', lambda d: riff((b'VP8L', pixels(d)), (b'XMP ', b'')), **_WEBP)
picture('webp_zeros_at_the_end', lambda data: data + bytes(2), **_WEBP)
picture(
    'webp_of_another_size',
    lambda d: encoded(d, '.webp', lambda i: i[:36], cv2.IMWRITE_WEBP_QUALITY, 101),
    **_WEBP,
)
picture('webp_of_other_letters', lambda data: with_byte(data, 3, ord('X')), **_WEBP)
picture('webp_of_another_kind', lambda data: with_byte(data, 11, ord('X')), **_WEBP)
picture('webp_signature', lambda data: with_byte(data, 20, 0x2E), **_WEBP)
picture('webp_version', lambda data: with_byte(data, 24, data[24] | 0x20), **_WEBP)
picture('webp_is_a_png', lambda data: encoded(data, '.png'), **_WEBP)


@tampered('keyless', ONE, ANN)
def more_pixels_than_there_are(root):
    header = struct.pack('>IIBBBBB', 32768, 32768, 8, 2, 0, 0, 0)
    (root / ONE).write_bytes(png(header, bytearray(1000)))
    reseal(root, lambda s: s['files'][0].update(shape=[32768, 32768]))


@tampered('keyless', ONE)
def picture_of_the_same_size(root):
    header, rows = parts((root / ONE).read_bytes())
    (root / ONE).write_bytes(png(header, rows, level=0))
    reseal(root)
    rows[9] ^= 1
    (root / ONE).write_bytes(png(header, rows, level=0))


@tampered('keyless', ONE, ANN)
def picture_of_no_whole_patches(root):
    data = encoded((root / ONE).read_bytes(), '.png', lambda img: img[:41])
    (root / ONE).write_bytes(data)
    reseal(root, lambda s: s['files'][0].update(shape=[41, 64]))


@tampered('keyless', '\udcff.png')
def name_that_is_no_utf8(root):
    shutil.copy(root / ONE, root / '\udcff.png')
    edit_json(root / 'hime.json', lambda s: (double_row(s, path='\udcff.png'), sealed(s)))


@tampered('keyless', ONE)
def sparse_file_that_is_listed(root):
    os.truncate(root / ONE, 1 << 40)
    edit_json(
        root / 'hime.json',
        lambda s: (
            s['counts'].update(bytes=s['counts']['bytes'] - s['files'][0]['size'] + (1 << 40)),
            s['files'][0].update(size=1 << 40),
            sealed(s),
        ),
    )


# What annotations and lists hold, with fresh hashes
def text(name, change, base='keyless', path=ANN, raw=False):
    def edit(root):
        if raw:
            (root / path).write_bytes(change((root / path).read_bytes()))
        else:
            edit_json(root / path, change)
        reseal(root)

    TAMPERED[name] = Tampering(base, edit, (path,))


text('caption', lambda c: c['annotations'][0].update(caption='Anna and a cat'))
text('keypoints', lambda c: c['annotations'][1].update(keypoints=[1, 2, 2]))
text('captions', lambda c: c.update(captions=['Anna']))
text('url', lambda c: c['images'][0].update(coco_url='http://plain/1.jpg'))
text('date', lambda c: c['images'][0].update(date_captured='today'))
text('year', lambda c: c['info'].update(year=1999))
text('info', lambda c: c.update(info='Anna'))
text('category', lambda c: c['categories'][0].update(keypoints=['nose']))
text('category_of_lists', lambda c: c['categories'][0].update(name=['cat']))
text('licences', lambda c: c.update(licenses=[]))
text('licence_of_an_image', lambda c: c['images'][0].update(license=2))
text('licence', lambda c: c['licenses'][0].update(owner='Anna'), base='outlines')
text('outline', lambda c: c['annotations'][0].update(segmentation=[[1, 1, 2, 2, 3, 1]]))
text('outline_of_words', lambda c: c['annotations'][0].update(segmentation=['a']), base='outlines')
text(
    'run_lengths_that_say_more',
    lambda c: c['annotations'][0].update(segmentation=dict(counts=[1], size=[1, 1], name='Anna')),
    base='outlines',
)
text('unknown_picture', lambda c: c['images'][0].update(file_name='x.png'))
text('picture_outside', lambda c: c['images'][0].update(file_name='../val2017/000001.png'))
text('no_name', lambda c: c['images'][0].update(file_name=5))
text('size', lambda c: c['images'][0].update(height=5))
text('no_size', lambda c: c['images'][0].pop('width'))
text('no_box', lambda c: c['annotations'][0].pop('bbox'))
text('box_of_text', lambda c: c['annotations'][0].update(bbox=['1', 2, 3, 4]))
text('box_of_three', lambda c: c['annotations'][0].update(bbox=[1, 2, 3]))
text('box_that_is_not_finite', lambda c: c['annotations'][0].update(bbox=[1, 2, 3, float('nan')]))
text('box_of_a_huge_number', lambda c: c['annotations'][0].update(bbox=[1, 2, 3, 10**400]))
text('area_of_text', lambda c: c['annotations'][0].update(area='Anna'))
text('flag', lambda c: c['annotations'][0].update(ignore='Anna'))
text('unknown_image_id', lambda c: c['annotations'][0].update(image_id=99))
text('unknown_category', lambda c: c['annotations'][0].update(category_id=99))
text('image_twice', lambda c: c['images'].append(c['images'][0]))
text('annotation_twice', lambda c: c['annotations'].append(c['annotations'][0]))
text('annotation_left_out', lambda c: c['annotations'].pop())
text('images_are_no_list', lambda c: c.update(categories={}))
text('image_is_no_object', lambda c: c['categories'].append('Anna'))
text('no_images', lambda c: c.pop('images'))
text('json_key_twice', lambda d: d.replace(b'{"id"', b'{"id": "Anna", "id"', 1), raw=True)
text('json_list', lambda d: b'[]', raw=True)
text('json_nested', lambda d: b'[' * 100_000, raw=True)
text('json_cut_off', lambda d: d[:-9], raw=True)
_LIST = dict(base='folder', path='meta/all.txt', raw=True)
text('list_of_strangers', lambda d: d.replace(b'a/x.png', b'a/q.png'), **_LIST)
text('list_of_captions', lambda d: d.replace(b' 1', b' Anna in Rome'), **_LIST)
text('list_with_a_line_more', lambda d: d + b'a/y.png 0\n', **_LIST)
text('list_with_an_empty_line', lambda d: d.replace(b'\n', b'\n\n', 1)[:-10], **_LIST)
text('list_without_an_end', lambda d: d[:-1], **_LIST)
text('list_of_bytes', lambda d: d.replace(b'a/x', b'\xff/x'), **_LIST)
text('list_that_leads_out', lambda d: d.replace(b'a/x.png', b'../data/a/x.png'), **_LIST)


# Names and folders
def renamed(name, base, old, new, *also):
    def edit(root):
        path = sorted(root.glob(old))[0]
        name = new.format(path.stem[:-3])
        path.rename(root / name)
        edit_json(root / 'hime.json', lambda s: (rename_row(s, root, name), sealed(s)))
        return {name, *also}

    TAMPERED[name] = Tampering(base, edit, ())


def rename_row(state, root, new):
    (row,) = [row for row in state['files'] if not (root / row['path']).exists()]
    row['path'] = new


renamed('name_that_is_no_id', 'views', 'a/*_v0.png', 'a/Anna_v0.png')
renamed('name_without_its_view', 'views', 'b/deep/*_v1.png', 'b/deep/{0}.png')
renamed('other_extension', 'folder', 'a/x.png', 'a/x.jpg', 'meta/all.txt')
renamed('no_extension', 'folder', 'a/y.png', 'a/y')


def rename_id(name):
    def rename(root):
        (root / 'val2017/000000000007.png').rename(root / name)
        edit_json(root / 'hime.json', lambda s: s['files'][0].update(path=name))
        reseal(root)

    return rename


for _number, _name in enumerate(['Anna', '00000000007', '-0000000007', '00000000000\u0667']):
    _path = f'val2017/{_name}.png'
    TAMPERED[f'name_is_no_image_id_{_number}'] = Tampering('ids', rename_id(_path), (_path, ANN))


def classes(name, change, *paths, **subfolders):
    """Change a folder of pictures whose manifest has the key ``classes``."""

    def edit(root):
        named = {'.': ['a', 'b', 'empty'], 'b': ['deep'], **subfolders}
        (root / 'empty').mkdir(exist_ok=True)
        edit_json(root / 'hime.json', lambda s: (s.update(classes=named), sealed(s)))
        change(root)

    TAMPERED[name] = Tampering('folder', edit, paths)


@tampered('folder', 'empty')
def class_more_of_none(root):
    (root / 'empty').mkdir()
    for name in ('a', 'b', 'meta'):
        shutil.rmtree(root / name)
    edit_json(
        root / 'hime.json',
        lambda s: (
            s.update(classes={}, files=[], annotations=[]),
            s['counts'].update(files=0, bytes=0),
            sealed(s),
        ),
    )


classes('class_more', lambda root: (root / 'aa').mkdir(), 'aa')
classes('class_more_deep_inside', lambda root: (root / 'b' / 'new').mkdir(), 'b/new')
classes('class_missing', lambda root: (root / 'empty').rmdir(), 'empty')
classes('class_moved', lambda root: (root / 'empty').rename(root / 'full'), 'empty', 'full')
classes(
    'class_is_a_file',
    lambda root: ((root / 'empty').rmdir(), (root / 'empty').write_bytes(b'')),
    'empty',
)
classes(
    'class_is_a_link',
    lambda root: ((root / 'empty').rmdir(), (root / 'empty').symlink_to('a')),
    'empty',
)
classes('class_has_no_name', lambda root: None, 'b/', b=['deep', ''])
classes('class_outside', lambda root: None, 'b/../../x', b=['deep', '../../x'])


# Shards. Strangers, links and files that are listed are the same for all.
def _again(*names):
    for name in names:
        function, base, paths = TAMPERED[name].change, 'shards', TAMPERED[name].paths
        TAMPERED[f'shards_{name}'] = Tampering(base, function, paths)


_again('stranger_0', 'bare_key', 'link_to_a_file', 'link_in_place_of_a_picture')
_again('link_in_place_of_the_folder', 'pipe_in_place_of_annotations', 'missing', 'truncated')
_again('one_bit', 'sparse_and_empty', 'swapped', 'upper_case', 'annotations_changed')

FIRST, SECOND = 'hime-000000.json', 'hime-000001.json'
ONES, TWOS = (FIRST, ONE, TWO, ANN), (SECOND, 'val2017/000003.png', 'val2017/000004.png', ANN)
TAR = 'hime-000000.tar'


def shard(root, number, change, rename=True):
    """Change the manifest of a shard, and what ``hime.json`` says of it."""
    path = root / f'hime-{number:06d}.json'
    edit_json(path, change)
    seal_shards(root, rename)


def seal_shards(root, counts=True, change=lambda state: None):
    """Give ``hime.json`` the hashes, and perhaps the counts, of what is there now."""

    def seal(state):
        for row in state['shards']:
            data = (root / row['path']).read_bytes()
            row['sha256'] = hashlib.sha256(data).hexdigest()
            if counts:
                lists = json.loads(data)
                row.update({name: len(lists[name]) for name in ('files', 'skipped')})
                row['bytes'] = sum(entry['size'] for entry in lists['files'])
            if 'tar' in row:
                data = (root / row['tar']['path']).read_bytes()
                row['tar'].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for row in state['annotations']:
            row['sha256'] = hashlib.sha256((root / row['path']).read_bytes()).hexdigest()
        if counts:
            for name in ('files', 'bytes', 'skipped'):
                state['counts'][name] = sum(row[name] for row in state['shards'])
        change(state)
        sealed(state, KEY if 'mac' in state else None)

    edit_json(root / 'hime.json', seal)


def shards(name, number, change, *paths, base='shards', counts=False):
    """Register a change of the manifest of a shard; the owner seals it."""

    def edit(root):
        shard(root, number, change, counts)

    TAMPERED[name] = Tampering(base, edit, paths, key=base != 'folders')


def head(name, change, *paths, base='shards', key=True):
    def edit(root):
        seal_shards(root, False, change)

    TAMPERED[name] = Tampering(base, edit, paths or ('hime.json',), key)


@tampered('shards', *ONES, *TWOS)
def shard_manifests_exchanged(root):
    (root / FIRST).rename(root / 'x')
    (root / SECOND).rename(root / FIRST)
    (root / 'x').rename(root / SECOND)


@tampered('shards', *ONES)
def shard_manifest_missing(root):
    (root / FIRST).unlink()


@tampered('shards', *TWOS)
def shard_manifest_is_a_link(root):
    (root / SECOND).rename(root.parent / 'elsewhere')
    (root / SECOND).symlink_to(root.parent / 'elsewhere')


@tampered('shards', *TWOS)
def shard_manifest_cut_off(root):
    os.truncate(root / SECOND, 700)


@tampered('shards', 'hime-000002.json')
def shard_manifest_more(root):
    shutil.copy(root / SECOND, root / 'hime-000002.json')


@tampered('tars', 'hime-000002.tar')
def tar_more(root):
    shutil.copy(root / TAR, root / 'hime-000002.tar')


@tampered('shards', *ONES)
def row_of_a_shard_changed(root):
    edit_json(root / FIRST, lambda s: s['files'][0].update(ori_shape=[1, 1]))


@tampered('shards', 'hime.json')
def shards_sealed_without_the_key(root):
    edit_json(root / FIRST, lambda s: s['files'][0].update(ori_shape=[1, 1]))
    data = (root / FIRST).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    edit_json(root / 'hime.json', lambda s: (s['shards'][0].update(sha256=digest), sealed(s)))


TAMPERED['shards_sealed_without_the_key'] = TAMPERED['shards_sealed_without_the_key']._replace(
    key=True
)


@tampered('shards', *ONES, *TWOS)
def row_in_another_shard(root):
    """The same pictures, by other shards than ``hime.json`` says."""
    moved = []
    edit_json(root / FIRST, lambda s: moved.append(s['files'].pop()))
    edit_json(root / SECOND, lambda s: s['files'].insert(0, moved[0]))
    seal_shards(root, counts=False)


@tampered('shards', *ONES)
def shard_that_is_nested_deeply(root):
    put(FIRST, b'[' * 100_000)(root)
    digest = hashlib.sha256((root / FIRST).read_bytes()).hexdigest()
    edit_json(root / 'hime.json', lambda s: (s['shards'][0].update(sha256=digest), sealed(s)))


@tampered('shards', *TWOS)
def shard_with_a_key_twice(root):
    text = (root / SECOND).read_text()
    put(SECOND, text.replace('{', '{"shard": 1, ', 1).encode())(root)
    seal_shards(root, counts=False)


for _name, _change in dict(
    of_another_data_set=lambda s: s.update(dataset_id='other'),
    of_another_number=lambda s: s.update(shard=0),
    of_a_number_that_is_none=lambda s: s.update(shard=1.0),
    of_another_format=lambda s: s.update(format='hime_mm encrypted data set'),
    of_another_version=lambda s: s.update(format_version=1),
    says_more=lambda s: s.update(source='/home/anna'),
    says_less=lambda s: s.pop('skipped'),
    row_says_more=lambda s: s['files'][0].update(name='Anna.jpg'),
    row_says_less=lambda s: s['files'][0].pop('scale'),
    row_says_it_in_words=lambda s: s['files'][0].update(channels='3'),
    row_with_an_offset=lambda s: s['files'][0].update(offset=512),
    row_with_half_a_number=lambda s: s['files'][0].update(shape=[48.0, 64]),
    row_of_two_channels=lambda s: s['files'][0].update(channels=2),
    huge_number=lambda s: s['files'][0].update(size=10**30),
    other_bytes=lambda s: s['files'][0].update(size=5),
    row_less=lambda s: s['files'].pop(),
    row_is_none=lambda s: s['files'].append(None),
    no_files=lambda s: s.update(files=None),
    skipped_says_more=lambda s: s['skipped'].append(dict(path='x', reason='r', name='Anna')),
    skipped_not_counted=lambda s: s['skipped'].append(dict(path='x', reason='r')),
).items():
    shards(f'shard_{_name}', 1, _change, *TWOS)

shards(
    'shard_left_out',
    1,
    lambda s: s['skipped'].append(dict(path='x', reason='r')),
    'x',
    counts=True,
)
shards('shard_row_twice', 0, lambda s: s['files'].append(s['files'][0]), ONE, counts=True)
shards(
    'shard_row_of_no_file',
    0,
    lambda s: s['files'].append(dict(s['files'][0], path='gone.png')),
    'gone.png',
    counts=True,
)
shards(
    'shard_row_outside',
    0,
    lambda s: s['files'].append(dict(s['files'][0], path='../x.png')),
    '../x.png',
    counts=True,
)
shards('shard_row_of_an_odd_size', 0, lambda s: s['files'][0].update(shape=[49, 64]), ONE, ANN)
shards(
    'shard_lists_a_manifest',
    0,
    lambda s: s['files'].append(dict(s['files'][0], path='hime-000001.json')),
    SECOND,
    counts=True,
)


@tampered('shards', TWO)
def row_twice_in_two_shards(root):
    rows = json.loads((root / FIRST).read_text())['files']
    shard(root, 1, lambda s: s['files'].append(rows[1]))


head('shard_rows_exchanged', lambda s: s['shards'].reverse())
head('shard_row_more', lambda s: s['shards'].append(dict(s['shards'][0])))
head('shard_row_has_another_path', lambda s: s['shards'][0].update(path='a.json'))
head('shard_row_leads_out', lambda s: s['shards'][0].update(path='../data/hime-000000.json'))
head('shard_row_says_more_of_it', lambda s: s['shards'][0].update(source='Anna'))
head('shard_row_has_a_tar', lambda s: s['shards'][0].update(tar=dict(path=TAR)))
head('shard_row_has_no_hash', lambda s: s['shards'][0].update(sha256='x'))
head('shard_row_has_no_count', lambda s: s['shards'][0].update(files=True))
head('shard_rows_are_none', lambda s: s.update(shards=None))
head('shard_row_is_none', lambda s: s['shards'].append(5))
head('storage_is_none', lambda s: s.update(storage='zip'))
head('storage_is_a_list', lambda s: s.update(storage=[]))
head('storage_without_tars', lambda s: s.update(storage='tar'))
head('storage_with_tars', lambda s: s.update(storage='files'), base='tars')
head('lists_and_shards', lambda s: s.update(skipped=[]))
head('files_and_shards', lambda s: s.update(files=[]))
head('shards_and_other_counts', lambda s: s['counts'].update(files=3))
head('shards_without_a_key', lambda s: s.pop('clipped'))
head(
    'shard_left_out_of_the_rows',
    lambda s: (s['shards'].pop(), s['counts'].update(files=2, bytes=s['shards'][0]['bytes'])),
    *TWOS,
)


# Tars
def tar(name, change, *paths, seal=True):
    """Register a change of the bytes of a tar, of which the owner writes the hash."""

    def edit(root):
        (root / TAR).write_bytes(change((root / TAR).read_bytes()))
        if seal:
            seal_shards(root, counts=False)

    TAMPERED[name] = Tampering('tars', edit, paths or (TAR,), seal)


def field(at, value):
    """A header whose sum is right."""

    def change(data):
        block = bytearray(data[:512])
        block[at : at + len(value)] = value
        block[148:156] = b' ' * 8
        block[148:156] = b'%06o\0 ' % sum(block)
        return bytes(block) + data[512:]

    return change


def first_member(data):
    size = int(data[124:135], 8)
    return 512 + size + -size % 512


def member_more(data):
    header = bytearray(field(0, b'Anna.txt'.ljust(100, b'\0'))(data)[:512])
    header = field(124, b'%011o\0' % 4)(bytes(header))
    return data[:-1024] + header + b'Anna'.ljust(512, b'\0') + data[-1024:]


def other_order(data):
    at = first_member(data)
    return data[at:-1024] + data[:at] + data[-1024:]


X, Y = 'a/x.png', 'a/y.png'
tar('tar_changed', lambda d: d[:-1] + b'x', seal=False)
tar('tar_cut_off', lambda d: d[:-1], seal=False)
tar('tar_picture_changed', lambda d: d[:700] + b'x' + d[701:], TAR, X, seal=False)
tar('tar_picture_changed_and_sealed', lambda d: d[:700] + b'x' + d[701:], X)
tar('tar_with_a_member_more', member_more)
tar('tar_in_another_order', other_order, TAR, X, Y)
tar('tar_with_a_time', field(136, b'%011o\0' % 1_700_000_000))
tar('tar_with_a_mode', field(100, b'0000755\0'))
tar('tar_with_a_user', field(108, b'0001750\0'))
tar('tar_with_a_group', field(116, b'0001750\0'))
tar('tar_with_the_name_of_a_user', field(265, b'anna'))
tar('tar_with_the_name_of_a_group', field(297, b'anna'))
tar('tar_with_a_link', field(157, b'anna'))
tar('tar_of_another_kind', field(156, b'1'))
tar('tar_of_gnu', field(257, b'ustar  \0'))
tar('tar_with_a_prefix', field(345, b'anna'))
tar('tar_with_a_note_behind_the_header', field(500, b'anna'))
tar('tar_with_another_name', field(0, b'a/q.png'))
tar('tar_with_another_sum', lambda d: d[:148] + b'000000\0 ' + d[156:])
tar(
    'tar_with_a_note_in_the_padding',
    lambda d: d[: first_member(d) - 1] + b'x' + d[first_member(d) :],
)
tar('tar_with_trailing_bytes', lambda d: d + b'Anna')
tar('tar_with_trailing_zeros', lambda d: d + bytes(10240 - len(d) % 10240))
tar('tar_with_one_block_of_zeros', lambda d: d[:-512])
tar('tar_with_a_note_at_the_end', lambda d: d[:-4] + b'Anna')
tar('tar_of_nothing', lambda d: b'', TAR, X, Y)


def offset(name, change, *paths):
    shards(name, 0, change, *paths, base='tars')


def swap_offsets(state):
    one, two = state['files']
    one['offset'], two['offset'] = two['offset'], one['offset']


offset('offset_lies', lambda s: s['files'][0].update(offset=511), X)
offset('offset_of_another', lambda s: s['files'][1].update(offset=512), Y)
offset('offsets_exchanged', swap_offsets, X, Y)
offset('offset_behind_the_end', lambda s: s['files'][1].update(offset=2**62), Y)
_TARRED = (FIRST, 'meta/all.txt')
offset('offset_is_none', lambda s: s['files'][0].pop('offset'), *_TARRED)
offset('offset_is_null', lambda s: s['files'][0].update(offset=None), *_TARRED)
offset('offset_is_negative', lambda s: s['files'][0].update(offset=-1), *_TARRED)
offset('offset_is_text', lambda s: s['files'][0].update(offset='512'), *_TARRED)
offset('rows_of_a_tar_exchanged', lambda s: s['files'].reverse(), TAR, X, Y)
for _number, _path in enumerate(['../x.png', '/x.png', 'a/../x.png', 'a\0.png', '\udcff.png']):
    TAMPERED[f'tar_path_{_number}'] = Tampering(
        'tars',
        lambda root, path=_path: shard(root, 1, lambda s: s['files'][1].update(path=path), False),
        ('hime-000001.tar', _path, 'meta/all.txt'),
        True,
    )


@tampered('tars', TAR, X, Y)
def tars_exchanged(root):
    pass


def _exchange_tars(root):
    (root / TAR).rename(root / 'x')
    (root / 'hime-000001.tar').rename(root / TAR)
    (root / 'x').rename(root / 'hime-000001.tar')


TAMPERED['tars_exchanged'] = Tampering(
    'tars', _exchange_tars, (TAR, 'hime-000001.tar', X, Y, 'b/deep/w.png', 'b/deep/z.png')
)


@tampered('tars', TAR)
def tar_missing(root):
    (root / TAR).unlink()


@tampered('tars', TAR)
def tar_is_a_pipe(root):
    (root / TAR).unlink()
    os.mkfifo(root / TAR)


@tampered('tars', 'a/x.png')
def picture_beside_its_tar(root):
    (root / 'a').mkdir(exist_ok=True)
    (root / 'a/x.png').write_bytes((root / TAR).read_bytes()[512:1024])


#: What only a warning tells, or nothing.
FINE = {}


def fine(base, warned=True):
    def decorate(function):
        FINE[function.__name__] = (base, function, warned)
        return function

    return decorate


@fine('keyless')
def same_picture_twice(root):
    shutil.copy(root / ONE, root / 'val2017' / 'copy.png')
    edit_json(root / 'hime.json', lambda s: (double_row(s, path='val2017/copy.png'), sealed(s)))


@fine('one_way')
def key_that_is_not_known(root):
    edit_json(root / 'hime.json', lambda s: (s.update(weather='fine'), sealed(s)))


@fine('folder', warned=False)
def empty_folder_without_classes(root):
    (root / 'aa').mkdir()
    edit_json(root / 'hime.json', lambda s: (s.pop('classes'), sealed(s)))


@fine('folder', warned=False)
def all_classes(root):
    classes('_', lambda root: None)
    TAMPERED.pop('_').change(root)


@fine('coco', warned=False)
def without_a_key_nobody_knows(root):
    edit_json(root / 'hime.json', lambda s: (hide_key(s), sealed(s)))
