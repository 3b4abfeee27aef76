# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The trials, each with a small number of cases, and what runs them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import trials.run
from owner_data import SECRET
from picture_files import png_of, png_parts
from trials import (
    TRIALS,
    ciphers,
    demo,
    hosts,
    million,
    mutation,
    pictures,
    record,
    rest,
    shards,
    texts,
)
from trials.pictures import files
from trials.state import ROOT, NotAtHand, State

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest


@pytest.fixture
def page(tmp_path):
    path = tmp_path / 'trials.md'
    path.write_text('# Trials\n\nBefore.\n\n' + record._HEAD + '\n| --- |\n\nAfter.\n')
    return path


def start(page, *args):
    command = [sys.executable, 'tests/trials/run.py', '--work-dir', page.parent, '--page', page]
    return subprocess.Popen(
        [*map(str, command), *map(str, args)],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(page, *args):
    """Status, output, and the row of each trial."""
    process = start(page, *args)
    out, err = process.communicate(timeout=300)
    assert 'Traceback' not in err, err
    return process.returncode, out, record.read_rows(page)


def state_of(page, name):
    return State.load(page.parent / name / 'state.json')


FEW_PICTURES = """
import sys
sys.path.insert(0, {root!r} + '/tests')
from functools import partial
from scripts import load_script
demo = load_script('tools/demo.py')
demo.make_demo_coco = partial(demo.make_demo_coco, num_train=16, num_val=4, size=128)
demo.main()
"""


class TestTwins:
    """The cases of a trial, few of them."""

    def test_ciphers(self, tmp_path):
        # Further ones: the properties in test_ciphers/.
        for case in range(30):
            assert ciphers.check(case, tmp_path) == 'as expected'

    @pytest.mark.parametrize(
        'cases',
        [pytest.param(80, marks=pytest.mark.slow), pytest.param(600, marks=pytest.mark.trial)],
    )
    def test_pictures(self, tmp_path, monkeypatch, cases):
        monkeypatch.setattr(pictures, 'BATCH', 200)
        state = State('', '', cases)
        list(pictures.steps(state, tmp_path))
        assert state.is_complete and not state.failures
        counts = state.facts['counts']
        assert counts['encrypted'] > cases / 5 and counts['refused'] > cases / 5
        assert sum(counts.values()) == cases

    def test_texts(self, tmp_path):
        results = [texts.check(case, tmp_path) for case in range(150)]
        for kind in texts.READERS:
            assert results.count(f'{kind} read') and results.count(f'{kind} refused'), kind

    def test_texts_that_are_not_damaged(self, tmp_path, monkeypatch):
        for name in ('mutate_json', 'mutate_bytes'):
            monkeypatch.setattr(texts, name, lambda value, rng: value)
        monkeypatch.setattr(texts, 'json_file', lambda value, rng: json.dumps(value).encode())
        base = texts.make_base(tmp_path)
        for kind, read in texts.READERS.items():
            (tmp_path / kind).mkdir()
            assert read(base, tmp_path / kind, random.Random(0)), kind

    @pytest.mark.slow
    def test_million(self, page):
        status, _, _ = run(page, 'million', '--cases', 2000)
        state = state_of(page, 'million')
        assert status == 0 and state.is_complete
        assert state.facts['kills'] == million.KILLS
        assert state.facts['peak'] > 1e7

    @pytest.mark.slow
    def test_shards(self, page):
        status, _, rows = run(page, 'shards', '--cases', 2000)
        state = state_of(page, 'shards')
        assert status == 0 and state.is_complete and not state.failures
        facts = state.facts
        assert facts['killed']['kills'] == shards.KILLS and facts['ray_workers'] == 1
        assert 1e7 < facts['driver'] < shards.LIMIT
        assert 'killed 5 times' in rows['shards']

    @pytest.mark.trial
    def test_demo(self, tmp_path):
        script = tmp_path / 'few_pictures.py'
        script.write_text(FEW_PICTURES.format(root=str(ROOT)))
        options = ('train_cfg.max_epochs=1', 'train_dataloader.dataset.times=1')
        score, text = demo.run_demo(tmp_path / 'work', 0, *options, script=str(script))
        assert score is not None and 0 <= score < demo.LEAST, text


class TestChecksFindFaults:
    @pytest.mark.parametrize('case', [pytest.param(0, marks=pytest.mark.slow), 3])
    def test_pictures(self, tmp_path, monkeypatch, case):
        lost = pictures.name_of(case)

        def load(path):
            manifest = Manifest.load(path)
            skipped = [row for row in manifest.skipped if row['path'] != lost]
            files = {name: row for name, row in manifest.files.items() if name != lost}
            return SimpleNamespace(skipped=skipped, files=files)

        monkeypatch.setattr(pictures, 'PATIENCE', 0)
        monkeypatch.setattr(pictures, 'Manifest', SimpleNamespace(load=load))
        failures = pictures.encrypt([0, 3], tmp_path)[1]
        found = {(kind, number) for number, kind, _ in failures}
        assert found > {('more than 0 s', 0), ('more than 0 s', 3), ('is lost', case)}
        assert {kind for kind, _ in found} & {
            'other files than the manifest says',
            'other files are named as missing',
        }

    def test_pictures_without_a_result(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pictures, 'COLOR_TYPES', ['none'])
        kinds = [kind for _, kind, _ in pictures.encrypt([0], tmp_path)[1]]
        assert kinds == ['a run ended with status 2', 'no result']
        monkeypatch.setattr(pictures, '_RUN_SECONDS', 0.01)
        kinds = [kind for _, kind, _ in pictures.encrypt([0], tmp_path)[1]]
        assert kinds == ['no end after 0.01 s']
        with pytest.raises(AssertionError, match='no end'):
            pictures.check(0, tmp_path)

    def test_what_the_command_says_is_missing(self):
        assert pictures.missing('warning: a.png: x\nhime: y\n') == ([], 0)
        lines = 'missing: a.png: x: y\nmissing: b.png: z\n'
        assert pictures.missing(lines) == (['a.png', 'b.png'], 2)
        assert pictures.missing(lines + 'missing: and 7 more\n') == (['a.png', 'b.png'], 9)

    def test_ciphers(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ciphers.properties.loops, 'center', lambda px, p: None)
        with pytest.raises(AssertionError):
            for case in range(30):
                ciphers.check(case, tmp_path)

    def test_texts(self, tmp_path, monkeypatch):
        def broken(*args, **kwargs):
            raise KeyError('x')

        monkeypatch.setattr(texts, 'map_coco_results', broken)
        with pytest.raises(KeyError):
            for case in range(30):
                texts.check(case, tmp_path)

    @pytest.mark.slow
    def test_million(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        million.make_pictures(src, 2)
        key = million.key_file(tmp_path / 'key')
        state = State('', '', 2, facts=dict(kills=million.KILLS, seconds=0.0, peak=0))
        list(million.encrypt(state, src, out, key))
        assert not state.failures
        assert million.is_undone(0, out, src) and million.is_undone(1, out, src)
        path = out / f'{million.name_of(1)}.png'
        path.write_bytes((out / f'{million.name_of(0)}.png').read_bytes())
        assert not million.is_undone(1, out, src)
        list(million.verify(state, out, key))
        assert list(state.failures) == ['hime verify']

    @pytest.fixture
    def tars(self, tmp_path):
        """As a trial of few pictures leaves them."""
        million.make_pictures(tmp_path / 'src', 5)
        encrypt_folder(
            str(tmp_path / 'src'),
            str(tmp_path / 'whole'),
            'shuffle',
            key=Key(SECRET),
            dataset_id='shards',
            storage='tar',
            shard_size=2,
            progress=False,
        )
        (tmp_path / 'other.output').touch()
        return Path(shutil.copytree(tmp_path / 'whole', tmp_path / 'other'))

    def test_shards_that_differ(self, tars):
        for change in (
            lambda path: path.unlink(),
            lambda path: path.write_bytes(b'x' + path.read_bytes()[1:]),
            lambda path: path.with_suffix('.more').touch(),
        ):
            state = State('', '', 5)
            shards.compare(state, tars)
            assert not state.failures
            change(tars / 'hime-000001.tar')
            shards.compare(state, tars)
            assert list(state.failures) == ['other bytes: other']
            shutil.rmtree(tars)
            shutil.copytree(tars.with_name('whole'), tars)

    def test_pictures_in_shards(self, tars):
        src = tars.with_name('src')
        assert shards.sample(0, tars, src) == []
        path = src / f'{million.name_of(3)}.png'
        data = (src / f'{million.name_of(1)}.png').read_bytes()
        path.unlink()  # a link
        path.write_bytes(data)
        assert shards.sample(0, tars, src) == [f'{million.name_of(3)}.png']
        for name in tars.glob('*.tar'):
            name.unlink()
        assert shards.sample(0, tars, src)

    def test_memory_of_shards(self, tmp_path, monkeypatch):
        """Too much of it, and what grows with the pictures, are failures."""
        monkeypatch.setattr(shards, 'check_encrypted', lambda *args: None)
        monkeypatch.setattr(shards, 'sample', lambda *args: [])
        for few, driver, wrong in (
            (100, 110, []),
            (100, 150, ['memory grows with the pictures']),
            (400, 410, ['more than 300 bytes']),
            (100, 0, ['more than 300 bytes']),
        ):
            state = State('', '', 5, facts=dict(few_driver=few))
            process = SimpleNamespace(is_running=lambda: False, driver=driver, lap=lambda: 1)
            monkeypatch.setattr(shards, 'LIMIT', 300)
            monkeypatch.setattr(shards, 'Process', lambda *args, p=process: p)
            list(shards.all_of_them(state, tmp_path, tmp_path / 'out', 1))
            assert list(state.failures) == wrong


TOY = """
import os, sys, time
sys.path[:0] = [{root!r} + '/tests', {root!r}]
from trials import fuzzing
from trials.state import State
from pathlib import Path
fuzzing.BATCH = 10
path, cases, fuzzing.PATIENCE, *hanging = sys.argv[1], *map(int, sys.argv[2:])
seen = []
def check(case, folder):
    seen.append(case)
    if case in (3, 13): raise KeyError(case)
    if case == 7: os.kill(os.getpid(), 11)
    if case == 24 and len(seen) > 1: os.abort()
    if case in hanging: time.sleep(99)
    if case == 36: os._exit(5)
    return 'odd' if case % 2 else 'even'
state = State('', '', cases)
done = [state.done for _ in fuzzing.fuzz(check, state, Path(), lambda case: f'({{case}})')]
assert done == [*range(10, cases, 10), cases], done
state.save(Path(path))
"""


class TestFuzzing:
    """No case stops the others."""

    @staticmethod
    def run(folder, *args):
        """The counts, and of each failure the cases and whether they fail only after others."""
        path = folder / 'state.json'
        command = [sys.executable, '-c', TOY.format(root=str(ROOT)), path, *args]
        subprocess.run(list(map(str, command)), check=True, timeout=90)
        state = State.load(path)
        return state.facts['counts'], {
            kind: [(case['case'], 'not alone' in case['text']) for case in failure['first']]
            for kind, failure in state.failures.items()
        }

    # With patience, for a busy machine.
    @pytest.mark.parametrize('hanging', [(), pytest.param((31,), marks=pytest.mark.trial)])
    def test_all_kinds(self, tmp_path, hanging):
        counts, found = self.run(tmp_path, 40, 10, *hanging)
        assert counts == dict(even=18, odd=17 - len(hanging))
        assert found == {
            'KeyError in <string>.check': [(3, False), (13, False)],
            'killed by SIGSEGV (7)': [(7, False)],
            'killed by SIGABRT (24)': [(24, True)],
            **{f'no end after 10 s ({case})': [(case, False)] for case in hanging},
            'exit with status 5 (36)': [(36, False)],
        }

    @pytest.mark.slow
    def test_hanging(self, tmp_path):
        """Without one that could be taken for it."""
        counts, found = self.run(tmp_path, 2, 1, 0, 1)
        assert counts == {}
        assert found == {f'no end after 1 s ({case})': [(case, False)] for case in (0, 1)}


HOST_TESTS = """
from unittest import TestCase
import torch
from mmpretrain.registry import MODELS
from .helpers import NUMBER

class TestClsDataPreprocessor(TestCase):
    def build(self):
        return MODELS.build(dict(type='ClsDataPreprocessor'))

    def test_same(self):
        inputs = self.build()(dict(inputs=[torch.zeros(3, 4, 4)]))['inputs']
        assert inputs.shape == (1, 3, 4, 4)

    def test_known(self):
        for _ in range(NUMBER):
            assert not hasattr(self.build(), 'cipher')
        assert self.build().pad_size_divisor == 1

    def test_unknown(self):
        assert not hasattr(self.build(), 'cipher')

    def test_another_version(self):
        self.build().something_new()
"""
KNOWN = "assert not hasattr(self.build(), 'cipher')"


class TestHosts:
    """Tests of the hosts, run with classes of ours."""

    suite = hosts.SUITES[1]

    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        path = tmp_path / 'mmpretrain' / self.suite.path
        path.parent.mkdir(parents=True)
        path.write_text(HOST_TESTS)
        (path.parent / 'helpers.py').write_text('NUMBER = 2')
        (path.parent / 'test_others.py').write_text('fails')
        monkeypatch.setattr(hosts, 'SOURCES', tmp_path)
        return path

    @pytest.mark.trial
    def test_all_kinds(self, file, tmp_path, monkeypatch):
        """Of this file only, and each test with both classes."""
        name = self.suite.name
        known = {(name, test): {KNOWN: 'meant'} for test in ('test_known', 'test_same', 'test_no')}
        monkeypatch.setattr(hosts, 'DIFFERENCES', known)
        state = State('', '', 1)
        hosts.compare(state, self.suite, hosts.find(self.suite), tmp_path / 'run')
        assert state.facts['counts'] == {'as with the host but for what is listed': 1}
        assert list(state.failures) == [
            f'{name}.test_no is not there',
            f'{name}.test_another_version fails with the class of the host',
            f'{name}.test_same does not differ any more',
            f'{name}.test_unknown differs',
        ]
        text = state.failures[f'{name}.test_unknown differs']['first'][0]['text']
        assert "'cipher'" in text and 'AssertionError' in text

    @pytest.mark.slow
    def test_nothing_of_ours(self, file, tmp_path):
        file.write_text(HOST_TESTS.replace('MODELS.build', 'lambda cfg: '))
        with pytest.raises(RuntimeError, match=f'builds no {self.suite.name}'):
            hosts.run_tests(self.suite, file, tmp_path / 'run' / 'ours')

    @pytest.mark.parametrize(
        ('host', 'ours', 'rest', 'known', 'said'),
        [
            ('', '', '', False, 'as with the host'),
            ('', 'x', '', True, 'as with the host but for what is listed'),
            ('', '', '', True, 'does not differ any more'),
            ('', 'x', 'x', True, 'differs'),
            ('', 'x', 'x', False, 'differs'),
            ('', None, None, False, 'was not run'),
            ('x', 'x', 'x', False, 'fails with the class of the host'),
            ('x', '', '', False, 'fails with the class of the host'),
        ],
    )
    def test_what_came_of_it(self, host, ours, rest, known, said):
        assert hosts.judge(host, ours, rest, known) == said

    def test_statements_are_struck_out(self):
        """Of the test that is named, in loops, too."""
        known = {(self.suite.name, 'test_known'): {KNOWN: 'meant'}, ('Other', 'test_same'): {}}
        text = hosts.strike_out(self.suite, HOST_TESTS, known)
        assert text.count(KNOWN) == HOST_TESTS.count(KNOWN) - 1 == 1
        assert text.index(KNOWN) > text.index('def test_unknown')
        assert 'for _ in range(NUMBER):\n            pass' in text
        assert hosts.strike_out(self.suite, text, {}) == text

    def test_no_sources(self, tmp_path, monkeypatch, page, capsys):
        monkeypatch.setattr(hosts, 'SOURCES', tmp_path)
        with pytest.raises(NotAtHand, match='docs/trials.md'):
            next(hosts.steps(State('', '', 3), tmp_path))
        before = page.read_text()
        # Of this process, which others need as it is.
        for name in ('settings', 'tqdm'):
            monkeypatch.setattr(trials.run, name, MagicMock())
        monkeypatch.setattr(trials.run, 'TRIALS', ('hosts',))
        # Of all trials it is left out; whoever names it wants it.
        for names, status in (([], 0), (['hosts'], 1)):
            args = ['run.py', '--page', str(page), '--work-dir', str(tmp_path), *names]
            monkeypatch.setattr(sys, 'argv', args)
            assert trials.run.main() == status
            assert f'hosts: not run: {tmp_path} holds no' in capsys.readouterr().out
        assert page.read_text() == before

    def test_what_differs_is_on_the_page(self):
        listed = re.findall(
            r'^\| (\w+), `(\w+)` \| `(.*)` \| (.*) \|$', record.PAGE.read_text(), re.M
        )
        assert listed == [
            (*case, statement, why)
            for case, statements in hosts.DIFFERENCES.items()
            for statement, why in statements.items()
        ]
        assert {name for name, *_ in listed} <= {suite.name for suite in hosts.SUITES}


class TestRest:
    @pytest.mark.slow
    def test_what_comes_of_a_file(self, tmp_path, monkeypatch):
        texts = dict(
            some="""
                import pytest
                @pytest.mark.MARK
                @pytest.mark.parametrize('case', [1, 2, 3])
                def test_one(case):
                    case != 3 or pytest.skip('none')
                    assert case != 2
                def test_other():
                    assert False
            """,
            none='def test_other():\n    pass',
            broken='import nothing_of_that_name',
        )
        files = [tmp_path / f'test_{name}.py' for name in texts]
        for file, text in zip(files, texts.values(), strict=True):
            file.write_text(textwrap.dedent(text).replace('MARK', rest.MARK))
        monkeypatch.setattr(rest, 'FILES', files)
        monkeypatch.setattr(rest, 'ROOT', tmp_path)
        state = State('', '', 3)
        assert len(list(rest.steps(state, tmp_path))) == 3 and state.is_complete
        assert state.facts['counts'] == dict(passed=1, skipped=1)
        assert len(state.failures) == 3
        assert 'assert 2 != 2' in state.failures['test_some.test_one[2]']['first'][0]['text']
        assert 'test_none.py has no test' in state.failures
        assert any('test_broken' in name for name in state.failures)

    def test_files(self):
        """All that have one, and few of these only."""
        assert 5 < len(rest.FILES) < 40
        assert Path(__file__).parent / 'test_tools' / 'test_stock_runs.py' in rest.FILES


class TestState:
    def test_the_first_cases_of_each_kind_are_kept(self, tmp_path):
        state = State('a', 'b', 100)
        for case in range(20):
            state.add_failure(case, f'kind {case % 2}', 'text')
        state.save(tmp_path / 'state.json')
        again = State.load(tmp_path / 'state.json')
        assert again == state and again.num_failures == 20
        assert [c['case'] for c in again.failures['kind 1']['first']] == [1, 3, 5, 7, 9]
        assert os.listdir(tmp_path) == ['state.json']

    def test_there_is_none(self, tmp_path):
        assert State.load(tmp_path / 'none') is None


class TestRun:
    @pytest.mark.slow
    def test_killed_and_resumed(self, page):
        """With what it did before, and the same counts as without a kill."""
        process = start(page, 'texts', '--cases', 3000)
        while (state := state_of(page, 'texts')) is None or not state.done:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = state_of(page, 'texts')
        assert 0 < before.done < 3000 and before.done % 1000 == 0
        # As if nothing had failed so far: told from what is done again.
        before.facts['counts'], before.failures = dict(before=before.done), {}
        before.save(page.parent / 'texts' / 'state.json')
        _, _, rows = run(page, 'texts', '--cases', 3000)
        state = state_of(page, 'texts')
        assert state.done == 3000 and state.facts['counts'].pop('before') == before.done
        assert sum(state.facts['counts'].values()) + state.num_failures == 3000 - before.done
        assert state.seconds > before.seconds
        assert f'{before.done:,} before' in rows['texts']

    def test_other_code_starts_anew(self, tmp_path, monkeypatch):
        path = tmp_path / 'trial' / 'state.json'
        monkeypatch.setattr(trials.run, 'commit', lambda: ('a', 'a'))
        state = trials.run.begin(path, 20)
        state.done = 3
        state.save(path)
        left = path.with_name('left')
        for code, cases, any_code, goes_on in (
            ('a', 20, False, True),
            ('b', 20, True, True),
            ('b', 20, False, True),
            ('c', 20, False, False),
            ('c', 21, True, False),
        ):
            left.touch()
            monkeypatch.setattr(trials.run, 'commit', lambda code=code: (code, code))
            state = trials.run.begin(path, cases, any_code)
            assert (state.done, left.exists()) == ((3, True) if goes_on else (0, False))
            assert state.commit == ('a, then b' if goes_on and code == 'b' else code)
            state.done = 3
            state.save(path)

    def test_more_cases(self, tmp_path):
        path = tmp_path / 'trial' / 'state.json'
        for cases, any_number, done, total in (
            (20, False, 0, 20),
            (20, False, 3, 20),
            (50, True, 3, 50),
            (2, True, 3, 3),
            (50, False, 0, 50),
        ):
            state = trials.run.begin(path, cases, any_number=any_number)
            assert (state.done, state.cases) == (done, total)
            state.done = 3
            state.save(path)

    @pytest.mark.slow
    def test_a_failure(self, page):
        """Is told with how to repeat it, and the others are still run."""
        path = page.parent / 'ciphers' / 'state.json'
        run(page, 'ciphers', '--cases', 3)
        state = State.load(path)
        state.add_failure(2, 'KeyError in x.y', 'Traceback')
        state.save(path)
        status, out, rows = run(page, 'ciphers', 'texts', '--cases', 3)
        assert status == 1
        command = 'tests/trials/run.py ciphers --repeat 2'
        assert command in out
        assert (
            '**1 KeyError in x.y** (case 2)' in rows['ciphers'] and '1 failures' in rows['ciphers']
        )
        assert 'no failures' in rows['texts']
        status, out, _ = run(page, 'ciphers', '--repeat', 2)
        assert status == 0 and 'case 2: as expected' in out

    def test_wrong_arguments(self, page):
        for args in (['none'], ['--repeat', 1]):
            process = start(page, *args)
            assert process.wait() == 2 and 'usage' in process.communicate()[1]


class TestPage:
    def trials(self):
        return dict(ciphers=ciphers, pictures=pictures, million=million)

    def test_a_row_is_replaced_and_the_others_stay(self, page):
        state = State('`abc`', '', 7, done=7, seconds=300, ended='2026-01-02')
        state.facts['counts'] = {'read|x': 7}
        record.write_row(page, self.trials(), 'pictures', state)
        first = page.read_text()
        assert first.startswith('# Trials\n\nBefore.\n\n|') and first.endswith('|\n\nAfter.\n')
        rows = record.read_rows(page)
        assert list(rows) == ['ciphers', 'pictures', 'million']
        assert '| not run |' in rows['ciphers'] and '1,000,000 pictures' in rows['million']
        cells = [cell.strip() for cell in rows['pictures'].strip('|').split('|')]
        assert cells[2:7] == [
            '7 of 100,000 cases',
            '7 read/x; no failures',
            '5 min',
            '2026-01-02',
            '`abc`',
        ]
        state.done = state.cases = pictures.CASES
        record.write_row(page, self.trials(), 'ciphers', state)
        again = record.read_rows(page)
        assert again['pictures'] == rows['pictures'] and '| 100,000 cases |' in again['ciphers']
        record.write_row(page, self.trials(), 'ciphers', state)
        assert record.read_rows(page) == again

    def test_every_trial_has_a_row(self):
        rows = record.read_rows(record.PAGE)
        assert list(rows) == list(TRIALS)
        for row in rows.values():
            assert len(row.strip('|').split('|')) == 8

    def test_changes_are_named(self, tmp_path, monkeypatch):
        def git(*args):
            command = ['git', '-c', 'user.name=x', '-c', 'user.email=x', *args]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

        monkeypatch.setattr(record, 'ROOT', tmp_path)
        monkeypatch.setattr(record, 'PAGE', tmp_path / 'docs' / 'trials.md')
        assert record.commit() == ('unknown', 'unknown')
        for name in ('hime_mm/x', 'docs/trials.md'):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text('1')
        git('init')
        git('add', '.')
        git('commit', '-m', 'x')
        name, code = record.commit()
        assert name == code and re.fullmatch('`[0-9a-f]{7,}`, `hime_mm` `[0-9a-f]{7,}`', name)
        record.PAGE.write_text('2')
        assert record.commit() == (name, code)
        seen = {code}
        for text in ('2', '3'):
            (tmp_path / 'hime_mm' / 'x').write_text(text)
            changed, code = record.commit()
            assert changed == f'{name} + changes' and code not in seen
            seen.add(code)


class TestMutation:
    def test_is_that_of_its_number(self):
        for mutate, value in (
            (mutation.mutate_bytes, bytes(range(100))),
            (mutation.mutate_json, dict(a=[1, 2, dict(b=3)], c='x')),
        ):
            results = [repr(mutate(value, random.Random(seed))) for seed in (1, 1, 2)]
            assert results[0] == results[1] != results[2]
            different = {repr(mutate(value, random.Random(seed))) for seed in range(200)}
            assert len(different) > 100

    def test_png_chunks_stay_chunks(self):
        for name in ('png', 'animated png', 'palette'):
            data = files()[name]
            assert png_of(*png_parts(data)) == data
            for seed in range(30):
                damaged = mutation.mutate_png(data, random.Random(seed))
                assert png_of(*png_parts(damaged)) == damaged
