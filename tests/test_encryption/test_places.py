# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Sources that are encrypted already, and outputs among plain pictures."""

import json
import shutil

import pytest
from encryption_parts import coco, folder
from owner_data import make_coco, named, photo, tree, write

from hime_mm.errors import EncryptionError

PICTURE = photo(16, 16)


@pytest.fixture(scope='module')
def encrypted(tmp_path_factory):
    """A folder, and a COCO data set, that are encrypted."""
    place = tmp_path_factory.mktemp('encrypted')
    write(place / 'plain' / 'a' / 'x.png', PICTURE)
    folder(place / 'plain', place / 'folder')
    coco(make_coco(place / 'coco_src'), place / 'coco')
    return place


def unfinished(out):
    (out / 'hime.json').unlink()
    (out / '.hime-work').mkdir()


def rewritten(out):
    path = out / 'hime.json'
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))


def damaged(out):
    path = out / 'hime.json'
    path.write_bytes(path.read_bytes()[:200])


class TestEncryptedSource:
    @pytest.mark.parametrize('kind', ['folder', 'coco'])
    @pytest.mark.parametrize('change', [None, unfinished, rewritten, damaged])
    def test_is_refused(self, encrypted, tmp_path, kind, change):
        data = shutil.copytree(encrypted / kind, tmp_path / 'data')
        if change is not None:
            change(data)
        for function in (folder, coco) if kind == 'coco' else (folder,):
            with pytest.raises(EncryptionError, match=named(data, 'encrypted data set')):
                function(data, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    @pytest.mark.parametrize(
        'where',
        ['folder below', 'deep below', 'folder above', 'link', 'linked picture', 'link into it'],
    )
    @pytest.mark.parametrize('function', [folder, coco])
    def test_is_refused_wherever_it_lies(self, encrypted, tmp_path, where, function):
        src = make_coco(tmp_path / 'src')
        data = shutil.copytree(encrypted / 'folder', tmp_path / 'data')
        images = src / 'val2017'
        if where == 'folder below':
            data = data.rename(images / 'data')
        elif where == 'deep below':
            (images / 'a' / 'b').mkdir(parents=True)
            data = data.rename(images / 'a' / 'b' / 'data')
        elif where == 'folder above':
            src = src.rename(data / 'a' / 'src')
        elif where == 'link':
            (images / 'data').symlink_to(data)
        elif where == 'link into it':
            (images / 'data').symlink_to(data / 'a')
        else:
            (images / 'x.png').symlink_to(data / 'a' / 'x.png')
        with pytest.raises(EncryptionError, match=named(data, 'encrypted data set')):
            function(src, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    def test_folder_of_images_is_a_link_into_one(self, encrypted, tmp_path):
        src = make_coco(tmp_path / 'src')
        shutil.rmtree(src / 'val2017')
        (src / 'val2017').symlink_to(encrypted / 'coco' / 'val2017')
        with pytest.raises(EncryptionError, match=named(encrypted / 'coco', 'encrypted')):
            coco(src, tmp_path / 'out')

    @pytest.mark.parametrize('content', ['{}', '{"format": "of somebody else"}', ''])
    def test_manifest_of_something_else_is_no_reason(self, tmp_path, content):
        write(tmp_path / 'src' / 'a' / 'x.png', PICTURE)
        (tmp_path / 'src' / 'a' / 'hime.json').write_text(content)
        assert folder(tmp_path / 'src', tmp_path / 'out').complete

    def test_beside_the_source_is_no_reason(self, encrypted, tmp_path):
        write(tmp_path / 'src' / 'x.png', PICTURE)
        shutil.copytree(encrypted / 'folder', tmp_path / 'data')
        assert folder(tmp_path / 'src', tmp_path / 'out').complete


class TestOutput:
    @pytest.mark.parametrize('function', [folder, coco])
    @pytest.mark.parametrize('out', ['far/linked/out', 'far/linked', 'far/linked/deep/out', 'far'])
    def test_among_linked_pictures(self, tmp_path, function, out):
        src, out = make_coco(tmp_path / 'src'), tmp_path / out
        linked = tmp_path / 'far' / 'linked'
        write(linked / 'deep' / 'y.png', PICTURE)
        (src / 'val2017' / 'more').symlink_to(linked)
        before = tree(tmp_path)
        with pytest.raises(EncryptionError, match=named(out, linked)):
            function(src, out)
        assert tree(tmp_path) == before

    def test_among_the_images_of_a_linked_folder(self, tmp_path):
        src = make_coco(tmp_path / 'src')
        (src / 'val2017').rename(tmp_path / 'images')
        (src / 'val2017').symlink_to(tmp_path / 'images')
        for function in (folder, coco):
            with pytest.raises(EncryptionError, match=named(tmp_path / 'images')):
                function(src, tmp_path / 'images' / 'out')

    @pytest.mark.parametrize('function', [folder, coco])
    def test_around_a_linked_picture(self, tmp_path, function):
        src, out = make_coco(tmp_path / 'src'), tmp_path / 'out'
        picture = src / 'val2017' / '000001.jpg'
        (out / 'pool').mkdir(parents=True)
        picture.rename(out / 'pool' / 'x.jpg')
        picture.symlink_to(out / 'pool' / 'x.jpg')
        with pytest.raises(EncryptionError, match=named(out, out / 'pool')):
            function(src, out)

    @pytest.mark.parametrize('function', [folder, coco])
    def test_beside_linked_pictures(self, tmp_path, function):
        src = make_coco(tmp_path / 'src')
        picture = src / 'val2017' / '000001.jpg'
        picture.rename(tmp_path / 'x.jpg')
        picture.symlink_to(tmp_path / 'x.jpg')
        assert function(src, tmp_path / 'out').complete
