# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import hashlib
import json
import os

import numpy as np
import pytest
from encryption_parts import KEY, OTHER, coco, folder
from owner_data import named, photo, read, tree, write

from hime_mm.apis import verify_dataset
from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption import finish
from hime_mm.errors import CipherError, EncryptionError, HimeError


class TestManifest:
    def test_says_what_is_there(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        summary = coco(
            coco_src,
            out,
            'mix2+shuffle',
            preprocess=dict(short_side=64, fit='pad'),
            names='ids',
            licenses=False,
            compression=3,
        )
        state = json.loads((out / 'hime.json').read_text())
        part = json.loads((out / 'hime-000000.json').read_text())
        files = {row['path']: row for row in part['files']}
        contents = tree(out)
        assert set(files) == {n for n in contents if n.endswith('.png')}
        for name, row in files.items():
            data = contents[name]
            img = read(out / name)
            assert row['sha256'] == hashlib.sha256(data).hexdigest()
            assert row['size'] == len(data)
            assert row['shape'] == list(img.shape[:2])
            assert row['channels'] == 3
        row = files['val2017/000000000010.png']
        # 70x101, to 64x92, filled up to 64x96, and every patch halved.
        assert row['shape'] == [32, 48] and row['ori_shape'] == [70, 101]
        np.testing.assert_allclose(row['scale'], [92 / 101 / 2, 64 / 70 / 2])
        del state['checksum'], state['mac']
        ann = 'annotations/instances_val2017.json'
        from hime_mm.version import __version__

        assert state == dict(
            format='hime_mm encrypted data set',
            format_version=2,
            tool_version=__version__,
            kind='coco',
            mode='keyed',
            key_id=KEY.id,
            cipher=Cipher('mix2+shuffle').to_dict(),
            cipher_text='mix2+shuffle',
            preprocess=dict(short_side=[64], fit='pad'),
            image_format=dict(format='png', compression=3),
            views=1,
            names='ids',
            options=dict(licenses=False, segmentation=False),
            dataset_id='d',
            counts=dict(
                images=4,
                files=4,
                skipped=0,
                left_out=0,
                bytes=sum(row['size'] for row in files.values()),
            ),
            clipped={},
            statistics=state['statistics'],
            storage='files',
            shards=[
                dict(
                    path='hime-000000.json',
                    sha256=hashlib.sha256(contents['hime-000000.json']).hexdigest(),
                    files=4,
                    bytes=sum(row['size'] for row in files.values()),
                    skipped=0,
                )
            ],
            annotations=[
                dict(
                    kind='coco',
                    path=ann,
                    sha256=hashlib.sha256(contents[ann]).hexdigest(),
                    images_folder='val2017',
                    images=4,
                    annotations=6,
                )
            ],
        )
        assert summary.dataset_id == 'd' and summary.out == str(out)
        assert set(contents) == set(files) | {ann, 'hime.json', 'hime-000000.json'}

    def test_is_the_same_from_anywhere(self, coco_src, tmp_path, monkeypatch):
        coco(coco_src, tmp_path / 'one')
        (tmp_path / 'link').symlink_to(coco_src)
        (tmp_path / 'deep').mkdir()
        monkeypatch.chdir(tmp_path / 'deep')
        coco('../link', 'two', workers=2)
        coco(os.path.relpath(coco_src), '../three/', workers=2)
        one = tree(tmp_path / 'one')
        assert one == tree(tmp_path / 'deep/two') == tree(tmp_path / 'three')

    def test_one_and_several_processes_write_the_same(self, coco_src, tmp_path):
        options = dict(
            views=3,
            preprocess=dict(short_side=(48, 64), augment=dict(flip=0.5, crop=(0.5, 1), jitter=0.2)),
        )
        for workers in (0, 1, 3):
            coco(coco_src, tmp_path / str(workers), workers=workers, **copy.deepcopy(options))
        one = tree(tmp_path / '0')
        assert len(one) == 4 * 3 + 3
        assert one == tree(tmp_path / '1') == tree(tmp_path / '3')

    def test_presets(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'a', 'paper-rs')
        coco(coco_src, tmp_path / 'b', 'shuffle')
        assert tree(tmp_path / 'a') == tree(tmp_path / 'b')


class TestRandomness:
    def permutations(self, out, key=KEY):
        manifest = Manifest.load(out)
        return {
            name: manifest.secret_layout(entry, key).permutation.tobytes()
            for name, entry in manifest.files.items()
        }

    def test_nothing_shares_a_permutation(self, tmp_path):
        # All of one size, and even of the same pixels.
        for name in ('a', 'b', 'c'):
            write(tmp_path / 'src' / name / 'x.png', photo(64, 96))
        options = dict(preprocess=dict(resize=(96, 64)), views=2)
        folder(tmp_path / 'src', tmp_path / '1', **options)
        folder(tmp_path / 'src', tmp_path / '2', dataset_id='e', **options)
        folder(tmp_path / 'src', tmp_path / '3', key=OTHER, **options)
        folder(tmp_path / 'src', tmp_path / '4', 'center+shuffle', **options)
        seen = [
            p
            for out, key in (('1', KEY), ('2', KEY), ('3', OTHER), ('4', KEY))
            for p in self.permutations(tmp_path / out, key).values()
        ]
        assert len(seen) == len(set(seen)) == 4 * 6

    def test_data_set_id_is_drawn_anew(self, coco_src, tmp_path):
        one = coco(coco_src, tmp_path / '1', dataset_id=None)
        two = coco(coco_src, tmp_path / '2', dataset_id=None)
        assert one.dataset_id != two.dataset_id and len(one.dataset_id) == 16
        ours = tree(tmp_path / '1')
        assert not any(ours[name] == data for name, data in tree(tmp_path / '2').items())

    def test_one_way(self, coco_src, tmp_path):
        outs = [tmp_path / '1', tmp_path / '2']
        for out in outs:
            coco(coco_src, out, key=None, one_way=True, workers=2)
            assert verify_dataset(str(out), progress=False).ok
            manifest = Manifest.load(out)
            assert manifest.key_id is None
            assert manifest.state['mode'] == 'one-way'
            assert 'mac' not in manifest.state
        one, two = map(tree, outs)
        assert one.keys() == two.keys()
        assert not any(one[n] == two[n] for n in one)
        # The same patches, in another order.
        for name in one:
            if name.endswith('.png'):
                sets = [
                    sorted(
                        img[y : y + 16, x : x + 16].tobytes()
                        for y in range(0, img.shape[0], 16)
                        for x in range(0, img.shape[1], 16)
                    )
                    for img in (read(out / name) for out in outs)
                ]
                assert sets[0] == sets[1]

    def test_mixing_needs_no_key(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / '1', 'paper-mi', key=None)
        coco(coco_src, tmp_path / '2', 'paper-mi', key=None)
        assert tree(tmp_path / '1') == tree(tmp_path / '2')
        state = Manifest.load(tmp_path / '1').state
        assert state['mode'] == 'keyless' and state['key_id'] is None

    def test_a_key_authenticates_what_needs_none(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / '1', 'paper-mi')
        manifest = Manifest.load(tmp_path / '1')
        assert manifest.state['mode'] == 'keyed'
        manifest.check_key(KEY)

    @pytest.mark.parametrize(
        'kwargs, error, things',
        [
            (dict(key=None), EncryptionError, ["'shuffle'", 'one-way']),
            (dict(one_way=True), EncryptionError, ['key', '`one_way`']),
            (
                dict(cipher='permute_pixels', key=None, one_way=True),
                EncryptionError,
                ["'permute_pixels'", 'key'],
            ),
            (
                dict(cipher='mix2', key=None, preprocess=dict(augment=dict(flip=0.5))),
                EncryptionError,
                ["'mix2'", 'one-way'],
            ),
            (dict(cipher='mix2', views=2), EncryptionError, ['2 views', "'mix2'"]),
            (dict(views=0), HimeError, ['`views`', 0]),
            (dict(views=1.5), HimeError, ['`views`', 1.5]),
            (dict(workers=-1), EncryptionError, ['`workers`', -1]),
            (dict(names='hash'), HimeError, ['names', "'hash'"]),
            (dict(fmt='jpg'), HimeError, ['format', "'jpg'"]),
            (dict(compression=11), HimeError, ['compression', 11, "'png'"]),
            (dict(fmt='webp', compression=1), HimeError, ['compression', 1, "'webp'"]),
            (
                dict(fmt='webp', preprocess=dict(color_type='unchanged')),
                EncryptionError,
                ["'webp'", "'unchanged'"],
            ),
            (dict(cipher='shufle'), CipherError, ["'shufle'"]),
            (dict(preprocess=dict(size=5)), HimeError, ["'size'"]),
        ],
    )
    def test_refused(self, coco_src, tmp_path, kwargs, error, things):
        for function, src in ((coco, coco_src), (folder, coco_src / 'val2017')):
            with pytest.raises(error, match=named(*things)):
                function(src, tmp_path / 'out', **kwargs)
        assert not (tmp_path / 'out').exists()


class TestProgress:
    STAGES = ('plan:', 'encrypt:', 'count:', 'annotations:', 'sync:', 'manifest:')

    @pytest.mark.parametrize('options', [{}, dict(views=3), dict(workers=1)])
    def test_is_shown_to_the_end(self, coco_src, tmp_path, capfd, options):
        for function, src in ((coco, coco_src), (folder, coco_src / 'val2017')):
            out = tmp_path / function.__name__
            function(src, out, progress=True, **options)
            text = capfd.readouterr().err
            stages = [s for s in self.STAGES if function is coco or s != 'annotations:']
            places = [text.find(stage) for stage in stages]
            assert min(places) > -1 and places == sorted(places), text
            # The others make room for the next, and the last ends its line.
            lines = text.splitlines(keepends=True)
            assert text.count('\n') == 2 and text.endswith('\n'), text
            assert 'encrypt: 100%' in text.partition('\n')[0] and 'manifest: 100%' in lines[-1]

    def test_is_not_shown(self, coco_src, tmp_path, capfd):
        coco(coco_src, tmp_path / 'out')
        assert capfd.readouterr() == ('', '')

    def test_of_the_last_stage(self, coco_src, tmp_path, capfd, monkeypatch):
        """It moves with the pictures, and not at once to its end."""
        for stage in ('count', 'annotations', 'manifest'):
            shown = []
            real = finish.tqdm

            def fast(*args, shown=shown, real=real, stage=stage, **kwargs):
                bar = real(*args, mininterval=0, miniters=1, **kwargs)
                if bar.desc.startswith(stage):
                    shown.append(bar)
                return bar

            monkeypatch.setattr(finish, 'tqdm', fast)
            coco(coco_src, tmp_path / stage, progress=True, shard_size=1)
            monkeypatch.undo()
            (bar,) = shown
            assert bar.n == bar.total == 4
            text = capfd.readouterr().err
            assert all(f'{i}/4' in text.partition(f'{stage}:')[2] for i in range(1, 4))
