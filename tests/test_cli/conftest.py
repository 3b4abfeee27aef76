# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from concurrent.futures import ThreadPoolExecutor

import pytest
from cli_parts import invoke
from owner_data import key_file, make_coco


@pytest.fixture(scope='module')
def no_processes():
    """A thread does what else a process does that takes half a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'hime_mm.encryption.engines.local.Processes',
            lambda workers, context, initializer, initargs: ThreadPoolExecutor(1, '', *initargs),
        )
        yield


@pytest.fixture(scope='module')
def coco_src(tmp_path_factory):
    """Read only."""
    return make_coco(tmp_path_factory.mktemp('coco') / 'src')


@pytest.fixture(scope='module')
def keys(tmp_path_factory):
    """A key file; another one lies beside it."""
    folder = tmp_path_factory.mktemp('keys')
    key_file(folder / 'other.key', bytes(range(32)))
    return key_file(folder / 'owner.key')


@pytest.fixture(scope='module')
def encrypted(coco_src, keys, tmp_path_factory):
    """Read only."""
    out = tmp_path_factory.mktemp('encrypted') / 'out'
    invoke(
        'encrypt',
        'coco',
        coco_src,
        out,
        '-c',
        'shuffle',
        '--key',
        keys,
        '--dataset-id',
        'd',
        '-j',
        1,
        '-q',
    )
    return out
