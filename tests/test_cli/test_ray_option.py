# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`--ray`: who does the shards, and what of the key they are told."""

import pytest
from cli_parts import KEY, invoke
from owner_data import forms_of_key, found, photo, write

import hime_mm.cli.encrypt
from hime_mm.ciphers import KEY_ENV
from hime_mm.ciphers.reference import KeyReference
from hime_mm.encryption.engines import OnRay
from hime_mm.encryption.job import Summary


@pytest.fixture
def src(tmp_path):
    write(tmp_path / 'src' / 'a.png', photo(32, 32))
    return tmp_path / 'src'


@pytest.fixture
def asked(monkeypatch):
    """What the functions behind the commands were called with."""
    calls = []

    def take(*args, **options):
        calls.append(options)
        return Summary('out', 'd', 1)

    for name in ('encrypt_folder', 'encrypt_coco', 'encrypt_shards'):
        monkeypatch.setattr(hime_mm.cli.encrypt, name, take)
    return calls


def commands(src):
    """Arguments of each command that has the option."""
    out = src.parent / 'out'
    return (
        ('encrypt', 'folder', src, out, '-c', 'shuffle'),
        ('encrypt', 'coco', src, out, '-c', 'shuffle'),
        ('encrypt', 'run', out, '--shards', '2/3'),
    )


class TestRay:
    @pytest.mark.parametrize('address', ['auto', 'local', '10.0.0.1:6379', 'ray://head:10001'])
    def test_address(self, src, keys, asked, address):
        for command in commands(src):
            invoke(*command, '--key', keys, '--ray', address)
            assert asked[-1]['engine'] == OnRay(address)
        assert len(asked) == 3

    @pytest.mark.parametrize('address', ['', 'none', 'head', 'head:', ':6379', 'head:x'])
    def test_no_address(self, src, keys, asked, address):
        for command in commands(src):
            assert 'HOST:PORT' in invoke(*command, '--key', keys, '--ray', address, status=2)
        assert not asked

    def test_without(self, src, keys, asked):
        for command in commands(src):
            invoke(*command, '--key', keys)
            assert asked[-1]['engine'] is None and asked[-1]['key'] == KEY
            assert asked[-1]['workers'] > 0

    def test_workers_get_where_the_key_is(self, src, keys, asked, monkeypatch):
        """They are in other folders, and have the environment of their node."""
        monkeypatch.chdir(keys.parent)
        env = {'MINE': keys.read_text(), KEY_ENV: keys.read_text()}
        for command in commands(src):
            for args, place in (
                (('--key', keys.name), KeyReference.file(str(keys))),
                (('--key-env', 'MINE'), KeyReference.env('MINE')),
                ((), KeyReference.env(KEY_ENV)),
            ):
                invoke(*command, *args, '--ray', 'auto', env=env)
                assert asked[-1]['key'] == place
                assert not found(forms_of_key(KEY.secret_bytes()), [repr(asked[-1]).encode()])

    def test_no_key(self, src, asked):
        for command in commands(src):
            more = () if command[1] == 'run' else ('--one-way',)
            invoke(*command, *more, '--ray', 'auto')
            assert asked[-1]['key'] is None

    def test_one_way_minds_no_key_of_the_environment(self, src, keys, asked):
        for command in commands(src)[:2]:
            env = {KEY_ENV: keys.read_text()}
            invoke(*command, '--one-way', '--ray', 'auto', env=env)
            assert asked[-1]['key'] is None

    def test_a_descriptor_is_refused(self, src, asked):
        for command in commands(src):
            said = invoke(*command, '--key-fd', 0, '--ray', 'auto', status=2)
            said = ' '.join(said.split())
            assert '--key-fd' in said and '--key FILE or --key-env NAME' in said
        assert not asked

    def test_two_places_are_refused(self, src, keys, asked):
        for command in commands(src):
            args = ('--key', keys, '--key-env', 'X', '--ray', 'auto')
            assert 'give one of' in invoke(*command, *args, status=2)
        assert not asked

    def test_processes_are_refused(self, src, keys, asked):
        for command in commands(src):
            said = invoke(*command, '--key', keys, '-j', 2, '--ray', 'auto', status=2)
            assert '-j' in said and '--ray' in said
        assert not asked

    def test_nobody_answers(self, src, keys, tmp_path):
        out = tmp_path / 'out'
        args = ('-c', 'shuffle', '--key', keys, '-q', '--ray', '127.0.0.1:9')
        said = invoke('encrypt', 'folder', src, out, *args, status=1)
        assert "'127.0.0.1:9'" in said and 'Traceback' not in said
