# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Predictions and annotations are drawn where the picture shows the object."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mmdet.datasets import transforms  # noqa: F401  registers them
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer
from mmpretrain.structures import DataSample
from torch import nn

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Cipher
from hime_mm.engine.hooks.seen_samples import seen, truth_of
from hime_mm.engine.hooks.visualization_hook import EncryptedVisualizationHook

# Width, height and a light object of the dark original: whole patches, at twice the size too.
SIZE, BOX = (96, 64), (32, 16, 80, 48)
LOAD = dict(type='LoadImageFromFile')
TRUTH = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
BOXES = dict(type='LoadAnnotations', with_bbox=True)
TWICE = dict(type='Resize', scale=(192, 128), keep_ratio=False)
WIDER = dict(type='Resize', scale=(192, 64), keep_ratio=False)
MIX = dict(type='hime_mm.SubPatchMix')
PADDED = dict(type='hime_mm.SubPatchMix', fit='pad')
SHUFFLE = dict(type='hime_mm.PatchShuffle')
META = dict(type='hime_mm.LoadEncryptedMeta')
PACK = dict(
    type='PackDetInputs',
    meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
)


def draw_object(size=SIZE, box=BOX):
    img = np.zeros((size[1], size[0], 3), np.uint8)
    img[box[1] : box[3], box[0] : box[2]] = 255
    return img


def sample_of(path, size=SIZE, box=BOX):
    """What a data set of MMDetection hands to its pipeline."""
    x1, y1, x2, y2 = box
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return dict(
        img_path=str(path),
        height=size[1],
        width=size[0],
        instances=[dict(bbox=list(box), bbox_label=0, ignore_flag=0, mask=outline)],
    )


def light(picture):
    """Box around what is light in a picture, or in a mask."""
    ys, xs = np.nonzero(picture if picture.ndim == 2 else picture.mean(-1) > 127)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


class Recorder:
    def __init__(self):
        self.calls = []

    def add_datasample(self, name, picture, **kwargs):
        self.calls.append((picture, kwargs))


def predicted(sample, found):
    """The object, as a detector that found it says where it is.

    In pixels of the original; the mask has its size.
    """
    box = torch.tensor([found], dtype=torch.float)
    mask = torch.zeros(1, *sample.ori_shape[:2], dtype=torch.bool)
    x1, y1, x2, y2 = found
    mask[:, y1:y2, x1:x2] = True
    sample.pred_instances = InstanceData(
        bboxes=box,
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
        masks=mask,
        somewhat=torch.tensor([7]),
    )
    return sample


def draw(monkeypatch, steps, source, found=BOX, **kwargs):
    """What the hook hands to the visualizer of one picture, after real pipelines."""
    init_default_scope('mmdet')
    pipeline = Compose(steps)
    packed = pipeline(source)
    preprocessor = DetDataPreprocessor(
        mean=[128.0] * 3, std=[60.0] * 3, bgr_to_rgb=True, pad_size_divisor=32
    )
    views = packed['inputs'] if isinstance(packed['inputs'], list) else [packed['inputs']]
    samples = packed['data_samples']
    samples = samples if isinstance(samples, list) else [samples]
    recorder = Recorder()
    monkeypatch.setattr(Visualizer, 'get_current_instance', classmethod(lambda cls: recorder))
    hook = EncryptedVisualizationHook(draw=True, **kwargs)
    model = nn.Module()
    model.data_preprocessor = preprocessor
    data = SimpleNamespace(dataset=SimpleNamespace(dataset=SimpleNamespace(pipeline=pipeline)))
    hook.before_val_epoch(SimpleNamespace(model=model, val_dataloader=data))
    seen_samples = [
        preprocessor(dict(inputs=[view], data_samples=[sample]))['data_samples'][0]
        for view, sample in zip(views, samples, strict=True)
    ]
    hook.after_val_iter(SimpleNamespace(iter=0), 0, {}, [predicted(seen_samples[0], found)])
    ((picture, options),) = recorder.calls
    return picture, options.pop('data_sample'), options


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'object.png'
    cv2.imwrite(str(path), draw_object())
    return path


#: Pipelines whose annotations can be placed.
PLACED = dict(
    # In pixels of the original, as MMDetection's test pipelines have them.
    plain=[LOAD, TRUTH, PACK],
    resized=[LOAD, TWICE, TRUTH, PACK],
    mixed=[LOAD, MIX, TRUTH, PACK],
    mixed_wider=[LOAD, WIDER, MIX, TRUTH, PACK],
    mixed_twice=[LOAD, TWICE, MIX, TRUTH, PACK],
    # Of what goes through the pipeline.
    through=[LOAD, TRUTH, TWICE, MIX, PACK],
    through_padding=[LOAD, TRUTH, WIDER, PADDED, PACK],
    through_a_flip=[LOAD, TRUTH, dict(type='RandomFlip', prob=1.0), MIX, PACK],
)


@pytest.mark.parametrize('steps', PLACED.values(), ids=PLACED)
def test_annotations_lie_where_the_object_is(monkeypatch, path, steps):
    picture, sample, options = draw(monkeypatch, steps, sample_of(path))
    assert options['draw_gt'] is True
    (box,), masks = sample.gt_instances.bboxes.tolist(), sample.gt_instances.masks
    np.testing.assert_allclose(box, light(picture), atol=1)
    assert masks.shape == (1, *picture.shape[:2])
    assert light(masks[0].numpy()) == light(picture)
    if any(step['type'] == 'RandomFlip' for step in steps):
        return
    np.testing.assert_allclose(sample.pred_instances.bboxes[0], light(picture), atol=1)
    assert light(sample.pred_instances.masks[0].numpy()) == light(picture)
    assert sample.pred_instances.somewhat.tolist() == [7]


@pytest.mark.parametrize('coordinates', ['encrypted', 'original'])
@pytest.mark.parametrize('order', [[META, BOXES], [BOXES, META]])
def test_annotations_of_an_encrypted_folder(monkeypatch, tmp_path, coordinates, order):
    """They are in encrypted pixels, wherever predictions come back."""
    (tmp_path / 'src' / 'a').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'src' / 'a' / 'x.png'), draw_object())
    encrypt_folder(
        str(tmp_path / 'src'),
        str(tmp_path / 'out'),
        'paper-mi',
        progress=False,
    )
    (encrypted,) = (tmp_path / 'out').rglob('x.png')
    steps = [dict(step, coordinates=coordinates) if step is META else step for step in order]
    half = tuple(value // 2 for value in BOX)
    source = sample_of(encrypted, (SIZE[0] // 2, SIZE[1] // 2), half)
    found = BOX if coordinates == 'original' else half
    picture, sample, options = draw(monkeypatch, [LOAD, *steps, PACK], source, found)
    assert picture.shape == (32, 48, 3) and options['draw_gt']
    for boxes in (sample.gt_instances.bboxes, sample.pred_instances.bboxes):
        np.testing.assert_allclose(boxes[0], light(picture), atol=1)


def test_boxes_that_travel_with_their_patch(monkeypatch, path):
    """Of shuffled pictures those that were shuffled with them are drawn, others never."""
    picture, sample, options = draw(monkeypatch, [LOAD, BOXES, SHUFFLE, PACK], sample_of(path))
    assert options['draw_gt']
    (box,) = sample.gt_instances.bboxes.round().long().tolist()
    centre = [(box[0] + box[2]) // 2, (box[1] + box[3]) // 2]
    assert picture[centre[1], centre[0]].mean() > 127


NOT_PLACED = dict(
    before_the_shuffling=[LOAD, SHUFFLE, BOXES, PACK],
    in_between=[LOAD, TWICE, BOXES, MIX, PACK],
    not_there=[LOAD, MIX, PACK],
)


@pytest.mark.parametrize('steps', NOT_PLACED.values(), ids=NOT_PLACED)
def test_annotations_that_nobody_can_place(monkeypatch, path, steps):
    _, sample, options = draw(monkeypatch, steps, sample_of(path))
    assert options['draw_gt'] is False
    assert 'gt_instances' not in sample or not sample.gt_instances.keys()


def test_annotations_are_left_out_on_request(monkeypatch, path):
    steps = [LOAD, MIX, TRUTH, PACK]
    _, sample, options = draw(monkeypatch, steps, sample_of(path), draw_gt=False)
    assert options['draw_gt'] is False and 'gt_instances' not in sample


@pytest.mark.parametrize('first', [0.0, 1.0])
def test_of_flipped_views_the_one_as_predicted_is_shown(monkeypatch, path, first):
    """MMDetection merges views into what the first was before it was flipped."""
    views = [[dict(type='RandomFlip', prob=prob) for prob in (first, 1 - first)], [BOXES], [PACK]]
    steps = [LOAD, TWICE, MIX, dict(type='TestTimeAug', transforms=views)]
    picture, sample, options = draw(monkeypatch, steps, sample_of(path))
    assert options['draw_gt']
    for boxes in (sample.gt_instances.bboxes, sample.pred_instances.bboxes):
        np.testing.assert_allclose(boxes[0], light(picture), atol=1)


def masks_of_every_kind(mask, box):
    x1, y1, x2, y2 = (float(v) for v in box)
    height, width = mask.shape
    outline = np.array([x1, y1, x2, y1, x2, y2, x1, y2])
    return [
        torch.from_numpy(mask)[None],
        BitmapMasks([mask.astype(np.uint8)], height, width),
        PolygonMasks([[outline]], height, width),
        mask[None],
    ]


@example(size=(16, 25), scale=(0.3, 1.0), padding=(0, 0), kind=0, corner=(25, 7))
@example(size=(16, 25), scale=(0.5, 0.5), padding=(0, 0), kind=3, corner=(25, 7))
@given(
    size=st.tuples(st.integers(16, 60), st.integers(16, 60)),
    scale=st.tuples(st.floats(0.3, 2.5), st.floats(0.3, 2.5)),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    kind=st.integers(0, 3),
    corner=st.tuples(st.integers(6, 60), st.integers(7, 60)),
)
def test_masks_of_any_scale(size, scale, padding, kind, corner):
    """Against the centre of every pixel, looked up in the original mask."""
    height, width = size
    box = (3, 4, min(corner[0], width), min(corner[1], height))
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    shape = tuple(round(n * s) + p for n, s, p in zip(size, scale[::-1], padding, strict=True))
    sample = DetDataSample(metainfo=dict(scale_factor=scale))
    masks = masks_of_every_kind(mask, box)[kind]
    sample.pred_instances = InstanceData(masks=masks, labels=torch.tensor([0]))
    classes = torch.from_numpy(np.where(mask, 3, 255))[None]
    sample.pred_sem_seg = PixelData(sem_seg=classes, metainfo=dict(ignore_index=255))
    out = seen(sample, shape)
    assert out.pred_instances.masks.shape == (1, *shape)
    assert out.pred_sem_seg.metainfo == dict(ignore_index=255)
    source = np.asarray(masks.to_ndarray()[0] if kind in (1, 2) else masks[0]).astype(bool)
    rows = [int((y + 0.5) / scale[1]) for y in range(shape[0])]
    cols = [int((x + 0.5) / scale[0]) for x in range(shape[1])]
    expected = [[r < height and c < width and source[r, c] for c in cols] for r in rows]
    np.testing.assert_array_equal(out.pred_instances.masks[0], expected)
    edge = [[mask[min(r, height - 1), min(c, width - 1)] for c in cols] for r in rows]
    np.testing.assert_array_equal(out.pred_sem_seg.sem_seg[0], np.where(edge, 3, 255))
    # The sample that is evaluated is left alone.
    assert sample.pred_instances.masks is masks


@pytest.mark.parametrize('kind', [DetDataSample, DataSample])
def test_no_permutation_reaches_a_visualizer(kind):
    layout = Cipher('shuffle').encrypt(np.zeros((64, 64, 3), np.uint8))[1]
    assert layout.permutation is not None
    sample = kind(metainfo=dict(patch_layout=layout))
    shown = seen(sample, (64, 64))
    assert repr(shown.patch_layout) == repr(layout.public())
    assert shown.patch_layout.permutation is None
    assert sample.patch_layout.permutation is not None


def test_real_visualizer_draws_masks_and_annotations(monkeypatch, path):
    """Both panels differ from the bare picture just where the object is."""
    picture, sample, options = draw(monkeypatch, [LOAD, TWICE, MIX, TRUTH, PACK], sample_of(path))
    visualizer = DetLocalVisualizer(mask_color=(255, 0, 0), line_width=1)
    visualizer.dataset_meta = dict(classes=('thing',), palette=[(0, 255, 0)])
    sample.pred_instances.bboxes = sample.pred_instances.bboxes * 0
    sample.gt_instances.bboxes = sample.gt_instances.bboxes * 0
    visualizer.add_datasample('x', picture, data_sample=sample, draw_gt=options['draw_gt'])
    drawn = visualizer.get_image()
    assert drawn.shape == (picture.shape[0], 2 * picture.shape[1], 3)
    for panel in np.split(drawn, 2, axis=1):
        changed = np.abs(panel.astype(int) - picture).max(-1) > 60
        x1, y1, x2, y2 = light(picture)
        assert changed[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() > 0.5
        changed[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = False
        assert changed.mean() < 0.1


def test_data_sets_of_which_nothing_is_known():
    assert truth_of([]) == 'original'
    assert truth_of(SimpleNamespace(pipeline=None)) == 'original'
