# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Mean and standard deviation of what was written, in the manifest."""

import json

import numpy as np
import pytest
from encryption_parts import coco, folder
from owner_data import photo, read, write

from hime_mm.apis import verify_dataset
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption.describe import describe_dataset


def expected(out):
    """Read again, as colour pictures of 8 bits."""
    import cv2

    rows = [
        cv2.imread(str(path))[:, :, ::-1].reshape(-1, 3).astype(float)
        for path in sorted(out.rglob('*.png'))
    ]
    pixels = np.concatenate(rows)
    return len(pixels), pixels.mean(axis=0), pixels.std(axis=0)


def check(out):
    found = Manifest.load(out).state['statistics']
    pixels, mean, std = expected(out)
    assert found['pixels'] == pixels
    np.testing.assert_allclose(found['mean'], mean, atol=1e-5)
    np.testing.assert_allclose(found['std'], std, atol=1e-5)
    return found


@pytest.mark.parametrize('cipher', ['shuffle', 'center+erode2+shuffle', 'mix2'])
@pytest.mark.parametrize('workers', [1, 2])
def test_are_those_of_the_files(coco_src, tmp_path, cipher, workers):
    coco(coco_src, tmp_path / 'out', cipher, workers=workers, shard_size=3)
    found = check(tmp_path / 'out')
    assert all(abs(mean - 128) < 1 for mean in found['mean']) == cipher.startswith('center')


def test_of_all_views(coco_src, tmp_path):
    coco(coco_src, tmp_path / 'out', views=2)
    check(tmp_path / 'out')


def test_grey_alpha_and_16_bits(tmp_path):
    src, img = tmp_path / 'src', photo(64, 80)
    write(src / 'n' / 'grey.png', img[..., 0])
    write(src / 'n' / 'alpha.png', np.dstack([img, img[..., 0]]))
    write(src / 'n' / 'deep.png', img.astype(np.uint16) * 257)
    folder(src, tmp_path / 'out', preprocess=dict(color_type='unchanged'))
    kinds = {read(path).dtype for path in (tmp_path / 'out').rglob('*.png')}
    assert kinds == {np.dtype(np.uint8), np.dtype(np.uint16)}
    check(tmp_path / 'out')


def test_said(coco_src, tmp_path):
    coco(coco_src, tmp_path / 'out', 'center+shuffle')
    manifest = Manifest.load(tmp_path / 'out')
    assert manifest.statistics == {
        name: manifest.state['statistics'][name] for name in ('mean', 'std')
    }
    (line,) = (
        line for line in describe_dataset(manifest).splitlines() if line.startswith('normalize')
    )
    assert 'mean 12' in line and f'{manifest.statistics["std"][2]:.1f}' in line


class TestAdded:
    def test_count_with_the_others(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'n' / 'a.png', photo(64, 80))
        folder(src, tmp_path / 'out')
        write(src / 'n' / 'b.png', 255 - photo(48, 64))
        folder(src, tmp_path / 'out', add=True)
        check(tmp_path / 'out')
        folder(src, tmp_path / 'all')
        both = [Manifest.load(tmp_path / name).state['statistics'] for name in ('out', 'all')]
        np.testing.assert_allclose(both[0]['std'], both[1]['std'], atol=1e-5)

    def test_nothing_changes_nothing(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        write(src / 'n' / 'a.png', photo(64, 80))
        folder(src, out)
        before = Manifest.load(out).state['statistics']
        (src / 'n' / 'b.png').write_bytes(b'no picture')
        folder(src, out, add=True)
        assert Manifest.load(out).state['statistics'] == before

    def test_to_one_that_has_none(self, tmp_path):
        """Nothing is said, rather than what holds for a part."""
        src, out = tmp_path / 'src', tmp_path / 'out'
        write(src / 'n' / 'a.png', photo(64, 80))
        folder(src, out)
        state = json.loads((out / 'hime.json').read_text())
        del state['statistics']
        write_again(out, state)
        assert Manifest.load(out).statistics == {}
        write(src / 'n' / 'b.png', photo(48, 64))
        folder(src, out, add=True)
        assert 'statistics' not in Manifest.load(out).state
        assert verify_dataset(str(out), progress=False).ok


def write_again(out, state):
    """The manifest with another head, sealed by the key."""
    from encryption_parts import KEY

    from hime_mm.datasets.stores import LocalStore
    from hime_mm.datasets.writing import write_manifest

    shards = state.pop('shards')
    for name in ('checksum', 'mac', 'format', 'format_version'):
        state.pop(name)
    write_manifest(LocalStore(str(out)), state, shards, KEY)


def test_none_where_no_picture_is(tmp_path):
    src = tmp_path / 'src'
    (src / 'n').mkdir(parents=True)
    (src / 'n' / 'broken.png').write_bytes(b'no picture')
    write(src / 'n' / 'a.png', photo(64, 80))
    folder(src, tmp_path / 'out')
    check(tmp_path / 'out')
    (src / 'n' / 'a.png').write_bytes(b'no picture')
    folder(src, tmp_path / 'none')
    assert 'statistics' not in Manifest.load(tmp_path / 'none').state


@pytest.mark.parametrize(
    'wrong',
    [
        [],
        dict(pixels=1, mean=[1, 2, 3]),
        dict(pixels=0, mean=[1, 2, 3], std=[1, 2, 3]),
        dict(pixels=1, mean=[1, 2], std=[1, 2, 3]),
        dict(pixels=1, mean='abc', std=[1, 2, 3]),
        dict(pixels=1, mean=[1, 2, 256], std=[1, 2, 3]),
        dict(pixels=1, mean=[1, 2, True], std=[1, 2, 3]),
        dict(pixels=1, mean=[1, 2, float('nan')], std=[1, 2, 3]),
    ],
)
def test_that_are_none(tmp_path, wrong):
    from hime_mm.errors import ManifestError

    write(tmp_path / 'src' / 'n' / 'a.png', photo(64, 80))
    folder(tmp_path / 'src', tmp_path / 'out')
    state = json.loads((tmp_path / 'out/hime.json').read_text())
    write_again(tmp_path / 'out', dict(state, statistics=wrong))
    with pytest.raises(ManifestError, match='damaged'):
        Manifest.load(tmp_path / 'out')
