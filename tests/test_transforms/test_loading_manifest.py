# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json
import shutil
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading_parts import loaded
from version_1 import as_version_1, sealed

from hime_mm.datasets.entries import CompactFiles, FileEntry
from hime_mm.datasets.manifest import Manifest, load_manifest
from hime_mm.errors import ManifestError, PictureError
from hime_mm.transforms import LoadEncryptedMeta


def test_where_the_manifest_is(encrypted, tmp_path, monkeypatch):
    root = encrypted('paper-mi')
    path = root / 'some/001.png'
    expected = LoadEncryptedMeta()(loaded(path))
    assert expected['ori_shape'] == (64, 48)
    for manifest in (root, str(root / 'hime.json')):
        results = LoadEncryptedMeta(manifest=manifest)(loaded(path))
        assert results['ori_shape'] == (64, 48)
    # Relative, through links, and with images apart from the manifest.
    (tmp_path / 'link').symlink_to(root)
    monkeypatch.chdir(tmp_path)
    results = LoadEncryptedMeta()(loaded('link/some/../some/001.png'))
    assert results['ori_shape'] == (64, 48)
    (tmp_path / 'images').symlink_to(root / 'some')
    for kind in (str, Path):
        sample = dict(loaded('images/001.png'), img_path=kind('images/001.png'))
        results = LoadEncryptedMeta(kind('link'), verify=True)(sample)
        assert results['ori_shape'] == (64, 48)


def rewritten(root, target, **changes):
    """A copy of an encrypted data set with another manifest."""
    shutil.copytree(root, target)
    state = json.loads((as_version_1(target) / 'hime.json').read_text())
    state.pop('mac', None)
    (target / 'hime.json').write_text(json.dumps(sealed({**state, **changes})))
    return target


def test_verify(encrypted, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(encrypted('paper-mi'), root)
    path = root / 'some/001.png'
    assert LoadEncryptedMeta(verify=True)(loaded(path))
    img = cv2.imread(str(path))
    img[3, 4] ^= 1
    cv2.imwrite(str(path), img)
    # The size alone is right.
    assert LoadEncryptedMeta()(loaded(path))
    with pytest.raises(PictureError, match='001.png .*SHA-256'):
        LoadEncryptedMeta(verify=True)(loaded(path))


def test_a_changed_manifest_is_refused(encrypted, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(encrypted('paper-mi'), root)
    text = (as_version_1(root) / 'hime.json').read_text()
    (root / 'hime.json').write_text(text.replace('[64, 48]', '[48, 64]'))
    with pytest.raises(ManifestError, match='hime.json .*checksum'):
        LoadEncryptedMeta()(loaded(root / 'some/001.png'))


# The manifest in memory --------------------------------------------------------

paths = st.text(min_size=1, max_size=12)
entries = st.builds(
    FileEntry,
    path=paths,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    size=st.integers(0, 1 << 40),
    shape=st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 20)),
    channels=st.integers(1, 4),
    ori_shape=st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 20)),
    scale=st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)),
)


@given(st.lists(entries, unique_by=lambda one: one.path), st.lists(paths))
def test_compact_files(some, others):
    files = CompactFiles(some)
    assert len(files) == len(some)
    for one in some:
        assert files.get(one.path) == one
    for path in set(others) - {one.path for one in some}:
        assert files.get(path) is None


def test_compact_files_are_compact():
    files = CompactFiles(
        FileEntry(
            f'train/n{i:08d}/n{i:08d}.png', f'{i:064x}', i, (64, 48), 3, (128, 96), (0.5, 0.5)
        )
        for i in range(1000)
    )
    assert files._rows.nbytes + files._names.nbytes <= 150 * 1000
    assert files.get('train/n00000321/n00000321.png').size == 321


def test_compact_manifest(encrypted, tmp_path):
    root = encrypted('paper-rs')
    manifest, other = load_manifest(root), Manifest.load(root)
    assert load_manifest(str(root / 'hime.json')) is manifest
    assert isinstance(other.files, dict) and len(other.files) == 4
    assert manifest.cipher == other.cipher
    for name, entry in other.files.items():
        for path in (name, root / name):
            assert manifest.entry(str(path)) == entry
        assert manifest.layout(entry).to_dict() == other.layout(entry).to_dict()
    with pytest.raises(ManifestError, match='some/004.png .*hime.json'):
        manifest.entry('some/004.png')
    with pytest.raises(ManifestError, match='hime.json: '):
        load_manifest(tmp_path)


def test_a_new_manifest_is_read_again(encrypted, tmp_path):
    root = rewritten(encrypted('paper-mi'), tmp_path / 'copy')
    path = root / 'some/001.png'
    assert LoadEncryptedMeta(coordinates='original')(loaded(path))
    first = load_manifest(root)
    state = json.loads((root / 'hime.json').read_text())
    (root / 'hime.json').write_text(json.dumps(sealed({**state, 'dataset_id': 'x', 'files': []})))
    assert load_manifest(root) is not first
    with pytest.raises(ManifestError, match='001.png .*hime.json'):
        LoadEncryptedMeta()(loaded(path))
