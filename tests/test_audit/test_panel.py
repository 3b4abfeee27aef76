# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What machines read of originals, encrypted pictures and reconstructions."""

import json

import cv2
import numpy as np
import onnx
import pytest
from attack_parts import photo
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hime_mm.apis import AuditSettings, Recipe, audit_dataset, audit_pictures
from hime_mm.attacks.readers import READERS, FaceReader, Faces, Objects, OnnxReader, Reader, Text
from hime_mm.audit import work as work_module
from hime_mm.audit.panel import STAGES, Panel, known_people, noise_like, scrambled
from hime_mm.audit.session import Session
from hime_mm.audit.subject import Case, subject_of
from hime_mm.audit.table import table
from hime_mm.ciphers import Cipher
from hime_mm.errors import AuditError, WorkerDied

COLOURS = dict(red=(40, 40, 220), green=(40, 220, 40), blue=(220, 40, 40))


@pytest.fixture
def brightest(tmp_path):
    """A model that names the brightest channel."""
    given = helper.make_tensor_value_info('x', TensorProto.FLOAT, (1, 3, None, None))
    made = helper.make_tensor_value_info('z', TensorProto.FLOAT, None)
    nodes = [
        helper.make_node('GlobalAveragePool', ['x'], ['y']),
        helper.make_node('Flatten', ['y'], ['z']),
    ]
    graph = helper.make_graph(nodes, 'g', [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    path = tmp_path / 'models' / 'brightest.onnx'
    path.parent.mkdir()
    onnx.save(model, path)
    return str(path)


@pytest.fixture
def painted(tmp_path):
    """Nine pictures of three colours, a folder each."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for i in range(3):
            img = np.clip(rng.normal(colour, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
            (tmp_path / 'painted' / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / 'painted' / name / f'{i}.png'), img)
    return tmp_path / 'painted'


def audit(src, out, cipher, **settings):
    settings = AuditSettings(**{'progress': False, **settings})
    report = audit_pictures(str(src), str(out), [Recipe.build(cipher)], settings)
    return report, report.subjects[0]


class Told(Reader):
    """A reader that says what it is told to of each picture."""

    name, title, source = 'told', 'what it was told', 'nobody'

    def __init__(self, says):
        super().__init__()
        self.says = says

    def _load(self):
        return None

    def _read(self, img, places):
        return self.says(img, places)


def panel_of(says, *pictures, name='told', cipher='shuffle', people=None):
    """A panel of one reader on pictures that were encrypted."""
    done = [(one, *Cipher(cipher).encrypt(one, np.random.default_rng(0))) for one in pictures]
    cases = [
        Case(f'{i}.png', encrypted, layout.public(), plain, plain, drawn, layout.permutation)
        for i, (plain, encrypted, layout, drawn) in enumerate(done)
    ]
    subject = subject_of(Cipher(cipher), cases, [photo('rocket')], 0)
    reader = Told(says)
    reader.name = name
    panel = Panel(subject, [reader], people)
    assert [*panel.prepare()] == [name]
    return panel


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 9))
def test_squares_are_mixed_and_nothing_else(height, width, colour, seed):
    rng = np.random.default_rng(seed)
    img = rng.integers(0, 256, (height, width, 3) if colour else (height, width), np.uint8)
    out = scrambled(img, rng)
    rows, cols = height // 8, width // 8

    def squares(one):
        cells = [(r, c) for r in range(rows) for c in range(cols)]
        return sorted(one[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].tobytes() for r, c in cells)

    assert squares(out) == squares(img)
    assert (out[8 * rows :] == img[8 * rows :]).all()
    assert (out[:, 8 * cols :] == img[:, 8 * cols :]).all()


def test_squares_do_move():
    img = photo('astronaut')
    assert (scrambled(img, np.random.default_rng(0)) != img).mean() > 0.9


def test_noise_is_like_the_picture():
    img = cv2.convertScaleAbs(photo('coffee'), alpha=0.4, beta=80)
    noise = noise_like(img, np.random.default_rng(0))
    assert (noise.shape, noise.dtype) == (img.shape, img.dtype)
    assert abs(noise.mean() - img.mean()) < 1 and abs(noise.std() - img.std()) < 1
    assert np.corrcoef(noise.ravel(), img.ravel())[0, 1] < 0.02


class TestJudged:
    """By hand: the reader sees what it is told to."""

    def test_objects(self):
        img, other = photo('coffee'), photo('chelsea')
        here = Objects(np.array([[0, 0, 10, 10], [20, 20, 40, 40.0]]), np.array([1, 2]))
        none = Objects(np.zeros((0, 4)), np.zeros(0, int))
        # Half of the first object is not enough; the second is there as another thing.
        seen = Objects(np.array([[0, 0, 10, 5.1], [20, 20, 40, 40.0]]), np.array([1, 3]))
        marked = img.copy()
        marked[:] = 7

        def says(picture, places):
            if picture.shape == img.shape and (picture == img).all():
                return here
            return seen if (picture == 7).all() else none

        panel = panel_of(says, img, other)
        assert panel.read('told', 'original', img, 0) == {'object_found': (1, 0, 0)}
        assert panel.read('told', 'original', other, 1) == {'object_found': (0, 0, 0)}
        # All squares of the picture are alike: mixed up it is the same, and so is its noise.
        assert panel.read('told', 'encrypted', marked, 0) == {'object_found': (0.5, 0.5, 0.5)}
        assert panel.read('told', 'encrypted', other, 0) == {'object_found': (0, 0, 0)}
        # There is nothing to be found.
        assert panel.read('told', 'encrypted', marked, 1) == {}

    def test_all_is_read_at_the_size_of_the_original(self):
        panel = panel_of(lambda img, places: Text(()), photo('coffee'), cipher='mix2')
        half = panel.subject.cases[0].encrypted
        shown = panel.shown(0, half)
        assert half.shape == (112, 112, 3)
        assert {one.shape for one in shown.values()} == {(224, 224, 3)}
        assert [*shown] == [*STAGES]
        assert [*panel.shown(0, None)] == [*STAGES[:2]]

    def test_text_is_held_against_other_text(self):
        first, second, third = photo('coffee'), photo('chelsea'), photo('rocket')

        def says(picture, places):
            for img, line in ((first, 'abcdef'), (second, 'cdefgh')):
                if picture.shape == img.shape and (picture == img).all():
                    return Text((line,))
            return Text(('abcd', 'efgh') if (picture == third).all() else ())

        panel = panel_of(says, first, second)
        # Of abc, bcd, cde, def two are read; of cde, def, efg, fgh two as well.
        assert panel.read('told', 'reconstructed', third, 0) == {'text_read': (0.5, 0.5, 0)}
        assert panel.read('told', 'original', first, 0) == {'text_read': (1, 0, 0)}
        # Where nothing else is written, against the same squares, mixed up.
        alone = panel_of(says, first, photo('astronaut'))
        assert alone.read('told', 'reconstructed', third, 0) == {'text_read': (0.5, 0, 0)}

    def test_faces_of_the_originals(self):
        pictures = [photo(name) for name in ('coffee', 'chelsea', 'rocket')]
        codes = np.eye(128)

        def says(picture, places):
            for number, img in enumerate(pictures):
                if (picture == img).all():
                    known = np.repeat(codes[number][None], 0 if places is None else len(places), 0)
                    return Faces(np.array([[9, 9, 49, 49.0]]), codes[number][None], known)
            known = np.repeat(codes[1][None], 0 if places is None else len(places), 0)
            return Faces(np.zeros((0, 4)), np.zeros((0, 128)), known)

        panel = panel_of(says, *pictures, name='faces')
        # It is its own copy: nothing is said of who it is.
        assert panel.read('faces', 'original', pictures[0], 0) == {'face_found': (1, 0, 0)}
        blank = np.full_like(pictures[0], 3)
        scores = panel.read('faces', 'encrypted', blank, 1)
        assert scores['face_found'] == (0, 0, 0)
        assert scores['face_recognised'] == (1, 0, pytest.approx(1 / 3))
        scores = panel.read('faces', 'encrypted', blank, 0)
        assert scores['face_recognised'].main == 0
        scores = panel.read('faces', 'reconstructed', pictures[2], 2)
        assert scores['face_found'].main == 1 and scores['face_recognised'].main == 1


def test_what_stays_of_a_colour_is_read(painted, brightest, tmp_path):
    out = tmp_path / 'out'
    _, kept = audit(painted, out, 'shuffle', attacks=('jigsaw',), onnx=(brightest,))
    (read,) = kept.readers
    assert read.name == 'brightest'
    for stage in STAGES:
        risk = read.stages[stage]['class_named']
        assert risk.main.mean == 1 and len(risk.values) == 9
        assert risk.baseline.mean == pytest.approx(1 / 3)
    # Control: others of the same colour are named alike, by chance.
    assert 0 < risk.control.mean < 0.8
    _, lost = audit(painted, tmp_path / 'b', 'center', attacks=('jigsaw',), onnx=(brightest,))
    stages = lost.readers[0].stages
    assert stages['original']['class_named'].main.mean == 1
    assert stages['encrypted']['class_named'].main.mean < 0.7
    # No attack made a picture.
    assert stages['reconstructed'] == {}
    summary = json.loads((out / 'audit.json').read_text())
    (one,) = summary['ciphers']
    said = one['readers']['brightest']
    assert said['stages']['encrypted']['class_named']['main']['mean'] == 1
    full = json.loads((out / said['file']).read_text())
    values = full['stages']['encrypted']['class_named']['values']
    assert values['red/0.png']['main'] == 1
    assert summary['onnx']['brightest.onnx'] and brightest not in json.dumps(summary['ciphers'])
    assert [*one['not_read']] == []


def test_table_and_limits(painted, brightest, tmp_path):
    report, _ = audit(painted, tmp_path / 'a', 'center', attacks=('mosaic',), onnx=(brightest,))
    lines = table(report)
    assert any('brightest: original' in line for line in lines)
    mean = report.subjects[0].readers[0].stages['encrypted']['class_named'].main.mean
    # What is read of the originals is no leak.
    assert report.above({'class_named': mean}) == []
    (line,) = report.above({'class_named': mean - 0.01})
    assert 'by brightest' in line


def test_people_who_are_known(painted, tmp_path, monkeypatch):
    class Colour(FaceReader):
        requires = ()

        def _load(self):
            return None

        def _read(self, img, places):
            code = np.resize(img.mean(axis=(0, 1)), 128)[None]
            box = np.array([[0, 0, img.shape[1], img.shape[0]]], float)
            return Faces(box, code, np.repeat(code, 0 if places is None else len(places), 0))

    monkeypatch.setitem(READERS, 'faces', Colour)
    for name, colour in [*COLOURS.items(), ('grey', (128, 128, 128))]:
        (tmp_path / 'people' / name).mkdir(parents=True)
        img = np.full((32, 32, 3), colour, np.uint8)
        cv2.imwrite(str(tmp_path / 'people' / name / 'a.png'), img)
    settings = dict(attacks=('faces',), people=str(tmp_path / 'people'))
    _, kept = audit(painted, tmp_path / 'a', 'shuffle', **settings)
    for stage in STAGES[:2]:
        risk = kept.readers[0].stages[stage]['face_recognised']
        assert (risk.main.mean, risk.control.mean) == (1, 0)
        assert risk.baseline.mean == pytest.approx(1 / 4)
    _, lost = audit(painted, tmp_path / 'b', 'center', **settings)
    # All are grey now.
    assert lost.readers[0].stages['encrypted']['face_recognised'].main.mean == 0


def test_people_who_are_none(painted, tmp_path):
    with pytest.raises(AuditError, match='holds pictures of 0 people: .* as `people`'):
        known_people(FaceReader(), str(painted / 'red'))
    with pytest.raises(AuditError, match='lie in each other: name other pictures as `people`'):
        audit(painted, tmp_path / 'a', 'shuffle', attacks=('faces',), people=str(painted / 'red'))


@pytest.mark.slow
def test_people_on_whose_pictures_no_face_is_found(painted):
    found = known_people(FaceReader(), str(painted))
    assert [*found.names] == [*sorted(COLOURS)]
    assert found.codes.shape == (9, 128)
    assert np.abs(found.codes).max() > 0


def test_without_the_extra(painted, tmp_path, monkeypatch):
    monkeypatch.setattr('hime_mm.attacks.readers.base.find_spec', lambda name: None)
    report, one = audit(painted, tmp_path / 'a', 'shuffle', attacks=('jigsaw', 'faces', 'text'))
    assert one.readers == []
    assert one.not_read.keys() == {'faces', 'text'}
    assert (
        one.not_read['faces'] == "no dlib, face_recognition_models: pip install 'hime-mm[readers]'"
    )
    assert any('not read: text' in line for line in table(report))
    summary = json.loads((tmp_path / 'a' / 'audit.json').read_text())
    assert summary['ciphers'][0]['not_read'].keys() == {'faces', 'text'}
    assert report.above({'face_found': 0.5}) == ['shuffle: face_found was not measured']
    with pytest.raises(AuditError, match=r'`onnx` needs onnxruntime: pip install .*readers'):
        audit(painted, tmp_path / 'b', 'shuffle', onnx=('a.onnx',))


@pytest.mark.slow
def test_originals_that_are_not_known(delivered, tmp_path):
    settings = AuditSettings(attacks=('jigsaw', 'text'), progress=False)
    report = audit_dataset(str(delivered), str(tmp_path / 'a'), settings=settings)
    real, rehearsal = report.subjects
    assert real.not_read == {'text': 'what the originals show is not known'}
    assert rehearsal.readers[0].name == 'text' and not rehearsal.not_read


def test_two_readers_of_one_name(painted, brightest, tmp_path):
    with pytest.raises(AuditError, match='two readers have one name, of .* rename a model'):
        audit(painted, tmp_path / 'a', 'shuffle', onnx=(brightest, brightest))
    with pytest.raises(AuditError, match='there is no model .* as `onnx`'):
        audit(painted, tmp_path / 'a', 'shuffle', onnx=('nothing.onnx',))
    assert not (tmp_path / 'a').exists()


def test_a_reader_that_fails_is_named(painted, brightest, tmp_path, monkeypatch):
    good, calls = OnnxReader._read, []

    def some(self, img, places):
        calls.append(1)
        if len(calls) > 15:
            raise RuntimeError('no memory')
        return good(self, img, places)

    monkeypatch.setattr(OnnxReader, '_read', some)
    report, one = audit(painted, tmp_path / 'a', 'shuffle', attacks=('jigsaw',), onnx=(brightest,))
    assert any('brightest: encrypted failed on' in line for line in table(report))
    assert any('brightest failed on' in line for line in report.above(dict(ssim=2.0)))
    failed = [name for stage in one.readers[0].failed.values() for name in stage]
    assert failed
    reasons = {reason for stage in one.readers[0].failed.values() for reason in stage.values()}
    assert reasons == {'brightest does not take this picture: RuntimeError: no memory'}


def test_interrupted_and_again(painted, brightest, tmp_path, monkeypatch):
    settings = dict(attacks=('jigsaw',), onnx=(brightest,))
    _, whole = audit(painted, tmp_path / 'whole', 'shuffle', **settings)
    run, done = Session.run, []

    def stopped(self, index):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(index)
        return run(self, index)

    monkeypatch.setattr(Session, 'run', stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(painted, tmp_path / 'part', 'shuffle', **settings)
    monkeypatch.setattr(Session, 'run', run)
    _, again = audit(painted, tmp_path / 'part', 'shuffle', **settings)
    first, second = whole.readers[0].stages, again.readers[0].stages
    for stage in STAGES:
        assert {k: v.to_dict() for k, v in first[stage].items()} == {
            k: v.to_dict() for k, v in second[stage].items()
        }


def test_a_picture_whose_worker_died_is_none_that_was_read(
    painted, brightest, tmp_path, monkeypatch
):
    run_tasks = work_module.run_tasks

    def dying(function, session, key, tasks, workers):
        for number, found in run_tasks(function, session, key, tasks, workers):
            yield number, WorkerDied('too much memory') if number == 0 else found

    monkeypatch.setattr(work_module, 'run_tasks', dying)
    _, one = audit(painted, tmp_path / 'a', 'shuffle', attacks=('jigsaw',), onnx=(brightest,))
    for stage in STAGES:
        assert [*one.readers[0].failed[stage].values()] == ['too much memory']
        assert len(one.readers[0].stages[stage]['class_named'].values) == 8


@pytest.mark.slow
def test_workers_read_the_same(painted, brightest, tmp_path):
    settings = dict(attacks=('jigsaw', 'faces'), onnx=(brightest,))
    _, one = audit(painted, tmp_path / 'one', 'shuffle', **settings)
    _, two = audit(painted, tmp_path / 'two', 'shuffle', workers=2, **settings)
    for first, second in zip(one.readers, two.readers, strict=True):
        assert first.name == second.name
        for stage in STAGES:
            assert {k: v.to_dict() for k, v in first.stages[stage].items()} == {
                k: v.to_dict() for k, v in second.stages[stage].items()
            }


@pytest.mark.slow
def test_real_faces(data_root, tmp_path):
    folder = data_root / 'faces_224'
    if not folder.is_dir():
        pytest.skip('no folder of faces')
    for path in sorted(folder.glob('p00?_[01].jpg')):
        person, number = path.stem.split('_')
        place = tmp_path / ('known', 'attacked')[int(number)] / person
        place.mkdir(parents=True)
        (place / path.name).symlink_to(path)
    settings = AuditSettings(
        attacks=('mosaic', 'faces'), people=str(tmp_path / 'known'), progress=False
    )
    recipes = [
        Recipe.build(cipher, preprocess=dict(color_type='grayscale'))
        for cipher in ('mix2', 'erode4+shuffle')
    ]
    report = audit_pictures(str(tmp_path / 'attacked'), str(tmp_path / 'out'), recipes, settings)
    mixed, eroded = (one.readers[0].stages for one in report.subjects)
    assert mixed['original']['face_recognised'].main.mean >= 0.8
    assert mixed['original']['face_recognised'].control.mean <= 0.2
    assert mixed['encrypted']['face_found'].main.mean >= 0.8
    assert eroded['encrypted']['face_found'].main.mean == 0


class Worst(Exception):
    """As others' packages raise them: of no class that we know."""


def test_a_picture_that_a_reader_fails_on_is_one_of_many():
    wide = np.zeros((16, 48, 3), np.uint8)

    def says(img, places):
        if img.shape == wide.shape:
            raise Worst('too\nwide')
        return Text(('abcdef',))

    square = photo('coffee', 64, 64)
    panel = panel_of(says, square, wide)
    session = Session(panel.subject, ['none'], panel)
    assert [*session.prepare()] == ['told']
    results = session.run(1)
    assert {*results} == {'told@original', 'told@encrypted'}
    for one in results.values():
        assert one.failed == 'of the original: told does not take this picture: Worst: too wide'
    assert not any(one.failed for one in session.run(0).values())
    assert session.run(0)['told@encrypted'].scores['text_read'].main == 1


def test_reader_that_is_installed_and_does_not_work(monkeypatch, brightest, painted, tmp_path):
    def broken(self):
        raise ImportError('libGL.so.1: no such file')

    monkeypatch.setattr(READERS['text'], '_load', broken)
    monkeypatch.setattr(READERS['text'], 'missing', classmethod(lambda cls: ''))
    report, one = audit(
        painted, tmp_path / 'out', 'shuffle', attacks=['text'], onnx=[brightest], workers=1
    )
    assert one.not_read == {'text': 'text cannot be loaded: ImportError: libGL.so.1: no such file'}
    assert [reader.name for reader in one.readers] == ['brightest']
    assert any('libGL' in line for line in table(report))


def test_known_picture_that_a_reader_fails_on_is_left_out(tmp_path):
    for place in ('ann/0', 'bob/0', 'bob/1'):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        size = 48 if place == 'bob/1' else 32
        cv2.imwrite(f'{tmp_path / place}.png', np.zeros((32, size, 3), np.uint8))

    def says(img, places):
        if img.shape[1] == 48:
            raise Worst('too wide')
        return Faces(np.zeros((0, 4)), np.zeros((0, 128)), np.zeros((1, 128)))

    assert known_people(Told(says), str(tmp_path)).who.tolist() == [0, 1]


def test_picture_beside_the_folders_of_people_is_of_nobody(tmp_path):
    for place in ('people/ann/0', 'people/bob/0', 'people/stray', 'one/ann/0', 'one/stray'):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f'{tmp_path / place}.png', np.zeros((32, 32, 3), np.uint8))

    def says(img, places):
        return Faces(np.zeros((0, 4)), np.zeros((0, 128)), np.zeros((1, 128)))

    assert known_people(Told(says), str(tmp_path / 'people')).names == dict(ann=0, bob=1)
    with pytest.raises(AuditError, match='pictures of 1 people'):
        known_people(Told(says), str(tmp_path / 'one'))


def test_too_few_people_show_before_anything_is_written(painted, tmp_path):
    (tmp_path / 'one' / 'ann').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'one' / 'ann' / '0.png'), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(AuditError, match='pictures of 1 people'):
        audit(painted, tmp_path / 'out', 'shuffle', attacks=['faces'], people=str(tmp_path / 'one'))
    assert not (tmp_path / 'out').exists()
