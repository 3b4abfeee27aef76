# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command `hime eval`."""

import json

import pytest
from cli_parts import ANN, invoke
from owner_data import SECRET, forms_of_key, found, hime, key_file, tree

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture(scope='module')
def results(encrypted, tmp_path_factory):
    """Those of a perfect detector, with each box a second time, lower and a little beside it."""
    rows = []
    for ann in json.loads((encrypted / ANN).read_text())['annotations']:
        if not ann['iscrowd']:
            row = {key: ann[key] for key in ('image_id', 'category_id', 'bbox')}
            x, y, w, h = row['bbox']
            rows += [dict(row, score=0.9), dict(row, bbox=[x - 0.5, y, w + 1, h], score=0.3)]
    path = tmp_path_factory.mktemp('results') / 'results.json'
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def call(encrypted, coco_src, keys, results):
    """Run it on these with more options, or with others in place of them."""

    def run(*more, status=0, ann=coco_src / ANN, key=keys, env=None):
        given = ['--key', key] if key is not None else []
        args = ['eval', results, '--data', encrypted, '--ann', ann, *given, '-q', *more]
        return invoke(*args, status=status, env=env)

    return run


def test_a_short_table(call, encrypted, coco_src, results):
    """And nothing of pycocotools, nor any file."""
    before = [tree(folder) for folder in (encrypted, coco_src, results.parent)]
    lines = call().splitlines()
    assert lines[0] == '6 boxes of 3 images, 3 kept by suppression at IoU 0.5'
    assert lines[1] == f'evaluated on 4 images of {coco_src / ANN}'
    rows = dict(line.split() for line in lines[2:])
    assert len(rows) == 12 and rows['AP'] == rows['AP50'] == rows['AR@100'] == '1.0000'
    assert rows['AP_large'] == '-'
    assert [tree(folder) for folder in (encrypted, coco_src, results.parent)] == before


def test_options(call, keys):
    plain = call('--nms', 1)
    assert 'suppression' not in plain and 'AP50' in plain
    rows = dict(line.split() for line in call('--classwise').splitlines()[-2:])
    assert rows == {'cat': '1.0000', 'cup': '-'}
    assert 'AR@7 ' in call('--max-dets', '1,7') and 'AR@100' not in call('--max-dets', '1,7')
    lines = [line.split() for line in call('--iou-thrs', '0.5,0.6').splitlines()]
    assert ['AP75', '-'] in lines and ['AP50', '1.0000'] in lines
    text = call('--classes', 'cup', '--classwise')
    assert 'cat' not in text and ['AP', '-'] in [line.split() for line in text.splitlines()]
    env = dict(HIME_KEY=keys.read_text())
    assert call(key=None, env=env) == call()


def test_json(call):
    state = json.loads(call('--json'))
    assert state['numbers']['AP'] == pytest.approx(1) and state['numbers']['AP_large'] is None
    assert state['classes'] == dict(cat=pytest.approx(1), cup=None)
    assert (state['images'], state['left_out']) == (4, 0)
    assert state['mapping']['kept'] == 3


def test_out(call, encrypted, tmp_path):
    out = tmp_path / 'mapped.json'
    call('--out', out)
    assert len(json.loads(out.read_text())) == 3
    assert 'hime: ' in call('--out', out, status=1)
    assert '`--force`' in call('--out', out, status=1)
    call('--out', out, '--force', '--nms', 1)
    assert len(json.loads(out.read_text())) == 6
    # It would be the only copy, and what it encrypted could not come back.
    key = key_file(tmp_path / 'owner.key')
    content = key.read_bytes()
    for force in ((), ('--force',)):
        assert 'never overwritten' in call('--out', key, *force, status=1)
    assert key.read_bytes() == content
    before = tree(encrypted)
    assert 'handed over' in call('--out', encrypted / 'mapped.json', status=1)
    assert tree(encrypted) == before


def test_wrong_use(call, encrypted, keys, tmp_path):
    assert '--key FILE' in call(key=None, status=2)
    assert 'wrong key' in call(key=keys.parent / 'other.key', status=1)
    out = tmp_path / 'out.json'
    for ann in (encrypted / ANN, tmp_path):
        text = call('--out', out, ann=ann, status=1 if ann.is_file() else 2)
        assert str(ann) in text
    for option, value in (('--max-dets', '1,x'), ('--iou-thrs', 'half'), ('--nms', 2)):
        assert option in call(option, value, status=2)
    assert '--max-dets' in call('--max-dets', '9,1', status=1)
    assert '--iou-thrs' in call('--iou-thrs', '50', status=1)
    assert 'cow' in call('--classes', 'cow', status=1)
    assert not out.exists()


def test_as_a_person_runs_it(encrypted, coco_src, keys, results):
    status, out, err = hime(
        'eval', results, '--data', encrypted, '--ann', coco_src / ANN, '--key', keys, '-q'
    )  # fmt: skip
    assert status == 0 and 'creating index' not in out + err
    assert not found(forms_of_key(SECRET), [out.encode(), err.encode()])
    assert '1.0000' in out and err == ''
