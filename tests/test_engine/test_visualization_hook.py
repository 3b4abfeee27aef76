# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The hook draws what the model saw, and never opens the plain file."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import nn

from hime_mm.engine.hooks.visualization_hook import EncryptedVisualizationHook, undo_normalization
from hime_mm.errors import ConfigError, PictureError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
# As a pipeline loads and packs it: BGR, channels first.
LOADED = torch.from_numpy(np.ascontiguousarray(PICTURE[..., ::-1])).permute(2, 0, 1)


class Recorder:
    """Stands in for a visualizer."""

    def __init__(self, method):
        self.calls = []
        setattr(self, method, self._record)

    def _record(self, *args, **kwargs):
        self.calls.append((args, kwargs))


class Runner:
    """What the hook needs of a runner."""

    iter = 7
    timestamp = 'now'

    def __init__(self, preprocessor, work_dir='wd'):
        self.model = nn.Module()
        self.model.data_preprocessor = preprocessor
        self.val_dataloader = self.test_dataloader = SimpleNamespace(dataset=[])
        self.work_dir = str(work_dir)


def make_hook(monkeypatch, recorder, **kwargs):
    monkeypatch.setattr(Visualizer, 'get_current_instance', classmethod(lambda cls: recorder))
    return EncryptedVisualizationHook(**kwargs)


@pytest.mark.parametrize('convert', [True, False])
def test_undoes_either_preprocessor(convert):
    det = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=convert)
    out = det(
        dict(
            inputs=[LOADED.clone()], data_samples=[DetDataSample(metainfo=dict(img_shape=(24, 40)))]
        ),
        False,
    )
    np.testing.assert_array_equal(undo_normalization(out['inputs'][0], det), PICTURE)
    cls = ClsDataPreprocessor(mean=MEAN, std=STD, to_rgb=convert)
    out = cls(dict(inputs=LOADED[None].clone()), False)
    np.testing.assert_array_equal(undo_normalization(out['inputs'][0], cls), PICTURE)
    raw = DetDataPreprocessor()
    out = raw(dict(inputs=[LOADED.clone()]), False)
    np.testing.assert_array_equal(undo_normalization(out['inputs'][0], raw), PICTURE)


def test_refuses_what_it_cannot_show():
    with pytest.raises(PictureError, match='5 channels'):
        undo_normalization(torch.rand(5, 4, 4), nn.Identity())


def detections():
    sample = DetDataSample(
        metainfo=dict(img_shape=(24, 40), scale_factor=(0.5, 0.25), img_path='/nowhere/secret.jpg')
    )
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 20.0, 30.0, 40.0]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
    )
    return sample


def run(hook, runner, sample, phase, batches=1):
    # A second, larger image makes the preprocessor pad the first.
    other = torch.zeros(3, 32, 48, dtype=torch.uint8)
    other_sample = sample.clone()
    other_sample.set_metainfo(dict(img_shape=(32, 48)))
    getattr(hook, f'before_{phase}_epoch')(runner)
    for i in range(batches):
        batch = dict(inputs=[LOADED.clone(), other], data_samples=[sample.clone(), other_sample])
        runner.model.data_preprocessor(batch, False)
        getattr(hook, f'after_{phase}_iter')(runner, i, batch, [sample, other_sample])
    getattr(hook, f'after_{phase}_epoch')(runner)


def test_draws_the_network_input_with_boxes_in_its_scale(monkeypatch, tmp_path):
    recorder = Recorder('add_datasample')
    hook = make_hook(monkeypatch, recorder, draw=True, test_out_dir='shown')
    runner = Runner(DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True), tmp_path)
    sample = detections()
    run(hook, runner, sample, 'test')
    assert len(recorder.calls) == 2
    (_, picture), kwargs = recorder.calls[0]
    np.testing.assert_array_equal(picture, PICTURE)
    assert kwargs['out_file'] == str(tmp_path / 'now/shown/000001_secret.png')
    drawn = kwargs['data_sample'].pred_instances.bboxes
    assert drawn.tolist() == [[5.0, 5.0, 15.0, 10.0]]
    # The evaluated sample is left alone.
    assert sample.pred_instances.bboxes.tolist() == [[10.0, 20.0, 30.0, 40.0]]


def test_validation_draws_every_interval(monkeypatch):
    recorder = Recorder('add_datasample')
    hook = make_hook(monkeypatch, recorder, draw=True, interval=2)
    runner = Runner(DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True))
    run(hook, runner, detections(), 'val', batches=5)
    assert [k['step'] for _, k in recorder.calls] == [7, 9, 11]


def test_classification(monkeypatch):
    recorder = Recorder('visualize_cls')
    hook = make_hook(monkeypatch, recorder, enable=True, out_dir='out')
    runner = Runner(ClsDataPreprocessor(mean=MEAN, std=STD, to_rgb=True))
    hook.before_test_epoch(runner)
    batch = dict(inputs=LOADED[None], data_samples=[DataSample()])
    runner.model.data_preprocessor(batch, False)
    hook.after_test_iter(runner, 0, batch, [DataSample()])
    (picture, _), kwargs = recorder.calls[0]
    np.testing.assert_array_equal(picture, PICTURE)
    assert kwargs['out_file'] == 'wd/now/out/000001.png'


def test_test_time_augmentation_shows_the_first_view(monkeypatch):
    recorder = Recorder('add_datasample')
    hook = make_hook(monkeypatch, recorder, draw=True)

    class TTA(BaseTTAModel):
        def __init__(self, module):
            super(BaseTTAModel, self).__init__()
            self.module = module

        def merge_preds(self, data_samples_list):
            return data_samples_list

    inner = nn.Module()
    inner.data_preprocessor = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True)
    runner = Runner(DetDataPreprocessor())
    runner.model = TTA(inner)
    hook.before_test_epoch(runner)
    sample = detections()
    for _ in range(2):
        for view in (LOADED, LOADED.flip(-1)):
            inner.data_preprocessor(
                dict(inputs=[view.clone()], data_samples=[sample.clone()]), False
            )
        hook.after_test_iter(runner, 0, {}, [sample])
    assert len(recorder.calls) == 2
    for (_, picture), _ in recorder.calls:
        np.testing.assert_array_equal(picture, PICTURE)


def test_off_unless_asked(monkeypatch):
    recorder = Recorder('add_datasample')
    hook = make_hook(monkeypatch, recorder)
    runner = Runner(DetDataPreprocessor())
    run(hook, runner, detections(), 'val')
    run(hook, runner, detections(), 'test')
    assert not recorder.calls


def test_leaves_no_hook_behind(monkeypatch):
    hook = make_hook(monkeypatch, Recorder('add_datasample'), draw=True)
    runner = Runner(DetDataPreprocessor())
    run(hook, runner, detections(), 'val')
    assert not runner.model.data_preprocessor._forward_hooks
    assert hook._inputs is None


def test_bad_interval(monkeypatch):
    with pytest.raises(ConfigError, match='interval'):
        make_hook(monkeypatch, Recorder('add_datasample'), interval=0)
