# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command `hime boxes --view`."""

import json
import stat

import pytest
from cli_parts import ANN, invoke
from owner_data import tree

pytest.importorskip('jinja2')


@pytest.fixture
def call(encrypted, coco_src, keys, tmp_path):
    """Run it on the data set's own annotations, each with another score."""
    anns = json.loads((encrypted / ANN).read_text())['annotations']
    rows = [
        dict({key: ann[key] for key in ('image_id', 'category_id', 'bbox')}, score=(i + 1) / 10)
        for i, ann in enumerate(anns)
    ]
    (tmp_path / 'results.json').write_text(json.dumps(rows))

    def run(*more, status=0):
        args = ['boxes', tmp_path / 'results.json', tmp_path / 'out.json', '--data', encrypted]
        return invoke(*args, '--key', keys, '-q', *more, status=status)

    return run


def test_writes_both_files(call, encrypted, coco_src, tmp_path):
    before = [tree(folder) for folder in (encrypted, coco_src)]
    page = tmp_path / 'new' / 'page.html'
    output = call('--view', page, '--originals', coco_src)
    assert f'{page}: plain pictures' in output and '6 boxes of 3 images' in output
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    text = page.read_text()
    assert text.count('<figure') == 3 and '3 of 3 pictures' in text
    mapped = json.loads((tmp_path / 'out.json').read_text())
    assert text.count('<tr class=low') == sum(row['score'] < 0.3 for row in mapped) > 0
    assert [tree(folder) for folder in (encrypted, coco_src)] == before
    call('--view', page, '--originals', coco_src, '--force', '--view-pictures', 2)
    assert page.read_text().count('<figure') == 2
    call('--view', page, '--originals', coco_src, '--force', '--view-score', 0)
    assert 'class=low' not in page.read_text()


def test_page_and_originals_belong_together(call, coco_src, tmp_path):
    for options in (('--view', tmp_path / 'page.html'), ('--originals', coco_src)):
        assert '--view and --originals belong together' in call(*options, status=2)
    assert {path.name for path in tmp_path.iterdir()} == {'results.json'}


def test_is_not_written_over_what_is_there(call, coco_src, tmp_path):
    (tmp_path / 'page.html').write_text('mine')
    assert 'is there already' in call(
        '--view', tmp_path / 'page.html', '--originals', coco_src, status=1
    )
    assert (tmp_path / 'page.html').read_text() == 'mine'
    assert not (tmp_path / 'out.json').exists()


def test_no_original_is_replaced(call, coco_src, tmp_path):
    before = tree(coco_src)
    for place in [path for path in coco_src.rglob('*') if path.is_file()][:2]:
        text = call('--view', place, '--originals', coco_src, '--force', status=1)
        assert 'lies among the originals' in text
    assert tree(coco_src) == before
    assert not (tmp_path / 'out.json').exists()
