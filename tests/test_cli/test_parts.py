# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`hime encrypt plan`, `run` and `finish`, and what is added or tried again."""

import pytest
from click.testing import CliRunner
from owner_data import key_file, make_coco, photo, tree, write

from hime_mm.cli import main

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture
def key(tmp_path):
    return key_file(tmp_path / 'hime.key')


def hime(*args, status=0):
    result = CliRunner(env=dict(HIME_KEY=None)).invoke(main, list(map(str, args)))
    assert result.exit_code == status, result.output
    return result.output


def settings(key, *more):
    return ('-c', 'shuffle', '--key', key, '--dataset-id', 'd', '--shard-size', 2, '-q', *more)


@pytest.mark.parametrize('kind', ['coco', 'folder'])
@pytest.mark.parametrize('fmt', ['png', 'tar', 'tar:webp'])
def test_parts_give_what_one_command_gives(tmp_path, key, kind, fmt):
    src = make_coco(tmp_path / 'src')
    src = src if kind == 'coco' else src / 'val2017'
    one, out = tmp_path / 'one', tmp_path / 'out'
    hime('encrypt', kind, src, one, *settings(key, '--format', fmt, '-j', 1))
    said = hime('encrypt', 'plan', kind, src, out, *settings(key, '--format', fmt))
    assert '4 pictures are planned' in said and f'hime encrypt finish {out}' in said
    said = hime('encrypt', 'run', out, '--shards', '2/2', '--key', key, '-j', 1, '-q')
    assert '2 of 2 pictures of these shards are there' in said
    said = hime('encrypt', 'finish', out, '--key', key, '-q', status=1)
    assert '1 of 2 shards' in said and f'hime encrypt run {out}' in said
    hime('encrypt', 'run', out, '--shards', '1/2', '--key', key, '-j', 1, '-q')
    assert '4 of 4 pictures encrypted' in hime('encrypt', 'finish', out, '--key', key, '-q')
    assert tree(out) == tree(one)
    hime('verify', out, '--key', key, '-q', '-j', 1)


@pytest.mark.parametrize('part', ['0/2', '3/2', '1', 'a/b', '1/0', '-1/2'])
def test_parts_that_are_none(tmp_path, part):
    said = hime('encrypt', 'run', tmp_path, '--shards', part, status=2)
    assert '--shards' in said and repr(part) in said


def test_without_a_plan_or_with_another_key(tmp_path, key):
    out = tmp_path / 'out'
    assert 'hime encrypt plan' in hime('encrypt', 'finish', out, '--key', key, '-q', status=1)
    src = make_coco(tmp_path / 'src')
    hime('encrypt', 'plan', 'coco', src, out, *settings(key))
    other = key_file(tmp_path / 'other.key', bytes(32))
    for command in ('run', 'finish'):
        said = hime('encrypt', command, out, '--key', other, '-q', status=1)
        assert 'the plan has the key' in said
        assert 'no key' in hime('encrypt', command, out, '-q', status=1)


def test_add_and_retry(tmp_path, key):
    src, out = tmp_path / 'src', tmp_path / 'out'
    for name in ('a/1.png', 'b/2.png'):
        write(src / name, photo(32, 48))
    bad = write(src / 'a' / '3.png', photo(32, 48, 3))
    good = bad.read_bytes()
    bad.write_bytes(b'')
    args = ('encrypt', 'folder', src, out, *settings(key, '-j', 1))
    assert 'missing: a/3.png' in hime(*args, status=1)
    assert 'missing: a/3.png' in hime(*args, '--retry-failed', status=1)
    bad.write_bytes(good)
    hime(*args)
    write(src / 'b' / 'new.png', photo(32, 48, 4))
    assert '`--add`' in hime(*args, status=1)
    assert '1 of 1 pictures encrypted, added to those' in hime(*args, '--add')
    hime('verify', out, '--key', key, '-q', '-j', 1)
