# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.datasets.tars import TarWriter, member_name, picture_path

NAMES = st.text(st.characters(exclude_characters='/\0', exclude_categories=['Cs']), min_size=1)
PATHS = st.lists(NAMES.filter(lambda name: name not in ('.', '..')), min_size=1, max_size=3)


def written(pictures: dict[str, bytes]) -> tuple[bytes, dict[str, int], TarWriter]:
    file = io.BytesIO()
    writer = TarWriter(file)
    offsets = {path: writer.add(path, data) for path, data in pictures.items()}
    writer.close()
    return file.getvalue(), offsets, writer


@given(st.dictionaries(PATHS.map('/'.join), st.binary(max_size=1100), max_size=4))
def test_a_tar_gives_back_names_and_bytes(pictures):
    data, offsets, writer = written(pictures)
    assert data == written(pictures)[0]
    assert (writer.size, writer.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    for path, picture in pictures.items():
        assert data[offsets[path] :][: len(picture)] == picture
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [one.name.lstrip('/') for one in members] == [
            member_name(path).lstrip('/') for path in pictures
        ]
        assert [tar.extractfile(one).read() for one in members] == list(pictures.values())
        for one in members:
            owner = one.uid, one.gid, one.uname, one.gname
            assert (*owner, one.mtime, one.mode) == (0, 0, '', '', 0, 0o644)


@given(PATHS.map('/'.join))
def test_member_names_lead_back(path):
    assert picture_path(member_name(path)) == path


def test_a_tar_ends_with_two_blocks_and_plain_names_have_no_pax_header():
    data, offsets, _ = written({'a/1.png': b'1'})
    assert len(data) == 4 * 512
    assert offsets == {'a/1.png': 512}
    assert data[-1024:] == bytes(1024)


@pytest.mark.parametrize('path', ['n' * 101 + '.png', 'f/' * 150 + 'a.png', 'grün/é.png'])
def test_long_and_foreign_names(path):
    data, offsets, _ = written({path: b'1'})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [member_name(path)]
    assert data[offsets[path] :][:1] == b'1'


def test_webdataset_tells_dotted_names_apart(tmp_path):
    wds = pytest.importorskip('webdataset', reason='webdataset is not installed')
    pictures = {'22.05.v1/1.1.png': b'1', '22.05.v1/1.2.png': b'2'}
    (tmp_path / 'a.tar').write_bytes(written(pictures)[0])
    samples = list(wds.WebDataset(str(tmp_path / 'a.tar'), shardshuffle=False))
    assert [one['png'] for one in samples] == [b'1', b'2']
    assert [one['__key__'] for one in samples] == ['22.05.v1/1%2E1', '22.05.v1/1%2E2']
