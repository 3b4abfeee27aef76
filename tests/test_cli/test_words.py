# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the command prints is printable, and speaks of its own options."""

import io
import re
import sys
import unicodedata

import click
import pytest
from cli_parts import invoke
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from owner_data import ROOT, photo, write

from hime_mm.ciphers import PRESETS
from hime_mm.ciphers.steps import STEPS, Step
from hime_mm.cli import main, words
from hime_mm.cli.datasets import boxes, decrypt
from hime_mm.cli.encrypt import coco
from hime_mm.cli.options import steps_text
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.datasets.writing import write_manifest, write_shard

pytestmark = pytest.mark.usefixtures('no_processes')

#: Names that would clear a screen, turn a line around, or forge another one.
HOSTILE = {
    'escape': 'a\x1b[2Jb',
    'title': 'a\x1b]0;owned\x07b',
    'bidi': 'a\u202egpj.exe',
    'isolate': 'a\u2066b\u2069',
    'line': 'a\nhime: all is well',
    'return': 'a\rhime: all is well',
    'separator': 'a\u2028hime: all is well',
    'c1': 'a\x9b2Jb',
    'backspace': 'a\b\b\bb',
    'half': 'a\udcffb',
    'invisible': 'a\u200bb\ufeff',
}

#: What the writer of a manifest adds.
SEALS = ('format', 'format_version', 'files', 'checksum', 'mac')


def seen(text):
    """What of a text does not only print itself, line feeds left aside."""
    return [c for c in text.replace('\n', '') if unicodedata.category(c)[0] == 'C'] + [
        c for c in text if unicodedata.category(c) in ('Zl', 'Zp')
    ]


class TestPrintable:
    @given(st.text(st.characters(exclude_categories=())))
    def test_any_text(self, text):
        line = words.printable(text)
        assert not seen(line) and '\n' not in line and line.isprintable()
        line.encode()
        # Nothing is lost, and what can be seen stays as it is.
        if '\\' not in text:
            assert line.encode('latin-1', 'backslashreplace').decode('unicode_escape') == text
        assert words.printable(line) == line

    @pytest.mark.parametrize('text', ['ü.jpg', '写真 1.jpg', 'a\\x1b.jpg', '😀', "it's", ''])
    def test_what_can_be_seen_stays(self, text):
        assert words.printable(text) == text

    @pytest.mark.parametrize('name', HOSTILE)
    def test_names_of_pictures(self, tmp_path, name):
        write(tmp_path / 'src/good.jpg', photo(16, 16))
        try:
            (tmp_path / f'src/{HOSTILE[name]}.jpg').write_bytes(b'junk')
        except OSError:
            pytest.skip('no such names here')
        args = (
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'mix2',
            '-j',
            1,
            '-q',
        )
        output = invoke(*args, status=1)
        assert not seen(output)
        (line,) = (line for line in output.split('\n') if line.startswith('missing: '))
        assert words.printable(HOSTILE[name]) in line
        assert 'hime: all is well' not in output.split('\n')

    @pytest.mark.parametrize('name', HOSTILE)
    @pytest.mark.parametrize(
        'args',
        [
            ('verify', '{}'),
            ('verify', '.', '{}'),
            ('info', '.', '--{}'),
            ('{}',),
            ('encrypt', '{}'),
            ('encrypt', 'folder', '.', 'out', '-c', '{}'),
            ('encrypt', 'folder', '.', 'out', '-c', 'mix2', '--resize', '{}'),
            ('encrypt', 'folder', '.', 'out', '-c', 'mix2', '--names', '{}'),
            ('encrypt', 'folder', '.', 'out', '-c', 'mix2', '--key', '{}'),
            ('encrypt', 'coco', '.', 'out', '-c', 'mix2', '--ann', '{}'),
        ],
    )
    def test_usage(self, tmp_path, monkeypatch, args, name):
        monkeypatch.chdir(tmp_path)
        args = [arg.format(HOSTILE[name]) for arg in args]
        result = CliRunner().invoke(main, args)
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
        output = result.output
        assert not seen(output) and 'a' in output
        assert not any(line.startswith('hime: all') for line in output.split('\n'))

    @pytest.mark.parametrize('name', HOSTILE)
    def test_what_a_manifest_holds(self, coco_src, tmp_path, name):
        """Of a stranger, who can write its checksum, too."""
        args = ('encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'mix2', '-j', 1, '-q')
        invoke(*args)
        manifest = Manifest.load(tmp_path / 'out')
        head = {k: v for k, v in manifest.state.items() if k not in SEALS}
        text = HOSTILE[name]
        head.update(kind=text, tool_version=text)
        if name != 'half':  # which is damaged as an id
            head.update(dataset_id=text)
        head['annotations'][0]['path'] = text
        rows = [entry.to_dict() for entry in manifest.files.values()]
        rows[0]['path'] = f'val2017/{text}.png'
        store, shards = LocalStore(str(tmp_path / 'out')), head.pop('shards')
        row = write_shard(store, 0, head['dataset_id'], rows, [])
        write_manifest(store, head, [row, *shards[1:]])
        told = ''
        for command in (('info',), ('info', '--json'), ('verify', '-j', 1, '-q')):
            output = CliRunner().invoke(main, [*map(str, command), str(tmp_path / 'out')]).output
            assert not seen(output), command
            assert 'hime: all is well' not in output.split('\n')
            told += output
        assert words.printable(text) in told

    def test_stream_that_cannot_hold_it(self, monkeypatch):
        stream = io.TextIOWrapper(io.BytesIO(), 'latin-1')
        monkeypatch.setattr(sys, 'stdout', stream)
        words.echo('ü 写 \x1b')
        stream.flush()
        assert stream.buffer.getvalue() == 'ü \\u5199 \\x1b\n'.encode('latin-1')

    def test_there_is_no_other_door(self):
        for path in (ROOT / 'hime_mm/cli').glob('*.py'):
            if path.name != 'words.py':
                other = r'click\.s?echo|\bprint\(|std(out|err)\.write|click\.(prompt|confirm|pause)'
                assert not re.search(other, path.read_text()), path


class TestOptions:
    @pytest.mark.parametrize(
        'text, said',
        [
            ("`names='ids'`", '`--names ids`'),
            ('`one_way=True`', '`--one-way`'),
            ('`one_way`', '`--one-way`'),
            ('`key`', '`--key FILE`'),
            ('`key=...`', '`--key FILE`'),
            ('`Key.from_fd`', '`--key-fd N`'),
            ('`dataset_id`', '`--dataset-id`'),
            ("`color_type='unchanged'`", '`--color-type unchanged`'),
            ("`fmt='png'`", '`--format png`'),
            ('`resize=(640, 480)`', '`--resize 640x480`'),
            ('`short_side=(480, 512)`', '`--short-side 480,512`'),
            ('`pad_val=114`', '`--pad-val 114`'),
            ('`segmentation=False`', '`--segmentation drop`'),
            ('`licenses=True`', '`--licenses keep`'),
            ("`images=['data']`", '`--images data`'),
            ("`images=['a b', 'c']`", "`--images 'a b' --images c`"),
            ('`images=...`', '`--images FOLDER`'),
            ('`annotations=...`', '`--ann FILE`'),
            ('`workers=2`', '`--workers 2`'),
            ('`patch_size`', '`--patch-size`'),
            # Fields of a file, names of others, and what is no setting.
            ('it has no list `images`', 'it has no list `images`'),
            ('the `segmentation` of `annotations[0]`', 'the `segmentation` of `annotations[0]`'),
            ('`hime keygen` makes one', '`hime keygen` makes one'),
            ('`none`, `partial=True`', '`none`, `partial=True`'),
            ("names='ids'", "names='ids'"),
        ],
    )
    def test_of_a_command(self, text, said):
        assert words.in_options(text, coco) == said
        assert words.in_options(f'a {text} b', coco) == f'a {said} b'
        assert words.in_options(text, None) == text

    def test_option_that_is_called_otherwise(self):
        assert words.in_options('`annotations=...`', boxes) == '`--annotations FILE`'
        assert words.in_options('`force=True`, `overwrite=True`', boxes) == '`--force`, `--force`'
        assert words.in_options('`partial=True`', decrypt) == '`--partial`'
        assert words.in_options('not `center_crop`', boxes) == 'not a centre crop'

    @given(st.text(), st.sampled_from([coco, None]))
    def test_any_text(self, text, command):
        said = words.in_options(text, command)
        assert said == text or '`' in text

    def test_every_setting_of_a_command_is_one(self):
        """A new field of a recipe needs nothing here."""
        options = [param for param in coco.params if isinstance(param, click.Option)]
        for option in options:
            said = words.in_options(f'`{option.name}=...`', coco)
            assert re.fullmatch(r'`--[a-z][a-z-]*( \S+)?`', said), option.name


class TestHelp:
    @pytest.mark.parametrize('kind', ['coco', 'folder'])
    def test_steps_and_presets(self, kind):
        output = invoke('encrypt', kind, '-h')
        for step in STEPS.values():
            assert re.search(
                rf'^ +{step()} .*{re.escape(step.__doc__.splitlines()[0])}$', output, re.M
            )
            for form in step.forms[1:]:
                assert f' {step()}:{form} ' in output
        for name, preset in PRESETS.items():
            assert re.search(rf'^ +{name} +{re.escape(preset.steps)}, patches of 16', output, re.M)
        assert max(map(len, output.splitlines())) <= 100

    def test_new_step_appears(self, monkeypatch):
        class Blur(Step):
            """Blur what there is."""

            name = 'blur'
            forms = ('soft', 'hard')

        monkeypatch.setitem(STEPS, 'blur', Blur)
        assert re.search('^  blur blur:hard +Blur what there is.$', steps_text(), re.M)
