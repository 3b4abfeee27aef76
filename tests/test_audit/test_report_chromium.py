# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The report of an audit as a browser shows it."""

import pytest
from chromium import browser, check_page
from report_parts import make_audit, rewrite

from hime_mm.audit.page import write_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def page():
    with browser() as page:
        yield page


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A report of four ciphers on 40 pictures, and its folder."""
    folder = make_audit(tmp_path_factory.mktemp('report') / 'audit')
    return folder, write_page(str(folder))


def test_of_four_ciphers_and_forty_pictures(page, written, capsys):
    folder, place = written
    check_page(page, place)
    assert page.ask('document.images.length') == 4 * 10 * 3
    size = (folder / 'report.html').stat().st_size
    assert size < 6_000_000
    times = []
    for _ in range(3):
        page.open(place)
        times.append(page.milliseconds())
    with capsys.disabled():
        print(f'\nreport.html: {size / 1e6:.2f} MB, loaded in {min(times):.0f} ms')
    # Under a second where nothing else runs.
    assert min(times) < 3000


def test_without_pictures(page, written, tmp_path):
    folder, _ = written
    check_page(page, write_page(str(folder), str(tmp_path / 'shared.html'), pictures=False))


def test_changed_and_partial(page, tmp_path):
    folder = make_audit(tmp_path / 'a', ('shuffle', 'mix2'), worst=2, side=64)
    rewrite(folder, lambda state: state['ciphers'][0].update(cipher='mix4'), seal=False)
    check_page(page, write_page(str(folder)))
    (folder / 'mix2_p16' / 'worst' / '0000_original.png').unlink()

    def change(state):
        state['recipes'] += [{}]
        del state['ciphers'][1]['attacks']['jigsaw']['metrics']['ssim']['main']

    rewrite(folder, change)
    check_page(page, write_page(str(folder)))
    assert page.ask('document.getElementById("notices").textContent').count('mix2') >= 1


def test_markup_and_long_names(page, tmp_path):
    names = [
        '<script>document.title = "taken"</script>.png',
        '"><img src=x onerror="document.title = 1">',
        'n' * 4000 + '.png',
        '\u202egnp.' + 'word ' * 300,
        'W' * 60,
    ]
    ciphers = ('+'.join(['center', 'erode2', 'mix2'] * 12), 'C' * 300)
    folder = make_audit(tmp_path / 'a', ciphers, worst=5, side=64, names=names)

    def change(state):
        one = state['ciphers'][0]
        one['failed'] = {f'{"f" * 300}{i}.png': 'r' * 4000 for i in range(10_000)}
        one['sampled'] += 10_000
        one['not_tried'] = {'A' * 300: 'y' * 3000}
        state['command'] = 'hime audit PICTURES -c ' + '+'.join(['center'] * 300)
        state['versions'] = {'v' * 300: '1' * 300}

    rewrite(folder, change)
    place = write_page(str(folder))
    check_page(page, place)
    assert page.driver.title.startswith('What leaked')


@pytest.mark.parametrize('number', [1, pytest.param(8, marks=pytest.mark.trial)])
def test_few_and_many_ciphers(page, tmp_path, number):
    ciphers = [f'erode{i}+shuffle' for i in range(number)]
    folder = make_audit(tmp_path / 'a', ciphers, worst=1, side=32)
    check_page(page, write_page(str(folder)))
