# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the command says of what it refuses: in its own words, and with advice that helps."""

import json
import os
import re
import shutil

import cv2
import pytest
from cli_parts import ANN
from click.testing import CliRunner
from owner_data import SECRET, coco_file, edit_json, key_file, make_coco, photo, write
from picture_files import rotated_jpeg

from hime_mm.cli import main

#: How Python would write a setting or a value; identifiers but for fields of COCO files and steps.
PYTHON = re.compile(
    r'\b(None|True|False)\b|`\w+=|\b\w+=[\'"(\[\d]|\[\'|\(\'|Error\b|<class|'
    r'\b(?!(?:image_id|category_id|file_name|coco_url|date_captured|permute_\w+|hime_mm|color_ignore_orientation)\b)'
    r'[a-z]+_[a-z_]+\b'
)

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Folders and files that all of them are run beside; what they write goes elsewhere."""
    root = tmp_path_factory.mktemp('refusals')
    make_coco(root / 'src')
    write(root / 'flat/a.png', photo(40, 60))
    write(root / 'flat/deep.png', photo(40, 60, 1, dtype='uint16'))
    (root / 'empty').mkdir()
    (root / 'full').mkdir()
    (root / 'full/x.txt').write_text('x')
    (root / 'file').write_text('x')
    (root / 'bad.json').write_text('[1')
    (root / 'odd').mkdir()
    cv2.imwritemulti(str(root / 'odd/pages.tif'), [photo(32, 32, 1), photo(32, 32, 2)])
    (root / 'float').mkdir()
    cv2.imwrite(str(root / 'float/a.tif'), photo(32, 32).astype('float32'))
    for name in 'ab':
        (root / 'exif/val').mkdir(parents=True, exist_ok=True)
        (root / f'exif/val/{name}.jpg').write_bytes(rotated_jpeg(6))
    (root / 'exif/annotations').mkdir()
    (root / 'exif/annotations/instances_val.json').write_text(
        json.dumps(coco_file({'a.jpg': (40, 70), 'b.jpg': (70, 40)}))
    )
    key_file(root / 'k')
    key_file(root / 'other', bytes(range(32)))
    key_file(root / 'open').chmod(0o644)
    (root / 'broken').write_text('no key')
    (root / 'broken').chmod(0o600)
    for name, options in dict(
        keyed=('-c', 'center+shuffle', '--key', 'k'),
        mixed=('-c', 'mix2'),
        oneway=('-c', 'shuffle', '--one-way'),
        views=('-c', 'noise5', '--one-way', '--views', '2'),
        cropped=('-c', 'mix2', '--one-way', '--crop', '.5,1'),
    ).items():
        run(root, 'encrypt', 'coco', 'src', name, '-q', '-j', '1', *options, status=0)
    run(root, 'encrypt', 'folder', 'flat', 'pictures', '-q', '-j', '1', '-c', 'mix2', status=0)
    result = dict(image_id=7, category_id=3, bbox=[1, 2, 3, 4], score=0.5)
    for name, change in dict(
        good={},
        id=dict(image_id=99),
        none=dict(image_id=None),
        text=dict(score='high'),
        box=dict(bbox=[1, None]),
        real=dict(category_id=True),
    ).items():
        (root / f'{name}.json').write_text(json.dumps([dict(result, **change)]))
    (root / 'there.json').write_text('[]')
    shutil.copytree(root / 'src', root / 'twins')
    write(root / 'twins/val2017/new.jpg', photo(48, 64))
    write(root / 'twins/val2017/000001.png', photo(48, 64))
    (root / 'twins/annotations/new.json').write_text(
        json.dumps(coco_file([dict(id=7, file_name='new.jpg')]))
    )
    (root / 'twins/annotations/same.json').write_text(
        json.dumps(coco_file([dict(id=70, file_name='000001.png')]))
    )
    return root


def run(root, *args, status=1, env=None):
    before = os.getcwd()
    os.chdir(root)
    try:
        result = CliRunner(env=dict({'HIME_KEY': None}, **(env or {}))).invoke(main, args)
    finally:
        os.chdir(before)
    assert status in (None, result.exit_code), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def coco(*options, src='src', cipher='mix2'):
    return ('encrypt', 'coco', src, 'new', '-q', '-j', '1', '-c', cipher, *options)


def folder(*options, src='flat', cipher='mix2'):
    return ('encrypt', 'folder', src, 'new', '-q', '-j', '1', '-c', cipher, *options)


def boxes(*options, results='good.json', out='mapped.json'):
    return ('boxes', results, out, '-q', *options)


def view(page='new.html', *options, originals='src'):
    return boxes('--data', 'mixed', '--view', page, '--originals', originals, *options)


TWINS = ('--images', 'val2017', '--images', 'val2017', '--ann', ANN, '--ann')

REFUSED = [
    # Keys.
    (coco(cipher='shuffle'), ['`--key FILE`', '`--one-way`', '`hime keygen`']),
    (coco('--flip', '.5'), ['`--key FILE`', '`--one-way`']),
    (coco('--one-way', '--key', 'k'), ['`--key FILE`', '`--one-way`']),
    (folder('--one-way', cipher='permute_pixels'), ['`--key FILE`', '`--one-way`']),
    (coco('--key', 'none'), ['none', '`hime keygen`']),
    (coco('--key', 'open'), ['chmod 600 open']),
    (coco('--key', 'broken'), ['`hime keygen`']),
    (coco('--key', '.'), ['key file .']),
    (coco('--key', '/dev/null'), ['`--key-fd N`']),
    (coco('--key-fd', '77'), ['descriptor 77']),
    (coco('--key-fd', '-3'), ['descriptor -3']),
    (coco('--key-fd', '99999999999999'), ['descriptor 99999999999999']),
    (coco('--key-env', 'NOWHERE'), ['NOWHERE']),
    (('decrypt', 'keyed', 'new', '-q', '--partial'), ['`--key FILE`']),
    (('decrypt', 'keyed', 'new', '-q', '--partial', '--key', 'other'), ['wrong key']),
    (('verify', 'keyed', '-q', '--key', 'other'), ['wrong key']),
    (boxes('--data', 'keyed', '--key', 'other'), ['wrong key']),
    # Ciphers.
    (coco(cipher='shufle'), ['shuffle', 'paper-mi']),
    (coco(cipher=''), ['shuffle']),
    (coco(cipher='mix3'), ['divisor of 16']),
    (coco(cipher='mix0'), ['from 2 to']),
    (coco(cipher='erode9'), ['drop less']),
    (coco(cipher='mix2:filled'), ["'tiled'"]),
    (coco(cipher='shuffle2'), ['no number']),
    (coco(cipher='center:x'), ['no option']),
    (coco(cipher='mix2+mix4'), ['more than once']),
    (coco(cipher='mix2:tiled+erode1'), ['first']),
    (coco('--fit', 'pad', cipher='center'), ['`--fit pad`', '`--fit resize`', '`--fit error`']),
    (coco('--views', '2'), ['2 views']),
    # Settings that do not go together.
    (coco('--keep-ratio'), ['`--keep-ratio`', '`--resize`']),
    (coco('--max-side', '9'), ['`--max-side`', '`--short-side`']),
    (coco('--resize', '9', '--short-side', '9'), ['`--resize`', '`--short-side`']),
    (coco('--resize', '99999'), ['`--resize`']),
    (coco('--short-side', '0'), ['`--short-side`']),
    (folder('--center-crop', '99999'), ['`--center-crop`']),
    (coco('--crop', '.9,.1', '--one-way'), ['`--crop`']),
    (coco('--pad-val', 'nan'), ['`--pad-val`']),
    (coco('--format', 'webp', '--color-type', 'unchanged'), ['`--format png`']),
    (coco('--format', 'webp', '--compression', '3'), ['compression']),
    (coco('--segmentation', 'keep', '--one-way', cipher='shuffle'), ['`--segmentation drop`']),
    # Pictures.
    (folder('--fit', 'error'), ['missing: a.png', '`--fit resize`', '`--fit pad`']),
    (folder('--fit', 'pad', '--pad-val', '300'), ['missing: a.png', '`--pad-val`']),
    (folder('--center-crop', '99'), ['missing: a.png']),
    (folder('--frames', 'refuse', src='odd'), ['missing: pages.tif', '`--frames first`']),
    (coco(src='exif'), ['missing: val/a.jpg', '`--color-type color_ignore_orientation`']),
    (
        coco('--color-type', 'color_ignore_orientation', src='exif'),
        ['missing: val/b.jpg', '`--color-type color`'],
    ),
    (folder('--color-type', 'unchanged', src='float'), ['missing: a.tif', 'float']),
    # Sources.
    (coco(src='empty'), ['`--ann FILE`']),
    (coco('--images', 'nowhere'), ['`--images FOLDER`']),
    (coco('--images', 'annotations'), ['`--images val2017`']),
    (coco('--images', 'a', '--images', 'b'), ['`--images FOLDER`']),
    (coco('--ann', '../bad.json'), ['not inside']),
    (coco('--ann', '/etc/passwd'), ['not inside']),
    (coco('--ann', 'none.json'), ['none.json']),
    (coco('--names', 'ids', *TWINS, 'annotations/new.json', src='twins'), ['`--names keep`']),
    (coco(*TWINS, 'annotations/same.json', src='twins'), ['`--names ids`', 'rename']),
    (folder(src='empty'), ['no pictures']),
    (folder('--list', 'none.txt'), ['none.txt']),
    (coco('--strict', src='twins'), ['`--strict`', '000001.png']),
    (folder(src='mixed'), ['mixed', 'encrypted data set']),
    # Where to.
    (folder('--report', 'new/report.csv'), ['new/report.csv']),
    (folder('--report', 'file'), ['choose a new file']),
    (folder('--report', 'nowhere/report.csv'), ['nowhere/report.csv']),
    (('encrypt', 'coco', 'src', 'file', '-q', '-c', 'mix2'), ['choose a folder']),
    (('encrypt', 'coco', 'src', 'full', '-q', '-c', 'mix2'), ['choose a new folder']),
    (('encrypt', 'coco', 'src', 'mixed', '-q', '-c', 'mix4'), ['choose a new folder']),
    (('encrypt', 'coco', 'src', 'src/out', '-q', '-c', 'mix2'), ['lie in each other']),
    (('decrypt', 'keyed', 'full', '-q', '--partial', '--key', 'k'), ['choose a new folder']),
    (('keygen', 'k'), ['choose another file']),
    # What cannot be undone.
    (('decrypt', 'keyed', 'new', '-q', '--key', 'k'), ['`--partial`']),
    (('decrypt', 'mixed', 'new', '-q'), ['mix2']),
    (('decrypt', 'oneway', 'new', '-q'), ['one-way']),
    (boxes('--data', 'oneway'), ['one-way']),
    (boxes('--data', 'views'), ['one view']),
    (boxes('--data', 'cropped'), ['cropped']),
    (boxes('--data', 'pictures'), ['`--annotations FILE`']),
    (boxes('--data', 'mixed', out='there.json'), ['`--force`']),
    (boxes('--data', 'mixed', out='good.json'), ['choose another file']),
    (boxes('--data', 'mixed', results='id.json'), ['99', '`--annotations FILE`']),
    (boxes('--data', 'mixed', results='none.json'), ['`image_id`', 'null']),
    (boxes('--data', 'mixed', results='text.json'), ['`score`', '"high"']),
    (boxes('--data', 'mixed', results='box.json'), ['`bbox`']),
    (boxes('--data', 'mixed', results='real.json'), ['`category_id`', 'true']),
    (boxes('--data', 'mixed', results='bad.json'), ['bad.json']),
    (boxes('--data', 'mixed', '--annotations', 'bad.json'), ['bad.json']),
    (view('mixed/page.html'), ['mixed/page.html', 'plain pictures']),
    (view('there.json'), ['`--force`']),
    (view('good.json'), ['choose another file']),
    (view('mapped.json'), ['choose another file']),
    (view(originals='flat'), ['none of the 4 originals', 'val2017/000001']),
    (view(originals='mixed'), ['encrypted data set itself']),
    (view('new.html', '--view-score', 'nan'), ['not nan']),
    (('info', 'src'), ['hime.json']),
    (('verify', 'empty'), ['hime.json']),
]


class TestRefusals:
    @pytest.mark.parametrize(('args', 'things'), REFUSED)
    def test_in_its_own_words(self, place, args, things):
        try:
            output = run(place, *args)
        finally:
            shutil.rmtree(place / 'new', ignore_errors=True)
        told = output.replace(str(place), '')
        assert not PYTHON.search(told), told
        assert all(thing in output for thing in things), output
        lines = output.splitlines()
        assert lines[0].startswith('hime: ') or any(line.startswith('missing: ') for line in lines)
        # What is named is an option of this command.
        command, words = main, list(args)
        while words and hasattr(command, 'get_command'):
            command = command.get_command(None, words.pop(0))
        known = {flag for param in command.params for flag in param.opts}
        assert {*re.findall(r'`(--[\w-]+)', output)} <= known

    @pytest.mark.parametrize('name', ['iscrowd', 'image_id', 'category_id', 'bbox', 'id'])
    @pytest.mark.parametrize('value', [None, 'x', [1], {'a': None}, True, 1e300])
    def test_annotation_files(self, place, tmp_path, name, value):
        (tmp_path / 'src/val2017').mkdir(parents=True)
        shutil.copytree(place / 'src/annotations', tmp_path / 'src/annotations')
        edit_json(tmp_path / 'src' / ANN, lambda s: s['annotations'][1].update({name: value}))
        output = run(tmp_path, *coco())
        assert not PYTHON.search(output.replace(str(tmp_path), '')), output
        assert output.startswith('hime: ') and output.count('\n') == 1

    def test_advice_helps(self, place, tmp_path):
        """The options that are named make the same command work."""
        for args in (
            coco('--images', 'annotations'),
            coco('--names', 'ids', *TWINS, 'annotations/new.json', src='twins'),
            coco('--segmentation', 'keep', '--one-way', cipher='shuffle'),
            folder('--fit', 'error'),
        ):
            output = run(place, *args)
            shutil.rmtree(place / 'new', ignore_errors=True)
            option, value = re.findall(r'`(--[\w-]+) ([\w-]+)`', output)[0]
            words = list(args)
            words[words.index(option) + 1] = value
            run(place, *words, status=0)
            shutil.rmtree(place / 'new')

    def test_key_is_in_no_refusal(self, place):
        for args, _ in REFUSED:
            if '--key' not in args and '--one-way' not in args:
                output = run(place, *args, env=dict(HIME_KEY=SECRET.hex()), status=None)
                assert SECRET.hex()[:16] not in output
                shutil.rmtree(place / 'new', ignore_errors=True)
