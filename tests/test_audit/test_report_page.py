# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The page of an audit: all that it says is in the summary, and what is not it says."""

import html
import json
import os
import re
import shutil
import stat
import string
from html.parser import HTMLParser

import pytest
from attack_parts import photo
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from report_parts import make_audit, rewrite

from hime_mm.apis import AuditSettings, Recipe, audit_pictures
from hime_mm.audit.page import report_page, write_page
from hime_mm.audit.page.summary import read_summary
from hime_mm.audit.table import SHOWN
from hime_mm.errors import AuditError

NOT_WHOLE = 'Not whole, or not as it was written'
FORBIDDEN = re.compile(r'\b(secure|safe|safely|intractable|unbreakable|protected from)\b', re.I)


class Reader(HTMLParser):
    """Tags with their attributes, rows of tables, and the text that people see."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.rows, self.text, self._inside = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ('meta', 'link', 'img', 'wbr', 'line', 'path', 'rect', 'circle'):
            self._inside.append(tag)
        if tag == 'tr':
            self.rows.append((dict(attrs), []))
        if tag in ('td', 'th') and self.rows:
            self.rows[-1][1].append(dict(attrs).get('data-value'))

    def handle_endtag(self, tag):
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data):
        if not {'style', 'script'} & {*self._inside}:
            self.text.append(data)

    @property
    def words(self):
        return ' '.join(' '.join(self.text).split())


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A made-up audit of two ciphers; not to be changed."""
    folder = tmp_path_factory.mktemp('made') / 'audit'
    return make_audit(folder, ('shuffle', 'mix2'), worst=2, side=64)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / 'audit')


@pytest.fixture(scope='module')
def real(pictures, tmp_path_factory):
    """What `hime audit` writes."""
    out = tmp_path_factory.mktemp('real') / 'audit'
    little = [photo('astronaut', 96, 96), photo('rocket', 96, 96)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('hime_mm.audit.public._shipped', lambda: little)
        recipes = [Recipe.build(cipher) for cipher in ('shuffle', 'mix2')]
        wanted = AuditSettings(attacks=('jigsaw', 'mosaic', 'histogram'), progress=False)
        audit_pictures(str(pictures), str(out), recipes, wanted)
    return out


def test_written_by_an_audit_and_made_again(real):
    place = real / 'report.html'
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert place.read_text() == report_page(str(real)) + '\n'
    page = Reader(place.read_text())
    assert NOT_WHOLE not in page.words
    assert 'holds plain pictures' in page.words
    assert read_summary(str(real)).lacking == []
    # 8 pictures of 2 ciphers: original, encrypted, reconstructed.
    images = [attrs['src'] for tag, attrs in page.tags if tag == 'img']
    assert len(images) == 2 * 8 * 3
    assert all(src.startswith('data:image/jpeg;base64,') for src in images)
    assert 'Left out by the settings' in page.words


@pytest.mark.parametrize('audit', ['made', 'real'])
def test_every_number_of_the_tables_is_that_of_the_summary(audit, request):
    folder = request.getfixturevalue(audit)
    page = Reader(report_page(str(folder)))
    rows = [(attrs, cells) for attrs, cells in page.rows if 'data-attack' in attrs]
    ciphers = json.loads((folder / 'audit.json').read_text())['ciphers']
    told = []
    for one in ciphers:
        found = [
            ((attack, metric), risk)
            for attack, said in one['attacks'].items()
            for metric, risk in said['metrics'].items()
        ]
        for reader, said in one.get('readers', {}).items():
            for metrics in said['stages'].values():
                found += [((reader, metric), risk) for metric, risk in metrics.items()]
        # What all look for comes first.
        told += [item for item in found if item[0][1] in SHOWN]
        told += [item for item in found if item[0][1] not in SHOWN]
    assert len(rows) == len(told) > 10
    for (attrs, cells), (key, risk) in zip(rows, told, strict=True):
        assert (attrs['data-attack'], attrs['data-metric']) == key
        main = risk['main']
        wanted = [main['mean'], main['low'], main['max']]
        wanted += [risk['control']['mean'], risk['baseline']['mean']]
        assert [None if cell == '' else float(cell) for cell in cells[3:8]] == wanted


def test_verdicts_in_plain_words(folder):
    def change(state):
        attacks = state['ciphers'][0]['attacks']
        jigsaw = attacks['jigsaw']['metrics']['nc_component']
        jigsaw['main']['mean'], jigsaw['control']['mean'] = 0.974, 0.004
        jigsaw['baseline']['mean'] = 0.005
        rank = attacks['histogram']['metrics']['rank_1']
        rank['main']['mean'], rank['baseline']['mean'] = 17 / 40, 0.01
        for risk in attacks['known-plaintext']['metrics'].values():
            risk['counts'] = False
        for risk in attacks['probe']['metrics'].values():
            risk['counts'] = None
        del attacks['tv']

    rewrite(folder, change)
    words = Reader(report_page(str(folder))).words
    assert '97.4 % of the neighbouring patches were put back by jigsaw (a random guess' in words
    assert '17 of 40 pictures were found again by histogram' in words
    assert 'Graded bad, by the NeuraCrypt Challenge' in words
    assert 'our own convention' in words
    assert 'which is no proof that nothing can be' in words
    assert 'fewer than six pictures cannot tell' in words
    for word in ('Much leaked', 'Nothing found', 'Too few pictures', 'Not tried', 'Look yourself'):
        assert word in words
    assert 'faces, faces recognised:' in words
    said = r'faces, faces found: \d+ of 40 pictures on originals \(control: [\d.]+ %\); '
    assert re.search(said + r'[\d.]+ % in 40 pictures on encrypted pictures', words)
    assert re.search(r'Faces recognised on encrypted pictures: \d+ of 40 pictures \(', words)
    assert 'not tried : seams, mosaic: nothing' in words or 'mosaic, seams: nothing' in words


def test_what_leaks_no_more_than_chance_is_no_leak(folder):
    """However sure it beats the control."""

    def change(state):
        for one in state['ciphers']:
            del one['readers']
            for attack in one['attacks'].values():
                for risk in attack['metrics'].values():
                    risk['baseline']['mean'] = risk['main']['mean'] + 0.1

    rewrite(folder, change)
    words = Reader(report_page(str(folder))).words
    assert 'Much leaked' not in words and 'Some leaked' not in words
    assert 'No attack got more' in words or 'Not tried under any cipher' in words
    assert 'These attacks found no leak to lower' in words


def test_without_readers_and_with_few_attacks(tmp_path):
    folder = make_audit(tmp_path / 'a', ('shuffle',), worst=1, side=32, read=False)
    rewrite(folder, lambda state: state['settings'].update(attacks=['jigsaw']))
    words = Reader(report_page(str(folder))).words
    assert 'Readers (programs that find faces, texts, objects): not tried.' in words
    assert 'No reader was used.' in words
    assert re.search('Left out by the settings: .*paikin-tal', words)


def test_without_pictures_it_names_none(folder):
    def change(state):
        for one in state['ciphers']:
            one['failed'] = {'private/person.jpg': 'private/person.jpg is no picture'}
            one['not_tried']['tv'] = 'it failed to learn: private/person.jpg'
            one['sampled'] += 1
        state['settings']['public'] = '/home/somebody/public'

    rewrite(folder, change)
    page = report_page(str(folder), pictures=False)
    for word in ('data:image', 'picture_', 'some/', 'private', 'somebody', '<img'):
        assert word not in page, word
    assert 'holds no pictures and no names' in page
    words = Reader(page).words
    assert 'not taken : 1 picture' in words
    shown = report_page(str(folder))
    assert 'data:image/jpeg' in shown and 'private/person.jpg' in shown


def test_who_can_read_it(folder, tmp_path):
    place = write_page(str(folder))
    assert place == str(folder / 'report.html')
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    mask = os.umask(0o022)
    try:
        shared = write_page(str(folder), str(tmp_path / 'shared.html'), pictures=False)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(shared).st_mode) == 0o644
    # One that others could read is theirs no more.
    os.chmod(place, 0o644)
    write_page(str(folder))
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600


@pytest.mark.parametrize('shown', [True, False])
def test_never_into_what_is_handed_over(folder, delivered, shown):
    for place in (delivered / 'report.html', delivered / 'below' / 'report.html'):
        with pytest.raises(AuditError, match='handed over'):
            write_page(str(folder), str(place), shown)
        assert not place.exists()


def test_changed_by_hand(folder):
    def change(state):
        state['ciphers'][0]['attacks']['jigsaw']['metrics']['nc_component']['main']['mean'] = 0.001

    rewrite(folder, change, seal=False)
    page = report_page(str(folder))
    words = Reader(page).words
    assert NOT_WHOLE in words and 'its checksum does not fit' in words
    # Nothing is concluded from it.
    for word in ('Much leaked', 'Verdicts', 'How to lower', 'data:image', '<svg'):
        assert word not in page
    rewrite(folder, lambda state: None)
    assert 'Much leaked' in report_page(str(folder))
    rewrite(folder, lambda state: state.pop('checksum') and None, seal=False)
    assert 'its checksum does not fit' in report_page(str(folder))


@pytest.mark.parametrize(
    'path',
    [
        'command',
        'versions',
        'digest',
        'names',
        'settings.seed',
        'ciphers',
        'ciphers.0.cipher',
        'ciphers.0.attacks',
        'ciphers.0.attacks.jigsaw.metrics',
        'ciphers.0.attacks.jigsaw.metrics.ssim.main',
        'ciphers.0.attacks.jigsaw.metrics.ssim.main.mean',
        'ciphers.0.attacks.histogram.metrics.rank_1.baseline',
        'ciphers.0.attacks.histogram.metrics.rank_1.counts',
        'ciphers.0.not_tried',
        'ciphers.0.done',
        'ciphers.0.failed',
        'ciphers.0.worst',
        'ciphers.0.worst.0.name',
        'ciphers.0.worst.0.files',
        'ciphers.0.readers.faces.stages',
    ],
)
@pytest.mark.parametrize('value', ['gone', None, 'words', 7, {'x': {}}, float('nan')])
def test_what_is_missing_or_of_another_kind_is_said(folder, path, value):
    *way, last = path.split('.')
    fits = []

    def change(state):
        for step in way:
            state = state[int(step) if step.isdigit() else step]
        old = state[last]
        if value == 'gone':
            del state[last]
        else:
            # A value of the same kind cannot be told from what an audit would write.
            kinds = (bool, (int, float), str, list, dict)
            kind = next(one for one in kinds if isinstance(old, one))
            fits.append(isinstance(value, kind) and value == value)
            fits.append(value is None and last in ('mean', 'counts', 'seed'))
            state[last] = value

    rewrite(folder, change)
    words = Reader(report_page(str(folder), pictures='worst' in path)).words
    if not any(fits):
        assert NOT_WHOLE in words
        assert 'The summary lacks' in words
        assert last in words.partition('The summary lacks')[2]


def test_unfinished(folder):
    def change(state):
        state['recipes'].append({})
        state['ciphers'][1]['done'] = 31

    rewrite(folder, change)
    words = Reader(report_page(str(folder))).words
    assert 'Of 3 ciphers 2 are here' in words
    assert 'mix2: of 40 pictures 9 not reached' in words


def test_pictures_that_are_gone_or_were_changed(folder, tmp_path):
    worst = folder / 'shuffle_p16' / 'worst'
    (worst / '0000_original.png').unlink()
    shutil.copy(worst / '0001_original.png', worst / '0000_encrypted.png')
    (folder.parent / 'elsewhere.png').write_bytes((worst / '0001_original.png').read_bytes())

    def change(state):
        files = state['ciphers'][0]['worst'][1]['files']
        files['original']['file'] = '../elsewhere.png'
        del files['encrypted']

    rewrite(folder, change)
    page = Reader(report_page(str(folder)))
    assert 'shuffle: of its pictures 4 cannot be shown' in page.words
    for why in ('a file is missing', 'was changed since', 'is not of this audit', 'not in the'):
        assert f'not shown, {why}' in page.words or why in page.words
    assert sum(tag == 'img' for tag, _ in page.tags) == 12 - 4


def test_pipe_in_the_place_of_a_picture(folder):
    place = folder / 'shuffle_p16' / 'worst' / '0000_original.png'
    place.unlink()
    os.mkfifo(place)
    assert 'a file is missing, or cannot be read' in report_page(str(folder))


@pytest.mark.parametrize(
    'text, words',
    [
        ('{', 'no JSON file'),
        ('[]', 'no summary of an audit'),
        ('{"format": "other"}', 'no summary of an audit'),
        ('{"format": "hime-audit", "format_version": 2}', 'format version 2'),
        ('{"format": "hime-audit"}', 'format version None'),
        ('[' * 5000, 'run `hime audit` again'),
    ],
)
def test_what_is_no_summary(tmp_path, text, words):
    (tmp_path / 'audit.json').write_text(text)
    with pytest.raises(AuditError, match=words):
        report_page(str(tmp_path))


def test_folder_without_an_audit(tmp_path):
    with pytest.raises(AuditError, match='holds no audit'):
        report_page(str(tmp_path))


TEXT = st.text(max_size=60) | st.sampled_from(
    [
        '<script>alert(1)</script>.png',
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='x",
        '</style><b>',
        '&lt;&amp;',
        '{{ 7 * 7 }}{% raw %}',
        '\ud800.png',
        '\u202egnp.exe',
        '<!--',
        ']]>',
    ]
)


@settings(
    # A page takes long to make: what is found is not made smaller.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=TEXT, reason=TEXT, attack=TEXT)
@example(name='\ud800.png', reason='\x1b[2J', attack='\u202egnp')
@example(name='<script>alert(1)</script>', reason='"><b onclick="x', attack='</style><i>')
@pytest.mark.slow
def test_names_are_texts(folder, name, reason, attack):
    before = Reader(report_page(str(folder)))

    def change(state):
        one = state['ciphers'][0]
        one['worst'][0]['name'] = name
        one['worst'][0]['attack'] = attack
        one['not_tried'] = {attack: reason}
        one['failed'] = {name: reason}

    place = folder / 'audit.json'
    kept = place.read_text()
    rewrite(folder, change)
    try:
        page = report_page(str(folder))
    finally:
        place.write_text(kept)
    page.encode()
    assert not re.search('[\u202e\x1b\ud800]', page)
    found = Reader(page)
    kinds = {tag for tag, _ in before.tags}
    assert {tag for tag, _ in found.tags} <= kinds
    attributes = {key for _, attrs in before.tags for key in attrs}
    assert {key for _, attrs in found.tags for key in attrs} <= attributes
    if name and all(char in string.printable[:95] for char in name):
        assert (
            html.escape(name, quote=True).replace('&#x27;', '&#39;').replace('&quot;', '&#34;')
            in page
        )


@pytest.mark.slow
def test_large_and_long(tmp_path):
    long = ['<i>' + 'n' * 4000 + f'{i}.jpg' for i in range(3)]
    folder = make_audit(tmp_path / 'a', ('shuffle',), worst=3, side=32, names=long)

    def change(state):
        one = state['ciphers'][0]
        one['failed'] = {f'{"f" * 4000}{i}': 'r' * 4000 for i in range(10_000)}
        one['sampled'] += 10_000
        one['not_tried'] = {f'attack{i}': 'why ' * 1000 for i in range(3)}

    rewrite(folder, change)
    page = report_page(str(folder))
    assert len(page) < 200_000
    # The whole name can be had.
    assert html.escape(long[0]) in page
    words = Reader(page).words
    assert 'and 9980 more' in words
    assert 'f' * 201 not in words


def test_words(made, real):
    for folder in (made, real):
        for pictures in (True, False):
            words = Reader(report_page(str(folder), pictures)).words
            assert not FORBIDDEN.search(words), FORBIDDEN.search(words)


def test_its_policy_forbids_all_but_itself(made):
    page = report_page(str(made))
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert ' style=' not in page.partition('<body>')[2]
    assert not re.search(r'<[^>]*\son\w+=', page.partition('<body>')[2].partition('<script>')[0])


def test_rehearsal_speaks_where_no_truth_is_known(folder):
    def change(state):
        delivered, rehearsed = state['ciphers']
        rehearsed.update(cipher='shuffle', rehearsal=True)
        del delivered['readers']
        for attack in delivered['attacks'].values():
            attack.update(metrics={}, grades=[])
        for row in delivered['worst']:
            del row['files']['original']
        state.update(kind='encrypted data set', key=False, originals=None, originals_checked=False)
        state.update(dataset_id='d', data_checksum='c' * 64)

    rewrite(folder, change)
    page = Reader(report_page(str(folder)))
    assert NOT_WHOLE not in page.words
    assert '1 cipher attacked on pictures of an encrypted data set' in page.words
    assert 'rehearsed on public pictures' in page.words
    assert 'shuffle (rehearsal)' in page.words
    assert 'Attacks were made, and not judged: no truth was there.' in page.words
    assert sum(tag == 'rect' and 'bar' in attrs['class'] for tag, attrs in page.tags) >= 3


@pytest.mark.parametrize('reason', [5, None, ['a'], {}])
def test_shared_page_names_no_picture_whose_reason_is_lost(tmp_path, reason):
    make_audit(tmp_path, pictures=6, worst=1, side=32)

    def change(state):
        state['ciphers'][0]['failed'] = {'ward-7.png': reason}

    rewrite(tmp_path, change)
    assert 'ward-7' in report_page(str(tmp_path))
    shared = report_page(str(tmp_path), pictures=False)
    assert 'ward-7' not in shared
    assert 'ciphers 1, failed' in shared


@pytest.mark.parametrize('place', ['mean', 'low', 'max'])
def test_number_that_is_too_large_is_not_known(tmp_path, place):
    make_audit(tmp_path, pictures=6, worst=1, side=32)

    def change(state):
        attack = next(iter(state['ciphers'][0]['attacks'].values()))
        next(iter(attack['metrics'].values()))['main'][place] = 10**400

    rewrite(tmp_path, change)
    assert f'main, {place}' in report_page(str(tmp_path))


def test_shares_of_what_pictures_show_are_no_numbers_of_pictures(tmp_path):
    make_audit(tmp_path, ('shuffle',), pictures=40, worst=1, side=32)

    def change(state):
        for stage in state['ciphers'][0]['readers']['faces']['stages'].values():
            for risk in stage.values():
                risk['main']['mean'] = 0.5
                risk['control']['mean'] = 0.25

    rewrite(tmp_path, change)
    words = Reader(report_page(str(tmp_path))).words
    for what, said in (
        ('text read', '50.0 % in 40 pictures'),
        ('faces found', '50.0 % in 40 pictures'),
        ('faces recognised', '20 of 40 pictures'),
    ):
        assert (
            f'faces, {what}: 20 of 40 pictures on originals (control: 25.0 %); {said} on encrypted '
            'pictures (control: 25.0 %)' in words
        )
