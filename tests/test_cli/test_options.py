# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Options of the command."""

import errno
import os
import shutil

import pytest
from cli_parts import ANN, invoke
from owner_data import photo, tree, write

from hime_mm.datasets.manifest import Manifest

pytestmark = pytest.mark.usefixtures('no_processes')


class TestOptions:
    @pytest.mark.parametrize(
        'args, expected',
        [
            ((), {}),
            (('--resize', '64x48'), dict(resize=[64, 48])),
            (('--resize', '64'), dict(resize=[64, 64])),
            (('--resize', '64X48', '--keep-ratio'), dict(resize=[64, 48], keep_ratio=True)),
            (('--short-side', '64'), dict(short_side=[64])),
            (('--short-side', '48,64', '--max-side', '99'), dict(short_side=[48, 64], max_side=99)),
            (('--center-crop', '48x32'), dict(center_crop=[48, 32])),
            (('--fit', 'pad', '--pad-val', '114'), dict(fit='pad', pad_val=114)),
            (('--fit', 'pad', '--pad-val', '1,2.5,3'), dict(fit='pad', pad_val=[1, 2.5, 3])),
            (('--interpolation', 'bicubic'), dict(interpolation='bicubic')),
            (('--color-type', 'grayscale'), dict(color_type='grayscale')),
            (
                ('--flip', '.5', '--crop', '.3,1', '--jitter', '.2', '--views', 2),
                dict(augment=dict(flip=0.5, crop=[0.3, 1], jitter=0.2)),
            ),
        ],
    )
    def test_preprocessing(self, keys, tmp_path, args, expected):
        write(tmp_path / 'src' / 'a.png', photo(64, 80))
        invoke(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'shuffle',
            '--key',
            keys,
            '-j',
            1,
            *args,
        )
        manifest = Manifest.load(tmp_path / 'out')
        assert manifest.preprocess == expected
        assert manifest.state['views'] == (2 if 'augment' in expected else 1)

    @pytest.mark.parametrize(
        'args, expected',
        [
            (('--names', 'ids'), dict(names='ids')),
            (('--format', 'webp'), dict(image_format=dict(format='webp', compression=None))),
            (('--compression', 7), dict(image_format=dict(format='png', compression=7))),
            (('--licenses', 'drop'), dict(options=dict(licenses=False, segmentation=False))),
            (('--segmentation', 'keep'), dict(options=dict(licenses=True, segmentation=True))),
            (
                ('--round-boxes',),
                dict(options=dict(licenses=True, segmentation=False, round_boxes=True)),
            ),
            (('--dataset-id', 'x'), dict(dataset_id='x')),
        ],
    )
    def test_others(self, coco_src, tmp_path, args, expected):
        invoke('encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'paper-mi', '-j', 1, *args)
        state = Manifest.load(tmp_path / 'out').state
        assert {k: state[k] for k in expected} == expected

    def test_patch_size(self, coco_src, tmp_path):
        invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'mix4', '--patch-size', 32, '-j', 1
        )
        assert Manifest.load(tmp_path / 'out').cipher.patch_size == 32

    def test_annotation_files(self, coco_src, tmp_path):
        src = shutil.copytree(coco_src, tmp_path / 'src')
        (src / ANN).rename(src / 'boxes.json')
        invoke(
            'encrypt',
            'coco',
            src,
            tmp_path / 'out',
            '-c',
            'mix2',
            '-j',
            1,
            '--ann',
            'boxes.json',
            '--images',
            'val2017',
        )
        assert 'boxes.json' in tree(tmp_path / 'out')

    @pytest.mark.parametrize(
        'option, value',
        [
            ('--resize', '64x'),
            ('--resize', '1x2x3'),
            ('--resize', '0'),
            ('--resize', 'big'),
            ('--resize', '\N{SUPERSCRIPT TWO}'),
            ('--short-side', 'a,b'),
            ('--crop', '.5'),
            ('--crop', '1,2,3'),
            ('--flip', '2'),
            ('--jitter', '1'),
            ('--views', '0'),
            ('--fit', 'cut'),
            ('--format', 'jpg'),
            ('--compression', '10'),
            ('-j', '0'),
            ('--names', 'x'),
        ],
    )
    def test_wrong_usage(self, coco_src, tmp_path, option, value):
        output = invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'mix2', option, value, status=2
        )
        fault = output.splitlines()[-1]
        assert f"'{option}'" in fault and value in fault and 'Usage' in output
        assert not (tmp_path / 'out').exists()

    def test_no_cipher(self, coco_src, tmp_path):
        assert '--cipher' in invoke('encrypt', 'coco', coco_src, tmp_path / 'out', status=2)

    @pytest.mark.parametrize(
        'args, things',
        [
            (('-c', 'shufle'), ["'shufle'"]),
            (('-c', 'mix2', '--crop', '.9,.1', '--one-way'), ['`--crop`', '(0.9, 0.1)']),
            (('-c', 'mix2', '--keep-ratio'), ['`--keep-ratio`', '`--resize`']),
            (('-c', 'mix2', '--views', '2'), ['2 views', "'mix2'"]),
            (('-c', 'mix2', '--format', 'webp', '--compression', '2'), ['compression', "'webp'"]),
            (
                ('-c', 'shuffle', '--one-way', '--segmentation', 'keep'),
                ['segmentations', "'shuffle'"],
            ),
            (('-c', 'mix2', '--ann', 'x.json'), ['x.json', os.strerror(errno.ENOENT)]),
            (('-c', 'mix2', '--ann', ANN, '--images', 'x'), ['folder x ', ANN]),
        ],
    )
    def test_contradictions(self, coco_src, tmp_path, args, things):
        output = invoke('encrypt', 'coco', coco_src, tmp_path / 'out', *args, status=1)
        assert output.startswith('hime: ') and output.count('\n') == 1
        assert all(thing in output for thing in things)
        assert not (tmp_path / 'out').exists()

    @pytest.mark.parametrize(
        'args',
        [
            ('encrypt', 'coco', 'none', 'out', '-c', 'mix2'),
            ('encrypt', 'folder', 'none', 'out', '-c', 'mix2'),
            ('decrypt', 'none', 'out'),
            ('verify', 'none'),
            ('info', 'none'),
        ],
    )
    def test_missing_data(self, tmp_path, monkeypatch, args):
        monkeypatch.chdir(tmp_path)
        assert "'none'" in invoke(*args, status=2).splitlines()[-1]
        assert not os.listdir(tmp_path)

    @pytest.mark.parametrize('command', ['verify', 'info'])
    def test_no_data_set(self, tmp_path, command):
        output = invoke(command, tmp_path, status=1)
        assert output.startswith('hime: ') and output.count('\n') == 1
        assert str(tmp_path / 'hime.json') in output

    @pytest.mark.parametrize(
        'command',
        [
            (),
            ('keygen',),
            ('encrypt',),
            ('encrypt', 'coco'),
            ('encrypt', 'folder'),
            ('decrypt',),
            ('verify',),
            ('info',),
        ],
    )
    def test_help(self, command):
        output = invoke(*command, '-h')
        assert 'Usage' in output
        for word in ('secure', 'intractable', ' safe'):
            assert word not in output.lower()
