# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import pickle
import warnings

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS as DET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain import ImageClassificationInferencer
from mmpretrain.registry import MODELS as CLS_MODELS
from mmpretrain.structures import DataSample

from hime_mm.apis import Client, encrypt_folder
from hime_mm.ciphers import Cipher, InvalidKey, Key
from hime_mm.errors import ClientError, HimeError
from hime_mm.images.codec import as_loaded, decode_image, encode_image, read_image
from hime_mm.images.preprocess import Preprocess

KEY = Key(bytes(range(32)))
ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.fixture(scope='module')
def picture():
    """A photo whose sides are no multiples of the patches."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[:203, 120:390, ::-1])


@pytest.fixture(scope='module')
def path(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures') / 'photo.png'
    cv2.imwrite(str(path), picture)
    return path


def lively(model):
    """Without the small numbers and zeros of an initialisation."""
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos' in name or 'reference' in name:
                param.normal_()
    return model


def detector_cfg(pad_size_divisor=1, **backbone):
    return dict(
        type='hime_mm.PEYOLOS',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            bgr_to_rgb=True,
            pad_size_divisor=pad_size_divisor,
            **NORM,
        ),
        backbone={
            **dict(
                type='hime_mm.PEViT',
                arch=ARCH,
                img_size=(192, 256),
                pos_encoding='learned',
                patch_embed='mixed',
                num_det_tokens=8,
                out_type='det_tokens',
            ),
            **backbone,
        },
        bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=3, embed_dims=32),
    )


def detector(*args, **kwargs):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return lively(DET_MODELS.build(detector_cfg(*args, **kwargs)))


def classifier_cfg(**backbone):
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=True, **NORM),
        backbone=dict(type='hime_mm.PEViT', arch=ARCH, img_size=192, **backbone),
        head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=5, in_channels=32),
    )


def classifier(**backbone):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return lively(CLS_MODELS.build(classifier_cfg(**backbone)))


class Stub(BaseDetector):
    """Says what it is told, and remembers what it was shown."""

    def __init__(self, **instances):
        super().__init__()
        self.instances = instances
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def test_step(self, data):
        self.seen = data
        assert not self.training and not torch.is_grad_enabled()
        sample = data['data_samples'][0]
        sample.pred_instances = InstanceData(**self.instances)
        return data['data_samples']

    def loss(self, *args):
        raise NotImplementedError

    predict = _forward = extract_feat = loss


def random_boxes(shape, num=30, seed=0):
    """Boxes inside of a picture, whole numbers of pixels."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, shape[::-1], (num, 2, 2)), axis=1).reshape(-1, 4)
    return corners.astype(np.float64)


# Encryption


@pytest.mark.parametrize(
    'cipher', ['shuffle', 'mix2', 'mix2+shuffle', 'center+erode2+shuffle', 'negate']
)
@pytest.mark.parametrize('fit', ['resize', 'pad'])
def test_layout_of_an_encrypted_picture(picture, cipher, fit):
    if 'center' in cipher and fit == 'pad':
        # The padding would show the means, as in a data set.
        with pytest.raises(HimeError, match='padding'):
            Client(cipher, dict(fit=fit))
        return
    client = Client(cipher, dict(fit=fit, resize=(200, 150)))
    found = client.encrypt(picture)
    plain, _, scale, *_ = client.recipe.preprocess.prepare(picture, 16)
    assert found.layout.ori_shape == picture.shape[:2]
    assert found.layout.shape == found.img.shape[:2]
    assert found.public.permutation is None
    assert found.public.shuffled == ('shuffle' in cipher)
    # A box there and back, and where the layout says it is.
    boxes = random_boxes(picture.shape[:2])
    there = found.layout.map_boxes(boxes)
    np.testing.assert_allclose(client.restore(there, found), boxes, atol=1e-9)
    if 'shuffle' not in cipher:
        factor = client.cipher.plan(plain.shape[:2]).scale
        np.testing.assert_allclose(there, boxes * np.tile(np.multiply(scale, factor), 2))


def test_patches_are_where_the_layout_says(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    plain = client.recipe.preprocess.prepare(picture, 16).img
    rows, cols = found.layout.grid
    for slot, patch in enumerate(found.layout.permutation):
        y, x = divmod(slot, cols)
        v, u = divmod(int(patch), cols)
        assert np.array_equal(
            found.img[y * 16 : y * 16 + 16, x * 16 :][:, :16],
            plain[v * 16 : v * 16 + 16, u * 16 :][:, :16],
        )


def test_every_call_draws_anew(picture):
    client = Client('shuffle')
    one, other = (client.encrypt(picture) for _ in range(2))
    assert not np.array_equal(one.layout.permutation, other.layout.permutation)
    np.random.seed(0)
    again = client.encrypt(picture)
    np.random.seed(0)
    assert not np.array_equal(again.layout.permutation, client.encrypt(picture).layout.permutation)


def test_files_and_arrays_are_alike(picture, path):
    client = Client('mix2')
    for given in (path, str(path)):
        assert np.array_equal(client.encrypt(given).img, client.encrypt(picture).img)


def test_depth_and_colours_of_arrays(picture):
    deep = picture.astype(np.uint16) * 257
    grey = picture[..., 1].copy()
    # Taken as they are ...
    for img in (deep, grey, grey[..., None]):
        assert Client('mix2').encrypt(img).img.dtype == img.dtype
    assert Client('mix2').encrypt(grey).img.ndim == 2
    # ... unless the data set says how its files were read.
    colour = Client('mix2', Preprocess())
    for img in (deep, grey, grey[..., None]):
        got = colour.encrypt(img).img
        assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == 3
    assert np.array_equal(colour.encrypt(deep).img, colour.encrypt(picture).img)
    assert Client('mix2', dict(color_type='grayscale')).encrypt(picture).img.ndim == 2
    unchanged = Client('mix2', dict(color_type='unchanged'))
    assert unchanged.encrypt(deep).img.dtype == np.uint16


@pytest.mark.parametrize(
    'color_type', ['color', 'grayscale', 'unchanged', 'color_ignore_orientation']
)
@pytest.mark.parametrize('channels', [None, 1, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_as_loaded(make_image, tmp_path, color_type, channels, dtype):
    img = make_image((9, 7) if channels is None else (9, 7, channels), dtype)
    cv2.imwrite(str(tmp_path / 'a.png'), img)
    loaded = read_image(str(tmp_path / 'a.png'), color_type)
    assert np.array_equal(as_loaded(img, color_type), loaded)


@pytest.mark.parametrize(
    'wrong, error, match',
    [
        (np.zeros((32, 32, 3), np.float32), TypeError, '32x32x3 float32'),
        (np.zeros((2, 32, 32, 3), np.uint8), TypeError, '2x32x32x3'),
        ([np.zeros((32, 32, 3), np.uint8)], TypeError, 'list'),
        ('missing.png', ValueError, 'cannot read the picture missing.png'),
    ],
)
def test_what_is_no_picture(wrong, error, match):
    with pytest.raises(error, match=match):
        Client('shuffle').encrypt(wrong)


def test_sizes_that_do_not_fit(picture):
    with pytest.raises(ValueError, match='203x270'):
        Client('shuffle', dict(fit='error')).encrypt(picture)


# What may be shown, and what may not


def test_nothing_secret_is_shown(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    assert repr(found) == ('EncryptedPicture(img=192x256x3 uint8, ori_shape=(203, 270))')
    shown = f'{found!r} {found.public!r} {found.layout!r} {client!r}'
    assert 'permutation' not in shown and 'array' not in shown
    keyed = Client('permute_pixels', key=KEY, dataset_id='a')
    for text in (repr(keyed), repr(vars(keyed))):
        assert KEY.secret_bytes().hex() not in text
    with pytest.raises(TypeError, match='not pickled'):
        pickle.dumps(keyed)


def test_a_key_that_is_not_needed_is_not_kept(picture):
    for cipher in ('shuffle', 'mix2', 'noise9+shuffle'):
        client = Client(cipher, key=KEY, dataset_id='a')
        assert not any(isinstance(v, Key) for v in vars(client).values())
        again = pickle.loads(pickle.dumps(client))
        assert again.encrypt(picture).img.shape == client.encrypt(picture).img.shape


def test_save(picture, tmp_path):
    found = Client('shuffle').encrypt(picture)
    path = tmp_path / 'encrypted.png'
    found.save(path)
    assert np.array_equal(cv2.imread(str(path)), found.img)
    # Pixels only: neither text nor other chunks.
    data = path.read_bytes()
    assert data == encode_image(decode_image(data))
    with pytest.raises(FileExistsError, match='overwrite=True'):
        found.save(path)
    found.save(path, overwrite=True)
    with pytest.raises(ClientError, match='without loss'):
        found.save(tmp_path / 'encrypted.jpg')
    assert [p.name for p in tmp_path.iterdir()] == ['encrypted.png']


# Data sets


@pytest.fixture(scope='module')
def folder(path):
    return path.parent


def dataset(folder, tmp_path, cipher, key=KEY, **kwargs):
    out = tmp_path / 'encrypted'
    encrypt_folder(str(folder), str(out), cipher, key=key, progress=False, **kwargs)
    return out


def test_pictures_are_treated_as_the_data_set_was(folder, path, tmp_path):
    preprocess = dict(
        short_side=(96, 120), center_crop=(96, 96), color_type='grayscale', augment=dict(flip=1.0)
    )
    data = dataset(folder, tmp_path, 'mix2', preprocess=preprocess)
    client = Client.from_manifest(data)
    found = client.encrypt(path)
    # Without the flip, and at the last of several sizes.
    plain = Preprocess(short_side=120, center_crop=(96, 96), color_type='grayscale')
    wanted = plain.prepare(read_image(str(path), 'grayscale'), 16).img
    assert np.array_equal(found.img, Cipher('mix2').encrypt(wanted)[0])
    # Without augmentation, just what is in the data set.
    data = dataset(
        folder,
        tmp_path / 'other',
        'mix2',
        None,
        preprocess=dict(resize=(100, 100), keep_ratio=True),
    )
    assert np.array_equal(
        Client.from_manifest(data / 'hime.json').encrypt(path).img,
        cv2.imread(str(data / 'photo.png')),
    )


def test_what_a_data_set_shares_comes_from_its_key(folder, path, tmp_path):
    data = dataset(folder, tmp_path, 'permute_pixels')
    with pytest.raises(ClientError, match='permute_pixels.*key'):
        Client.from_manifest(data)
    with pytest.raises(ClientError, match='permute_pixels.*key'):
        Client('permute_pixels', key=KEY)
    with pytest.raises(InvalidKey, match='wrong key'):
        Client.from_manifest(data, Key(bytes(32)))
    client = Client.from_manifest(data, KEY)
    assert np.array_equal(client.encrypt(path).img, cv2.imread(str(data / 'photo.png')))
    # What is drawn for each image is not shared.
    mixed = dataset(folder, tmp_path / 'mixed', 'permute_pixels+shuffle')
    client = Client.from_manifest(mixed, KEY)
    one, other = (client.encrypt(path) for _ in range(2))
    assert not np.array_equal(one.layout.permutation, other.layout.permutation)

    def patches(img):
        cut = img.reshape(12, 16, 16, 16, 3).swapaxes(1, 2)
        return sorted(patch.tobytes() for patch in cut.reshape(192, -1))

    stored = cv2.imread(str(mixed / 'photo.png'))
    assert patches(one.img) == patches(other.img) == patches(stored)


def test_nothing_is_encrypted_twice(folder, picture, tmp_path):
    data = dataset(folder, tmp_path, 'shuffle')
    client = Client.from_manifest(data)
    with pytest.raises(ClientError, match='photo.png.*encrypted already'):
        client.encrypt(data / 'photo.png')
    found = client.encrypt(picture)
    with pytest.raises(ClientError, match='encrypted already'):
        client.encrypt(found)


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
    with pytest.raises(ValueError, match='0 to 1'):
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
    with pytest.raises(TypeError, match='inferencer.*got str'):
        client.predict(picture, 'yolo.pth')

    class Tta(Stub):
        tta_cfg = None

    with pytest.raises(ClientError, match=r'\.module'):
        client.predict(picture, Tta())

    class Two(Stub):
        def test_step(self, data):
            return [1, 2]

    with pytest.raises(ClientError, match='Two gave 2 results'):
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


def on_the_fly(model, picture, scale):
    """What the ordinary pipeline of a test gives, and as a file."""
    init_default_scope('mmdet')
    pipeline = Compose(
        [
            dict(type='mmdet.Resize', scale=scale, keep_ratio=True),
            dict(type='hime_mm.SubPatchMix', patch_size=16, num_splits=2),
            dict(type='mmdet.PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
        ]
    )
    data = pipeline(dict(img=picture, img_shape=picture.shape[:2], ori_shape=picture.shape[:2]))
    model.eval()
    with torch.no_grad():
        return model.test_step(pseudo_collate([data]))[0].pred_instances


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
    with pytest.raises(ClientError, match='203x270.*not of the encrypted'):
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


# Results from elsewhere


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.int64])
def test_arrays_of_boxes(picture, dtype):
    client = Client('shuffle', dict(resize=(256, 192)))
    found = client.encrypt(picture)
    boxes = random_boxes(found.img.shape[:2])
    wanted = found.layout.unmap_boxes(boxes).clip(0, [270, 203] * 2)
    given = np.concatenate([boxes, np.arange(30)[:, None]], 1).astype(dtype)
    for kind in (np.asarray, torch.tensor):
        got = client.restore(kind(given), found)
        assert type(got) is type(kind(given))
        assert got.shape == (30, 5)
        if dtype != np.int64:
            assert got.dtype == kind(given).dtype
        np.testing.assert_allclose(got[:, :4], wanted, atol=1e-3)
        assert got[:, 4].tolist() == list(range(30))
    assert np.array_equal(given[:, :4], boxes)
    assert client.restore(np.zeros((0, 4)), found).shape == (0, 4)
    with pytest.raises(ClientError, match='no labels'):
        client.restore(given, found, nms=0.5)
    for wrong in (given[:, :3], given[0], given[None]):
        with pytest.raises(ClientError, match='array of boxes'):
            client.restore(wrong, found)


def test_whole_numbers_do_not_round(picture):
    client = Client('mix2', dict(resize=(300, 200)))
    found = client.encrypt(picture)
    box = torch.tensor([[3, 5, 50, 60]])
    got = client.restore(box, found)
    assert got.is_floating_point()
    np.testing.assert_allclose(got, found.layout.unmap_boxes(box.numpy()), rtol=1e-6)


def test_dicts(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    pair = found.layout.map_boxes([[50, 50, 90, 90], [54, 50, 94, 90]])
    result = dict(bboxes=pair.tolist(), scores=[0.5, 0.9], labels=[1, 1], label_names=['a', 'a'])
    before = copy.deepcopy(result)
    new = client.restore(result, found)
    assert new['scores'] == [0.9] and new['label_names'] == ['a']
    np.testing.assert_allclose(new['bboxes'], [[54, 50, 94, 90]])
    assert result == before
    with pytest.raises(ClientError, match='2 pictures'):
        client.restore(dict(predictions=[result, result]), found)
    assert client.restore(dict(bboxes=[], scores=[], labels=[]), found) == dict(
        bboxes=[], scores=[], labels=[]
    )


def test_results_that_are_not_known(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    with pytest.raises(ClientError, match='str'):
        client.restore('boxes', found)
    with pytest.raises(TypeError, match='Client.encrypt'):
        client.restore(np.zeros((1, 4)), found.layout)
    with pytest.raises(ClientError, match=r'\(1, 5\): rotated'):
        client.predict(found, Stub(bboxes=torch.zeros(1, 5)))


def test_boxes_of_cropped_pictures(picture):
    client = Client('mix2', dict(center_crop=(96, 96)))
    found = client.encrypt(picture)
    assert found.cropped and found.layout.cropped
    with pytest.raises(ClientError, match='center_crop'):
        client.restore(np.zeros((1, 4)), found)
    sample = DataSample()
    assert client.restore(sample, found) is sample


# Masks


def masks_of(shape):
    masks = np.zeros((2, *shape), bool)
    masks[0, 10:30, 20:60] = True
    masks[1, 40:] = True
    return masks


def test_masks_that_follow(picture):
    client = Client('mix2', dict(fit='pad'))
    found = client.encrypt(picture)
    masks = masks_of(found.img.shape[:2])
    boxes = torch.tensor([[20.0, 10, 60, 30], [0, 40, 136, 104]])
    told = dict(
        bboxes=boxes,
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
        masks=torch.from_numpy(masks),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = client.predict(found, Stub(**told), nms=0.5)
    got = result.pred_instances.masks
    assert got.dtype == torch.bool and got.shape == (2, *picture.shape[:2])
    wanted = masks.repeat(2, 1).repeat(2, 2)[:, :203, :270]
    assert (got.numpy() != wanted).sum() < 20
    # And in the form of DetInferencer.
    from mmdet.structures.mask import encode_mask_results
    from pycocotools import mask as coco_mask

    rles = encode_mask_results(masks)
    for rle in rles:
        rle['counts'] = rle['counts'].decode()
    new = client.restore(
        dict(bboxes=boxes.tolist(), scores=[0.9, 0.8], labels=[0, 1], masks=rles), found
    )
    for rle, mask in zip(new['masks'], got.numpy(), strict=True):
        assert np.array_equal(coco_mask.decode(rle), mask)


@pytest.mark.parametrize('cipher', ['shuffle', 'orient', 'mix2+shuffle'])
def test_masks_that_cannot_follow(picture, cipher):
    client = Client(cipher)
    found = client.encrypt(picture)
    told = dict(
        bboxes=torch.zeros(2, 4),
        scores=torch.ones(2),
        labels=torch.arange(2),
        masks=torch.from_numpy(masks_of(found.img.shape[:2])),
    )
    with pytest.warns(UserWarning, match='`masks`.*left out'):
        got = client.predict(found, Stub(**told)).pred_instances
    assert 'masks' not in got and len(got) == 2
    with pytest.warns(UserWarning, match='`masks`.*left out'):
        new = client.restore(
            dict(
                bboxes=[[0, 0, 1, 1]],
                scores=[1.0],
                labels=[0],
                masks=[dict(size=[1, 1], counts='')],
            ),
            found,
        )
    assert set(new) == {'bboxes', 'scores', 'labels'}


def test_masks_of_cropped_pictures(picture):
    found = Client('mix2', dict(center_crop=(96, 96))).encrypt(picture)
    shape = found.img.shape[:2]
    sample = DetDataSample(metainfo=dict(ori_shape=shape))
    sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, *shape).long())
    sample.pred_instances = InstanceData(masks=torch.zeros(2, *shape).bool(), scores=torch.ones(2))
    with pytest.warns(UserWarning, match='`masks`, `pred_sem_seg`.*left out'):
        new = Client('mix2').restore(sample, found)
    assert 'pred_sem_seg' not in new and 'masks' not in new.pred_instances


def test_geometry_that_nobody_knows_is_left_out(picture):
    told = dict(
        bboxes=torch.zeros(2, 4),
        scores=torch.ones(2),
        labels=torch.arange(2),
        keypoints=torch.zeros(2, 17, 2),
        ids=torch.arange(2),
    )
    with pytest.warns(UserWarning, match='`keypoints`.*left out'):
        got = Client('mix2').predict(picture, Stub(**told)).pred_instances
    assert set(got.keys()) == {'bboxes', 'scores', 'labels', 'ids'}


def test_geometry_in_dicts_is_left_out(picture):
    client = Client('mix2')
    result = dict(
        bboxes=[[0, 0, 8, 8]],
        scores=[1.0],
        labels=[0],
        ids=[5],
        keypoints=[[[1, 2, 2]]],
        polygons=np.zeros((1, 4, 2)),
    )
    with pytest.warns(UserWarning, match='`keypoints`, `polygons`'):
        new = client.restore(result, client.encrypt(picture))
    assert set(new) == {'bboxes', 'scores', 'labels', 'ids'}


def test_geometry_of_the_encrypted_picture_stays_behind(picture):
    """It would be taken for the original's."""
    told = dict(bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1))
    got = Client('mix2', dict(fit='pad')).predict(
        picture, Stub(**told), metainfo=dict(text='a cat')
    )
    assert got.ori_shape == got.img_shape == picture.shape[:2]
    assert got.scale_factor == (1.0, 1.0) and got.text == 'a cat'
    assert not {'pad_shape', 'batch_input_shape', 'homography_matrix'} & set(got.metainfo_keys())


@pytest.mark.parametrize('name', ['pred_sem_seg', 'pred_panoptic_seg'])
def test_maps_of_classes(picture, name):
    client = Client('mix2', dict(fit='pad'))
    found = client.encrypt(picture)
    h, w = found.img.shape[:2]
    sem_seg = torch.arange(h * w).reshape(1, h, w)
    sample = DetDataSample(metainfo=dict(ori_shape=(h, w)))
    setattr(sample, name, PixelData(sem_seg=sem_seg))
    got = getattr(client.restore(sample, found), name).sem_seg
    wanted = sem_seg.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(got, wanted[:, :203, :270])
    moved = Client('shuffle').encrypt(picture)
    sample.set_metainfo(dict(ori_shape=moved.img.shape[:2]))
    with pytest.warns(UserWarning, match=name):
        assert name not in client.restore(sample, moved)


def test_maps_of_another_size(picture):
    client = Client('mix2')
    found = client.encrypt(picture)
    h, w = found.img.shape[:2]
    for shape in ((h, w - 8), picture.shape[:2]):
        sample = DetDataSample(metainfo=dict(ori_shape=(h, w)))
        sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, *shape, dtype=torch.long))
        with pytest.raises(ClientError, match='is not that of an encrypted'):
            client.restore(sample, found)


def test_masks_of_a_real_model(picture):
    """MMDetection pastes masks at `ori_shape`, here the encrypted size."""
    init_default_scope('mmdet')
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
    cfg.rpn_head.update(in_channels=32, feat_channels=32)
    for name in ('bbox', 'mask'):
        cfg.roi_head[f'{name}_roi_extractor'].out_channels = 32
        cfg.roi_head[f'{name}_head'].update(in_channels=32, num_classes=2)
    cfg.roi_head.bbox_head.fc_out_channels = 32
    cfg.test_cfg.rpn.max_per_img = 20
    cfg.test_cfg.rcnn.score_thr = 0.0
    cfg.test_cfg.rcnn.max_per_img = 10
    torch.manual_seed(0)
    model = DET_MODELS.build(cfg)
    scale = (256, 192)
    wanted = on_the_fly(model, picture, scale)
    client = Client('mix2', dict(resize=scale, keep_ratio=True))
    got = client.predict(picture, model).pred_instances
    assert len(wanted) == 10
    torch.testing.assert_close(got.bboxes, wanted.bboxes, atol=1e-3, rtol=0)
    assert got.masks.shape == wanted.masks.shape == (10, 203, 270)
    # Masks of random weights are ragged, so that their edges differ.
    overlaps = [
        (masks & wanted.masks).sum() / (masks | wanted.masks).sum()
        for masks in (got.masks, got.masks.flip(-1))
    ]
    assert overlaps[0] > 0.75 > 0.5 > overlaps[1]
