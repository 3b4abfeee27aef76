# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMPretrain gives the same numbers to the classes of the source and of the result."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from encryption_parts import folder
from hypothesis import given, settings
from hypothesis import strategies as st
from owner_data import edit_json, named, photo, tree, write

from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import checksum
from hime_mm.encryption.describe import describe_dataset
from hime_mm.errors import EncryptionError, ManifestError

datasets = pytest.importorskip('mmpretrain.datasets')
find_folders = pytest.importorskip('mmpretrain.datasets.custom').find_folders
PICTURE = photo(16, 16)


@pytest.fixture(scope='module', autouse=True)
def no_sync():
    """It waits for all others' files, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'sync', lambda: None)
        patch.setattr(os, 'fsync', lambda file: None)
        yield


def empty(path):
    path.mkdir()


def unreadable(path):
    path.mkdir()
    (path / 'a.jpg').write_bytes(b'no picture')


def texts(path):
    path.mkdir()
    (path / 'labels.csv').write_text('x')


def hidden_pictures(path):
    write(path / '.a.png', PICTURE)


def only_deep(path):
    (path / 'deep' / 'deeper').mkdir(parents=True)


def linked(path):
    elsewhere = path.parents[1] / f'of {path.name}'
    write(elsewhere / 'a.png', PICTURE)
    path.symlink_to(elsewhere)


def linked_empty(path):
    elsewhere = path.parents[1] / f'of {path.name}'
    elsewhere.mkdir()
    path.symlink_to(elsewhere)


def linked_back(path):
    path.symlink_to(path.parent)


def broken_link(path):
    path.symlink_to(path.parent / 'none')


def file(path):
    path.write_text('no folder, no class')


def full(path):
    write(path / 'a.png', PICTURE)
    write(path / 'b' / 'c.jpg', PICTURE)


NO_FOLDER = [broken_link, file]
MISSING = [
    empty,
    unreadable,
    texts,
    hidden_pictures,
    only_deep,
    linked,
    linked_empty,
    *NO_FOLDER,
]


def numbers(root):
    """Of each class its number, and of each sample by its path without extension."""
    data = datasets.CustomDataset(data_root=str(root), serialize_data=False)  # 0.2 s else
    samples = {
        os.path.relpath(os.path.splitext(row['img_path'])[0], root): row['gt_label']
        for row in data.load_data_list()
    }
    return data.CLASSES, data.folder_to_idx, samples


def check_numbers(src, out):
    before, after = numbers(src), numbers(out)
    assert before[:2] == after[:2]
    assert after[2].items() <= before[2].items() and after[2]
    return list(before[0])


class TestClasses:
    @pytest.mark.parametrize('missing', MISSING)
    def test_stay_whatever_is_missing(self, tmp_path, missing):
        src, out = tmp_path / 'all' / 'src', tmp_path / 'out'
        for path in ('train/ant', 'train/cat', 'val/ant', 'val/bird', 'val/cat'):
            full(src / path)
        missing(src / 'train' / 'bird')
        folder(src, out)
        check_numbers(src / 'train', out / 'train')
        assert check_numbers(src / 'val', out / 'val') == ['ant', 'bird', 'cat']
        classes = Manifest.load(out).classes
        assert classes['val'] == ['ant', 'bird', 'cat']
        assert ('bird' in classes['train']) == (missing not in NO_FOLDER)
        assert {'train', 'val'} <= set(classes['.'])

    @pytest.mark.parametrize('missing', [empty, unreadable, linked_back])
    def test_stay_with_ids_and_views(self, tmp_path, missing):
        src, out = tmp_path / 'src', tmp_path / 'out'
        full(src / 'ant')
        full(src / 'cat')
        missing(src / 'bird')
        folder(src, out, names='ids', views=2, workers=2 if missing is unreadable else 1)
        shutil.rmtree(out / '.hime-work', ignore_errors=True)
        # It cannot list the files of a folder that a link leads back into.
        classes = find_folders(str(src))
        assert classes == find_folders(str(out)) and classes[0] == ['ant', 'bird', 'cat']
        assert set(numbers(out)[2].values()) == {0, 2}

    def test_of_imagenet(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        for split in ('train', 'val'):
            for number in range(5):
                full(src / split / f'n{number}')
        shutil.rmtree(src / 'train' / 'n1')
        empty(src / 'train' / 'n1')
        shutil.rmtree(src / 'val' / 'n3')
        unreadable(src / 'val' / 'n3')
        folder(src, out, views=2)
        classes = [f'n{number}' for number in range(5)]
        for split in ('train', 'val'):
            before, after = (
                datasets.ImageNet(data_root=str(root), split=split, metainfo=dict(classes=classes))
                for root in (src, out)
            )
            assert (
                before.folder_to_idx == after.folder_to_idx == {c: i for i, c in enumerate(classes)}
            )
            assert {row['gt_label'] for row in after.load_data_list()} == (
                {0, 2, 3, 4} if split == 'train' else {0, 1, 2, 4}
            )

    @settings(max_examples=25)
    @given(
        st.dictionaries(
            st.text('aAzZ09._- éß三\U0001f600', min_size=1, max_size=3).filter(
                lambda name: name.strip('.')
            ),
            st.sampled_from([full, *MISSING]),
            min_size=1,
            max_size=6,
        ).filter(lambda classes: len({name.casefold() for name in classes}) == len(classes))
    )
    def test_have_the_same_numbers_in_any_tree(self, classes):
        with tempfile.TemporaryDirectory() as place:
            src, out = Path(place, 'all', 'src'), Path(place, 'out')
            full(src / 'm')
            for name, make in classes.items():
                if name != 'm':
                    make(src / name)
            folder(src, out, 'mix2', key=None)
            # It counts as a class as long as the data set is unfinished.
            shutil.rmtree(out / '.hime-work', ignore_errors=True)
            assert check_numbers(src, out) == Manifest.load(out).classes['.']
            # Folders of folders, too, and of hidden ones the name alone.
            for parent, names in Manifest.load(out).classes.items():
                assert names == sorted(p.name for p in (src / parent).iterdir() if p.is_dir())
                assert names == sorted(p.name for p in (out / parent).iterdir() if p.is_dir())

    @pytest.mark.parametrize('name', ['.ipynb_checkpoints', '.git', '.thumbnails'])
    def test_of_a_hidden_folder_the_name_is_kept(self, tmp_path, name):
        full(tmp_path / 'src' / 'a')
        write(tmp_path / 'src' / name / 'secret.png', PICTURE)
        summary = folder(tmp_path / 'src', tmp_path / 'out')
        assert [path for path, _ in summary.left_out] == [name]
        assert list((tmp_path / 'out' / name).iterdir()) == []
        before, after = (find_folders(str(tmp_path / root)) for root in ('src', 'out'))
        assert before == after == ([name, 'a'], {name: 0, 'a': 1})
        assert not [path for path in tree(tmp_path / 'out') if 'secret' in path]

    @pytest.mark.parametrize('name', ['b.png', 'B.PNG', 'c.txt', 'hime.json'])
    def test_a_folder_in_place_of_a_file(self, tmp_path, name):
        src = tmp_path / 'src'
        write(src / 'b.jpg', PICTURE)
        (src / name).mkdir()
        if name != 'c.txt':
            with pytest.raises(EncryptionError, match=named(name, 'folder')):
                folder(src, tmp_path / 'out')
            assert not (tmp_path / 'out').exists()
        else:
            assert folder(src, tmp_path / 'out').complete

    @pytest.mark.skipif(os.name != 'posix', reason='names are bytes')
    def test_a_folder_whose_name_is_no_text(self, tmp_path):
        src = tmp_path / 'src'
        full(src / 'a')
        os.mkdir(os.fsencode(src) + b'/\xff')
        with pytest.raises(EncryptionError, match='UTF-8'):
            folder(src, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    def test_run_goes_on_with_the_same_folders_only(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        full(src / 'a')
        unreadable(src / 'b')
        assert not folder(src, out).complete
        empty(src / 'c')
        with pytest.raises(EncryptionError, match=named(out, 'sources')):
            folder(src, out)
        (src / 'c').rmdir()
        write(src / 'b' / 'a.jpg', PICTURE)
        assert folder(src, out).complete
        empty(src / 'c')
        with pytest.raises(EncryptionError, match=named(out, 'another')):
            folder(src, out)
        (src / 'c').rmdir()
        assert folder(src, out).finished_before

    def test_lost_folder_of_a_finished_data_set(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        full(src / 'a')
        empty(src / 'b')
        folder(src, out)
        (out / 'b').rmdir()
        with pytest.raises(EncryptionError, match=named(out, 'folder b')):
            folder(src, out)
        (out / 'b').mkdir()
        assert folder(src, out).finished_before

    def test_are_counted_in_words(self, tmp_path):
        for name in ('train/a', 'train/b', 'val/a'):
            write(tmp_path / 'src' / name / 'x.png', PICTURE)
        folder(tmp_path / 'src', tmp_path / 'out')
        text = describe_dataset(Manifest.load(tmp_path / 'out'))
        assert '2 in it, 2 in train, 1 in val' in text

    def test_of_many_folders_are_not_all_counted(self, tmp_path):
        for number in range(9):
            write(tmp_path / 'src' / f'{number}' / 'a' / 'x.png', PICTURE)
        folder(tmp_path / 'src', tmp_path / 'out')
        assert '9 in it, 1 in 0, 1 in 1, 1 in 2, 1 in 3, 5 more' in describe_dataset(
            Manifest.load(tmp_path / 'out')
        )

    @pytest.mark.parametrize('value', [[], None, {'.': 'ab'}, {'.': None}, {'.': [1]}, {'a': [[]]}])
    def test_of_a_stranger(self, tmp_path, value):
        full(tmp_path / 'src' / 'a')
        folder(tmp_path / 'src', tmp_path / 'out')
        path = tmp_path / 'out' / 'hime.json'
        edit_json(path, lambda s: (s.update(classes=value), s.update(checksum=checksum(s))))
        with pytest.raises(ManifestError, match='classes'):
            Manifest.load(path)

    def test_manifest_without_them(self, tmp_path):
        full(tmp_path / 'src' / 'a')
        folder(tmp_path / 'src', tmp_path / 'out')
        path = tmp_path / 'out' / 'hime.json'
        edit_json(path, lambda s: (s.pop('classes'), s['counts'].pop('left_out')))
        edit_json(path, lambda s: s.update(checksum=checksum(s)))
        assert Manifest.load(path).classes == {}
        assert 'folders' not in describe_dataset(Manifest.load(path)).split('leaves readable')[0]
        assert folder(tmp_path / 'src', tmp_path / 'out').finished_before
