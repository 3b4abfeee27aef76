# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What arrives at each visualisation backend: encrypted pictures, and no other."""

import copy
import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from PIL import Image
from torch import nn

from hime_mm.engine.hooks.visualization_hook import EncryptedVisualizationHook
from hime_mm.models.data_preprocessors import EncryptClsDataPreprocessor
from hime_mm.transforms import Encrypt

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SIDE = 96


@pytest.fixture(scope='module')
def photo(data_root):
    """A real picture, BGR."""
    path = sorted((data_root / 'coco_tiny' / 'val2017').glob('*.jpg'))
    if not path:
        pytest.skip('no COCO pictures')
    return cv2.resize(cv2.imread(str(path[0])), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def from_tensorboard(folder):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in folder.rglob('events.out.tfevents*'):
        events = EventAccumulator(str(file), size_guidance=dict(images=0)).Reload()
        for tag in events.Tags()['images']:
            for image in events.Images(tag):
                yield np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))


def pictures(folder):
    """Every picture in a folder, whatever it is called, RGB."""
    for path in folder.rglob('*'):
        if path.is_file():
            img = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            if img is not None:
                yield img[..., ::-1]
    yield from from_tensorboard(folder)


#: Module that a backend needs, and options for it to stay on this machine.
BACKENDS = dict(
    LocalVisBackend=(None, {}),
    TensorboardVisBackend=('tensorboard', {}),
    WandbVisBackend=('wandb', dict(init_kwargs=dict(mode='offline'))),
    MLflowVisBackend=('mlflow', {}),
)


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    module, options = BACKENDS[request.param]
    if module is not None:
        pytest.importorskip(module)
    monkeypatch.setenv('WANDB_SILENT', 'true')
    monkeypatch.setenv('WANDB_DISABLE_CODE', 'true')
    # A folder is what the host gives it; later releases ask whether one means it.
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    # The backend adds to its options.
    return dict(type=request.param, **copy.deepcopy(options))


def as_tensor(img):
    return torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1)))


def detector(photo):
    encrypted = Encrypt('shuffle').transform(dict(img=photo.copy(), img_path='/nowhere/a.jpg'))
    sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0)))
    sample.pred_instances = InstanceData(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long()
    )
    preprocessor = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True)
    return preprocessor, as_tensor(encrypted['img']), sample, DetLocalVisualizer


def classifier(photo):
    encrypted = Encrypt('shuffle').transform(dict(img=photo.copy()))
    preprocessor = ClsDataPreprocessor(mean=MEAN, std=STD, to_rgb=True)
    return preprocessor, as_tensor(encrypted['img']), DataSample(), UniversalVisualizer


def device(photo):
    preprocessor = EncryptClsDataPreprocessor('shuffle', mean=MEAN, std=STD, to_rgb=True)
    return preprocessor, as_tensor(photo), DataSample(), UniversalVisualizer


def distance(one, other):
    return np.abs(one.astype(float) - other.astype(float)).mean()


@pytest.mark.parametrize('host', [detector, classifier, device])
def test_gets_encrypted_pictures_only(host, backend, photo, tmp_path, monkeypatch):
    preprocessor, loaded, sample, kind = host(photo)
    visualizer = kind(vis_backends=[backend], save_dir=str(tmp_path / 'logs'))
    visualizer.dataset_meta = {}
    monkeypatch.setattr(Visualizer, 'get_current_instance', classmethod(lambda cls: visualizer))
    visualizer.add_config(Config(dict(work_dir=str(tmp_path / 'logs'))))
    hook = EncryptedVisualizationHook(draw=True, interval=1)
    data = SimpleNamespace(dataset=[])
    model = nn.Module()
    model.data_preprocessor = preprocessor
    runner = SimpleNamespace(model=model, iter=0, val_dataloader=data, test_dataloader=data)
    seen = []
    for phase in ('val', 'test'):
        getattr(hook, f'before_{phase}_epoch')(runner)
        for i in range(2):
            out = preprocessor(dict(inputs=[loaded.clone()], data_samples=[sample.clone()]))
            normed = out['inputs'][0].permute(1, 2, 0).numpy()
            seen.append((normed * STD + MEAN).round().astype(np.uint8))
            getattr(hook, f'after_{phase}_iter')(runner, i, {}, [sample])
        getattr(hook, f'after_{phase}_epoch')(runner)
    visualizer.close()
    plain = photo[..., ::-1]
    arrived = [cv2.resize(img, (SIDE, SIDE)) for img in pictures(tmp_path)]
    # TensorBoard keeps them all; W&B and MLflow may keep them under one name.
    assert len(arrived) == 4
    for img in arrived:
        assert min(distance(img, picture) for picture in seen) < 6
        assert distance(img, plain) > 15
    if host is not detector:
        return
    # Nothing is written on those: pixel by pixel.
    assert all(any(np.array_equal(img, picture) for picture in seen) for img in arrived)
