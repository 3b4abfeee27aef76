# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import json
import os
import re
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
from owner_data import SECRET, edit_json, named, photo, png_chunks, read, tree, write
from version_1 import as_version_1

from hime_mm.apis import (
    decrypt_dataset,
    describe_dataset,
    encrypt_coco,
    encrypt_folder,
    verify_dataset,
)
from hime_mm.ciphers import Cipher, InvalidKey, Key
from hime_mm.ciphers.steps import STEPS
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import checksum
from hime_mm.encryption.verify import read_entry
from hime_mm.errors import EncryptionError, ManifestError
from hime_mm.images.preprocess import Preprocess
from hime_mm.images.sizing import fit_image

KEY = Key(SECRET)
ANN = 'annotations/instances_val2017.json'


def encrypt(src, out, cipher='shuffle', key=KEY, **kwargs):
    function = encrypt_coco if Path(src, 'annotations').is_dir() else (encrypt_folder)
    kwargs.setdefault('dataset_id', 'd')
    return function(str(src), str(out), cipher, key=key, progress=False, **kwargs)


def verify(path, key=None, workers=0):
    return verify_dataset(str(path), key, workers, progress=False)


def decrypt(path, out, key=KEY, partial=False, workers=0):
    return decrypt_dataset(str(path), str(out), key, partial, workers, progress=False)


class TestVerify:
    @pytest.fixture(scope='class')
    @classmethod
    def whole(cls, coco_src, tmp_path_factory):
        """Read only."""
        out = tmp_path_factory.mktemp('whole') / 'out'
        encrypt(coco_src, out)
        return out

    @pytest.fixture
    def out(self, whole, tmp_path):
        """For tests that damage it."""
        return shutil.copytree(whole, tmp_path / 'out')

    def test_whole(self, out):
        for place in (out, out / 'hime.json'):
            report = verify(place)
            assert report.ok and not report.authenticated
            assert (report.files, report.notes) == (4, [])
            assert verify(place, KEY).authenticated

    def test_moved_and_linked(self, out, tmp_path, monkeypatch):
        out.rename(tmp_path / 'moved')
        monkeypatch.chdir(tmp_path)
        assert verify('moved', KEY).ok
        Path('link').symlink_to('moved')
        assert verify('link', KEY).ok
        monkeypatch.chdir('moved')
        assert verify('.', KEY).ok

    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def valid(path):
        write(path, read(path)[::-1])

    @pytest.mark.parametrize(
        'damage, reason',
        [
            (flip, 'SHA-256'),
            (lambda path: path.write_bytes(path.read_bytes() + b'x'), 'bytes'),
            (lambda path: path.write_bytes(path.read_bytes()[:-9]), 'bytes'),
            (lambda path: path.write_bytes(b''), '0 bytes'),
            (lambda path: path.unlink(), os.strerror(errno.ENOENT)),
            (lambda path: (path.unlink(), path.mkdir()), os.strerror(errno.EISDIR)),
            (lambda path: shutil.copy(path.with_name('000001.png'), path), 'changed'),
            (valid, 'changed'),
        ],
    )
    @pytest.mark.parametrize('key', [KEY, None])
    def test_picture(self, out, damage, reason, key):
        damage(out / 'val2017' / '000002.png')
        ((path, said),) = verify(out, key).problems
        assert path == 'val2017/000002.png' and reason in said

    def test_swapped_pictures(self, out):
        one, two = (out / 'val2017' / f'00000{i}.png' for i in (1, 2))
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)
        assert [p for p, _ in verify(out).problems] == ['val2017/000001.png', 'val2017/000002.png']

    def test_picture_that_fits_its_hash_only(self, out):
        # As a tool would write that has the manifest wrong.
        as_version_1(out)
        edit_json(
            out / 'hime.json',
            lambda s: (s['files'][0].update(shape=[96, 144]), s.update(checksum=checksum(s))),
        )
        ((path, said),) = [p for p in verify(out).problems if 'png' in p[0]]
        assert '96x128' in said and '96x144' in said

    @pytest.mark.parametrize(
        'name', ['val2017/plain.jpg', 'plain.PNG', 'new/deep/x.tiff', '.x.jpeg']
    )
    def test_foreign_picture(self, out, coco_src, name):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(coco_src / 'val2017' / '000001.jpg', out / name)
        assert [path for path, _ in verify(out, KEY).problems] == [name]

    @pytest.mark.parametrize('name', ['README.txt', 'new/Thumbs.db', 'val2017/.x', 'plain.gif'])
    @pytest.mark.parametrize('key', [KEY, None])
    def test_other_files(self, out, name, key):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text('hello')
        assert [path for path, _ in verify(out, key).problems] == [name]

    @pytest.mark.parametrize(
        'change',
        [
            lambda c: c['annotations'][0].update(bbox=[0, 0, 1, 1]),
            lambda c: c['annotations'].pop(),
            lambda c: c['images'].pop(),
            lambda c: c.update(info='new'),
        ],
    )
    def test_annotations(self, out, change):
        edit_json(out / ANN, change)
        ((path, said),) = verify(out).problems
        assert path == ANN and 'SHA-256' in said

    def test_missing_annotations(self, out):
        (out / ANN).unlink()
        ((path, said),) = verify(out).problems
        assert path == ANN and os.strerror(errno.ENOENT) in said

    @pytest.mark.parametrize(
        'change, things',
        [
            (lambda c: c['images'][1].update(file_name='x.png'), ['x.png']),
            (lambda c: c['images'][1].update(height=5), ['size', '000002.png']),
            (lambda c: c['images'][1].pop('height'), ['size', '000002.png']),
        ],
    )
    def test_annotations_and_pictures_disagree(self, out, change, things):
        import hashlib

        edit_json(out / ANN, change)
        digest = hashlib.sha256((out / ANN).read_bytes()).hexdigest()
        edit_json(
            out / 'hime.json',
            lambda s: (s['annotations'][0].update(sha256=digest), s.update(checksum=checksum(s))),
        )
        ((path, said),) = verify(out).problems
        assert path == ANN and all(thing in said for thing in things)

    @pytest.mark.parametrize('name', ['kind', 'sha256', 'images_folder'])
    def test_a_row_of_annotations_lacks_something(self, out, name):
        edit_json(
            out / 'hime.json',
            lambda s: (s['annotations'][0].pop(name), s.update(checksum=checksum(s))),
        )
        problems = verify(out).problems
        assert [path for path, _ in problems] == ([] if name == 'kind' else [ANN])

    @pytest.mark.parametrize(
        'change',
        [
            lambda s: s['files'][0].update(ori_shape=[1, 1]),
            lambda s: s['files'][0].update(scale=[1, 1.5]),
            lambda s: s['files'].reverse(),
            lambda s: s.update(dataset_id='e'),
            lambda s: s['cipher'].update(patch_size=8),
            lambda s: s['preprocess'].update(fit='pad'),
        ],
    )
    def test_manifest(self, out, change):
        as_version_1(out, KEY)
        edit_json(out / 'hime.json', change)
        with pytest.raises(ManifestError, match='checksum'):
            verify(out)
        # On purpose, with a fresh checksum: only the key finds it.
        edit_json(out / 'hime.json', lambda s: s.update(checksum=checksum(s)))
        assert verify(out).ok or 'cipher' in str(verify(out).problems)
        with pytest.raises(ManifestError, match=named('hime.json', 'authentication code')):
            verify(out, KEY)

    def test_manifest_that_hides_its_key(self, out):
        as_version_1(out, KEY)
        edit_json(
            out / 'hime.json',
            lambda s: (
                s.update(key_id=None, mode='one-way'),
                s.pop('mac'),
                s['files'][0].update(ori_shape=[1, 1]),
                s.update(checksum=checksum(s)),
            ),
        )
        assert verify(out).ok
        assert [path for path, _ in verify(out, KEY).problems] == ['hime.json']

    def test_wrong_key(self, out):
        other = Key(bytes(32))
        with pytest.raises(InvalidKey, match=named(KEY.id, other.id)):
            verify(out, other)

    def test_no_manifest(self, tmp_path):
        with pytest.raises(ManifestError, match=named(tmp_path / 'hime.json')):
            verify(tmp_path)

    def test_several_processes(self, out):
        for name in ('000001.png', '000003.png'):
            (out / 'val2017' / name).write_bytes(b'')
        (out / 'a.png').write_bytes(b'')
        assert verify(out, KEY, workers=2) == verify(out, KEY)
        assert [p for p, _ in verify(out).problems] == [
            'a.png',
            'val2017/000001.png',
            'val2017/000003.png',
        ]

    def test_left_out(self, coco_src, tmp_path):
        src = shutil.copytree(coco_src, tmp_path / 'src')
        (src / 'val2017' / '000002.jpg').write_bytes(b'')
        encrypt(src, tmp_path / 'out')
        report = verify(tmp_path / 'out', KEY)
        (work, unfinished), (path, said) = report.problems
        assert path == 'val2017/000002.png'
        assert Manifest.load(tmp_path / 'out').skipped[0]['reason'] in said
        assert work == '.hime-work' and 'must not be handed over' in unfinished
        shutil.rmtree(tmp_path / 'out' / '.hime-work')
        report = verify(tmp_path / 'out', KEY)
        assert len(report.problems) == 1 and not report.notes


class TestDecrypt:
    UNDONE = [
        'shuffle',
        'orient',
        'negate',
        'permute_channels',
        'permute_pixels',
        'orient+negate+permute_channels+shuffle',
        'shuffle+permute_pixels',
    ]

    @pytest.mark.parametrize('cipher', UNDONE)
    @pytest.mark.parametrize('fmt', ['png', 'webp'])
    def test_gives_the_pictures_back(self, coco_src, tmp_path, cipher, fmt):
        encrypt(coco_src, tmp_path / 'out', cipher, fmt=fmt)
        report = decrypt(tmp_path / 'out', tmp_path / 'plain')
        assert report.ok and report.files == 4
        names = {f'val2017/{p.stem}.png': p for p in (coco_src / 'val2017').iterdir()}
        assert set(tree(tmp_path / 'plain')) == set(names)
        for name, source in names.items():
            fitted, _ = fit_image(mmcv.imread(source), 16)
            np.testing.assert_array_equal(read(tmp_path / 'plain' / name), fitted)

    def test_all_that_can_be_undone_is_tested(self):
        names = {str(s) for c in self.UNDONE for s in Cipher(c).steps}
        assert names == {n for n, s in STEPS.items() if s.invertible}

    @pytest.mark.parametrize(
        'channels, dtype, workers',
        [
            (1, np.uint8, 0),
            (1, np.uint16, 0),
            (3, np.uint16, 0),
            (3, np.uint8, 2),
            (4, np.uint8, 0),
        ],
    )
    def test_padding_is_taken_off(self, tmp_path, channels, dtype, workers):
        img = photo(37, 50, channels=channels, dtype=dtype)
        write(tmp_path / 'src' / 'x' / 'a.png', img)
        encrypt(
            tmp_path / 'src',
            tmp_path / 'out',
            preprocess=dict(color_type='unchanged', fit='pad', pad_val=9),
        )
        assert read(tmp_path / 'out/x/a.png').shape[:2] == (48, 64)
        decrypt(tmp_path / 'out', tmp_path / 'plain', workers=workers)
        path = tmp_path / 'plain' / 'x' / 'a.png'
        np.testing.assert_array_equal(read(path), img)
        assert set(png_chunks(path.read_bytes())) == {'IHDR', 'IDAT', 'IEND'}

    @pytest.mark.parametrize('fit', ['pad', 'resize'])
    @pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle'])
    def test_centre_of_an_enlarged_picture(self, tmp_path, cipher, fit):
        # Its size is no whole number of pixels of the original.
        write(tmp_path / 'src' / 'a.png', photo(20, 24))
        preprocess = dict(short_side=70, center_crop=(59, 62), fit=fit)
        encrypt(tmp_path / 'src', tmp_path / 'out', cipher, preprocess=preprocess)
        decrypt(tmp_path / 'out', tmp_path / 'plain', partial=True)
        img = read(tmp_path / 'plain' / 'a.png')
        bare = Preprocess(**preprocess).prepare(read(tmp_path / 'src' / 'a.png'), 16).img
        size = (62, 59) if fit == 'pad' else bare.shape[:2]
        if 'mix' in cipher:
            bare = Cipher('mix2').apply(bare, [None])
            size = (round(size[0] / 2), round(size[1] / 2))
        np.testing.assert_array_equal(img, bare[: size[0], : size[1]])

    @pytest.mark.parametrize('fit', ['pad', 'resize'])
    def test_views_come_back_as_they_were_encrypted(self, coco_src, tmp_path, fit):
        preprocess = dict(
            short_side=(64, 80), fit=fit, augment=dict(flip=0.5, crop=(0.4, 1), jitter=0.2)
        )
        encrypt(coco_src, tmp_path / 'out', views=3, preprocess=preprocess)
        decrypt(tmp_path / 'out', tmp_path / 'plain')
        bare = Preprocess.from_dict(json.loads(json.dumps(dict(preprocess, fit='pad'))))
        for source in (coco_src / 'val2017').iterdir():
            for view in range(3):
                name = f'val2017/{source.stem}_v{view}.png'
                # Before it was fitted: with patches of one pixel.
                stream = KEY.image_rng('d', name).augmentation('shuffle/16')
                ready = bare.prepare(mmcv.imread(source), 1, None, stream)
                expected = ready.img
                if fit == 'resize':
                    expected, _ = fit_image(expected, 16)
                np.testing.assert_array_equal(read(tmp_path / 'plain' / name), expected)

    @pytest.mark.parametrize(
        'cipher, rest',
        [
            ('center+shuffle', 'center'),
            ('mix2+shuffle', 'mix2'),
            ('erode2+orient+shuffle', 'erode2'),
            ('noise25+negate', 'noise25'),
            ('shuffle+center+negate', None),
        ],
    )
    def test_partial(self, coco_src, tmp_path, cipher, rest):
        out = tmp_path / 'out'
        fit = 'resize' if 'center' in cipher else 'pad'
        encrypt(coco_src, out, cipher, preprocess=dict(fit=fit))
        with pytest.raises(EncryptionError, match=named(repr(cipher), 'partial decryption')):
            decrypt(out, tmp_path / 'plain')
        assert not (tmp_path / 'plain').exists()
        assert decrypt(out, tmp_path / 'plain', partial=True).ok
        cipher = Cipher(cipher)
        for source in (coco_src / 'val2017').iterdir():
            name = f'val2017/{source.stem}.png'
            img, _ = fit_image(mmcv.imread(source), 16, fit)
            drawn = cipher.draw(img.shape, KEY.image_rng('d', name))
            kept = next(
                i for i in range(len(cipher.steps), 0, -1) if not cipher.steps[i - 1].invertible
            )
            expected = Cipher(cipher.steps[:kept]).apply(img, drawn[:kept])
            entry = Manifest.load(out).entry(name)
            h, w = (round(s * f) for s, f in zip(entry.ori_shape, entry.scale[::-1], strict=True))
            np.testing.assert_array_equal(read(tmp_path / 'plain' / name), expected[:h, :w])
        assert rest is None or str(Cipher(cipher.steps[:kept])) == rest

    @pytest.mark.parametrize(
        'cipher', ['mix2', 'shuffle+mix2', 'noise5', 'shuffle+erode1', 'center']
    )
    @pytest.mark.parametrize('partial', [True, False])
    def test_deleted_data(self, coco_src, tmp_path, cipher, partial):
        encrypt(coco_src, tmp_path / 'out', cipher)
        step = str(Cipher(cipher).steps[-1])
        with pytest.raises(EncryptionError, match=f': .*{step} ') as error:
            decrypt(tmp_path / 'out', tmp_path / 'plain', partial=partial)
        # Nothing comes after what is deleted, so nothing is left to offer.
        assert 'partial decryption' not in str(error.value)
        assert not (tmp_path / 'plain').exists()

    def test_keys(self, coco_src, tmp_path):
        encrypt(coco_src, tmp_path / 'out')
        with pytest.raises(EncryptionError, match=KEY.id):
            decrypt(tmp_path / 'out', tmp_path / 'plain', None)
        other = Key(bytes(32))
        with pytest.raises(InvalidKey, match=named(KEY.id, other.id)):
            decrypt(tmp_path / 'out', tmp_path / 'plain', other)
        encrypt(coco_src, tmp_path / 'one', key=None, one_way=True)
        with pytest.raises(EncryptionError, match=named(tmp_path / 'one', 'one-way')):
            decrypt(tmp_path / 'one', tmp_path / 'plain', None)
        with pytest.raises(InvalidKey, match=named(tmp_path / 'one')) as error:
            decrypt(tmp_path / 'one', tmp_path / 'plain')
        assert KEY.id not in str(error.value)  # it is not that another one is needed
        assert not (tmp_path / 'plain').exists()

    def test_changed_manifest(self, coco_src, tmp_path):
        encrypt(coco_src, tmp_path / 'out')
        as_version_1(tmp_path / 'out', KEY)
        edit_json(
            tmp_path / 'out' / 'hime.json',
            lambda s: (s['files'][0].update(path='../../evil.png'), s.update(checksum=checksum(s))),
        )
        with pytest.raises(ManifestError, match=named('hime.json', 'authentication code')):
            decrypt(tmp_path / 'out', tmp_path / 'plain')

    def test_damaged_pictures_are_named(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        encrypt(coco_src, out)
        (out / 'val2017/000001.png').unlink()
        (out / 'val2017/000003.png').write_bytes(b'x')
        report = decrypt(out, tmp_path / 'plain', workers=2)
        assert [p for p, _ in report.problems] == ['val2017/000001.png', 'val2017/000003.png']
        assert set(tree(tmp_path / 'plain')) == {'val2017/000002.png', 'val2017/000004.png'}

    def test_output(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        encrypt(coco_src, out)
        before = tree(out)
        (tmp_path / 'full').mkdir()
        (tmp_path / 'full' / 'x').write_bytes(b'')
        monkeypatch.chdir(tmp_path)
        os.symlink('out', 'link')
        for path, target, things in (
            (out, 'full', ['full']),
            (out, 'full/x', ['full/x']),
            (out, out, [out]),
            (out, out / 'plain', [out / 'plain', f' {out}']),
            (out / 'hime.json', out / 'plain', [out / 'plain', out / 'hime.json']),
            ('link', 'out/plain', ['out/plain', 'link']),
            ('out', 'link/plain', ['link/plain', ' out']),
        ):
            with pytest.raises(EncryptionError, match=named(*things)):
                decrypt(path, target)
        assert tree(out) == before
        os.mkdir('empty')
        assert decrypt('link/hime.json', 'empty').ok


@pytest.mark.parametrize('storage', ['files', 'tar'])
def test_decrypt_describe_and_read_shards(coco_src, tmp_path, storage):
    """By path and by URL; what comes back is what came back of version 1."""
    encrypt(coco_src, tmp_path / 'old')
    encrypt(coco_src, tmp_path / 'new', shard_size=3, storage=storage)
    as_version_1(tmp_path / 'old', KEY)
    assert verify(tmp_path / 'new', KEY, 2).problems == []
    assert decrypt(tmp_path / 'old', tmp_path / 'one').ok
    report = decrypt(tmp_path / 'new', tmp_path / 'two', workers=2)
    assert report.ok and report.files == 4
    assert tree(tmp_path / 'one') == tree(tmp_path / 'two')
    old, new, url = (
        Manifest.load(place)
        for place in (tmp_path / 'old', tmp_path / 'new', f'file://{tmp_path}/new/hime.json')
    )
    for name in old.files:
        pictures = [read_entry(one, one.entry(name)) for one in (old, new, url)]
        assert all(np.array_equal(pictures[0], other) for other in pictures)
    assert describe_dataset(old).splitlines()[1:] == describe_dataset(new).splitlines()[1:]


def test_remote(coco_src, tmp_path):
    fsspec = pytest.importorskip('fsspec')
    encrypt(coco_src, tmp_path / 'out', storage='tar')
    remote = fsspec.filesystem('memory')
    remote.put(str(tmp_path / 'out'), '/h2_remote', recursive=True)
    for place in ('memory://h2_remote', 'memory://h2_remote/hime.json'):
        manifest = Manifest.load(place)
        manifest.check_key(KEY)
        assert str(manifest.root) == 'memory://h2_remote'
        assert decrypt(place, tmp_path / place.rpartition('/')[2]).ok
    with pytest.raises(ManifestError, match='memory://h2_gone/hime.json'):
        Manifest.load('memory://h2_gone')


class TestDescribe:
    def describe(self, src, tmp_path, *args, **kwargs):
        encrypt(src, tmp_path / 'out', *args, **kwargs)
        return describe_dataset(Manifest.load(tmp_path / 'out'))

    def test_keyed(self, coco_src, tmp_path):
        text = self.describe(coco_src, tmp_path, 'center+erode2+shuffle', views=2)
        lines = text.splitlines()
        assert f'{tmp_path / "out"}, id d, coco, by hime_mm' in lines[0]
        assert 'center+erode2+shuffle, patches of 16 pixels' in lines[1]
        assert f'with the key {KEY.id}' in lines[2]
        assert '4 pictures, 8 files (2 per picture)' in lines[3]
        assert 'png' in lines[3]
        assert '48 to 72 high, 48 to 96 wide' in lines[4]
        assert 'center, erode2' in lines[5]
        assert f'{ANN}: 8 images, 12 objects' in text
        for name in ('center', 'erode', 'shuffle'):
            assert STEPS[name].leaves in text
        assert 'hime_mm.LoadEncryptedMeta' in text
        assert 'patch_size=12 and no learned positions' in text
        assert "default_hooks=dict(encryption=dict(type='hime_mm.EncryptionCheckHook')) in" in text
        assert 'clipped' in text and '% of the values, by center' in text

    @pytest.mark.parametrize(
        'change',
        [
            lambda s: s.pop('views'),
            lambda s: s['counts'].pop('bytes'),
            lambda s: s['annotations'][0].pop('images'),
        ],
    )
    def test_something_is_missing(self, coco_src, tmp_path, change):
        self.describe(coco_src, tmp_path)
        edit_json(
            tmp_path / 'out' / 'hime.json',
            lambda s: (change(s), s.update(checksum=checksum(s))),
        )
        with pytest.raises(ManifestError, match='lacks'):
            describe_dataset(Manifest.load(tmp_path / 'out'))

    def test_no_annotations(self, coco_src, tmp_path):
        self.describe(coco_src, tmp_path)
        for value in ([], None):
            edit_json(
                tmp_path / 'out' / 'hime.json',
                lambda s, value=value: s.update(annotations=value),
            )
            edit_json(tmp_path / 'out' / 'hime.json', lambda s: s.update(checksum=checksum(s)))
            text = describe_dataset(Manifest.load(tmp_path / 'out'))
            assert not re.search('^annotations', text, re.M)

    def test_words(self, coco_src, tmp_path):
        for name, step in STEPS.items():
            text = self.describe(coco_src, tmp_path / name, name).lower()
            assert step.leaves.lower() in text, name
            for word in ('secure', 'intractable', ' safe'):
                assert word not in text

    def test_undone_with_the_key(self, coco_src, tmp_path):
        text = self.describe(coco_src, tmp_path)
        assert re.search('^undo +every step', text, re.M)
        assert 'missing' not in text and 'clipped' not in text

    def test_one_way_and_keyless(self, coco_src, tmp_path):
        text = self.describe(coco_src, tmp_path, key=None, one_way=True)
        assert 'one-way' in text and KEY.id not in text
        text = self.describe(coco_src, tmp_path / 'b', 'mix2', key=None)
        assert 'without a key' in text
        assert 'patch_size=8' in text and 'no learned' not in text

    def test_folder_with_missing_pictures(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a.png', photo(32, 32))
        (src / 'b.png').write_bytes(b'')
        text = self.describe(src, tmp_path, fmt='webp')
        assert ', folder, by' in text and 'webp' in text
        assert re.search(r'^missing +1\b', text, re.M)
        (src / 'a.png').write_bytes(b'')
        assert '2 pictures, 0 files' in self.describe(src, tmp_path / 'b')
