# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is done with a data set at an URL: it is told of, compared, decrypted, its boxes mapped."""

import json

import pytest
from click.testing import CliRunner
from owner_data import key_file, make_coco, tree
from s3_server import bucket, s3_server  # noqa: F401

from hime_mm.apis import decrypt_dataset, encrypt_coco, map_coco_results, verify_dataset
from hime_mm.ciphers import Key
from hime_mm.cli import main
from hime_mm.datasets.stores import open_store
from hime_mm.errors import BoxError, EncryptionError, ManifestError

KEY = Key(bytes(range(32)))
ANN = 'annotations/instances_val2017.json'


@pytest.fixture(scope='module', params=[pytest.param('files', marks=pytest.mark.slow), 'tar'])
def local(request, tmp_path_factory):
    """A data set on this machine."""
    root = tmp_path_factory.mktemp('local')
    make_coco(root / 'coco')
    out = root / 'out'
    options = dict(key=KEY, progress=False, shard_size=3, storage=request.param)
    encrypt_coco(str(root / 'coco'), str(out), 'shuffle', **options)
    return out


@pytest.fixture
def url(bucket, local):  # noqa: F811
    """The same in a bucket."""
    store = open_store(f'{bucket}/out')
    for path, data in tree(local).items():
        store.write(path, data)
    return store.url


def results_of(local, path):
    coco = json.loads((local / ANN).read_text())
    names = ('image_id', 'category_id', 'bbox')
    rows = [dict({k: ann[k] for k in names}, score=0.5) for ann in coco['annotations']]
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.slow
def test_it_is_as_on_this_machine(url, local, tmp_path):
    key = key_file(tmp_path / 'hime.key', bytes(range(32)))

    def hime(*args):
        result = CliRunner(env=dict(HIME_KEY=None)).invoke(main, list(map(str, args)))
        assert result.exit_code == 0, result.output
        return result.output

    assert 'authenticated with the key' in hime('verify', url, '--key', key, '-q', '-j', 2)
    assert hime('info', url).replace(url, str(local)) == hime('info', local)
    results = results_of(local, tmp_path / 'results.json')
    for place, name in ((url, 'there'), (local, 'here')):
        hime('decrypt', place, tmp_path / name, '--key', key, '-q', '-j', 1)
        hime(*('boxes', results, tmp_path / f'{name}.json', '--data', place, '--key', key, '-q'))
    assert tree(tmp_path / 'there') == tree(tmp_path / 'here')
    assert (tmp_path / 'there.json').read_bytes() == (tmp_path / 'here.json').read_bytes()
    assert len(tree(tmp_path / 'here')) == 4


def problems(url):
    return dict(verify_dataset(url, KEY, progress=False).problems)


def test_what_is_wrong_is_found(url, local):
    store = open_store(url)
    assert problems(url) == {}
    store.write('more/notes.txt', b'hime-key-v1:' + b'0' * 64)
    store.write('more/plain.jpg', b'1')
    store.write(ANN, store.read(ANN) + b' ')
    store.remove('hime-000001.json')
    picture = next(path for path in tree(local) if path.endswith(('0.png', '1.png', '0.tar')))
    data = store.read(picture)
    store.write(picture, data[:-40] + bytes(40) if picture.endswith('.png') else data[:-512])
    found = problems(url)
    assert 'holds a key' in found['more/notes.txt']
    assert 'not be encrypted' in found['more/plain.jpg']
    assert 'was changed' in found[ANN]
    assert 'No such file' in found['hime-000001.json']
    assert 'was changed' in found[picture]


def test_what_belongs_to_it(url, local, tmp_path):
    results = results_of(local, tmp_path / 'results.json')
    out = str(tmp_path / 'out.json')

    def run(**more):
        return map_coco_results(results, out, url, key=KEY, progress=False, force=True, **more)

    assert run().results == run(annotations=ANN).results == run(annotations=f'{url}/{ANN}').results
    assert run(annotations=str(local / ANN)).results == run().results
    with pytest.raises(BoxError, match=f'{url} lists no annotation file other.json: .*{ANN}'):
        run(annotations='other.json')
    for target in (url, f'{url}/plain'):
        with pytest.raises(EncryptionError, match='not empty|with the encrypted ones'):
            decrypt_dataset(url, target, KEY, progress=False)
    plain = url.replace('/out', '/plain')
    decrypt_dataset(url, plain, KEY, progress=False)
    decrypt_dataset(str(local), str(tmp_path / 'plain'), KEY, progress=False)
    for path, data in tree(tmp_path / 'plain').items():
        assert open_store(plain).read(path) == data
    with pytest.raises(EncryptionError, match='not empty'):
        decrypt_dataset(str(local), plain, KEY, progress=False)


def test_nothing_is_there(bucket):  # noqa: F811
    for function in (verify_dataset, lambda url: decrypt_dataset(url, 'plain', KEY)):
        with pytest.raises(ManifestError, match=rf'{bucket}/none/hime.json: No such file'):
            function(f'{bucket}/none')
