# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils.batch_augments import (
    Mixup,  # isort: skip
    RandomBatchAugment,
)
from scripts import run_fresh

from hime_mm.errors import ConfigError
from hime_mm.models.batch_augments import PatchCutMix
from hime_mm.registry import BATCH_AUGMENTS, MODELS

VIT = dict(
    type='hime_mm.PEViT',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=64,
    pos_encoding='rpe',
)
SIZES = st.tuples(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 3, 8])
)


def numbered(num, height, width, channels=3, dtype=torch.float32):
    """Images in which every value says its image and its place."""
    size = height * width * channels
    images = torch.arange(num * size, dtype=dtype)
    return images.view(num, channels, height, width), size


def origins(mixed, size, side):
    """By a loop: which image each patch of each image came from.

    Fails unless every patch is a whole one of some image, in its own slot.
    """
    num, channels, height, width = mixed.shape
    found = np.zeros((num, height // side, width // side), int)
    for i, image in enumerate(mixed):
        for row in range(height // side):
            for col in range(width // side):
                source = int(image[0, row * side, col * side]) // size
                found[i, row, col] = source
                for c in range(channels):
                    for y in range(row * side, (row + 1) * side):
                        for x in range(col * side, (col + 1) * side):
                            assert image[c, y, x] == source * size + (c * height + y) * width + x
    return found


BUILD = (
    'from mmpretrain.models.utils.batch_augments import '
    'RandomBatchAugment\n'
    "made = RandomBatchAugment([dict(type='hime_mm.PatchCutMix', "
    "alpha=1., patch_size=8), dict(type='Mixup', alpha=.8)]).augments\n"
    "assert [type(a).__name__ for a in made] == ['PatchCutMix', "
    "'Mixup'], made\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    'before',
    [
        pytest.param('import hime_mm.transforms\n', marks=pytest.mark.trial),
        pytest.param("import sys; sys.modules['mmdet'] = None\n", marks=pytest.mark.trial),
        'import mmpretrain.models\n'
        'from mmengine.registry import init_default_scope\n'
        "init_default_scope('mmdet')\n",
    ],
)
def test_registered(before):
    """In fresh processes, whoever comes first.

    Twins are `test_in_a_classifier` and, without mmdet, test_registration.py.
    """
    run_fresh(before + BUILD)


@pytest.mark.slow
def test_the_registry_does_without_mmpretrain():
    run_fresh(
        "import sys; sys.modules['mmpretrain'] = None\n"
        'from hime_mm.registry import BATCH_AUGMENTS, TRANSFORMS\n'
        "assert TRANSFORMS.get('hime_mm.PatchDrop')\n"
        'assert BATCH_AUGMENTS.parent is None\n'
    )


def test_repr():
    augment = BATCH_AUGMENTS.build(dict(type='hime_mm.PatchCutMix', alpha=1, mode='block'))
    assert repr(augment) == ("PatchCutMix(alpha=1.0, patch_size=16, mode='block', per_image=False)")


@given(
    SIZES,
    st.sampled_from(['random', 'block']),
    st.booleans(),
    st.sampled_from([0.2, 1, 5.0]),
    st.integers(0, 999),
)
@pytest.mark.slow
def test_values(sizes, mode, per_image, alpha, seed):
    num, rows, cols, side = sizes
    images, size = numbered(num, rows * side, cols * side)
    scores = torch.eye(num + 2)[:num]
    before = images.clone(), scores.clone()
    np.random.seed(seed)
    torch.manual_seed(seed)
    augment = PatchCutMix(alpha, side, mode, per_image)
    mixed, labels = augment(images, scores)
    assert torch.equal(images, before[0]) and torch.equal(scores, before[1])
    assert mixed.dtype == images.dtype and labels.dtype == torch.float32

    found = origins(mixed, size, side)
    slots = set()
    for i, (grid, label) in enumerate(zip(found, labels, strict=True)):
        # Of one other image at most, with the labels' share of patches.
        others = set(grid.ravel()) - {i}
        assert len(others) <= 1
        for k in range(num + 2):
            np.testing.assert_allclose(label[k], (grid == k).mean(), atol=1e-6)
        if others:
            slots.add((grid != i).tobytes())
        if mode == 'block':
            at = np.argwhere(grid != i)
            if len(at):
                (y1, x1), (y2, x2) = at.min(0), at.max(0)
                assert len(at) == (y2 - y1 + 1) * (x2 - x1 + 1)
    assert per_image or len(slots) <= 1


@pytest.mark.parametrize('mode', ['random', 'block'])
@pytest.mark.parametrize('alpha', [0.3, 1.0, 3.0])
def test_shares(mode, alpha):
    """Those of a Beta distribution; the block loses what is outside."""
    np.random.seed(0)
    augment = PatchCutMix(alpha, mode=mode)
    slots = augment.draw_slots(4000, 24, 20)
    assert slots.dtype == bool and slots.shape == (4000, 24, 20)
    shares = slots.mean(axis=(1, 2))
    cut = np.random.beta(alpha, alpha, 100000)
    if mode == 'block':
        # A loop over pixel-sized patches, as MMPretrain's CutMix does it.
        shares_want = []
        for one in cut[:4000]:
            h = w = int(1000 * np.sqrt(one))
            cy, cx = np.random.randint(1000, size=2)
            y1, y2 = np.clip([cy - h // 2, cy + h // 2], 0, 1000)
            x1, x2 = np.clip([cx - w // 2, cx + w // 2], 0, 1000)
            shares_want.append((y2 - y1) * (x2 - x1) / 1e6)
        cut = np.array(shares_want)
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs(np.quantile(shares, q) - np.quantile(cut, q)) < 0.03
    # Every slot is as likely, but for the border where a block is cut off.
    often = slots.mean(axis=0)
    if mode == 'random':
        assert np.ptp(often) < 0.08
    else:
        inner = often[8:16, 7:13]
        assert np.ptp(inner) < 0.12 and often[0, 0] < 0.8 * inner.min()
        np.testing.assert_allclose(often, often[::-1, ::-1], atol=0.05)


def test_random_slots_are_independent():
    """The neighbour of a pasted slot is no likelier than any other."""
    np.random.seed(0)
    slots = PatchCutMix(1e6).draw_slots(4000, 4, 6)
    assert (slots.sum(axis=(1, 2)) == 12).all()
    both = (slots[:, :, :-1] & slots[:, :, 1:]).mean()
    assert abs(both - 0.5 * 11 / 23) < 0.01


@pytest.mark.parametrize('per_image', [True, False])
def test_per_image(per_image):
    images, size = numbered(16, 32, 32)
    torch.manual_seed(0)
    np.random.seed(3)
    found = origins(PatchCutMix(1, 8, per_image=per_image)(images, torch.eye(16))[0], size, 8)
    pasted = found != np.arange(16)[:, None, None]
    pasted = pasted[pasted.any(axis=(1, 2))]
    counts = set(pasted.sum(axis=(1, 2)))
    assert len(pasted) > 10
    assert len(counts) > 4 if per_image else len(counts) == 1
    assert (pasted == pasted[0]).all() is np.bool_(not per_image)


def test_dtypes_and_strides():
    images, size = numbered(3, 32, 48, dtype=torch.float64)
    images = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not images.is_contiguous()
    for dtype in (torch.float64, torch.int32):
        mixed, labels = PatchCutMix(1.0)(images.to(dtype), torch.eye(3).long())
        assert mixed.dtype == dtype and labels.dtype == torch.float32
        origins(mixed, size, 16)
        torch.testing.assert_close(labels.sum(1), torch.ones(3))


def test_seeds():
    images, _ = numbered(6, 32, 32)
    made = []
    for seed in (1, 2, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        made.append(PatchCutMix(1.0, 8)(images, torch.eye(6))[0])
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(alpha=0), '`alpha`.*got 0'),
        (dict(alpha='a'), "`alpha`.*'a'"),
        (dict(alpha=float('nan')), '`alpha`.*nan'),
        (dict(alpha=True), '`alpha`.*True'),
        (dict(patch_size=0), '`patch_size`.*got 0'),
        (dict(patch_size=8.0), '`patch_size`.*8.0'),
        (dict(mode='rect'), "`mode` 'rect'"),
        (dict(per_image=1), '`per_image`'),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ConfigError, match=f'hime_mm.PatchCutMix: .*{message}'):
        PatchCutMix(**dict(dict(alpha=1.0), **wrong))


@pytest.mark.parametrize('size', [(32, 40), (40, 32)])
def test_sizes_that_do_not_fit(size):
    with pytest.raises(ConfigError, match='{}x{}.*`patch_size` 16'.format(*size)):
        PatchCutMix(1.0)(torch.zeros(2, 3, *size), torch.eye(2))


@pytest.mark.parametrize(
    'augments',
    [
        dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=16),
        [dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=16, mode='block')],
    ],
)
def test_in_a_classifier(augments):
    """As a config has it, through MMPretrain's data preprocessor."""
    from mmengine.registry import DefaultScope
    from mmpretrain.structures import DataSample

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=VIT,
                head=dict(
                    type='VisionTransformerClsHead',
                    num_classes=5,
                    in_channels=16,
                    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
                ),
                data_preprocessor=dict(
                    type='ClsDataPreprocessor', num_classes=5, mean=[10.0] * 3, std=[2.0] * 3
                ),
                train_cfg=dict(augments=augments),
            )
        )
    images, size = numbered(5, 64, 64)
    data = dict(inputs=list(images), data_samples=[DataSample().set_gt_label(i) for i in range(5)])
    np.random.seed(1)
    torch.manual_seed(1)
    out = model.data_preprocessor(data, training=True)
    found = origins(out['inputs'] * 2 + 10, size, 16)
    assert (found != np.arange(5)[:, None, None]).any()
    for i, one in enumerate(out['data_samples']):
        np.testing.assert_allclose(
            one.gt_score, [(found[i] == k).mean() for k in range(5)], atol=1e-6
        )
    loss = model.loss(out['inputs'], out['data_samples'])['loss']
    loss.backward()
    assert torch.isfinite(loss)
    # Not when testing.
    plain = model.data_preprocessor(data, training=False)['inputs']
    torch.testing.assert_close(plain, (images - 10) / 2)


class TestShuffledImages:
    @pytest.fixture()
    def model(self):
        torch.manual_seed(0)
        return MODELS.build(VIT).eval()

    @staticmethod
    def tiles(images):
        """(B, N, C, 16, 16), by slicing."""
        return torch.stack(
            [
                images[:, :, y : y + 16, x : x + 16]
                for y in range(0, 64, 16)
                for x in range(0, 64, 16)
            ],
            1,
        )

    @staticmethod
    def join(tiles):
        rows = [torch.cat(list(tiles[:, k : k + 4].unbind(1)), 3) for k in range(0, 16, 4)]
        return torch.cat(rows, 2)

    def test_mixing_is_that_of_originals(self, model):
        """Patches of both images, as under a mask of whole patches."""
        torch.manual_seed(1)
        plain = self.tiles(torch.rand(4, 3, 64, 64))
        perms = [torch.randperm(16) for _ in range(4)]
        shuffled = self.join(
            torch.stack([one[perm] for one, perm in zip(plain, perms, strict=True)])
        )
        np.random.seed(0)
        mixed, labels = PatchCutMix(1.0, per_image=True)(shuffled, torch.eye(4))
        # The same set from the originals, in some order.
        known = {}
        for i in range(4):
            for k in range(16):
                known[plain[i, k].numpy().tobytes()] = (i, k)
        want, shares = [], torch.zeros(4, 4)
        for i, one in enumerate(self.tiles(mixed)):
            used = sorted(known[patch.numpy().tobytes()] for patch in one)
            for j, _ in used:
                shares[i, j] += 1 / 16
            assert len(set(used)) == 16
            want.append(torch.stack([plain[j, k] for j, k in used]))
        torch.testing.assert_close(labels, shares)
        assert ((shares > 0).sum(1) == 2).any()
        with torch.no_grad():
            got, want = (model(x)[-1] for x in (mixed, self.join(torch.stack(want))))
            other = model(shuffled)[-1]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        assert (got - other).abs().max() > 1e-3

    @pytest.mark.parametrize(
        'augment',
        [dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=16), dict(type='Mixup', alpha=0.8)],
        ids=lambda cfg: cfg['type'],
    )
    def test_the_order_afterwards_is_nothing(self, augment, model):
        """Every slot takes part alike, in Mixup too."""
        torch.manual_seed(1)
        np.random.seed(0)
        images = torch.rand(4, 3, 64, 64)
        mixed, _ = RandomBatchAugment(augment)(images, torch.eye(4))
        order = torch.randperm(16)
        with torch.no_grad():
            torch.testing.assert_close(
                model(mixed)[-1],
                model(self.join(self.tiles(mixed)[:, order]))[-1],
                rtol=0,
                atol=1e-5,
            )
            assert (model(mixed)[-1] - model(images)[-1]).abs().max() > 1e-4

    def test_mixup_brings_slots_together(self):
        """Not places: what PatchReshuffle changes from epoch to epoch."""
        torch.manual_seed(1)
        plain = self.tiles(torch.rand(2, 3, 64, 64))
        perms = [torch.randperm(16) for _ in range(2)]
        shuffled = self.join(
            torch.stack([one[perm] for one, perm in zip(plain, perms, strict=True)])
        )
        np.random.seed(0)
        while True:
            mixed, labels = Mixup(0.8)(shuffled, torch.eye(2))
            if labels[0, 1] > 0:
                break
        lam = labels[0, 0]
        for k, patch in enumerate(self.tiles(mixed)[0]):
            torch.testing.assert_close(
                patch, lam * plain[0, perms[0][k]] + (1 - lam) * plain[1, perms[1][k]]
            )
