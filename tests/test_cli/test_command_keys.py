# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where the command finds keys, and that it tells none."""

import errno
import os
import shutil

import pytest
from cli_parts import KEY, invoke
from click.testing import CliRunner
from owner_data import (
    SECRET,
    forms_of_key,
    forms_of_permutation,
    found,
    hime,
    hime_env,
    key_file,
    tree,
)

from hime_mm.ciphers import Key
from hime_mm.cli import main
from hime_mm.datasets.manifest import Manifest


class TestKeys:
    @pytest.mark.slow
    def test_from_anywhere_the_same(self, coco_src, keys, encrypted, tmp_path):
        text = keys.read_text()
        common = ('encrypt', 'coco', coco_src)
        more = ('-c', 'shuffle', '--dataset-id', 'd', '-j', 1, '-q')
        invoke(*common, tmp_path / '1', *more, env=dict(HIME_KEY=text))
        invoke(
            *common,
            tmp_path / '2',
            *more,
            '--key-env',
            'MINE',
            env=dict(MINE=text, HIME_KEY='broken'),
        )
        fd = os.open(keys, os.O_RDONLY)
        try:
            invoke(*common, tmp_path / '3', *more, '--key-fd', fd)
        finally:
            os.close(fd)
        with open(keys) as file:
            status, _, _ = hime(*common, tmp_path / '4', *more, '--key-fd', 0, stdin=file)
        assert status == 0
        for name in '1234':
            assert tree(tmp_path / name) == tree(encrypted)

    def test_two(self, coco_src, keys, tmp_path):
        output = invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'out',
            '-c',
            'shuffle',
            '--key',
            keys,
            '--key-env',
            'X',
            status=2,
        )
        assert '--key-env' in output and '--key-fd' in output

    @pytest.mark.parametrize(
        'args, things',
        [
            ((), ["'shuffle'", 'one-way']),
            (('--key', 'none.key'), ['none.key', os.strerror(errno.ENOENT)]),
            (('--key-env', 'NONE'), ['variable NONE', 'set']),
            (('--key-fd', '99'), ['descriptor 99', os.strerror(errno.EBADF)]),
            (('--key', '/dev/null'), ['/dev/null', 'regular file', '`--key-fd N`']),
            (('--key', '/dev'), ['/dev']),
            (('--key-fd', '-1'), ['descriptor -1', 'negative']),
            (('--key-fd', 2**31), [f'descriptor {2**31}', os.strerror(errno.EBADF)]),
            (('--key-fd', 10**30), [f'descriptor {10**30}', os.strerror(errno.EBADF)]),
            (('--key-fd', -(10**30)), [f'descriptor -{10**30}', os.strerror(errno.EBADF)]),
        ],
    )
    def test_none(self, coco_src, tmp_path, args, things):
        output = invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'shuffle', *args, status=1
        )
        assert output.startswith('hime: ') and all(thing in output for thing in things)
        assert output.count('\n') == 1
        assert not (tmp_path / 'out').exists()

    @pytest.mark.skipif(not os.path.isdir('/dev/fd'), reason='no /dev/fd')
    @pytest.mark.parametrize('name', ['/dev/fd/{}', '/proc/self/fd/{}', 'fifo'])
    def test_process_substitution(self, encrypted, keys, tmp_path, name):
        """`--key <(command)`: refused, and what is named for it works."""
        reader, writer = os.pipe()
        try:
            os.write(writer, keys.read_bytes())
            if name == 'fifo':
                os.mkfifo(tmp_path / name, 0o600)
                held = os.open(tmp_path / name, os.O_RDWR)
                os.write(held, keys.read_bytes())
                path = tmp_path / name
            else:
                path, held = name.format(reader), os.dup(reader)
            output = invoke('verify', encrypted, '--key', path, status=1)
            os.close(held)
            assert '`--key-fd N`' in output and output.count('\n') == 1
            os.close(writer)
            output = invoke('verify', encrypted, '--key-fd', reader, '-j', 1, '-q')
            assert 'authenticated with the key' in output
        finally:
            os.close(reader)

    def test_verify_asks_for_no_key_where_there_was_none(self, coco_src, tmp_path):
        invoke('encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'mix2', '-j', 1, '-q')
        invoke('verify', tmp_path / 'out', '-j', 1, env=dict(HIME_KEY='broken'))

    def test_one_way_takes_no_key_from_the_environment(self, coco_src, keys, tmp_path):
        invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'out',
            '-c',
            'shuffle',
            '--one-way',
            '-j',
            1,
            env=dict(HIME_KEY=keys.read_text()),
        )
        assert Manifest.load(tmp_path / 'out').key_id is None
        output = invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'b',
            '-c',
            'shuffle',
            '--one-way',
            '--key',
            keys,
            status=1,
        )
        assert '`--one-way`' in output

    def test_wrong(self, encrypted, keys, tmp_path):
        other = keys.with_name('other.key')
        for args in (('verify', encrypted), ('decrypt', encrypted, tmp_path / 'plain')):
            output = invoke(*args, '--key', other, status=1)
            assert output.startswith('hime: ')
            assert KEY.id in output and Key.from_file(other).id in output
        output = invoke('decrypt', encrypted, tmp_path / 'plain', status=1)
        assert output.startswith('hime: ') and KEY.id in output
        assert not (tmp_path / 'plain').exists()

    def test_readable_by_others(self, encrypted, tmp_path):
        path = key_file(tmp_path / 'k')
        path.chmod(0o644)
        output = invoke('verify', encrypted, '--key', path, status=1)
        assert 'chmod 600' in output


class TestKeysInTheWrongPlace:
    @pytest.mark.parametrize(
        'text',
        [SECRET.hex(), SECRET.hex()[:60].upper(), f'hime-key-v1:{SECRET.hex()}', 'hime-key-v1:12'],
    )
    @pytest.mark.parametrize(
        'args',
        [
            ('verify', '.', '--key-fd'),
            ('verify', '.', '--key'),
            ('verify', '.', '--key-env'),
            ('keygen',),
            ('encrypt', 'folder', '.', 'out', '-c'),
            ('encrypt', 'folder', '.', 'out', '-c', 'mix2', '--dataset-id'),
        ],
    )
    def test_are_not_repeated(self, tmp_path, args, text):
        for given in ([*args, text], [*args[:-1], f'{args[-1]}={text}']):
            if given[0] == f'keygen={text}' or '-c=' in given[-1]:
                continue
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path)
                result = CliRunner().invoke(main, given)
            assert result.exit_code == 1
            assert result.output.startswith('hime: a key itself ')
            assert text not in result.output
            assert not list(tmp_path.iterdir())

    def test_ids_and_hashes_are_no_keys(self, coco_src, tmp_path):
        for number, name in enumerate(('0' * 32, 'a' * 40)):
            result = CliRunner().invoke(
                main,
                [
                    'encrypt',
                    'coco',
                    str(coco_src),
                    str(tmp_path / str(number)),
                    '-c',
                    'mix2',
                    '--dataset-id',
                    name,
                    '-q',
                    '-j',
                    '1',
                ],
            )
            assert result.exit_code == 0, result.output

    def test_key_of_the_environment_is_not_asked_of_other_data(self, coco_src, tmp_path, keys):
        out = str(tmp_path / 'out')
        assert (
            CliRunner()
            .invoke(main, ['encrypt', 'coco', str(coco_src), out, '-c', 'mix2', '-q', '-j', '1'])
            .exit_code
            == 0
        )
        env = dict(HIME_KEY=SECRET.hex())
        result = CliRunner().invoke(main, ['verify', out, '-q', '-j', '1'], env=env)
        assert result.exit_code == 0 and 'not authenticated' in result.output
        # One that is named is: nobody may take its mark away.
        result = CliRunner().invoke(main, ['verify', out, '-q', '-j', '1', '--key', str(keys)])
        assert result.exit_code == 1


class TestSecrets:
    @pytest.mark.slow
    def test_nothing_is_told(self, coco_src, keys, tmp_path):
        """Neither in what is handed over nor in what is printed."""
        src = shutil.copytree(coco_src, tmp_path / 'src')
        bad = src / 'val2017' / '000002.jpg'
        good = bad.read_bytes()
        bad.write_bytes(b'')
        out, told = tmp_path / 'out', []

        def run(*args, status=0, **env):
            done = hime(*args, env=hime_env(**env))
            assert done[0] == status, done
            told.extend(part.encode() for part in done[1:])

        def refused(*args, **env):
            told.append(invoke(*args, status=1, env=env).encode())

        text = SECRET.hex()
        encrypt = (
            'encrypt',
            'coco',
            src,
            out,
            '-c',
            'center+shuffle',
            '--views',
            2,
            '-j',
            2,
            '--dataset-id',
            'd',
        )
        run(*encrypt, '--key', keys, status=1)
        contents = list(tree(out).values())
        bad.write_bytes(good)
        run(*encrypt, '--key', keys)
        run(*encrypt, HIME_KEY=text)
        run('verify', out, '--key', keys)
        run('info', out)
        run('info', out, '--json')
        run('decrypt', out, tmp_path / 'plain', '--key', keys, '--partial')
        # A key in the wrong place, or a broken one.
        for wrong in (text, f'hime-key-v1:{text}', text.upper()):
            refused('verify', out, '--key', wrong)
            refused('verify', out, '--key-env', wrong)
            refused('keygen', wrong)
        refused('verify', out, HIME_KEY=f'{text}0')
        refused('verify', out, HIME_KEY=f'key={text}')
        (tmp_path / 'broken').write_text(f'{text}\n{text}')
        (tmp_path / 'broken').chmod(0o600)
        refused('decrypt', out, tmp_path / 'p2', '--key', tmp_path / 'broken')
        (tmp_path / 'broken').chmod(0o644)
        refused('verify', out, '--key', tmp_path / 'broken')
        refused('verify', out, '--key', keys.with_name('other.key'))

        contents += [*tree(out).values(), *told]
        assert sum(map(len, told)) > 3000
        assert not found(forms_of_key(SECRET), contents)
        manifest = Manifest.load(out)
        assert len(manifest.files) == 8
        for entry in manifest.files.values():
            permutation = manifest.secret_layout(entry, KEY).permutation
            assert not found(forms_of_permutation(permutation), contents)
