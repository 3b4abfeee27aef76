# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest

from hime_mm.ciphers import Cipher, Key
from hime_mm.datasets.manifest import Manifest, load_manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.datasets.writing import write_manifest, write_shard
from hime_mm.errors import ManifestError

KEY = Key(bytes(range(32)))


def row(path, **kwargs):
    facts = dict(size=3, shape=[32, 48], channels=3, ori_shape=[70, 90], scale=[0.5, 0.75])
    return dict(path=path, sha256='ab' * 32, **facts, **kwargs)


def write(root, storage='files', dataset_id='d'):
    cipher, tar = Cipher.build('mix2+shuffle'), storage == 'tar'
    head = dict(
        tool_version='0.1.0',
        kind='folder',
        mode='keyed',
        dataset_id=dataset_id,
        key_id=KEY.id,
        cipher=cipher.to_dict(),
        preprocess={},
        counts=dict(images=4, files=2, skipped=2),
        storage=storage,
    )
    store = LocalStore(str(root))
    shards = [
        write_shard(
            store,
            i,
            dataset_id,
            [row(f'{i}.png', **(dict(offset=512 * (i + 1)) if tar else {}))],
            [dict(path=f'lost{i}', reason='r')],
            dict(size=9, sha256='ab' * 32) if tar else None,
        )
        for i in range(2)
    ]
    write_manifest(store, head, shards, KEY)
    return root


@pytest.mark.parametrize('storage', ['files', 'tar'])
def test_read_back(tmp_path, storage):
    manifest = Manifest.load(write(tmp_path, storage))
    manifest.check_key(KEY)
    entries = list(manifest.entries())
    assert [(e.path, e.shard) for e in entries] == [('0.png', 0), ('1.png', 1)]
    assert [row['path'] for row in manifest.skipped] == ['lost0', 'lost1']
    shared = load_manifest(tmp_path)
    assert [shared.entry(e.path) for e in entries] == entries
    assert entries[1].offset == (1024 if storage == 'tar' else None)


def test_picture_of_a_tar(tmp_path):
    manifest = Manifest.load(write(tmp_path, 'tar'))
    (tmp_path / 'hime-000001.tar').write_bytes(b'.' * 1024 + b'abcd')
    assert manifest.read_picture(manifest.entry('1.png')) == b'abc'


def test_shard_that_was_changed(tmp_path):
    path = write(tmp_path) / 'hime-000001.json'
    path.write_text(path.read_text().replace('1.png', '2.png'))
    with pytest.raises(ManifestError, match='hime-000001.json is not the file'):
        list(Manifest.load(tmp_path).entries())


def test_shards_exchanged_or_missing(tmp_path):
    first, second = (write(tmp_path) / f'hime-00000{i}.json' for i in range(2))
    texts = first.read_bytes(), second.read_bytes()
    first.write_bytes(texts[1])
    with pytest.raises(ManifestError, match='hime-000000.json is not the file'):
        load_manifest(tmp_path)
    first.write_bytes(texts[0])
    second.unlink()
    with pytest.raises(ManifestError, match='cannot read .*hime-000001.json'):
        load_manifest(tmp_path)


def test_shard_of_another_data_set(tmp_path):
    """By an owner's mistake: all hashes fit."""
    store = LocalStore(str(write(tmp_path)))
    state = Manifest.load(tmp_path).state
    head = {
        k: v
        for k, v in state.items()
        if k not in ('format', 'format_version', 'shards', 'checksum', 'mac')
    }
    write_manifest(store, head, [write_shard(store, 0, 'other', [row('0.png')], [])], KEY)
    with pytest.raises(ManifestError, match='is not shard 0 of'):
        list(Manifest.load(tmp_path).entries())
