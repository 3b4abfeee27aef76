# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import os
import shutil

import pytest
from encryption_parts import KEY, OTHER, coco, folder
from owner_data import named, photo, tree, write

from hime_mm.ciphers import InvalidKey
from hime_mm.errors import EncryptionError


class TestOutput:
    def test_plain_pictures_beside_encrypted_ones(self, coco_src, own_src):
        for src, out in (
            (own_src, own_src),
            (own_src, own_src / 'out'),
            (own_src, own_src / 'val2017' / '..' / 'x'),
            (own_src / 'val2017', own_src),
        ):
            before = tree(own_src)
            for function in (coco, folder):
                with pytest.raises(EncryptionError, match=named(src, out)):
                    function(src, out)
            assert tree(own_src) == before

    def test_link_into_the_source(self, own_src, tmp_path):
        (tmp_path / 'link').symlink_to(own_src)
        out = tmp_path / 'link' / 'out'
        with pytest.raises(EncryptionError, match=named(own_src, out)):
            coco(own_src, out)

    def test_folder_of_something_else(self, coco_src, tmp_path):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'thesis.txt').write_text('x')
        with pytest.raises(EncryptionError, match=named(tmp_path / 'out')):
            coco(coco_src, tmp_path / 'out')
        assert tree(tmp_path / 'out') == {'thesis.txt': b'x'}
        path = tmp_path / 'out' / 'thesis.txt'
        with pytest.raises(EncryptionError, match=named(path)):
            coco(coco_src, path)

    def test_empty_folder(self, coco_src, tmp_path):
        (tmp_path / 'out').mkdir()
        assert coco(coco_src, tmp_path / 'out').complete

    def test_again(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        first = coco(coco_src, out, dataset_id=None)
        stats = {n: os.stat(out / n) for n in tree(out)}
        again = coco(coco_src, out, dataset_id=None)
        assert {n: os.stat(out / n) for n in tree(out)} == stats
        assert (again.reused, again.files) == (4, 4) and again.complete
        assert again.dataset_id == first.dataset_id
        assert not (out / '.hime-work').exists()

    @pytest.mark.parametrize(
        'other, setting',
        [
            (dict(cipher='center+shuffle'), 'cipher'),
            (dict(patch_size=8), 'cipher'),
            (dict(key=OTHER), OTHER.id),
            (dict(dataset_id='e'), 'dataset id'),
            (dict(views=2), 'views'),
            (dict(names='ids'), 'names'),
            (dict(fmt='webp'), 'image format'),
            (dict(compression=5), 'image format'),
            (dict(licenses=False), 'options'),
            (dict(preprocess=dict(fit='pad')), 'preprocess'),
            (dict(key=None, one_way=True), None),
        ],
    )
    @pytest.mark.parametrize('finished', [True, False])
    def test_other_settings(self, own_src, tmp_path, other, setting, finished):
        out = tmp_path / 'out'
        if not finished:
            (own_src / 'val2017' / '000002.jpg').rename(own_src / 'away')
        assert coco(own_src, out).complete == finished
        before = tree(out)
        error, things = EncryptionError, [out]
        if not finished:
            error = InvalidKey if 'key' in other else EncryptionError
            things += [KEY.id, setting] if 'key' in other else [f'({setting}']
        with pytest.raises(error, match=named(*things)):
            coco(own_src, out, **other)
        assert tree(out) == before
        if not finished:
            (own_src / 'away').rename(own_src / 'val2017' / '000002.jpg')
            assert coco(own_src, out).complete
            coco(own_src, tmp_path / 'new')
            assert tree(out) == tree(tmp_path / 'new')

    def test_other_pictures(self, own_src, tmp_path):
        folder(own_src / 'val2017', tmp_path / 'out')
        other = tmp_path / 'other'
        for i in range(4):
            write(other / f'{i}.png', photo(32, 48))
        with pytest.raises(EncryptionError, match=named(tmp_path / 'out')):
            folder(other, tmp_path / 'out')

    def test_other_annotation_files_or_lists(self, own_src, tmp_path):
        # Of the same pictures.
        ann = 'annotations/instances_val2017.json'
        shutil.copy(own_src / ann, own_src / 'other.json')
        (own_src / 'val2017' / 'val.txt').write_text('000002.jpg 5\n')
        coco(own_src, tmp_path / 'out')
        folder(own_src / 'val2017', tmp_path / 'list')
        for function, src, out, kwargs in (
            (coco, own_src, 'out', dict(annotations=['other.json'], images=['val2017'])),
            (coco, own_src, 'out', dict(annotations=[ann, 'other.json'], images=['val2017'] * 2)),
            (folder, own_src / 'val2017', 'list', dict(lists=['val.txt'])),
        ):
            with pytest.raises(EncryptionError, match=named(tmp_path / out)):
                function(src, tmp_path / out, **kwargs)
        # And the same ones again.
        folder(own_src / 'val2017', tmp_path / 'new', lists=['val.txt'])
        assert (tmp_path / 'new/val.txt').read_text() == '000002.png 5\n'
        assert folder(own_src / 'val2017', tmp_path / 'new', lists=['./val.txt']).reused == 4

    def test_hidden_list(self, own_src, tmp_path):
        hidden = own_src / 'val2017' / '.meta'
        hidden.mkdir()
        (hidden / 'x.txt').write_text('000002.jpg 5\n')
        for name in ('y.txt', 'z.txt'):
            (hidden.parent / name).write_text('000003.jpg 5\n')
        summary = folder(own_src / 'val2017', tmp_path / 'out', lists=['.meta/x.txt', './z.txt'])
        assert [path for path, _ in summary.left_out] == ['y.txt']

    def test_finished_and_then_damaged(self, own_src, tmp_path):
        out = tmp_path / 'out'
        coco(own_src, out)
        (out / 'val2017/000001.png').write_bytes(b'')
        with pytest.raises(EncryptionError, match=named('val2017/000001.png', 'changed')):
            coco(own_src, out)
        (out / 'val2017/000001.png').unlink()
        with pytest.raises(EncryptionError, match=named('val2017/000001.png', 'missing')):
            coco(own_src, out)

    def test_damaged_plan(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000002.jpg').rename(own_src / 'away')
        coco(own_src, out)
        plan = out / '.hime-work' / 'plan.json'
        plan.write_bytes(b'{\n')
        with pytest.raises(EncryptionError, match=named(plan)):
            coco(own_src, out)
