# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What pages are held to finds what is wrong with a page."""

import pytest
from chromium import browser, check_page

from hime_mm.visualization.page import _file

pytestmark = pytest.mark.slow
TABLE = (
    '<table class="sortable"><thead><tr><th>a</th><th>b</th></tr></thead><tbody>'
    '<tr><td data-value="2">2</td><td>x</td></tr><tr><td data-value=""></td><td>z</td></tr>'
    '<tr><td data-value="10">10</td><td>y</td></tr></tbody></table>'
)
WHOLE = f'<h1>Whole</h1><details><summary>more</summary><p>text</p></details>{TABLE}'


@pytest.fixture(scope='module')
def page():
    with browser() as page:
        yield page


def written(tmp_path, body, script=None):
    script = _file('page.js') if script is None else script
    place = tmp_path / 'page.html'
    place.write_text(
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>'
        f'<link rel="icon" href="data:,"><style>{_file("page.css")}</style></head>'
        f'<body>{body}<script>{script}</script></body></html>'
    )
    return place


def test_a_whole_page(page, tmp_path):
    check_page(page, written(tmp_path, WHOLE))


@pytest.mark.parametrize(
    'body, words',
    [
        ('<p class="x">wide</p><style>.x { width: 1700px; }</style>', 'wider than the window'),
        ('<p class="x">narrow</p><style>.x { width: 9px; white-space: pre; }</style>', 'px in 9'),
        ('<p class="x">pale</p><style>.x { color: #999; background: #fff; }</style>', 'contrast'),
        ('<img alt="gone" src="data:image/png;base64,AAAA">', 'gone is not shown'),
        ('<img alt="far" src="http://127.0.0.1:9/far.png">', 'far is not shown'),
        ('<svg viewBox="0 0 9 9"></svg>', 'has no name'),
        (
            '<svg viewBox="0 0 90 90" width="90"><title>t</title><rect width="90" height="90"/>'
            '<text y="40" fill="#222">dark</text></svg>',
            'contrast',
        ),
        ('<p onclick="x()">on</p>', 'has onclick'),
        ('<p style="color: red">own</p>', 'a style of its own'),
        ('<a href="#nowhere">link</a>', 'is nowhere'),
        ('<script>console.error("a fault")</script>', 'a fault'),
    ],
)
def test_what_is_wrong_is_found(page, tmp_path, body, words):
    with pytest.raises(AssertionError, match=words):
        check_page(page, written(tmp_path, body))


def test_what_is_fetched_is_found(page, tmp_path):
    (tmp_path / 'other.css').write_text('')
    with pytest.raises(AssertionError, match='other.css'):
        check_page(page, written(tmp_path, '<link rel="stylesheet" href="other.css">'))


def test_tables_that_do_not_sort(page, tmp_path):
    script = _file('page.js').replace('return down ? by : -by', 'return 0')
    with pytest.raises(AssertionError, match='stands before'):
        check_page(page, written(tmp_path, TABLE, script))
