# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What reads faces, text, and what models of the user's read."""

import json
import pickle
import unicodedata
from collections import Counter

import cv2
import numpy as np
import onnx
import pytest
from attack_parts import photo
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from skimage import data

from hime_mm.attacks.readers import FaceReader, Named, Objects, OnnxReader, Text, TextReader
from hime_mm.attacks.readers.base import overlaps
from hime_mm.errors import AttackError

#: Where the astronaut's face is in the picture of 224 pixels: x1, y1, x2, y2.
FACE = (77, 25, 117, 70)


def save(path, nodes, outputs, shape=(1, 3, None, None), kind=TensorProto.FLOAT, inputs=1):
    """Write a model to a file; its outputs as (name, type)."""
    given = [helper.make_tensor_value_info(f'x{i}', kind, shape) for i in range(inputs)]
    made = [helper.make_tensor_value_info(name, type_, None) for name, type_ in outputs]
    graph = helper.make_graph(nodes, 'g', given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return str(path)


def colours(path, **how):
    """A classifier that says which channel is the brightest."""
    nodes = [
        helper.make_node('GlobalAveragePool', ['x0'], ['y']),
        helper.make_node('Flatten', ['y'], ['z']),
    ]
    return save(path, nodes, [('z', TensorProto.FLOAT)], **how)


def constants(path, shape=(1, 3, 64, 128), **values):
    """A model that gives the same whatever it is shown."""
    nodes = [
        helper.make_node('Constant', [], [name], value=onnx.numpy_helper.from_array(value))
        for name, value in values.items()
    ]
    kinds = {'f': TensorProto.FLOAT, 'i': TensorProto.INT64}
    return save(path, nodes, [(n, kinds[v.dtype.kind]) for n, v in values.items()], shape)


@given(st.integers(0, 5), st.integers(0, 5), st.randoms(use_true_random=False))
def test_overlaps_one_by_one(n, m, random):
    def some(count):
        corners = [[random.randrange(20) for _ in range(4)] for _ in range(count)]
        return np.array([(x, y, x + w, y + h) for x, y, w, h in corners], float).reshape(-1, 4)

    boxes, others = some(n), some(m)
    found = overlaps(boxes, others)
    assert found.shape == (n, m)
    for a, row in zip(boxes, found, strict=True):
        for b, value in zip(others, row, strict=True):
            first, second = (
                {(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))}
                for c in (a, b)
            )
            union = len(first | second)
            assert value == pytest.approx(len(first & second) / union if union else 0)


class TestFaces:
    def test_is_found_where_it_is(self):
        found = FaceReader().read(photo('astronaut'))
        assert overlaps(np.array(FACE, float), found.boxes).max() > 0.6
        assert found.codes.shape == (len(found.boxes), 128)

    def test_same_face_is_nearer_than_anything_else(self):
        reader, img = FaceReader(), photo('astronaut')
        box = np.array([FACE], float)
        known = reader.read(img, box).known[0]
        mirrored = np.ascontiguousarray(img[:, ::-1])
        place = np.array([[224 - FACE[2], FACE[1], 224 - FACE[0], FACE[3]]], float)
        again = reader.read(cv2.convertScaleAbs(mirrored, alpha=0.8), place).known[0]
        other = reader.read(photo('chelsea'), box).known[0]
        assert np.linalg.norm(known - again) < 0.45 < np.linalg.norm(known - other)

    def test_place_that_is_known_is_read_where_nothing_is_found(self):
        noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
        found = FaceReader().read(noise, np.array([FACE], float))
        assert found.boxes.shape == (0, 4)
        assert found.known.shape == (1, 128)
        assert np.abs(found.known).max() > 0

    def test_face_that_is_found_is_read_where_it_was_found(self):
        reader, img = FaceReader(), photo('astronaut')
        found = reader.read(img)
        near = found.boxes + [3, -3, 3, -3]
        assert (reader.read(img, near).known == found.codes).all()

    def test_grey_and_coloured_alike(self):
        grey = cv2.cvtColor(photo('astronaut'), cv2.COLOR_BGR2GRAY)
        first, second = (
            FaceReader().read(img) for img in (grey, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
        )
        assert (first.boxes == second.boxes).all()
        assert (first.codes == second.codes).all()

    def test_travels_without_its_model(self):
        reader = FaceReader()
        first = reader.read(photo('astronaut'))
        again = pickle.loads(pickle.dumps(reader)).read(photo('astronaut'))
        assert (first.codes == again.codes).all()


class TestText:
    @pytest.mark.slow
    def test_reads_a_page(self):
        runs = TextReader().read(data.page()).runs
        wanted = Text(('markers are pixels that we can label', 'Region-based segmentation')).runs
        assert (wanted & runs).total() / wanted.total() > 0.9

    def test_reads_nothing_in_noise(self):
        noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
        assert not TextReader().read(noise).runs

    @pytest.mark.parametrize('shape', [(17, 512, 3), (512, 17, 3), (100, 400), (30, 20, 3)])
    def test_narrow_pictures_are_made_wider(self, shape):
        reader, seen = TextReader(), []

        def model(img):
            seen.append(img)
            return None, None

        reader._model = model
        img = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        assert reader.read(img).lines == ()
        (shown,) = seen
        assert max(shown.shape[:2]) <= 4 * min(shown.shape[:2])
        assert (shown[: shape[0], : shape[1], 0].T == img.reshape(*shape[:2], -1)[..., 0].T).all()
        if max(shape[:2]) <= 4 * min(shape[:2]):
            assert shown.shape[:2] == shape[:2]

    @given(st.lists(st.text(max_size=12), max_size=4))
    def test_runs_are_counted_within_lines(self, lines):
        counted = Counter()
        for line in lines:
            letters = unicodedata.normalize('NFKC', line).casefold()
            letters = [c for c in letters if c.isalnum()]
            counted.update(''.join(x) for x in zip(letters, letters[1:], letters[2:], strict=False))
        assert Text(tuple(lines)).runs == counted

    @given(st.lists(st.from_regex('[a-m]{3,9}', fullmatch=True), min_size=1, max_size=4))
    def test_share(self, lines):
        text = Text(tuple(lines))
        assert text.share(Text(tuple(reversed(lines)))) == 1
        assert text.share(Text(tuple(line.upper() for line in lines))) == 1
        assert text.share(Text(('nopqrstuvwxyz',))) == 0
        half = Text(tuple(lines[: len(lines) // 2]))
        assert text.share(half) == half.runs.total() / text.runs.total()


class TestOnnx:
    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    def test_classifier(self, tmp_path, order):
        (tmp_path / 'm.json').write_text(json.dumps(dict(order=order)))
        reader = OnnxReader(colours(tmp_path / 'm.onnx'))
        assert (reader.name, reader.title) == ('m', 'classes named')
        img = np.zeros((40, 30, 3), np.uint8)
        img[..., 2] = 200  # red
        seen = reader.read(img)
        assert isinstance(seen, Named)
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        shown = [200, 0, 0] if order == 'rgb' else [0, 0, 200]
        assert seen.scores == pytest.approx(
            [(x - m) / s for x, m, s in zip(shown, mean, std, strict=True)], abs=1e-4
        )

    def test_what_a_model_prepares_itself_is_left(self, tmp_path):
        nodes = [
            helper.make_node('Cast', ['x0'], ['f'], to=TensorProto.FLOAT),
            helper.make_node('ReduceMean', ['f'], ['z'], axes=[1, 2], keepdims=0),
        ]
        path = save(
            tmp_path / 'm.onnx',
            nodes,
            [('z', TensorProto.FLOAT)],
            (1, None, None, 3),
            TensorProto.UINT8,
        )
        img = np.full((8, 8, 3), (10, 20, 30), np.uint8)
        assert OnnxReader(path).read(img).scores.tolist() == [30, 20, 10]

    @pytest.mark.parametrize('form', ['five', 'apart', 'batch'])
    def test_detector_in_pixels_of_the_picture(self, tmp_path, form):
        boxes = np.array([[0, 0, 64, 32], [10, 10, 20, 20], [2, 4, 6, 8]], np.float32)
        scores, labels = np.array([0.9, 0.2, 0.5], np.float32), np.array([3, 1, 2])
        outputs = dict(boxes=boxes, labels=labels, scores=scores)
        if form == 'five':
            outputs = dict(dets=np.hstack([boxes, scores[:, None]])[None], labels=labels[None])
        if form == 'batch':
            outputs = {name: one[None] for name, one in outputs.items()}
        reader = OnnxReader(constants(tmp_path / 'm.onnx', **outputs))
        seen = reader.read(np.zeros((128, 128, 3), np.uint8))  # the model takes 64x128
        assert isinstance(seen, Objects)
        assert reader.title == 'objects found'
        assert seen.boxes.tolist() == [[0, 0, 64, 64], [2, 8, 6, 16]]
        assert seen.labels.tolist() == [3, 2]

    @pytest.mark.parametrize('n', [0, 1, 4, 5])
    def test_any_number_of_objects(self, tmp_path, n):
        boxes, labels = np.ones((n, 4), np.float32), np.arange(n)
        path = constants(
            tmp_path / 'm.onnx', boxes=boxes, labels=labels, scores=np.ones(n, np.float32)
        )
        seen = OnnxReader(path).read(np.zeros((64, 128, 3), np.uint8))
        assert seen.boxes.shape == (n, 4)
        assert seen.labels.tolist() == list(range(n))

    def test_threshold(self, tmp_path):
        (tmp_path / 'm.json').write_text('{"threshold": 0.95}')
        dets = np.array([[[0, 0, 9, 9, 0.9]]], np.float32)
        reader = OnnxReader(constants(tmp_path / 'm.onnx', dets=dets, labels=np.array([[1]])))
        assert len(reader.read(np.zeros((64, 128, 3), np.uint8)).boxes) == 0

    def test_travels_without_its_model(self, tmp_path):
        reader = OnnxReader(colours(tmp_path / 'm.onnx'))
        again = pickle.loads(pickle.dumps(reader))
        img = photo('coffee', 64, 64)
        assert (again.read(img).scores == reader.read(img).scores).all()

    def test_what_is_no_model(self, tmp_path):
        path = tmp_path / 'm.onnx'
        path.write_bytes(b'nothing')
        with pytest.raises(AttackError, match='m.onnx cannot be loaded as an ONNX model'):
            OnnxReader(str(path))

    def test_inputs_and_outputs_that_fit_no_picture(self, tmp_path):
        path = tmp_path / 'm.onnx'
        for how in (dict(shape=(1, 4, 8, 8)), dict(shape=(1, 3)), dict(kind=TensorProto.INT64)):
            node = helper.make_node('Identity', ['x0'], ['y'])
            with pytest.raises(AttackError, match='has inputs .* one is needed'):
                OnnxReader(save(path, [node], [('y', how.get('kind', 1))], **how))
        adding = helper.make_node('Add', ['x0', 'x1'], ['y'])
        with pytest.raises(AttackError, match='one is needed'):
            OnnxReader(save(path, [adding], [('y', 1)], inputs=2))
        with pytest.raises(AttackError, match=r'outputs of shape \[\(1, 3, 224, 224\)\]'):
            node = helper.make_node('Identity', ['x0'], ['y'])
            OnnxReader(save(path, [node], [('y', 1)]))

    @pytest.mark.parametrize(
        ('text', 'words'),
        [
            ('{', 'is no JSON'),
            ('[]', 'may hold mean, std, order, threshold'),
            ('{"size": 3}', 'may hold mean'),
            ('{"mean": [1, 2]}', 'three numbers'),
            ('{"std": ["a", 1, 1]}', 'three numbers'),
            ('{"threshold": null}', 'three numbers'),
            ('{"mean": ["1", "2", "3"]}', 'three numbers'),
            ('{"mean": [NaN, 1, 1]}', 'three numbers'),
            ('{"std": [1, 1, 0]}', 'none of `std` is 0'),
            ('{"order": "gbr"}', "'rgb' or 'bgr'"),
        ],
    )
    def test_preparation_that_is_none(self, tmp_path, text, words):
        (tmp_path / 'm.json').write_text(text)
        with pytest.raises(AttackError, match=words):
            OnnxReader(colours(tmp_path / 'm.onnx'))
