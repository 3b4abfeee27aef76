# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from augment_parts import cut, sample

from hime_mm.ciphers import shuffle_patches
from hime_mm.ciphers.steps import center_patches
from hime_mm.errors import ConfigError
from hime_mm.transforms import Encrypt, EncryptedColorJitter

ColorJitter = pytest.importorskip('mmpretrain.datasets').ColorJitter


class TestEncryptedColorJitter:
    @pytest.mark.parametrize('backend', ['cv2', 'pillow'])
    def test_is_that_of_mmpretrain(self, backend, make_image):
        img = make_image((64, 96, 3))
        args = dict(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.2, backend=backend)
        for seed in range(5):
            np.random.seed(seed)
            np.random.rand()
            want = ColorJitter(**args)(dict(img=img))['img']
            np.random.seed(seed)
            got = EncryptedColorJitter(**args)(sample(img, 'mix2+shuffle'))
            np.testing.assert_array_equal(got['img'], want)
            # MMPretrain gives a mirrored view with one of the backends.
            assert got['img'].flags.c_contiguous
            assert (want != img).mean() > 0.5

    @pytest.mark.parametrize('backend', ['cv2', 'pillow'])
    @pytest.mark.parametrize('grey', [True, False])
    def test_commutes_with_shuffling(self, backend, grey, make_image):
        """It does not matter where a patch lies."""
        img = make_image((64, 96, 3))
        perm = np.random.default_rng(0).permutation(24)
        transform = EncryptedColorJitter(0.4, 0.5, 0.6, 0 if grey else 0.2, backend, keep_grey=grey)
        np.random.seed(0)
        want = shuffle_patches(transform(dict(img=img))['img'], perm, 16)
        np.random.seed(0)
        got = transform(dict(img=shuffle_patches(img, perm, 16)))['img']
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize('dtype', ['uint8', 'float32'])
    @pytest.mark.parametrize(
        'name, factor',
        [
            ('brightness', 1.3),
            ('brightness', 0.4),
            ('contrast', 1.2),
            ('contrast', 0.5),
            ('saturation', 1.3),
            ('saturation', 0.0),
        ],
    )
    def test_commutes_with_centring(self, dtype, name, factor):
        """Jittering centred images is centring jittered originals."""
        rng = np.random.default_rng(0)
        # Dark and light patches, of values that no factor takes too far.
        img = rng.integers(-25, 26, (64, 96, 3)) + np.kron(
            rng.integers(80, 150, (4, 6, 3)), np.ones((16, 16, 1), int)
        )
        img = img.astype(dtype)
        args = {name: (factor, factor)}
        want, clipped = center_patches(ColorJitter(**args, backend='cv2')(dict(img=img))['img'], 16)
        assert clipped == 0
        centred = center_patches(img, 16)[0]
        got = EncryptedColorJitter(**args)(sample(centred, 'center+shuffle'))
        got = got['img']
        assert got.dtype == want.dtype == dtype
        error = np.abs(got.astype(float) - want).max()
        assert error <= (2 if dtype == 'uint8' else 1.0)
        assert np.abs(centred.astype(float) - want).max() > 5
        means = [patch.mean(axis=(0, 1)) for patch in cut(got, 16)]
        assert np.abs(np.array(means) - 128).max() < 1
        # Which is not what stays of it otherwise.
        if name == 'brightness':
            plain = EncryptedColorJitter(**args, keep_grey=False)
            assert abs(plain(dict(img=centred))['img'].mean() - 128) > 30

    def test_both_factors(self, make_image):
        img = make_image((32, 32, 3)).astype(np.float32) / 4 + 96
        out = EncryptedColorJitter((2, 2), (0.25, 0.25), keep_grey=True)(dict(img=img))['img']
        np.testing.assert_allclose(out, 128 + 0.5 * (img - 128), atol=1e-3)

    @pytest.mark.parametrize('cipher', ['drop50+shuffle', 'erode2:filled', 'center', 'drop50+mix2'])
    def test_mid_grey_stays(self, cipher, make_image):
        """By itself where the cipher gives it a meaning."""
        img = make_image((64, 96, 3))
        transform = EncryptedColorJitter(0.5, 0.5, 0.5)
        assert not transform._check(sample(img, 'shuffle'))
        results = Encrypt(cipher)(dict(img=img))
        before = results['img']
        grey = (before == 128).all(axis=2)
        assert grey.any() or cipher == 'center'
        after = transform(results)['img']
        assert (after[grey] == 128).all()
        assert (after != before).mean() > 0.2

    @pytest.mark.parametrize('factor', [0.3, 0.77, 1.31, 1.9])
    @pytest.mark.parametrize('dtype', ['uint8', 'float32'])
    def test_linear_around_grey(self, factor, dtype, make_image):
        img = make_image((32, 32, 3)).astype(dtype)
        out = EncryptedColorJitter((factor, factor), keep_grey=True)(dict(img=img))['img']
        for x, y in zip(img.ravel().tolist(), out.ravel().tolist(), strict=True):
            want = min(max(128 + factor * (x - 128), 0), 255)
            assert abs(y - want) <= (0.5001 if dtype == 'uint8' else 1e-3)

    def test_hue_moves_means(self, make_image):
        img = make_image((32, 48, 3))
        with pytest.raises(ConfigError, match='`keep_grey` .*`hue`'):
            EncryptedColorJitter(hue=0.1, keep_grey=True)
        transform = EncryptedColorJitter(hue=0.1)
        transform(sample(img, 'shuffle'))
        with pytest.raises(ConfigError, match="'center.mix2' .*`hue`"):
            transform(sample(img, 'center+mix2'))

    def test_what_it_cannot_take(self, make_image):
        transform = EncryptedColorJitter(0.5)
        with pytest.raises(ConfigError, match='`cipher`.*`keep_grey`'):
            transform(dict(img=make_image((16, 16, 3))))
        for shape in ((16, 16), (16, 16, 1)):
            with pytest.raises(ConfigError, match=r'\(16, 16.*color_type'):
                transform(sample(make_image(shape)))
        img = make_image((16, 16, 3), np.uint16)
        with pytest.raises(TypeError, match="'cv2'.*uint16"):
            transform(sample(img))
        with pytest.raises(TypeError, match="'pillow'.*float32"):
            EncryptedColorJitter(0.5, backend='pillow')(sample(make_image((16, 16, 3), np.float32)))

    @pytest.mark.parametrize(
        'wrong, error',
        [
            (dict(brightness=-1), ValueError),
            (dict(contrast='a'), TypeError),
            (dict(backend='torch'), ValueError),
            (dict(prob=2), ValueError),
        ],
    )
    def test_wrong_options(self, wrong, error):
        with pytest.raises(error, match=next(iter(wrong))):
            EncryptedColorJitter(**wrong)
