# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy

import numpy as np
import pytest
import torch
from client_parts import Stub, classifier, detector, detector_cfg, lively, on_the_fly, random_boxes
from mmdet.apis import DetInferencer, inference_detector
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from mmpretrain import ImageClassificationInferencer
from mmpretrain.structures import DataSample
from owner_data import named

from hime_mm.apis import Client
from hime_mm.errors import BoxError, ClientError

# Calling a model


def test_a_model_gets_the_encrypted_picture_and_nothing_else(picture, path):
    client = Client('mix2+shuffle')
    found = client.encrypt(picture)
    stub = Stub(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
    )
    client.predict(found, stub)
    (inputs,) = stub.seen['inputs']
    (sample,) = stub.seen['data_samples']
    assert np.array_equal(inputs.numpy(), found.img.transpose(2, 0, 1))
    assert isinstance(sample, DetDataSample)
    assert sample.ori_shape == sample.img_shape == found.img.shape[:2]
    assert sample.scale_factor == (1.0, 1.0)
    client.predict(path, stub)
    text = str(stub.seen['data_samples'][0].to_dict())
    assert 'photo' not in text and 'perm' not in text and '203' not in text
    client.predict(found, stub, metainfo=dict(text='a cat', img_shape=(1, 1)))
    assert stub.seen['data_samples'][0].text == 'a cat'
    assert stub.seen['data_samples'][0].img_shape == found.img.shape[:2]


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(preprocess=dict(resize=(400, 320), fit='pad')),
        dict(preprocess=dict(short_side=96), patch_size=8),
    ],
)
def test_boxes_of_moved_patches_come_back(picture, kwargs):
    client = Client('shuffle', **kwargs)
    found = client.encrypt(picture)
    boxes = random_boxes(picture.shape[:2])
    moved = torch.tensor(found.layout.map_boxes(boxes))
    scores, labels = torch.linspace(1, 0.1, 30), torch.arange(30) % 3
    for form in (moved, HorizontalBoxes(moved.float()), moved.float()):
        result = client.predict(found, Stub(bboxes=form, scores=scores, labels=labels), nms=1.0)
        got = result.pred_instances
        np.testing.assert_allclose(got.bboxes, boxes, atol=1e-3)
        assert isinstance(got.bboxes, torch.Tensor)
        assert torch.equal(got.scores, scores)
        assert torch.equal(got.labels, labels)
        assert result.ori_shape == result.img_shape == picture.shape[:2]
    # Double precision: to the last bits.
    got = client.predict(found, Stub(bboxes=moved), nms=1.0)
    np.testing.assert_allclose(got.pred_instances.bboxes, boxes, atol=1e-9)


def test_suppression_after_mapping(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    # Their centres lie in neighbouring patches.
    boxes = np.array([[46, 50, 86, 90], [50, 50, 90, 90], [48, 50, 88, 90.0]])
    told = dict(
        bboxes=torch.tensor(found.layout.map_boxes(boxes)),
        scores=torch.tensor([0.3, 0.9, 0.5]),
        labels=torch.tensor([1, 1, 2]),
        label_names=['b', 'b', 'c'],
    )
    for nms, kept in ((None, [1, 2]), (1.0, [0, 1, 2]), (0.9, [0, 1, 2]), (0.5, [1, 2])):
        got = client.predict(found, Stub(**told), nms=nms).pred_instances
        assert got.scores.tolist() == told['scores'][kept].tolist()
        assert got.label_names == [told['label_names'][i] for i in kept]
    # A cipher that moves nothing leaves it to the model, if not asked.
    still = Client('mix2')
    told['bboxes'] = torch.tensor(boxes / 2)
    assert len(still.predict(picture, Stub(**told)).pred_instances) == 3
    assert len(still.predict(picture, Stub(**told), nms=0.6).pred_instances) == 2
    with pytest.raises(BoxError, match='0 to 1.*2'):
        client.predict(found, Stub(**told), nms=2)


def test_clipping(picture):
    told = dict(
        bboxes=torch.tensor([[-9.0, 4, 300, 20]]), scores=torch.ones(1), labels=torch.zeros(1)
    )
    client = Client('mix2', dict(fit='pad'))
    box = client.predict(picture, Stub(**told)).pred_instances.bboxes[0]
    assert box.tolist() == [0, 8, 270, 40]
    box = client.predict(picture, Stub(**told), clip=False).pred_instances.bboxes[0]
    assert box.tolist() == [-18, 8, 600, 40]


@pytest.mark.parametrize('training', [True, False])
def test_modes_are_as_before(picture, training):
    model = detector().train(training)
    model.backbone.layers[0].eval()
    before = [module.training for module in model.modules()]
    Client('mix2').predict(picture, model)
    assert [module.training for module in model.modules()] == before

    class Fails(Stub):
        def test_step(self, data):
            raise RuntimeError('no')

    fails = Fails().train(training)
    with pytest.raises(RuntimeError):
        Client('mix2').predict(picture, fails)
    assert fails.training is training and torch.is_grad_enabled()


def test_what_is_no_model(picture):
    client = Client('shuffle')
    with pytest.raises(TypeError, match='str'):
        client.predict(picture, 'yolo.pth')

    class Tta(Stub):
        tta_cfg = None

    with pytest.raises(ClientError, match=r'\.module'):
        client.predict(picture, Tta())

    class Two(Stub):
        def test_step(self, data):
            return [1, 2]

    with pytest.raises(ClientError, match=r'Two\b.*\b2\b'):
        client.predict(picture, Two())


def test_models_of_nobody(picture):
    """A model that derives from neither host's."""

    class Own(BaseModel):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            assert type(data_samples[0]) is BaseDataElement
            data_samples[0].pred_instances = InstanceData(
                bboxes=inputs[0].new_tensor([[0, 0, 8, 8]])
            )
            return data_samples

    result = Client('mix2', dict(fit='pad')).predict(picture, Own())
    assert result.pred_instances.bboxes.tolist() == [[0, 0, 16, 16]]


def test_a_model_that_was_moved_with_its_surroundings(picture):
    """Its data preprocessor does not notice that; `meta` stands for a GPU."""
    outer = torch.nn.ModuleDict(dict(model=Stub()))
    outer.to('meta')
    stub = outer['model']
    assert stub.data_preprocessor.device.type == 'cpu'
    Client('mix2').predict(picture, stub)
    assert stub.data_preprocessor.device.type == 'meta'


# Real detectors


@pytest.mark.parametrize('divisor', [1, 32, 100])
@pytest.mark.parametrize('scale', [(256, 192), (333, 200), (90, 60)])
def test_mixed_pictures_as_on_the_fly(picture, divisor, scale):
    model = detector(divisor)
    wanted = on_the_fly(model, picture, scale)
    client = Client('mix2', dict(resize=scale, keep_ratio=True))
    got = client.predict(picture, model).pred_instances
    assert torch.equal(got.labels, wanted.labels)
    torch.testing.assert_close(got.scores, wanted.scores)
    torch.testing.assert_close(got.bboxes, wanted.bboxes, atol=1e-3, rtol=0)
    # Boxes that say something: not all of the picture, nor all alike.
    assert wanted.bboxes.std(0).min() > 1


def test_shuffled_pictures_through_a_real_detector(picture):
    """Boxes come back as the layout says, whatever the model finds."""
    model = detector(64, pos_encoding='none', patch_embed='linear')
    client = Client('shuffle', dict(resize=(256, 192)))
    found = client.encrypt(picture)
    seen = {}
    original = model.test_step

    def test_step(data):
        results = original(data)
        seen['bboxes'] = results[0].pred_instances.bboxes.numpy().copy()
        return results

    model.test_step = test_step
    got = client.predict(found, model, nms=1.0, clip=False).pred_instances
    wanted = found.layout.unmap_boxes(seen['bboxes'])
    np.testing.assert_allclose(got.bboxes, wanted, atol=1e-3)
    assert np.abs(wanted - seen['bboxes']).max() > 16


@pytest.fixture(scope='module')
def det_config(path, tmp_path_factory):
    """A config whose pipeline encrypts: the inferencer's, not the client's."""
    init_default_scope('mmdet')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(256, 192), keep_ratio=True),
        dict(type='hime_mm.SubPatchMix', patch_size=16, num_splits=2),
        dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    return Config(
        dict(
            default_scope='mmdet',
            model=detector_cfg(),
            visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
            test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=pipeline)),
            test_cfg={},
        )
    )


@pytest.mark.filterwarnings('ignore')
def test_det_inferencer(det_config, picture, path):
    torch.manual_seed(0)
    inferencer = DetInferencer(copy.deepcopy(det_config), device='cpu', show_progress=False)
    lively(inferencer.model)
    client = Client('mix2', dict(resize=(256, 192), keep_ratio=True))
    wanted = inferencer(str(path), no_save_vis=True)['predictions'][0]
    got = client.predict(path, inferencer).pred_instances
    assert got.labels.tolist() == wanted['labels']
    np.testing.assert_allclose(got.bboxes, wanted['bboxes'], atol=1e-3)
    # The same by MMDetection's other way.
    model = inferencer.model
    model.cfg = copy.deepcopy(det_config)
    other = inference_detector(model, str(path)).pred_instances
    torch.testing.assert_close(got.bboxes, other.bboxes, atol=1e-3, rtol=0)
    # Results of an inferencer elsewhere, which gets the encrypted picture
    # and has the pipeline of an encrypted data set.
    found = client.encrypt(path)
    cfg = copy.deepcopy(det_config)
    cfg.test_dataloader.dataset.pipeline[1:3] = [dict(type='hime_mm.LoadEncryptedMeta')]
    inferencer.pipeline = inferencer._init_pipeline(cfg)
    elsewhere = inferencer(found.img, no_save_vis=True)
    for result in (elsewhere, elsewhere['predictions'][0]):
        back = client.restore(result, found)
        back = back.get('predictions', [back])[0]
        assert back['labels'] == wanted['labels']
        np.testing.assert_allclose(back['bboxes'], wanted['bboxes'], atol=1e-3)
        assert isinstance(back['bboxes'], list)
    sample = inferencer(found.img, no_save_vis=True, return_datasamples=True)['predictions'][0]
    got = client.restore(sample, found).pred_instances.bboxes
    np.testing.assert_allclose(got, wanted['bboxes'], atol=1e-3)
    # In the original's pixels already: mapped twice it would be wrong.
    inferencer.pipeline = inferencer._init_pipeline(copy.deepcopy(det_config))
    sample = inferencer(str(path), no_save_vis=True, return_datasamples=True)['predictions'][0]
    with pytest.raises(
        ClientError, match=named('203x270', 'x'.join(map(str, found.img.shape[:2])))
    ):
        client.restore(sample, found)


# Classifiers


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
def test_shuffled_pictures_through_a_classifier(picture, pos_encoding):
    model = classifier(pos_encoding=pos_encoding)
    client = Client('shuffle', dict(resize=(192, 192)))
    result = client.predict(picture, model)
    assert isinstance(result, DataSample)
    plain = client.recipe.preprocess.prepare(picture, 16).img
    inputs = torch.from_numpy(plain.transpose(2, 0, 1).copy())
    model.eval()
    with torch.no_grad():
        wanted = model.test_step(dict(inputs=[inputs], data_samples=[DataSample()]))[0]
    gap = (result.pred_score - wanted.pred_score).abs().max()
    if pos_encoding == 'learned':
        assert gap > 1e-4
    else:
        assert gap < 1e-5
        assert result.pred_label == wanted.pred_label
    assert wanted.pred_score.std() > 0.01


def test_a_model_that_would_encrypt_again(picture):
    from mmpretrain.models import ClsDataPreprocessor

    from hime_mm.models import EncryptClsDataPreprocessor

    model = classifier()
    model.data_preprocessor = EncryptClsDataPreprocessor('shuffle')
    client = Client('shuffle', dict(resize=(192, 192)))
    with pytest.raises(ClientError, match='cipher=None'):
        client.predict(picture, model)
    sealed = client.encrypt(picture)
    model.data_preprocessor = EncryptClsDataPreprocessor(None)
    found = client.predict(sealed, model).pred_score
    model.data_preprocessor = ClsDataPreprocessor()
    assert torch.equal(found, client.predict(sealed, model).pred_score)


@pytest.mark.filterwarnings('ignore')
def test_classification_inferencer(picture, path):
    model = classifier()
    model._config = Config(
        dict(
            test_dataloader=dict(
                dataset=dict(
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='Resize', scale=(192, 192)),
                        dict(type='hime_mm.PatchShuffle'),
                        dict(type='PackInputs'),
                    ]
                )
            )
        )
    )
    inferencer = ImageClassificationInferencer(model)
    wanted = inferencer(str(path))[0]
    client = Client('shuffle', dict(resize=(192, 192)))
    for given in (picture, path, client.encrypt(picture)):
        result = client.predict(given, inferencer)
        np.testing.assert_allclose(result.pred_score, wanted['pred_scores'], atol=1e-5)
    # What comes from elsewhere stays as it is.
    assert client.restore(wanted, client.encrypt(picture)) is wanted


@pytest.mark.parametrize('color_type, channels', [('color', 3), ('grayscale', 1)])
def test_grey_pictures(picture, color_type, channels):
    """As the files of a grey data set come through `LoadImageFromFile`."""
    client = Client('shuffle', dict(color_type='grayscale'))
    found = client.encrypt(picture)
    assert found.img.ndim == 2
    stub = Stub()
    client.predict(found, stub, color_type=color_type)
    (inputs,) = stub.seen['inputs']
    assert inputs.shape == (channels, *found.img.shape)
    for channel in inputs:
        assert np.array_equal(channel, found.img)
