# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What lies in one picture, its name or its place leaves out that picture and no other."""

import errno
import os
import shutil

import pytest
from encryption_parts import coco, folder
from owner_data import edit_json, hime, named, photo, write
from picture_files import FILES

from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import LocalStore


class TestNames:
    @pytest.mark.parametrize('names', ['keep', 'ids'])
    @pytest.mark.parametrize(
        'stem, options, size',
        [
            ('a' * 251, dict(fmt='webp'), 256),
            ('a' * 250, dict(views=2), 257),
            ('é' * 125, dict(views=2, fmt='webp'), 258),
            ('b' * 200 + '/' + '音' * 83 + 'c', dict(views=11), 257),
        ],
    )
    def test_that_grow_too_long(self, tmp_path, stem, options, size, names):
        for name in ('x', stem, 'z'):
            write(tmp_path / 'src' / f'{name}.jpg', photo(32, 48))
        left_out = names == 'keep'
        for reused in (0, 3 - left_out):
            summary = folder(tmp_path / 'src', tmp_path / 'out', names=names, **options)
            assert summary.reused == reused
            assert summary.files == (3 - left_out) * options.get('views', 1)
            skipped = Manifest.load(tmp_path / 'out').skipped
            assert len(skipped) == left_out
            for path, reason in summary.skipped:
                assert path == f'{stem}.jpg'
                assert f' {size} bytes' in reason and "`names='ids'`" in reason
                assert not any(part in reason for part in ('hime-', '.part', stem[-5:]))
                assert skipped[0]['reason'] == reason

    def test_paths_that_grow_too_long(self, tmp_path):
        """For all that one may have, 4,096 bytes on Linux."""
        src, out = tmp_path / 'src', tmp_path.joinpath(*(15 * ['o' * 250]), 'out')
        long = 'a' * 200 + '/' + 'b' * 250
        if not len(str(out)) + 100 < os.pathconf('/', 'PC_PATH_MAX') < len(str(out)) + len(long):
            pytest.skip('paths may have another length')
        for name in ('x', long):
            write(src / f'{name}.jpg', photo(32, 48))
        summary = folder(src, out)
        ((path, reason),) = summary.skipped
        assert path == f'{long}.jpg' and f'a path of {len(long) + 4}' in reason

    @pytest.mark.parametrize('number', [errno.EILSEQ, errno.EINVAL])
    def test_that_the_file_system_refuses(self, own_src, tmp_path, monkeypatch, number):
        real = LocalStore.write

        def refuse(store, path, *args, **kwargs):
            if '000002' in path:
                raise OSError(number, os.strerror(number), path)
            real(store, path, *args, **kwargs)

        monkeypatch.setattr(LocalStore, 'write', refuse)
        summary = coco(own_src, tmp_path / 'out')
        ((path, reason),) = summary.skipped
        assert path == 'val2017/000002.jpg' and os.strerror(number) in reason
        assert '000002' not in reason


class TestPlaces:
    @pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
    def test_what_lies_in_the_output_ends_the_run(self, own_src, tmp_path, monkeypatch, number):
        def refuse(store, path, *args, **kwargs):
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(LocalStore, 'write', refuse)
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            coco(own_src, tmp_path / 'out')
        assert error.value.errno == number
        assert not (tmp_path / 'out' / 'hime.json').exists()

    @pytest.mark.parametrize(
        'place, in_the_way',
        [
            ('x/deep/b.png', lambda path: path.mkdir()),
            ('x/deep', lambda path: path.write_text('x')),
            ('x/deep', lambda path: path.symlink_to('deep')),
            ('x', lambda path: path.symlink_to('/dev/null')),
        ],
    )
    def test_something_else_is_there(self, own_src, tmp_path, place, in_the_way):
        out, bad = tmp_path / 'out', own_src / 'val2017' / 'x' / 'deep' / 'b.jpg'
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c['images'][1].update(file_name='x/deep/b.jpg'),
        )
        coco(own_src, out)  # the picture is not there
        bad.parent.mkdir(parents=True)
        (own_src / 'val2017' / '000002.jpg').rename(bad)
        shutil.rmtree(out / 'val2017' / 'x', ignore_errors=True)
        path = out / 'val2017' / place
        path.parent.mkdir(parents=True, exist_ok=True)
        in_the_way(path)
        summary = coco(own_src, out)
        ((path, reason),) = summary.skipped
        assert path == 'val2017/x/deep/b.jpg' and 'something else' in reason
        assert (summary.files, summary.reused) == (3, 3)

    def test_something_else_is_where_a_class_belongs(self, tmp_path):
        """Without its folder the classes would have other numbers."""
        src, out = tmp_path / 'src', tmp_path / 'out'
        for name in ('a', 'b'):
            write(src / name / 'x.png', photo(32, 48))
        bad = write(src / 'c' / 'x.png', photo(32, 48))
        bad.write_bytes(b'')
        folder(src, out)
        (out / 'c').rmdir()
        (out / 'c').write_text('x')
        with pytest.raises(OSError, match=named(out / 'c')):
            folder(src, out)


class TestKinds:
    """Should one be opened, the command would not end."""

    @pytest.mark.parametrize('kind', ['pipe', 'link to a pipe', 'device'])
    def test_of_a_picture(self, own_src, tmp_path, kind):
        path = own_src / 'val2017' / '000002.jpg'
        path.unlink()
        if kind == 'device':
            path.symlink_to('/dev/zero')
        else:
            pipe = own_src / 'pipe' if 'link' in kind else path
            os.mkfifo(pipe)
            if pipe != path:
                path.symlink_to(pipe)
        status, _, errors = hime(
            'encrypt', 'coco', own_src, tmp_path / 'out', '-c', 'mix2', '-j', 1, '-q'
        )
        assert status == 1
        what = 'a device' if kind == 'device' else 'a named pipe'
        assert f'missing: val2017/000002.jpg: it is {what}, not a regular file\n' in errors

    @pytest.mark.parametrize('text', ['annotations', 'list', 'manifest'])
    def test_of_a_text(self, own_src, tmp_path, text):
        out = tmp_path / 'out'
        args = ['encrypt', 'coco', own_src, out, '-c', 'mix2']
        path = own_src / 'annotations' / 'instances_val2017.json'
        if text == 'annotations':
            path.unlink()
        elif text == 'list':
            path = own_src / 'val2017' / 'list.txt'
            args = ['encrypt', 'folder', path.parent, out, '-c', 'mix2', '--list', path.name]
        else:
            path = own_src / 'hime.json'
            args = ['verify', own_src]
        os.mkfifo(path)
        status, _, errors = hime(*args)
        assert status == 1 and path.name in errors
        assert 'it is a named pipe, not a regular file' in errors


class TestWarnings:
    def test_what_a_decoder_says_is_told_of_its_picture(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: [image.pop('height') for image in c['images']],
        )
        png, jpeg = FILES['png'], FILES['jpeg']
        pictures = own_src / 'val2017'
        (pictures / '000001.jpg').write_bytes(png[:-50] + b'\xff' * 9 + png[-41:])
        (pictures / '000002.jpg').write_bytes(jpeg[:-2] + bytes(9) + jpeg[-2:])
        args = ('encrypt', 'coco', own_src, tmp_path / 'out', '-c', 'mix2', '-j', 1, '-q')
        for _ in range(2):  # also of one that stays
            status, _, errors = hime(*args)
            lines = errors.splitlines()
            assert status == 1 and len(lines) == 4
            assert lines[0].startswith('warning: val2017/000001.jpg: libpng')
            assert lines[1].startswith('warning: val2017/000002.jpg: Corrupt JPEG data')
            assert lines[2].startswith('missing: val2017/000001.jpg: OpenCV cannot decode it')
        # It is no part of what is handed over.
        assert b'Corrupt' not in (tmp_path / 'out' / 'hime.json').read_bytes()

    def test_in_this_process_nothing_is_caught(self, own_src, tmp_path, capfd):
        jpeg = FILES['jpeg']
        pictures = own_src / 'val2017'
        (pictures / '000002.jpg').write_bytes(jpeg[:-2] + bytes(9) + jpeg[-2:])
        summary = folder(pictures, tmp_path / 'out')
        assert summary.complete and not summary.warnings
        assert 'Corrupt JPEG data' in capfd.readouterr().err
