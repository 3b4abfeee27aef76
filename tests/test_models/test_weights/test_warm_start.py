# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Patch embeddings for encrypted patches, out of those for plain ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpretrain.models import VisionTransformer
from skimage import data

from hime_mm.ciphers import Cipher
from hime_mm.errors import ConfigError
from hime_mm.models import BatchCipher, PEViT, TIMMPEViT
from hime_mm.models.ciphers.prediction import correlations, predict_mixed, predict_patch
from hime_mm.models.layers import MixedPatchEmbed
from hime_mm.models.weights.warm_start import WarmStart, read_mark

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def kernel(dims=8, side=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(dims, 3, side, side, generator=rng), torch.randn(dims, generator=rng)


def embed(weight, bias, patches):
    return torch.einsum('dcij,ncij->nd', weight, patches) + bias


def planes(side=8, num=5, seed=0, dtype=torch.float32):
    """Patches that are linear ramps, another in each channel."""
    rng = torch.Generator().manual_seed(seed)
    height, dy, dx = torch.randn(3, num, 3, 1, 1, generator=rng, dtype=dtype)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
    return height + dy * y / side + dx * x / side


class TestPrediction:
    @pytest.mark.parametrize('centred', [False, True])
    @given(border=st.integers(1, 4), inner=st.integers(2, 8))
    @settings(max_examples=20)
    def test_exact_for_planes(self, centred, border, inner):
        side = inner + 2 * border
        img = planes(side, dtype=torch.float64)[:, 0]
        if centred:
            img = img - img.mean(dim=(1, 2), keepdim=True)
        inside = img[:, border : side - border, border : side - border].flatten(1)
        found = inside.numpy() @ predict_patch(side, border, centred).T
        np.testing.assert_allclose(found, img.flatten(1), atol=1e-9)

    @pytest.mark.parametrize('centred', [False, True])
    @given(g=st.integers(2, 4), inner=st.integers(2, 5))
    @settings(max_examples=20)
    def test_exact_for_planes_that_were_mixed(self, centred, g, inner):
        img = planes(g * inner, dtype=torch.float64)[:, 0]
        if centred:
            img = img - img.mean(dim=(1, 2), keepdim=True)
        mixed = img.unflatten(2, (g, inner)).unflatten(1, (g, inner)).mean(dim=(1, 3))
        found = mixed.flatten(1).numpy() @ predict_mixed(g * inner, g, centred).T
        np.testing.assert_allclose(found, img.flatten(1), atol=1e-8)

    @pytest.mark.parametrize('centred', [False, True])
    def test_what_is_predicted_mixes_to_what_was_seen(self, centred):
        found = torch.from_numpy(predict_mixed(8, 2, centred)).T.unflatten(1, (8, 8))
        mixed = found.unflatten(2, (2, 4)).unflatten(1, (2, 4)).mean(dim=(1, 3)).flatten(1)
        expected = torch.eye(16) - (1 / 16 if centred else 0)
        torch.testing.assert_close(mixed, expected.double(), atol=1e-9, rtol=0)

    @pytest.mark.parametrize('centred', [False, True])
    @pytest.mark.parametrize('what', ['eroded', 'mixed'])
    def test_is_the_best_linear_one(self, centred, what):
        """No other that is exact for planes errs less under the covariance it assumes."""
        side = 6
        y, x = np.indices((side, side)).reshape(2, -1)
        if what == 'eroded':
            found = predict_patch(side, 1, centred)
            observe = np.eye(side**2)[np.minimum.reduce([y, x, 5 - y, 5 - x]) >= 1]
        else:
            found = predict_mixed(side, 2, centred)
            pixels = np.eye(side**2).reshape(2, 3, 2, 3, side**2)
            observe = pixels.mean(axis=(0, 2)).reshape(9, -1)
        centre = np.eye(side**2) - (1 / side**2 if centred else 0)
        cov = centre @ correlations(side) @ centre.T
        trend = centre @ np.stack([np.ones(side**2), y, x], axis=1)

        def error(matrix):
            rest = np.eye(side**2) - matrix @ observe
            return np.trace(rest @ cov @ rest.T)

        rng = np.random.default_rng(0)
        least = error(found)
        for _ in range(20):
            other = rng.standard_normal(found.shape) * 0.01
            # Changes that planes do not see.
            other -= other @ observe @ trend @ np.linalg.pinv(observe @ trend)
            assert error(found + other) > least - 1e-9

    @pytest.mark.parametrize('centred', [False, True])
    @pytest.mark.parametrize('side', [3, 5])
    def test_of_one_pixel(self, side, centred):
        """It stands for all, or with the mean gone for what is around it."""
        found = predict_patch(side, side // 2, centred)
        assert found.shape == (side**2, 1) and np.isfinite(found).all()
        assert found[side**2 // 2] == pytest.approx(1)
        assert found.sum() == pytest.approx(0 if centred else side**2)

    def test_the_inside_is_itself(self):
        found = predict_patch(8, 2, False)
        img = np.arange(64).reshape(8, 8)
        rows = img[2:6, 2:6].ravel()
        np.testing.assert_allclose(found[rows], np.eye(16), atol=1e-9)


class TestExact:
    """Tokens of encrypted patches are those of the plain ones, in the cases named."""

    @pytest.mark.parametrize('form', ['', ':filled'])
    def test_eroded_planes(self, form):
        weight, bias = kernel()
        plain = planes()
        changed = WarmStart(f'erode2{form}+shuffle', 8).linear(weight, bias)
        given_patches = plain[:, :, 2:6, 2:6]
        if form:
            given_patches = torch.full_like(plain, 7.0)
            given_patches[:, :, 2:6, 2:6] = plain[:, :, 2:6, 2:6]
        torch.testing.assert_close(
            embed(*changed, given_patches), embed(weight, bias, plain), atol=1e-4, rtol=1e-4
        )

    def test_centred_and_eroded_planes(self):
        weight, bias = kernel()
        plain = planes()
        plain = plain - plain.mean(dim=(2, 3), keepdim=True)
        changed = WarmStart('center+erode2+shuffle', 8).linear(weight, bias)
        torch.testing.assert_close(
            embed(*changed, plain[:, :, 2:6, 2:6]),
            embed(weight, bias, plain),
            atol=1e-4,
            rtol=1e-4,
        )

    def test_centred_patches_whatever_their_mean_was(self):
        weight, bias = kernel()
        plain = torch.randn(5, 3, 8, 8)
        without = plain - plain.mean(dim=(2, 3), keepdim=True)
        changed = WarmStart('center+shuffle', 8).linear(weight, bias)
        expected = embed(weight, bias, without)
        torch.testing.assert_close(embed(*changed, without), expected, atol=1e-4, rtol=1e-4)
        # What is taken off is not looked for.
        torch.testing.assert_close(embed(*changed, without + 3), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize('g', [2, 4])
    def test_mixed_planes(self, g):
        weight, bias = kernel()
        plain = planes()
        mixed = plain.unflatten(3, (g, 8 // g)).unflatten(2, (g, 8 // g)).mean(dim=(2, 4))
        expected = embed(weight, bias, plain)
        changed = WarmStart(f'mix{g}', 8).linear(weight, bias)
        torch.testing.assert_close(embed(*changed, mixed), expected, atol=1e-4, rtol=1e-4)
        tiled = WarmStart(f'mix{g}:tiled', 8).linear(weight, bias)
        given_patches = mixed.repeat(1, 1, g, g)
        torch.testing.assert_close(embed(*tiled, given_patches), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize('form', ['compact', 'full'])
    @pytest.mark.parametrize('cipher', ['mix2', 'center+shuffle'])
    def test_planes_in_a_mixed_embedding(self, form, cipher):
        """Twice as many channels as the kernel has directions carry it as it is."""
        if (cipher, form) == ('center+shuffle', 'compact'):
            pytest.skip('nobody mixes')
        weight, bias = kernel(dims=96)
        module = MixedPatchEmbed(3, 96, 8, 2, form)
        tiled = ':tiled' if (cipher, form) == ('mix2', 'full') else ''
        state, lost = WarmStart(cipher + tiled, 8).mixed(weight, bias, module.state_dict())
        assert lost == 0
        module.load_state_dict(state)
        plain = planes()
        if 'center' in cipher:
            plain = plain - plain.mean(dim=(2, 3), keepdim=True)
        mixed = plain.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean(dim=(2, 4))
        seen = mixed.repeat(1, 1, 2, 2) if tiled else plain
        tokens, grid = module(mixed if form == 'compact' else seen)
        assert grid == (1, 1)
        torch.testing.assert_close(tokens[:, 0], embed(weight, bias, plain), atol=1e-3, rtol=1e-3)

    def test_what_moves_nothing_changes_nothing(self):
        weight, bias = kernel()
        for cipher in ('shuffle', 'noise9+shuffle', 'drop50', 'orient+shuffle'):
            changed = WarmStart(cipher, 8).linear(weight, bias)
            assert torch.equal(changed[0], weight) and torch.equal(changed[1], bias)


class TestStatistics:
    @pytest.mark.parametrize('cipher', ['shuffle', 'center+shuffle', 'center+erode2+shuffle'])
    def test_normalized_by_others(self, cipher):
        """The same tokens of the same grey levels, whatever they are normalized by."""
        weight, bias = kernel()
        grey = planes(num=4) * 20
        if 'center' in cipher:
            grey = grey - grey.mean(dim=(2, 3), keepdim=True) + 128
        inside = grey[:, :, 2:6, 2:6] if 'erode' in cipher else grey

        def normal(img, mean, std):
            mean, std = (torch.tensor(one).view(3, 1, 1) for one in (mean, std))
            return (img - mean) / std

        own = dict(mean=[120.0, 125.0, 130.0], std=[35.0, 30.0, 33.0])
        warm = WarmStart(cipher, 8, plain_mean=MEAN, plain_std=STD, **own)
        found = embed(*warm.linear(weight, bias), normal(inside, **own))
        # As plain patches with the mean of all images have it.
        reference = [128.0] * 3 if 'center' in cipher else MEAN
        expected = embed(weight, bias, normal(grey, reference, STD))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)

    def test_of_one_only(self):
        with pytest.raises(ConfigError, match="come together, without 'plain_mean'"):
            WarmStart('shuffle', 8, mean=MEAN, std=STD)

    def test_without_a_bias(self):
        weight, _ = kernel()
        own = dict(mean=[0.0] * 3, std=STD)
        with pytest.raises(ConfigError, match='no bias'):
            WarmStart('shuffle', 8, plain_mean=MEAN, plain_std=STD, **own).linear(weight, None)
        own['mean'] = MEAN
        warm = WarmStart('shuffle', 8, plain_mean=MEAN, plain_std=STD, **own)
        assert warm.linear(weight, None)[1] is None


def test_narrow_models_lose_what_matters_least():
    """More directions than half of the channels: the rest is small for patches of photos."""
    weight, bias = kernel(dims=24)
    module = MixedPatchEmbed(3, 24, 8, 2)
    state, lost = WarmStart('mix2', 8).mixed(weight, bias, module.state_dict())
    assert 0 < lost < 1
    module.load_state_dict(state)
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(correlations(4))
    mixed = torch.from_numpy(rng.standard_normal((4000, 3, 16)) @ root.T).float()
    mixed = mixed.reshape(-1, 3, 4, 4)
    guess = mixed.double().flatten(2) @ torch.from_numpy(predict_mixed(8, 2, False)).T
    expected = embed(weight, torch.zeros(24), guess.unflatten(2, (8, 8)).float())
    with torch.no_grad():
        error = module(mixed)[0][:, 0] - bias - expected
    assert float((error**2).sum() / (expected**2).sum()) == pytest.approx(lost, rel=0.1)


def test_closer_than_a_resized_kernel():
    from timm.layers import resample_patch_embed

    patches = []
    for img in (data.astronaut(), data.coffee(), data.chelsea()):
        img = torch.from_numpy(np.ascontiguousarray(img[:192, :192])).permute(2, 0, 1).float()
        blocks = ((img - 117) / 58).unfold(1, 16, 16).unfold(2, 16, 16)
        patches.append(blocks.permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16))
    patches = torch.cat(patches)
    weight, bias = kernel(side=16)
    # Smooth, as trained ones are.
    weight = torch.nn.functional.avg_pool2d(weight, 5, 1, 2)
    expected = embed(weight, bias, patches)
    inside = patches[:, :, 2:14, 2:14]
    mixed = patches.unflatten(3, (2, 8)).unflatten(2, (2, 8)).mean(dim=(2, 4))
    for cipher, seen, much in (('erode2+shuffle', inside, 3), ('mix2', mixed, 1.5)):
        warm = embed(*WarmStart(cipher).linear(weight, bias), seen)
        resized = embed(resample_patch_embed(weight, [seen.shape[-1]] * 2), bias, seen)
        errors = [float(((found - expected) ** 2).mean()) for found in (warm, resized)]
        assert errors[0] < errors[1] / much, cipher


SIZE = dict(embed_dims=96, num_layers=2, num_heads=2, feedforward_channels=96)
CASES = {
    'linear': (dict(pos_encoding='none', patch_size=4), 'center+erode2+shuffle', 4),
    'compact': (dict(pos_encoding='learned', patch_size=8, patch_embed='mixed'), 'mix2', 4),
    'full': (
        dict(pos_encoding='learned', patch_size=8, patch_embed='mixed', input_form='full'),
        'mix2:tiled',
        8,
    ),
}


def plain_vit():
    torch.manual_seed(0)
    return VisionTransformer(SIZE, img_size=32, patch_size=8)


def own(case, **kwargs):
    options, cipher, _ = CASES[case]
    return PEViT(SIZE, 32, warm_start=dict(cipher=cipher, patch_size=8), **options, **kwargs)


class TestModels:
    @pytest.mark.parametrize('case', CASES)
    def test_loaded_once_only(self, case):
        """Its own checkpoints are left as they are."""
        model = own(case)
        found = model.load_state_dict(plain_vit().state_dict(), strict=False)
        assert not [name for name in found.missing_keys if not name.startswith('rpe')]
        again = own(case)
        assert again.load_state_dict(model.state_dict()).missing_keys == []
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name

    def test_equals_the_converted_kernel(self):
        model, source = own('linear'), plain_vit()
        model.load_state_dict(source.state_dict(), strict=False)
        weight, bias = source.patch_embed.projection.parameters()
        expected = WarmStart('center+erode2+shuffle', 8).linear(weight, bias)
        torch.testing.assert_close(model.patch_embed.projection.weight, expected[0])
        torch.testing.assert_close(model.patch_embed.projection.bias, expected[1])

    @pytest.mark.parametrize('case', CASES)
    def test_without_the_option_nothing_says_so(self, case):
        options, _, side = CASES[case]
        model = PEViT(SIZE, 32, **options)
        assert 'embed_cipher' not in model.state_dict()
        # What was adapted loads, too.
        warm = own(case)
        found = model.load_state_dict(warm.state_dict())
        assert found.missing_keys == found.unexpected_keys == []
        assert torch.equal(model.patch_embed.projection.weight, warm.patch_embed.projection.weight)
        assert model(torch.randn(2, 3, 4 * side, 4 * side))[0].shape == (2, 96)

    def test_in_timm(self):
        timm = pytest.importorskip('timm')
        small = dict(depth=2, embed_dim=96, num_heads=2)
        source = timm.create_model('deit_tiny_patch16_224', img_size=32, patch_size=8, **small)
        warm = dict(cipher='center+erode2+shuffle', patch_size=8)
        model = TIMMPEViT(
            'deit_tiny_patch16_224', pos_encoding='none', patch_size=4, warm_start=warm, **small
        )
        model.load_state_dict(source.state_dict(), strict=False)
        proj = source.patch_embed.proj
        expected = WarmStart(**warm).linear(proj.weight, proj.bias)
        torch.testing.assert_close(model.timm_model.patch_embed.proj.weight, expected[0])
        again = TIMMPEViT(
            'deit_tiny_patch16_224', pos_encoding='none', patch_size=4, warm_start=warm, **small
        )
        assert again.load_state_dict(model.state_dict()).missing_keys == []
        assert torch.equal(
            again.timm_model.patch_embed.proj.weight, model.timm_model.patch_embed.proj.weight
        )

    def test_from_a_file_of_timm(self, tmp_path):
        timm = pytest.importorskip('timm')
        small = dict(depth=2, embed_dim=96, num_heads=2)
        source = timm.create_model('deit_tiny_patch16_224', **small)
        torch.save(source.state_dict(), tmp_path / 'w.pth')
        warm = dict(cipher='erode2+shuffle')
        options = dict(pos_encoding='none', patch_size=12, warm_start=warm, **small)
        path = str(tmp_path / 'w.pth')
        one = TIMMPEViT('deit_tiny_patch16_224', checkpoint_path=path, **options)
        init = dict(type='Pretrained', checkpoint=path)
        other = TIMMPEViT('deit_tiny_patch16_224', init_cfg=init, **options)
        for model in (one, other):
            model.init_weights()
        for name, value in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
        expected = WarmStart('erode2+shuffle').linear(
            source.patch_embed.proj.weight, source.patch_embed.proj.bias
        )
        torch.testing.assert_close(one.timm_model.patch_embed.proj.weight, expected[0])

    @pytest.mark.parametrize('vit', ['PEViT', 'TIMMPEViT'])
    def test_a_cipher_of_other_patches(self, vit):
        options = dict(patch_size=12, warm_start=dict(cipher='erode1+shuffle'))
        with pytest.raises(ConfigError, match='leaves patches of 14 pixels, the model embeds'):
            if vit == 'PEViT':
                PEViT(SIZE, **options)
            else:
                TIMMPEViT('deit_tiny_patch16_224', depth=1, **options)

    def test_its_mark_says_the_statistics(self, log):
        """What was made for others is not made again, nor taken for what it is not."""
        warm = dict(cipher='center+erode2+shuffle', patch_size=8)
        told = dict(warm, mean=[128.0] * 3, std=[30.0] * 3, plain_mean=MEAN, plain_std=STD)
        options = dict(pos_encoding='none', patch_size=4)
        model, again = (PEViT(SIZE, 32, warm_start=told, **options) for _ in range(2))
        others = [PEViT(SIZE, 32, warm_start=one, **options) for one in (warm, dict(told, std=STD))]
        model.load_state_dict(plain_vit().state_dict(), strict=False)
        assert read_mark(model.embed_cipher) == told
        log.clear()
        again.load_state_dict(model.state_dict())
        assert not log
        for other in others:
            with pytest.raises(ConfigError, match=r'30\.0.* before.*leave `warm_start` out'):
                other.load_state_dict(model.state_dict())
        plain = PEViT(SIZE, 32, **options)
        plain.load_state_dict(model.state_dict())
        assert any('30.0' in line and 'left as it is' in line for _, line in log)
        kept = model.patch_embed.projection.weight
        assert torch.equal(plain.patch_embed.projection.weight, kept)

    def test_says_what_to_normalize_by(self, log):
        """Without statistics, where a step removes means."""
        for cipher, said in (('center+erode2+shuffle', True), ('erode2+shuffle', False)):
            log.clear()
            model = PEViT(SIZE, 32, warm_start=dict(cipher=cipher, patch_size=8), patch_size=4)
            model.load_state_dict(plain_vit().state_dict(), strict=False)
            assert any('a mean of 128' in line for _, line in log) == said

    def test_a_kernel_of_encrypted_patches(self, log):
        """Trained on them before anything said so: no second warm start."""
        trained = PEViT(SIZE, 32, pos_encoding='none', patch_size=4)
        model = own('linear')
        model.load_state_dict(trained.state_dict(), strict=False)
        assert any('left as it is' in line for _, line in log)
        weight = trained.patch_embed.projection.weight
        assert torch.equal(model.patch_embed.projection.weight, weight)

    def test_from_weights_of_half_precision(self):
        source = plain_vit()
        model, expected = own('linear'), own('linear')
        expected.load_state_dict(source.state_dict(), strict=False)
        model.load_state_dict(source.bfloat16().state_dict(), strict=False)
        found = model.patch_embed.projection.weight
        torch.testing.assert_close(
            found, expected.patch_embed.projection.weight, atol=0.02, rtol=0.02
        )

    def test_from_patches_of_another_side(self):
        """Resampled to the cipher's first."""
        source = VisionTransformer(SIZE, img_size=64, patch_size=16)
        model = own('linear')
        model.load_state_dict(source.state_dict(), strict=False)
        assert model.patch_embed.projection.weight.shape[-1] == 4

    def test_kernels_work_on_encrypted_pictures(self):
        """The tokens of a whole picture, against the plain model's, patch by patch."""
        model, source = own('linear'), plain_vit()
        model.load_state_dict(source.state_dict(), strict=False)
        y, x = np.mgrid[:32, :32]
        img = np.stack([2 * x + y, 3 * y, x + 60], -1).astype(np.float32)
        cipher = Cipher('center+erode2', 8)
        encrypted = cipher.apply(img, [None, None]) - 128
        centred = Cipher('center', 8).apply(img, [None]) - 128
        batch = [torch.from_numpy(one).permute(2, 0, 1)[None] for one in (encrypted, centred)]
        found, expected = model.patch_embed(batch[0])[0], source.patch_embed(batch[1])[0]
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
        assert BatchCipher('center+erode2', 8).cipher == cipher
