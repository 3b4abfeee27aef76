# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Weights that are adapted to a cipher without labels."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from owner_data import photo, write

from hime_mm.ciphers import Cipher
from hime_mm.errors import ConfigError
from hime_mm.models import DistillDataPreprocessor, PEViT, ShuffleDistillation, TIMMPEViT
from hime_mm.registry import MODELS

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SIZE = 32
ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
PLAIN = dict(type='hime_mm.PEViT', arch=ARCH, img_size=SIZE, patch_size=8, out_type='raw')
TEACHER = dict(PLAIN, pos_encoding='learned')
STUDENT = dict(PLAIN, pos_encoding='none')
SMALL_TIMM = dict(
    type='hime_mm.TIMMPEViT',
    model_name='deit_tiny_patch16_224',
    depth=2,
    embed_dim=24,
    num_heads=2,
    patch_size=8,
    img_size=SIZE,
    out_type='raw',
)


def preprocessor(cipher='shuffle', **kwargs):
    kwargs = dict(dict(mean=MEAN, std=STD, to_rgb=True, patch_size=8, seed=0), **kwargs)
    return dict(type='hime_mm.DistillDataPreprocessor', cipher=cipher, **kwargs)


def build(cipher='shuffle', backbone=STUDENT, teacher=TEACHER, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = ShuffleDistillation(backbone, teacher, preprocessor(cipher), **kwargs)
    with torch.no_grad():
        for name, param in model.named_parameters():
            # As large as trained ones: at their start all tokens are alike.
            if param.ndim > 1 and 'pos_embed' not in name:
                param.normal_(std=param[0].numel() ** -0.5)
    return model


def pictures(num=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng)


def batch(num=3, seed=0):
    return dict(inputs=list(pictures(num, seed)), data_samples=None)


def make_twins(model):
    """The student is the teacher, and neither knows positions."""
    with torch.no_grad():
        model.teacher.pos_embed.zero_()
    state = {k: v for k, v in model.teacher.state_dict().items() if not k.startswith('pos')}
    model.backbone.load_state_dict(state, strict=False)
    return model.eval()


class TestPreprocessor:
    @pytest.mark.parametrize(
        'cipher', ['shuffle', 'center+erode2+shuffle', 'mix2+shuffle', 'drop25+shuffle', 'mix2']
    )
    def test_says_which_patch_is_where(self, cipher):
        made = MODELS.build(preprocessor(cipher))
        plain, encrypted, origins = made(batch(), training=True)['inputs']
        colour = pictures().flip(1).float()
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (MEAN, STD))
        torch.testing.assert_close(plain, (colour - mean) / std)
        one = Cipher(cipher, 8)
        assert encrypted.shape[-1] == SIZE // 8 * one.encrypted_patch_size
        # The same without moving anything, patch by patch.
        still = Cipher(cipher.removesuffix('+shuffle').replace('drop25', 'noise1'), 8)
        levels = (encrypted * std + mean).flip(1).round()
        for img, found, rows in zip(pictures(), levels, origins, strict=True):
            img = img.permute(1, 2, 0).numpy()
            if 'drop' not in cipher and still.steps[0].name != 'shuffle':
                img, _, _ = still.encrypt(np.ascontiguousarray(img))
            side = one.encrypted_patch_size
            expected, got = (
                x.reshape(4, side, 4, side, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1)
                for x in (img, found.permute(1, 2, 0).numpy())
            )
            for slot, origin in enumerate(rows.tolist()):
                grey = np.full_like(got[slot], 128)
                np.testing.assert_array_equal(
                    got[slot], grey if origin < 0 else expected[origin].astype(float)
                )
            assert (rows < 0).sum() == (4 if 'drop' in cipher else 0)

    def test_statistics_of_both(self):
        made = MODELS.build(
            preprocessor('center+shuffle', mean=[128.0] * 3, std=[40.0] * 3)
            | dict(plain_mean=MEAN, plain_std=STD)
        )
        plain, encrypted, _ = made(batch(), training=True)['inputs']
        assert encrypted.mean().abs() < 0.1
        other = MODELS.build(preprocessor())(batch(), training=True)['inputs'][0]
        torch.testing.assert_close(plain, other)

    @pytest.mark.parametrize(
        'wrong, match',
        [
            (dict(cipher=None), 'needs a `cipher`'),
            (dict(plain_mean=MEAN), 'come together'),
            (dict(mean=None, std=None, plain_mean=MEAN, plain_std=STD), 'come together'),
        ],
    )
    def test_what_makes_no_sense(self, wrong, match):
        with pytest.raises(ConfigError, match=match):
            MODELS.build(dict(preprocessor(), **wrong))

    def test_a_resumed_run_draws_the_same(self):
        hub = MessageHub.get_current_instance()

        def origins(made, step):
            hub.update_info('iter', step)
            return made(batch(), training=True)['inputs'][2]

        try:
            one = MODELS.build(preprocessor())
            before = [origins(one, step) for step in range(3)]
            other = MODELS.build(preprocessor())
            assert torch.equal(origins(other, 2), before[2])
            assert not torch.equal(before[0], before[1])
        finally:
            hub.update_info('iter', 0)


class TestLoss:
    @pytest.mark.parametrize('cipher', ['shuffle', 'orient+negate'])
    def test_nothing_to_learn_for_a_twin(self, cipher):
        """Only what the cipher does to pixels is left, and RS does nothing to them."""
        model = make_twins(build(cipher))
        losses = model.loss(model.data_preprocessor(batch(), True)['inputs'])
        if 'shuffle' in cipher:
            assert all(loss < 1e-9 for loss in losses.values())
        else:
            assert all(loss > 1e-3 for loss in losses.values())

    def test_by_hand(self):
        model = build('drop25+shuffle', patch_weight=2.0, cls_weight=0.5).eval()
        plain, encrypted, origins = model.data_preprocessor(batch(), True)['inputs']
        losses = model.loss((plain, encrypted, origins))
        student, teacher = model.backbone(encrypted)[0], model.teacher(plain)[0]

        def normal(x):
            return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()

        patches, classes = [], []
        for s, t, rows in zip(student, teacher, origins, strict=True):
            classes.append(F.smooth_l1_loss(normal(s[0]), normal(t[0])))
            patches += [
                F.smooth_l1_loss(normal(s[1 + slot]), normal(t[1 + origin]))
                for slot, origin in enumerate(rows.tolist())
                if origin >= 0
            ]
        assert len(patches) == 3 * 12
        torch.testing.assert_close(losses['loss_patch'], 2 * torch.stack(patches).mean())
        torch.testing.assert_close(losses['loss_cls'], torch.stack(classes).mean() / 2)

    def test_only_the_student_learns(self):
        model = build()
        sum(model.loss(model.data_preprocessor(batch(), True)['inputs']).values()).backward()
        assert all(param.grad is None for param in model.teacher.parameters())
        missing = [name for name, p in model.backbone.named_parameters() if p.grad is None]
        assert missing == []
        assert not model.train().teacher.training and model.backbone.training

    def test_without_a_class_token(self):
        siglip = dict(SMALL_TIMM, model_name='vit_base_patch16_siglip_gap_224')
        model = build(
            backbone=dict(siglip, pos_encoding='rpe'), teacher=dict(siglip, pos_encoding='learned')
        )
        losses = model.loss(model.data_preprocessor(batch(), True)['inputs'])
        assert set(losses) == {'loss_patch'}

    def test_of_timm_and_of_a_dict(self):
        model = build(
            backbone=dict(SMALL_TIMM, pos_encoding='none'),
            teacher=dict(SMALL_TIMM, pos_encoding='learned'),
        )
        assert isinstance(model.backbone, TIMMPEViT)
        (tokens,) = model(model.data_preprocessor(batch(), True)['inputs'])
        assert tokens.shape == (3, 17, 24)


class TestRefusals:
    @pytest.mark.parametrize(
        'wrong, match',
        [
            (dict(teacher=STUDENT), 'the teacher needs the positions'),
            (dict(backbone=TEACHER), 'moves patches'),
            (dict(backbone=dict(STUDENT, patch_size=16)), 'the backbone has patches of 16 pixels'),
            (dict(teacher=dict(TEACHER, patch_size=16)), 'the teacher has patches of 16 pixels'),
            (dict(cipher='erode2+shuffle'), 'are of 4'),
            (dict(backbone=dict(STUDENT, out_type='cls_token')), "out_type='raw'"),
            (
                dict(teacher=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny')),
                'TIMMPEViT',
            ),
            (
                dict(backbone=dict(STUDENT, arch=dict(ARCH, embed_dims=48))),
                'the student is 48 wide, the teacher 24',
            ),
            (dict(backbone=dict(STUDENT, num_det_tokens=3)), 'the backbone has detection tokens'),
            (dict(teacher=dict(TEACHER, num_det_tokens=3)), 'the teacher has detection tokens'),
            (
                dict(teacher=dict(SMALL_TIMM, pos_encoding='learned', checkpoint_path='w.pth')),
                r"by `checkpoint_path`: use `init_cfg=.*'w.pth'",
            ),
            (
                dict(backbone=dict(SMALL_TIMM, pos_encoding='none', patch_drop_rate=0.25)),
                'the backbone drops patches',
            ),
        ],
    )
    def test_what_does_not_go_together(self, wrong, match):
        with pytest.raises(ConfigError, match=match):
            build(**wrong)

    def test_another_preprocessor(self):
        with pytest.raises(ConfigError, match='DistillDataPreprocessor'):
            ShuffleDistillation(STUDENT, TEACHER, dict(type='SelfSupDataPreprocessor'))

    def test_positions_where_patches_stay(self):
        build('mix2', backbone=dict(TEACHER, patch_size=4, img_size=16))

    @pytest.mark.parametrize('vit', ['PEViT', 'TIMMPEViT'])
    @pytest.mark.parametrize(
        'change, match',
        [
            (lambda state: state.pop(_name(state, 'pos_embed')), 'fill 1 tensors.*pos_embed'),
            # Of another width.
            (
                lambda s: s.update({_name(s, 'fc1.', 'layers.0.0.'): torch.zeros(9, 9)}),
                r'fill 1 tensors.*\(\d+, 24\) \(\(9, 9\)\)',
            ),
        ],
    )
    def test_weights_that_do_not_fill_the_teacher(self, tmp_path, vit, change, match):
        """The rest would be drawn at random, and taught."""
        config = dict(TEACHER) if vit == 'PEViT' else dict(SMALL_TIMM, pos_encoding='learned')
        state = dict(MODELS.build(dict(config)).state_dict())
        change(state)
        torch.save(dict(state_dict=state), tmp_path / 'w.pth')
        init = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'))
        student = dict(STUDENT) if vit == 'PEViT' else dict(SMALL_TIMM, pos_encoding='none')
        model = build(backbone=student, teacher=dict(config, init_cfg=init))
        with pytest.raises(ConfigError, match=match):
            model.init_weights()
        with pytest.raises(ConfigError, match='the teacher names no weights'):
            build(backbone=student, teacher=dict(config)).init_weights()


def _name(state, *parts):
    """The first name with one of these parts."""
    return next(name for name in state if any(part in name for part in parts))


@pytest.fixture
def photos(tmp_path):
    for i in range(8):
        write(tmp_path / 'photos' / f'{i}' / f'{i}.png', photo(40 + i, 50))
    return tmp_path / 'photos'


@pytest.fixture
def weights(tmp_path):
    model = build().teacher
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def run_config(photos, weights, work_dir, epochs, cipher='center+erode2+shuffle', **kwargs):
    init = dict(type='Pretrained', checkpoint=str(weights))
    student = dict(STUDENT, patch_size=4, img_size=16, init_cfg=init, drop_path_rate=0.2)
    student['warm_start'] = dict(cipher=cipher, patch_size=8)
    model = dict(
        type='hime_mm.ShuffleDistillation',
        data_preprocessor=preprocessor(cipher),
        backbone=student,
        teacher=dict(TEACHER, init_cfg=init),
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=SIZE),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root=str(photos), with_label=False, pipeline=pipeline)
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dataset,
            ),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            custom_hooks=[dict(type='hime_mm.EpochSeedHook'), dict(type='EMAHook')],
            randomness=dict(seed=3),
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            **kwargs,
        )
    )


def losses_of(work_dir):
    lines = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines}


def train(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner


@pytest.mark.slow
def test_trains_and_goes_on(photos, weights, tmp_path):
    """Resumed after a kill, with the losses of the run that nobody killed."""
    before = weights.read_bytes()
    whole = train(run_config(photos, weights, tmp_path / 'whole', 4))
    expected = losses_of(tmp_path / 'whole')
    assert list(expected) == list(range(1, 9))
    assert np.mean([expected[i] for i in (7, 8)]) < expected[1]
    assert weights.read_bytes() == before

    model = whole.model
    source = torch.load(weights, weights_only=True)['state_dict']
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, source[name]), name
    # Patches in another order, the same tokens in that order.
    student = deepcopy(model.backbone).eval()
    x = torch.randn(2, 3, 16, 16)
    order = torch.randperm(16)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(2, 3, 16, 4, 4)[:, :, order]
    moved = patches.reshape(2, 3, 4, 4, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 16, 16)
    with torch.no_grad():
        one, other = student(x)[0], student(moved)[0]
    torch.testing.assert_close(other[:, 0], one[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(other[:, 1:], one[:, 1:][:, order], atol=1e-4, rtol=0)

    train(run_config(photos, weights, tmp_path / 'parts', 2))
    train(run_config(photos, weights, tmp_path / 'parts', 4, resume=True))
    assert losses_of(tmp_path / 'parts') == expected


def test_mixed_precision():
    """Losses are computed in single precision; MMEngine's own wrapper wants a GPU."""
    model = build().eval()
    inputs = model.data_preprocessor(batch(), True)['inputs']
    expected = model.loss(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        found = model.loss(inputs)
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=0.01)


@pytest.mark.slow
def test_layer_decay(photos, weights, tmp_path):
    """MMPretrain's constructor: the teacher has no rates, the student's fall towards the input."""
    cfg = run_config(photos, weights, tmp_path / 'decay', 1)
    cfg.optim_wrapper.optimizer.weight_decay = 0.05
    cfg.optim_wrapper.update(
        constructor='LearningRateDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    runner = train(cfg)
    # One more is MMEngine's, for the log.
    groups = [group for group in runner.optim_wrapper.param_groups if 'param_name' in group]
    rates = {group['param_name']: group['lr'] for group in groups}
    assert not any(name.startswith('teacher') for name in rates)
    first, last = rates['backbone.layers.0.ln1.weight'], rates['backbone.layers.1.ln1.weight']
    assert first == pytest.approx(last / 2)


@pytest.mark.slow
def test_adapted_weights_load_in_a_classifier(photos, weights, tmp_path):
    """As a backbone alone, without a second warm start."""
    runner = train(run_config(photos, weights, tmp_path / 'run', 1))
    state = runner.model.backbone.state_dict()
    vit = PEViT(
        ARCH,
        16,
        4,
        pos_encoding='none',
        warm_start=dict(cipher='center+erode2+shuffle', patch_size=8),
    )
    assert vit.load_state_dict(state).missing_keys == []
    assert torch.equal(vit.patch_embed.projection.weight, state['patch_embed.projection.weight'])
    assert isinstance(runner.model.data_preprocessor, DistillDataPreprocessor)
