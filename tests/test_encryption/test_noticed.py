# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is noticed of pictures on the way, counted, kept and said."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from encryption_parts import KEY, annotations, coco, folder
from owner_data import edit_json, make_large_boxes, photo, read, tree, write
from picture_files import HIDDEN, NOTICED, write_surprising

from hime_mm.apis import decrypt_dataset, verify_dataset
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.encryption.describe import describe_dataset
from hime_mm.encryption.sinks import FileSink


@pytest.fixture
def src(tmp_path):
    return write_surprising(tmp_path / 'src')


class TestCounts:
    @pytest.mark.parametrize('workers', [1, 2])
    def test_in_summary_and_manifest(self, src, tmp_path, workers):
        out = tmp_path / 'out'
        summary = folder(src, out, workers=workers)
        assert summary.noticed == NOTICED and len(summary.skipped) == 1
        manifest = Manifest.load(out)
        assert manifest.state['noticed'] == NOTICED
        assert 'noticed      pictures: 3 turned, 1 dark, 2 hidden, 1 frames' in describe_dataset(
            manifest
        )

    def test_in_the_report(self, src, tmp_path):
        folder(src, tmp_path / 'out', report=str(tmp_path / 'report.csv'))
        with open(tmp_path / 'report.csv', newline='') as file:
            rows = {row['path']: row for row in csv.DictReader(file)}
        told = Counter(row['reason'] for row in rows.values() if row['status'] == 'encrypted')
        assert told == Counter({'': 1, **NOTICED})
        assert rows['n1/mirrored.jpg']['reason'] == 'turned'

    def test_nothing(self, coco_src, tmp_path):
        summary = coco(coco_src, tmp_path / 'out', 'mix2')
        assert summary.noticed == {} and summary.telling == 0
        assert 'noticed' not in json.loads((tmp_path / 'out/hime.json').read_text())
        assert verify_dataset(str(tmp_path / 'out'), progress=False).problems == []

    @pytest.mark.parametrize('stop', [1, 4, 6])
    def test_of_a_run_that_goes_on(self, src, tmp_path, monkeypatch, stop):
        real, calls = FileSink._write, []

        def stopping(*args, **kwargs):
            calls.append(args)
            if len(calls) > stop:
                raise OSError(28, 'No space left on device')
            return real(*args, **kwargs)

        monkeypatch.setattr(FileSink, '_write', stopping)
        with pytest.raises(OSError, match='start again'):
            folder(src, tmp_path / 'out', shard_size=1)
        monkeypatch.undo()
        summary = folder(src, tmp_path / 'out', shard_size=1)
        assert summary.noticed == NOTICED and summary.reused == stop
        assert (
            tree(tmp_path / 'out')['hime.json']
            == (folder(src, tmp_path / 'all', shard_size=1) and tree(tmp_path / 'all'))['hime.json']
        )

    @pytest.mark.parametrize('wrong', [dict(turned='x'), dict(turned=-1), dict(a=[1]), [1]])
    def test_that_are_none(self, src, tmp_path, wrong):
        from hime_mm.datasets.writing import write_manifest
        from hime_mm.errors import ManifestError

        folder(src, tmp_path / 'out', 'mix2', None)
        state = json.loads((tmp_path / 'out/hime.json').read_text())
        shards = state.pop('shards')
        for name in ('checksum', 'format', 'format_version'):
            state.pop(name)
        write_manifest(LocalStore(str(tmp_path / 'out')), dict(state, noticed=wrong), shards)
        with pytest.raises(ManifestError):
            Manifest.load(tmp_path / 'out')


class TestSettings:
    def test_hidden_colours_stay_behind(self, src, tmp_path):
        """Whatever undoes the encryption finds black."""
        for transparent in ('keep', 'black'):
            out = tmp_path / transparent
            summary = folder(src, out, preprocess=dict(transparent=transparent))
            assert ('hidden' in summary.noticed) == (transparent == 'keep')
            decrypt_dataset(str(out), str(tmp_path / f'{transparent}.dec'), KEY, progress=False)
        for name in ('hidden.png', 'concealed.png'):
            kept = read(tmp_path / 'keep.dec' / 'n2' / name)
            expected = HIDDEN[..., :3] if name == 'hidden.png' else HIDDEN[..., 2::-1]
            np.testing.assert_array_equal(kept, expected)
            assert not read(tmp_path / 'black.dec' / 'n2' / name).any()

    @pytest.mark.parametrize('color_type', ['color', 'grayscale', 'unchanged'])
    def test_painted_before_it_is_resized(self, tmp_path, color_type):
        """Nothing of what is hidden gets into what shows."""
        img = np.zeros((40, 40, 4), np.uint8)
        img[:, 20:, 3] = 255
        for secret in (0, 255):
            img[:, :20, :3] = secret
            write(tmp_path / str(secret) / 'a.png', img)
            options = dict(color_type=color_type, transparent='black', resize=(32, 32))
            folder(tmp_path / str(secret), tmp_path / f'{secret}.out', preprocess=options)
        assert tree(tmp_path / '0.out') == tree(tmp_path / '255.out')

    def test_files_with_several_pictures_are_left_out(self, src, tmp_path):
        summary = folder(src, tmp_path / 'out', preprocess=dict(frames='refuse'))
        assert 'frames' not in summary.noticed
        reasons = dict(summary.skipped)
        assert set(reasons) == {'n2/pages.tiff', 'n2/broken.png'}
        assert "`frames='first'`" in reasons['n2/pages.tiff']
        assert not (tmp_path / 'out/n2/pages.png').exists()

    def test_are_part_of_the_manifest(self, src, tmp_path):
        options = dict(transparent='black', frames='refuse')
        folder(src, tmp_path / 'out', preprocess=options)
        assert Manifest.load(tmp_path / 'out').recipe.preprocess.to_dict() == options

    def test_defaults_change_no_byte(self, src, tmp_path):
        folder(src, tmp_path / 'one')
        folder(src, tmp_path / 'two', preprocess=dict(transparent='keep', frames='first'))
        assert tree(tmp_path / 'one') == tree(tmp_path / 'two')


class TestTelling:
    @pytest.mark.parametrize(
        'cipher, key, telling',
        [('shuffle', KEY, 3), ('mix2+shuffle', KEY, 3), ('erode2+shuffle', KEY, 3)]
        + [('mix2', None, 0), ('negate', KEY, 0), ('drop10', KEY, 0)],
    )
    def test_boxes_where_patches_move(self, tmp_path, cipher, key, telling):
        src = make_large_boxes(tmp_path / 'src')
        assert coco(src, tmp_path / 'out', cipher, key).telling == telling

    def test_of_views_and_one_way(self, tmp_path):
        src = make_large_boxes(tmp_path / 'src')
        summary = coco(src, tmp_path / 'out', 'shuffle', None, views=2, one_way=True)
        assert summary.telling == 6

    def test_of_pictures_that_are_enlarged(self, tmp_path):
        """Where a picture has more patches, a box is as many times larger."""
        src = make_large_boxes(tmp_path / 'src')
        resize = dict(resize=(768, 512))
        # 48 encrypted pixels are free beside the second one, three patches.
        assert coco(src, tmp_path / 'out', preprocess=resize).telling == 2

    def test_go_with_their_counts_through_the_records(self, tmp_path):
        src = make_large_boxes(tmp_path / 'src')
        write(src / 'val2017' / 'b.png', photo(64, 96))
        path = src / 'annotations/instances_val2017.json'

        def add(state):
            state['images'].append(dict(state['images'][0], id=8, file_name='b.png'))

        edit_json(path, add)
        whole = (src / 'val2017/b.png').read_bytes()
        (src / 'val2017/b.png').write_bytes(whole[:50])
        assert not coco(src, tmp_path / 'out').complete
        (src / 'val2017/b.png').write_bytes(whole)
        summary = coco(src, tmp_path / 'out')
        assert summary.complete and summary.reused == 1 and summary.telling == 3
        assert len(annotations(tmp_path / 'out')['annotations']) == 4
