# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import itertools
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.logging import MessageHub
from mmengine.registry import FUNCTIONS, init_default_scope
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier, SelfSupDataPreprocessor
from mmpretrain.registry import MODELS as HOST_MODELS
from mmpretrain.structures import DataSample

from hime_mm.ciphers import Cipher
from hime_mm.errors import CipherError, ConfigError, HimeError, PictureError
from hime_mm.models import BatchCipher, EncryptClsDataPreprocessor
from hime_mm.transforms import Encrypt

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NORM = dict(mean=MEAN, std=STD, to_rgb=True, num_classes=5)


def pictures(num=4, shape=(3, 48, 64), seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, *shape), dtype=torch.uint8, generator=rng)


def batch_of(inputs, listed=True):
    samples = [DataSample().set_gt_label(i % 5) for i in range(len(inputs))]
    for sample in samples:
        sample.set_metainfo(dict(img_shape=tuple(inputs.shape[-2:])))
    return dict(inputs=list(inputs) if listed else inputs, data_samples=samples)


def denormalized(x):
    """Back to whole grey levels in BGR."""
    x = x * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert (x - x.round()).abs().max() < 1e-3
    return x.round().flip(1).to(torch.uint8)


def fix_draw(preprocessor, drawn):
    preprocessor.batch_cipher.draw = lambda *args, **kwargs: drawn


@pytest.mark.parametrize(
    'cipher',
    [
        'shuffle',
        'mix2',
        'center+erode2+shuffle',
        'noise25+permute_channels',
        'mix2:tiled',
        'orient+negate+shuffle',
    ],
)
@pytest.mark.parametrize('listed', [True, False])
def test_equals_the_pipeline_for_the_same_draw(cipher, listed):
    inputs = pictures()
    reference = Cipher.build(cipher)
    draws = [reference.draw((48, 64, 3)) for _ in inputs]
    pipeline = Encrypt(cipher, fit='error')
    expected = []
    for one, draw in zip(inputs, draws, strict=True):
        pipeline.cipher.draw = lambda *args, draw=draw: draw
        results = pipeline(dict(img=one.permute(1, 2, 0).numpy()))
        expected.append(torch.from_numpy(results['img']).permute(2, 0, 1))
    plain = ClsDataPreprocessor(**NORM)
    expected = plain(batch_of(torch.stack(expected)))['inputs']

    mine = EncryptClsDataPreprocessor(cipher, **NORM)
    fix_draw(mine, mine.batch_cipher.stack(draws))
    for training in (False, True):
        out = mine(batch_of(inputs, listed), training)
        assert torch.equal(out['inputs'], expected)
        assert [s.gt_label.item() for s in out['data_samples']] == [0, 1, 2, 3]
        assert {s.img_shape for s in out['data_samples']} == {tuple(expected.shape[-2:])}


def test_after_batch_augmentations():
    """Mixup of plain images, then encryption, then normalization."""
    inputs = pictures()
    augments = dict(augments=dict(type='Mixup', alpha=0.8))
    mine = EncryptClsDataPreprocessor('shuffle', quantize=False, batch_augments=augments, **NORM)
    drawn = mine.batch_cipher.draw(inputs.shape)
    fix_draw(mine, drawn)
    plain = ClsDataPreprocessor(batch_augments=augments, num_classes=5)
    torch.manual_seed(0)
    np.random.seed(0)
    mixed = plain(batch_of(inputs), training=True)
    expected = mine.batch_cipher.apply(mixed['inputs'], drawn).flip(1)
    expected = (expected - mine.mean) / mine.std
    torch.manual_seed(0)
    np.random.seed(0)
    got = mine(batch_of(inputs), training=True)
    torch.testing.assert_close(got['inputs'], expected)
    scores = [s.gt_score for s in got['data_samples']]
    assert torch.equal(
        torch.stack(scores), torch.stack([s.gt_score for s in mixed['data_samples']])
    )
    # It mixed indeed.
    assert ((torch.stack(scores) > 0).sum(1) > 1).any()
    # None of that where it does not train.
    got = mine(batch_of(inputs), training=False)
    assert torch.equal(denormalized(got['inputs']), mine.batch_cipher.apply(inputs, drawn))


@pytest.mark.parametrize(
    'augment',
    [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
        dict(type='ResizeMix', alpha=1.0),
    ],
)
def test_augmenting_before_normalization_is_the_same(augment):
    """With a cipher that does nothing, it is the host's preprocessor."""
    inputs = pictures(shape=(3, 32, 32)).float()
    augments = dict(augments=augment)
    host = ClsDataPreprocessor(batch_augments=augments, **NORM)
    mine = EncryptClsDataPreprocessor(
        'shuffle', patch_size=32, quantize=False, batch_augments=augments, **NORM
    )
    out = []
    for one in (host, mine):
        torch.manual_seed(1)
        np.random.seed(1)
        out.append(one(batch_of(inputs.clone()), training=True)['inputs'])
    torch.testing.assert_close(*out)


def test_every_image_has_its_own_permutation():
    one = pictures(1).expand(6, -1, -1, -1)
    mine = EncryptClsDataPreprocessor('shuffle', **NORM)
    seen = [mine(batch_of(one))['inputs'] for _ in range(2)]
    seen = torch.cat(seen)
    assert len(seen.unique(dim=0)) == len(seen)
    plain = ClsDataPreprocessor(**NORM)(batch_of(one))['inputs']
    assert not (seen[:6] == plain).flatten(1).all(1).any()
    # The same patches in another order.
    assert torch.equal(seen.flatten(1).sort().values[0], plain.flatten(1).sort().values[0])


def test_seed():

    def run(seed):
        mine = EncryptClsDataPreprocessor('noise9+shuffle', seed=seed, **NORM)
        return torch.cat([mine(batch_of(pictures()))['inputs'] for _ in range(2)])

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert not torch.equal(run(3)[:4], run(3)[4:])
    state = np.random.get_state()[1].copy()
    assert not torch.equal(run(None), run(None))
    assert (np.random.get_state()[1] == state).all()


def test_no_permutation_twice_by_ranks_stages_and_resuming(monkeypatch):
    """Each run is repeated exactly; none shares a draw with another, nor within."""
    module = sys.modules[EncryptClsDataPreprocessor.__module__]
    one = pictures(1).expand(3, -1, -1, -1)

    def run(rank, training, step, seed=5):
        monkeypatch.setattr(module, 'get_rank', lambda: rank)
        hub = MessageHub.get_instance(f'seeds{next(names)}')
        mine = EncryptClsDataPreprocessor('shuffle', seed=seed, **NORM)
        out = []
        for i in range(2):  # the runner tells the iteration after the model was built
            hub.update_info('iter', step + i)
            out.append(mine(batch_of(one), training)['inputs'])
        return torch.cat(out)

    names = itertools.count()
    places = list(itertools.product((0, 1), (True, False), (0, 1, 40)))
    runs = [run(*place) for place in places]
    assert all(torch.equal(run(*place), seen) for place, seen in zip(places, runs, strict=True))
    seen = torch.cat(runs)
    assert len(seen.unique(dim=0)) == len(seen) == 72


def test_a_run_from_the_start_draws_as_before():
    """What earlier releases drew for a seed."""
    MessageHub.get_instance('from the start')
    mine = EncryptClsDataPreprocessor('shuffle', seed=5, **NORM)
    cipher = BatchCipher('shuffle')
    for training in (True, False):
        images = pictures().to(torch.uint8)
        expected = cipher(images, np.random.default_rng([5, 0, training]))
        got = mine(batch_of(images), training)['inputs']
        plain = ClsDataPreprocessor(**NORM)(batch_of(expected))['inputs']
        assert torch.equal(got, plain)


def test_evaluation_does_not_change_the_draws_of_training():

    def run(validate):
        mine = EncryptClsDataPreprocessor('shuffle', seed=0, **NORM)
        out = []
        for _ in range(3):
            out.append(mine(batch_of(pictures()), True)['inputs'])
            if validate:
                seen = mine(batch_of(pictures()), False)['inputs']
                assert not torch.equal(seen, out[-1])
        return torch.cat(out)

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize(
    ('inputs', 'error'),
    [
        (pictures().int() * 257, PictureError),
        (pictures().long() - 256, PictureError),
        (pictures().long().clamp_(max=255).index_fill_(3, torch.tensor([7]), 256), PictureError),
        (pictures().to(torch.int8), PictureError),
        (pictures().to(torch.uint16), TypeError),
        (pictures().bool(), TypeError),
        (pictures().to(torch.complex64), TypeError),
    ],
)
def test_other_integers_are_refused(inputs, error):
    mine = EncryptClsDataPreprocessor('shuffle', **NORM)
    for listed in (True, False):
        with pytest.raises(
            error, match=f'EncryptClsDataPreprocessor.*{inputs.dtype}.*hime_mm.Encrypt`'
        ):
            mine(batch_of(inputs, listed))


@pytest.mark.parametrize('dtype', [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize('quantize', [True, False])
def test_8_bits_in_a_wider_type(dtype, quantize):
    for listed in (True, False):
        mine = EncryptClsDataPreprocessor('noise25+shuffle', seed=1, quantize=quantize, **NORM)
        mixed = list(pictures().to(dtype))
        mixed[0] = pictures()[0]
        got = mine(batch_of(pictures().to(dtype), listed) if not listed else dict(inputs=mixed))[
            'inputs'
        ]
        as_they_are = EncryptClsDataPreprocessor(
            'noise25+shuffle', seed=1, quantize=quantize, **NORM
        )
        assert torch.equal(got, as_they_are(batch_of(pictures(), listed))['inputs'])


@pytest.mark.parametrize('cipher', ['shuffle', None])
@pytest.mark.parametrize('collate', ['pseudo_collate', 'default_collate'])
def test_several_views_are_refused(cipher, collate):
    """As MMPretrain's `MultiView` gives them, whatever puts the batch together."""
    init_default_scope('mmpretrain')
    pipeline = Compose(
        [
            dict(type='MultiView', num_views=2, transforms=[[dict(type='Resize', scale=32)]]),
            dict(type='PackInputs'),
        ]
    )
    samples = [pipeline(dict(img=img.permute(1, 2, 0).numpy())) for img in pictures()]
    batch = FUNCTIONS.get(collate)(
        [dict(inputs=s['inputs']) if collate == 'default_collate' else s for s in samples]
    )
    stacked = dict(inputs=torch.stack([torch.stack(list(views)) for views in batch['inputs']]))
    for to_rgb in (True, False):
        mine = EncryptClsDataPreprocessor(cipher, to_rgb=to_rgb)
        for given_views in (batch, stacked):
            with pytest.raises(ConfigError, match='EncryptClsDataPreprocessor .*views.*MultiView'):
                mine(given_views)


def test_views_that_are_encrypted_in_their_pipeline():
    """What the refusal tells to do."""
    init_default_scope('mmpretrain')
    view = [dict(type='Resize', scale=32), dict(type='hime_mm.Encrypt', cipher='mix2')]
    pipeline = Compose(
        [dict(type='MultiView', num_views=2, transforms=[view]), dict(type='PackInputs')]
    )
    samples = [pipeline(dict(img=img.permute(1, 2, 0).numpy())) for img in pictures()]
    batch = FUNCTIONS.get('default_collate')([dict(inputs=s['inputs']) for s in samples])
    out = SelfSupDataPreprocessor(MEAN, STD)(dict(**batch, data_samples=None))['inputs']
    assert [x.shape for x in out] == [(4, 3, 16, 16)] * 2


@pytest.mark.parametrize(
    'inputs', [pictures() / 255, pictures() * 257.0, (pictures() - 120.0) / 58, pictures() - 128.0]
)
def test_other_scales_are_refused(inputs):
    mine = EncryptClsDataPreprocessor('shuffle', **NORM)
    for listed in (True, False):
        with pytest.raises(PictureError, match='EncryptClsDataPreprocessor .*0–255.*`mean`'):
            mine(batch_of(inputs, listed))
    # Black is black on any scale, and an interpolation may overshoot.
    for fine in (torch.zeros(2, 3, 32, 32), pictures() * 1.05 - 5):
        mine(batch_of(fine))


def test_pictures_of_several_sizes():
    """They are padded, which the means would tell."""
    inputs = [pictures(1, (3, side, 32))[0] for side in (16, 32)]
    data = dict(inputs=inputs, data_samples=None)
    assert EncryptClsDataPreprocessor('shuffle')(data)['inputs'].shape == (2, 3, 32, 32)
    with pytest.raises(CipherError, match="fit='pad'"):
        EncryptClsDataPreprocessor('center+shuffle')(data)


def test_without_a_cipher():
    """It is the host's preprocessor then."""
    mine = EncryptClsDataPreprocessor(None, **NORM)
    assert mine.cipher is None and 'cipher=None' in repr(mine)
    expected = ClsDataPreprocessor(**NORM)(batch_of(pictures()))['inputs']
    assert torch.equal(mine(batch_of(pictures()))['inputs'], expected)
    # Any scale, size and padding: nothing is encrypted.
    mine(batch_of(pictures().int() * 257))
    EncryptClsDataPreprocessor(None, pad_size_divisor=16)(batch_of(pictures(shape=(3, 33, 35))))


def test_ranks_draw_apart(monkeypatch):
    module = 'hime_mm.models.data_preprocessors.encrypt.get_rank'
    out = []
    for rank in (0, 1):
        monkeypatch.setattr(module, lambda rank=rank: rank)
        mine = EncryptClsDataPreprocessor('shuffle', seed=0, **NORM)
        out.append(mine(batch_of(pictures()))['inputs'])
    assert not torch.equal(*out)


def test_quantize():
    inputs = pictures(shape=(3, 32, 32)).float() + 0.3
    mine = EncryptClsDataPreprocessor('mix2', **NORM)
    expected = [
        Cipher.build('mix2').apply(
            one.round().clamp(0, 255).byte().permute(1, 2, 0).numpy(), [None]
        )
        for one in inputs
    ]
    got = denormalized(mine(batch_of(inputs))['inputs'])
    assert torch.equal(got, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    mine = EncryptClsDataPreprocessor('mix2', quantize=False)
    out = mine(dict(inputs=list(inputs)))['inputs']
    # By hand for one pixel: the average of the four sub-patches' first ones.
    by_hand = inputs[0, 0, [0, 0, 8, 8], [0, 8, 0, 8]].mean()
    torch.testing.assert_close(out[0, 0, 0, 0], by_hand)


def test_padding():
    inputs = pictures(shape=(3, 40, 50))
    with pytest.raises(PictureError, match='40x50.*pad_size_divisor=16'):
        EncryptClsDataPreprocessor('shuffle', **NORM)(batch_of(inputs))
    mine = EncryptClsDataPreprocessor('shuffle', pad_size_divisor=16, pad_value=7, **NORM)
    drawn = mine.batch_cipher.draw((4, 3, 48, 64))
    fix_draw(mine, drawn)
    out = mine(batch_of(inputs))
    padded = torch.nn.functional.pad(inputs, (0, 14, 0, 8), value=7)
    assert torch.equal(denormalized(out['inputs']), mine.batch_cipher.apply(padded, drawn))
    with pytest.raises(CipherError, match="fit='pad'.*center"):
        EncryptClsDataPreprocessor('center+shuffle', pad_size_divisor=16)


def test_grayscale_without_labels():
    mine = EncryptClsDataPreprocessor('shuffle', mean=[100.0], std=[50.0])
    inputs = pictures(shape=(1, 32, 48))
    out = mine(dict(inputs=list(inputs)))
    assert out['data_samples'] is None
    back = out['inputs'] * 50 + 100
    assert torch.equal(
        back.flatten(1).sort().values.round(), inputs.flatten(1).float().sort().values
    )


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(cipher='permute_pixels'), 'hime encrypt'),
        (dict(cipher='nothing'), 'nothing'),
        (dict(cipher='mix3'), "'mix3' .* 16"),
        (dict(cipher='shuffle', seed=-1), '`seed`'),
        (dict(cipher='shuffle', seed=True), '`seed`'),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(HimeError, match=message) as error:
        EncryptClsDataPreprocessor(**kwargs)
    if 'seed' not in kwargs and kwargs['cipher'] != 'nothing':
        assert 'hime_mm.EncryptClsDataPreprocessor' in str(error.value)


def test_nothing_of_a_draw_is_kept():
    """Neither for a checkpoint nor for a log."""
    mine = EncryptClsDataPreprocessor('noise9+shuffle', **NORM)

    def shown():
        return (
            set(vars(mine)),
            dict(vars(mine.batch_cipher)),
            repr(mine),
            list(mine.state_dict()),
            [n for n, _ in mine.named_buffers()],
        )

    before = shown()
    for training in (True, False):
        mine(batch_of(pictures()), training)
    assert shown() == before


def test_classifier_from_a_config_trains_and_hides_no_state():
    init_default_scope('mmpretrain')
    cfg = dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle', seed=1, **NORM
        ),
        backbone=dict(
            type='hime_mm.PEViT',
            arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
            img_size=32,
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=5, in_channels=24),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    )
    model = HOST_MODELS.build(copy.deepcopy(cfg))
    assert isinstance(model, ImageClassifier)
    assert model.data_preprocessor.batch_augments is not None
    data = model.data_preprocessor(batch_of(pictures(shape=(3, 32, 32))), training=True)
    loss = model(**data, mode='loss')['loss']
    loss.backward()
    assert loss > 0 and model.backbone.patch_embed.projection.weight.grad.any()
    # A checkpoint holds nothing of the encryption, and fits the plain twin.
    assert not any('cipher' in k or 'data_preprocessor' in k for k in model.state_dict())
    assert "cipher=Cipher('shuffle', patch_size=16)" in repr(model.data_preprocessor)
