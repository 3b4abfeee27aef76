# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import shutil

import mmcv
import pytest
from encryption_parts import KEY, coco, folder
from owner_data import edit_json, named, photo, tree, write

from hime_mm.apis import verify_dataset
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption import worker
from hime_mm.errors import CipherError, CocoError, EncryptionError, PictureError


class TestNothingIsLost:
    def test_other_source_leaves_the_journal(self, own_src, tmp_path):
        """One-way: what is finished cannot be made again."""
        bad = own_src / 'val2017' / '000003.jpg'
        good = bad.read_bytes()
        bad.write_bytes(b'')
        out = tmp_path / 'out'
        one_way = dict(key=None, one_way=True, dataset_id=None)
        assert not coco(own_src, out, 'shuffle', **one_way).complete
        before = tree(out)
        (tmp_path / 'few').mkdir()
        write(tmp_path / 'few' / 'a.png', photo(40, 40))
        with pytest.raises(EncryptionError, match=named(out, 'sources')):
            folder(tmp_path / 'few', out, 'shuffle', **one_way)
        assert tree(out) == before
        bad.write_bytes(good)
        assert coco(own_src, out, 'shuffle', **one_way).reused == 3
        after = tree(out)
        assert all(after[name] == data for name, data in before.items() if name.endswith('.png'))

    def test_picture_that_is_gone_stays(self, own_src, tmp_path):
        (own_src / 'val2017' / '000003.jpg').write_bytes(b'')
        out = tmp_path / 'out'
        coco(own_src, out)
        before = tree(out)
        (own_src / 'val2017' / '000001.jpg').unlink()
        summary = coco(own_src, out)
        assert (summary.reused, summary.files) == (3, 3)
        assert tree(out).keys() == before.keys()

    def test_nothing_is_left_of_what_is_left_out(self, own_src, tmp_path, monkeypatch):
        def second_fails(img, recipe, source, boxes):
            if source.image_id.endswith('000002_v1.png'):
                raise PictureError('no')
            return real(img, recipe, source, boxes)

        real = worker.seal
        monkeypatch.setattr(worker, 'seal', second_fails)
        out = tmp_path / 'out'
        assert len(coco(own_src, out, views=2).skipped) == 1
        assert not list(out.rglob('000002*'))
        # A picture that was whole the last time.
        (own_src / 'val2017' / '000001.jpg').write_bytes(b'')
        assert len(coco(own_src, out, views=2).skipped) == 2
        assert not list(out.rglob('000001*'))
        problems = verify_dataset(str(out), KEY, progress=False).problems
        left_out = [row['path'] for row in Manifest.load(out).skipped]
        assert [path for path, _ in problems] == ['.hime-work', *left_out]

    def test_replaced_picture_is_done_again(self, own_src, tmp_path):
        (own_src / 'val2017' / '000003.jpg').write_bytes(b'')
        out = tmp_path / 'out'
        coco(own_src, out)
        first = own_src / 'val2017' / '000001.jpg'
        shape = mmcv.imread(first).shape
        write(first, photo(*shape[:2], seed=9))
        write(
            own_src / 'val2017' / '000003.jpg',
            photo(*mmcv.imread(own_src / 'val2017' / '000002.jpg').shape[:2]),
        )
        coco(own_src, out)
        coco(own_src, tmp_path / 'new')
        name = 'val2017/000001.png'
        assert (out / name).read_bytes() == (tmp_path / 'new' / name).read_bytes()

    def test_finished_folder_without_its_annotations(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        assert not coco(coco_src, out).finished_before
        assert coco(coco_src, out).finished_before
        path = out / 'annotations' / 'instances_val2017.json'
        text = path.read_text()
        path.write_text(text.replace('"bbox": [', '"bbox": [9', 1))
        with pytest.raises(EncryptionError, match=named(path.name, 'changed')):
            coco(coco_src, out)
        path.write_text(text)
        assert coco(coco_src, out).finished_before
        path.unlink()
        with pytest.raises(EncryptionError, match=named(path.name, 'missing')):
            coco(coco_src, out)

    @pytest.mark.parametrize(
        'names',
        [('hime.json/a.png',), ('a.jpg', 'a.png/b.jpg'), ('a.jpg', 'a.png'), ('A.jpg', 'a.png')],
    )
    def test_two_things_in_one_place(self, tmp_path, names):
        for name in names:
            write(tmp_path / 'src' / name, photo(40, 40))
        with pytest.raises(EncryptionError, match=named(names[0])):
            folder(tmp_path / 'src', tmp_path / 'out', 'mix2')
        assert not (tmp_path / 'out').exists()

    def test_annotations_in_place_of_the_manifest(self, own_src, tmp_path):
        shutil.copy(own_src / 'annotations/instances_val2017.json', own_src / 'hime.json')
        with pytest.raises(EncryptionError, match='hime.json'):
            coco(own_src, tmp_path / 'out', annotations=['hime.json'], images=['val2017'])

    def test_only_what_coco_knows_is_handed_over(self, own_src, tmp_path):
        path = own_src / 'annotations/instances_val2017.json'
        edit_json(
            path,
            lambda c: (
                c['categories'][0].update(note='SECRET'),
                c['licenses'][0].update(owner='SECRET'),
                c.update(remarks='SECRET'),
            ),
        )
        summary = coco(own_src, tmp_path / 'out')
        assert {'categories.note', 'licenses.owner', 'remarks'} <= set(summary.dropped)
        assert not any(b'SECRET' in d for d in tree(tmp_path / 'out').values())

    @pytest.mark.parametrize(
        'change, field',
        [
            (lambda c: c['images'][0].update(license={}), 'license'),
            (lambda c: c['images'][0].update(height='449'), 'height'),
            (lambda c: c['annotations'][0].update(ignore={}), 'ignore'),
            (lambda c: c['annotations'][0].update(iscrowd='no'), 'iscrowd'),
            (lambda c: c['categories'][0].update(name=['x']), 'categories'),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 10**400, 3]), 'bbox'),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 1e300, 3]), 'bbox'),
        ],
    )
    def test_wrong_kinds(self, own_src, tmp_path, change, field):
        edit_json(own_src / 'annotations/instances_val2017.json', change)
        with pytest.raises(CocoError, match=field):
            coco(own_src, tmp_path / 'out')

    def test_padding_would_show_the_means(self, coco_src, tmp_path):
        with pytest.raises(CipherError, match=named("fit='pad'", "'center+shuffle'")):
            coco(coco_src, tmp_path / 'out', 'center+shuffle', preprocess=dict(fit='pad'))
