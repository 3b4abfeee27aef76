# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMDetection's own detectors, on a backbone that is told what is padding."""

import copy

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.hub import get_config
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.registry import init_default_scope
from token_parts import MI, SIZES, TIMM, training_batch

from hime_mm.errors import ConfigError
from hime_mm.models.detectors import PaddingAware

DETECTORS = {
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'FasterRCNN': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'MaskRCNN': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'DETR': 'detr/detr_r50_8xb2-150e_coco.py',
    'DeformableDETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINO': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
}
#: Sides of a patch of the images that come in.
STRIDE = 8
ROI = dict(featmap_strides=[4, 8], finest_scale=28, out_channels=16)
CHANGES = {
    'RetinaNet': dict(bbox_head=dict(stacked_convs=1, feat_channels=16)),
    'FasterRCNN': dict(
        roi_head=dict(bbox_roi_extractor=ROI, bbox_head=dict(in_channels=16, fc_out_channels=16))
    ),
    'MaskRCNN': dict(
        roi_head=dict(
            bbox_roi_extractor=ROI,
            bbox_head=dict(in_channels=16, fc_out_channels=16),
            mask_roi_extractor=ROI,
            mask_head=dict(in_channels=16, num_convs=1, conv_out_channels=16),
        )
    ),
}
PYRAMID = dict(
    type='hime_mm.SimpleFeaturePyramid',
    in_channels=32,
    out_channels=16,
    scale_factors=(2.0, 1.0),
)
of_all = pytest.mark.parametrize('name', DETECTORS)


def build(name='RetinaNet', aware=True, backbone=MI, **changes):
    """The detector of a stock config, small."""
    init_default_scope('mmdet')
    cfg = get_config(f'mmdet::{DETECTORS[name]}')
    cfg.merge_from_dict(dict(model={**CHANGES.get(name, {}), **changes}))
    cfg = cfg.model
    cfg.backbone = dict(backbone)
    cfg.data_preprocessor.pad_size_divisor = STRIDE
    if name in ('DETR', 'DeformableDETR', 'DINO'):
        cfg.neck.in_channels = [32]
        cfg.encoder.num_layers = cfg.decoder.num_layers = 1
        cfg.num_queries = cfg.test_cfg.max_per_img = 5
    else:
        cfg.neck = PYRAMID
        cfg.test_cfg.get('rcnn', cfg.test_cfg).score_thr = 0
        head = cfg.get('rpn_head') or cfg.bbox_head
        head.update(in_channels=16)
        head.anchor_generator.update(strides=[4, 8])
    if aware:
        cfg.update(type='hime_mm.PaddingAware', detector=f'mmdet.{name}')
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    with torch.no_grad():
        # As trained ones are: else some look all alike.
        model.backbone.pos_embed.normal_()
    return model


def batch_of(sizes=SIZES):
    """Images of several sizes, with boxes and masks."""
    batch = training_batch('mix2', 16, sizes)
    for item in batch['data_samples']:
        truth, (h, w) = item.gt_instances, item.img_shape
        masks = np.zeros((len(truth), h, w), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, truth.bboxes.round().int().tolist(), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = 1
        truth.masks = BitmapMasks(masks, h, w)
    return batch


def single(batch, i):
    return {key: value[i : i + 1] for key, value in copy.deepcopy(batch).items()}


def maps_of(model, batch, mode):
    """What the backbone gives in one of the detector's modes, of each image without padding."""
    maps = []
    # Some know in training only what their losses need.
    model.train(mode == 'loss')
    hook = model.backbone.register_forward_hook(lambda *args: maps.append(args[2][0].detach()))
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(batch), mode == 'loss')
        model(**data, mode=mode)
    hook.remove()
    (out,) = maps
    shapes = [item.img_shape for item in batch['data_samples']]
    return [one[:, : h // STRIDE, : w // STRIDE] for one, (h, w) in zip(out, shapes, strict=True)]


@of_all
@pytest.mark.parametrize(
    'mode',
    ['loss', *(pytest.param(mode, marks=pytest.mark.slow) for mode in ('predict', 'tensor'))],
)
def test_maps_are_those_of_the_image_alone(name, mode):
    """In a padded batch; where the detector is MMDetection's own, they are not."""
    batch = batch_of()
    aware, host = build(name), build(name, aware=False)
    host.load_state_dict(aware.state_dict())
    together, unaware = maps_of(aware, batch, mode), maps_of(host, batch, mode)
    for i, size in enumerate(SIZES):
        (alone,) = maps_of(aware, single(batch, i), mode)
        assert alone.shape == (32, *size)
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)
        # The first fills the batch.
        assert (i > 0) == ((unaware[i] - alone).abs().max() > 0.01)


def test_pyramids_mix_in_padding_one_point_deep():
    model, batch = build().eval(), batch_of()
    for param in model.neck.parameters():
        # New biases are zero, by which padding stays so.
        torch.nn.init.normal_(param)

    def levels(batch):
        data = model.data_preprocessor(batch, False)
        with model.backbone.told(data['data_samples']), torch.no_grad():
            return model.extract_feat(data['inputs'])

    together = levels(copy.deepcopy(batch))
    for factor, level, alone in zip((2, 1), together, levels(single(batch, 2)), strict=True):
        rows, cols = (side * factor for side in SIZES[2])
        assert alone.shape[2:] == (rows, cols)
        gap = (level[2, :, :rows, :cols] - alone[0]).abs().amax(0)
        # It is as high as the batch, and less wide.
        assert gap[:, :-1].max() < 1e-4 and gap[:, -1].min() > 1e-3


@of_all
def test_all_else_is_the_detectors(name):
    """Class, names in checkpoints, and, where nothing is padding, losses and predictions."""
    aware, host = build(name), build(name, aware=False)
    assert isinstance(aware, PaddingAware) and isinstance(aware, type(host))
    assert type(aware).__name__ == f'PaddingAware{name}' and type(aware) is type(build(name))
    assert list(aware.state_dict()) == list(host.state_dict())
    host.load_state_dict(aware.state_dict())
    whole = single(batch_of(), 0)
    values, found = [], []
    for model in (aware, host):
        torch.manual_seed(1)
        losses = model.train()(**model.data_preprocessor(copy.deepcopy(whole), True), mode='loss')
        values.append(
            {k: torch.as_tensor(v if torch.is_tensor(v) else v[0]) for k, v in losses.items()}
        )
        with torch.no_grad():
            (result,) = model.eval().test_step(copy.deepcopy(whole))
        found.append(result.pred_instances)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(found[0].bboxes, found[1].bboxes)
    assert len(found[0]) and ('masks' in found[0]) == (name == 'MaskRCNN')


@of_all
def test_learns(name):
    """A step of gradients, from a padded batch; no data samples stay behind."""
    model = build(name).train()
    before = copy.deepcopy(model.state_dict())
    data = model.data_preprocessor(batch_of(), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    changed = {key for key, value in model.state_dict().items() if not before[key].equal(value)}
    assert {'backbone.patch_embed.projection.weight', 'backbone.layers.0.attn.qkv.weight'} < changed
    assert any(key.startswith('neck.') for key in changed)
    assert model.backbone._told is None


@pytest.mark.slow
@of_all
def test_copies(name):
    """Deep ones predict the same, know padding, and share nothing."""
    model = build(name).eval()
    copied = copy.deepcopy(model)
    averaged = ExponentialMovingAverage(model).module
    batch = batch_of()
    expected = maps_of(model, batch, 'predict')
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    for other in (copied, averaged):
        assert type(other) is type(model)
        for got, one in zip(maps_of(other, batch, 'predict'), expected, strict=True):
            torch.testing.assert_close(got, one)


def test_distributed(tmp_path):
    model = build()
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meeting', rank=0, world_size=1
    )
    try:
        wrapped = MMDistributedDataParallel(model)
        data = model.data_preprocessor(batch_of(), True)
        torch.testing.assert_close(wrapped(**data, mode='loss'), model(**data, mode='loss'))
    finally:
        torch.distributed.destroy_process_group()


def test_models_of_timm():
    pytest.importorskip('timm')
    timm = dict(TIMM, patch_size=8, img_size=64, pos_encoding='learned')
    init_default_scope('mmdet')
    cfg = dict(type='hime_mm.PaddingAware', detector='RetinaNet', backbone=timm, neck=PYRAMID)
    cfg['data_preprocessor'] = dict(type='DetDataPreprocessor')
    stock = get_config(f'mmdet::{DETECTORS["RetinaNet"]}').model
    stock.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1)
    stock.bbox_head.anchor_generator.update(strides=[4, 8])
    model = MODELS.build({**cfg, **{k: stock[k] for k in ('bbox_head', 'train_cfg', 'test_cfg')}})
    batch, model = batch_of(), model.eval()
    for i, together in enumerate(maps_of(model, batch, 'predict')):
        (alone,) = maps_of(model, single(batch, i), 'predict')
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_nothing_stays_behind_an_error():
    model = build()
    data = model.data_preprocessor(batch_of(), False)
    with pytest.raises(ConfigError, match='2 data samples for a batch of 3'):
        model(data['inputs'], data['data_samples'][:2], mode='predict')
    assert model.backbone._told is None


def test_samples_that_are_handed_over_win():
    backbone = build().backbone.eval()
    x, samples = torch.rand(2, 3, 24, 40), batch_of(SIZES[:1] * 2)['data_samples']
    samples[1].set_metainfo(dict(img_shape=(24, 16)))
    with torch.no_grad():
        expected, plain = backbone(x, data_samples=samples)[0], backbone(x)[0]
        with backbone.told(samples[:1]):
            assert torch.equal(backbone(x, data_samples=samples)[0], expected)
            with backbone.told(None):
                assert torch.equal(backbone(x)[0], plain)
            with pytest.raises(ConfigError, match='1 data samples'):
                backbone(x)
    assert not torch.allclose(expected[1, :, :, :2], plain[1, :, :, :2], atol=1e-2)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(detector='mmdet.NoSuchDetector'), "'mmdet.NoSuchDetector'.*mmdet.FasterRCNN"),
        (dict(detector='mmdet.ResNet'), "'mmdet.ResNet'.*no detector"),
        (dict(detector=None), 'None.*no detector'),
        (dict(backbone=dict(type='mmdet.ResNet', depth=18)), 'ResNet cannot tell.*hime_mm.PEViT'),
    ],
)
def test_what_does_not_fit(changes, words):
    init_default_scope('mmdet')
    cfg = get_config(f'mmdet::{DETECTORS["RetinaNet"]}').model
    cfg.update(type='hime_mm.PaddingAware', detector='mmdet.RetinaNet', backbone=MI)
    with pytest.raises(ConfigError, match=words):
        MODELS.build({**cfg, **changes})
    if 'detector' in changes:
        cfg.pop('detector')
        with pytest.raises(ConfigError, match='None.*no detector'):
            MODELS.build(cfg)


def test_layer_wise_decay():
    model = build()
    assert model.get_layer_depth('backbone.layers.1.ffn.layers.1.bias') == (2, 5)
    assert model.get_layer_depth('backbone.pos_embed') == (0, 5)
    assert model.get_layer_depth('neck.levels.0.0.conv.weight') == (4, 5)
