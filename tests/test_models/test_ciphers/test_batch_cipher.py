# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Batches on a device, against the same cipher image by image in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.randomness import draw_permutations
from hime_mm.ciphers.steps import STEPS
from hime_mm.errors import CipherError, PictureError
from hime_mm.models import BatchCipher
from hime_mm.models.ciphers import FORMS, TorchForm

CIPHERS = [
    'shuffle',
    'mix2',
    'mix4',
    'mix16',
    'mix2:tiled',
    'mix8:tiled',
    'erode1',
    'erode7',
    'erode3:filled',
    'drop50',
    'drop20',
    'drop80',
    'center',
    'noise25',
    'noise255',
    'orient',
    'negate',
    'permute_channels',
    'center+erode2+shuffle',
    'mix2+center+shuffle',
    'erode2+mix2+shuffle',
    'noise9+drop30+shuffle',
    'orient+negate+permute_channels+shuffle',
    'paper-rs',
    'paper-mi',
]


def images(dtype, shape=(4, 48, 80, 3), seed=0):
    """Noise, and patches at both ends of the range, which are clipped."""
    rng = np.random.default_rng(seed)
    img = rng.integers(0, 256, shape).astype(dtype)
    img[:, :20] = (
        img[:, :20] // 200 * 255 if dtype == np.uint8 else np.round(img[:, :20] / 255) * 255
    )
    if dtype != np.uint8:
        img += rng.random(shape).astype(dtype) - 0.5
    return img


def to_batch(img):
    return torch.from_numpy(img).permute(0, 3, 1, 2)


@pytest.mark.parametrize('cipher', CIPHERS)
@pytest.mark.parametrize('dtype', [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize('contiguous', [True, False])
def test_equals_numpy(cipher, dtype, contiguous):
    img = images(dtype)
    reference = Cipher.build(cipher)
    draws = [reference.draw(img.shape[1:]) for _ in img]
    expected = np.stack([reference.apply(one, draw) for one, draw in zip(img, draws, strict=True)])
    cipher = BatchCipher(cipher)
    batch = to_batch(img)
    if contiguous:
        batch = batch.contiguous()
    before = batch.clone()
    got = cipher.apply(batch, cipher.stack(draws))
    assert torch.equal(batch, before)
    assert got.dtype == batch.dtype
    got = got.permute(0, 2, 3, 1).numpy()
    if dtype == np.uint8:
        np.testing.assert_array_equal(got, expected)
    else:
        tol = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(got, expected, rtol=0, atol=tol)
    # It did something to every image.
    assert all(a.shape != b.shape or (a != b).any() for a, b in zip(got, img, strict=True))


@given(
    side=st.sampled_from([2, 3, 4, 7, 8, 16]),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.sampled_from([1, 2, 3, 4]),
    batch=st.integers(1, 4),
    names=st.lists(
        st.sampled_from(['shuffle', 'orient', 'negate', 'center', 'drop30', 'noise7']),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=60)
def test_any_shape(side, grid, channels, batch, names, seed):
    try:
        reference = Cipher.build('+'.join(names), side)
    except ValueError:
        return
    shape = (batch, grid[0] * side, grid[1] * side, channels)
    img = images(np.uint8, shape, seed)
    draws = [reference.draw(shape[1:]) for _ in img]
    expected = [reference.apply(one, draw) for one, draw in zip(img, draws, strict=True)]
    cipher = BatchCipher(reference)
    got = cipher.apply(to_batch(img), cipher.stack(draws))
    np.testing.assert_array_equal(got.permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_draws_of_grayscale_images_stack():
    reference = Cipher.build('noise20+shuffle')
    img = images(np.uint8)[..., 0]
    draws = [reference.draw(img.shape[1:]) for _ in img]
    cipher = BatchCipher(reference)
    got = cipher.apply(torch.from_numpy(img)[:, None], cipher.stack(draws))
    for one, draw, mine in zip(img, draws, got[:, 0], strict=True):
        np.testing.assert_array_equal(mine, reference.apply(one, draw))


class Bytes:
    """Fixed bytes, as a source."""

    def __init__(self, data):
        self.data = data

    def read(self, num):
        out, self.data = self.data[:num], self.data[num:]
        assert len(out) == num
        return out


def test_permutations_are_those_of_the_ciphers():
    words = np.random.default_rng(0).integers(0, 1 << 64, (5, 21), dtype=np.uint64)
    # Words with the highest bit set, equal ones and the extremes.
    words[0, :6] = [0, (1 << 64) - 1, 1 << 63, (1 << 63) - 1, 7, 7]
    data = words.astype('<u8').tobytes()
    drawn = BatchCipher('shuffle').draw((5, 3, 48, 112), Bytes(data))[0]
    np.testing.assert_array_equal(drawn, draw_permutations(5, 21, Bytes(data)))


@pytest.mark.parametrize('cipher', CIPHERS)
def test_draws_fit_and_differ_between_images(cipher):
    reference = Cipher.build(cipher)
    cipher = BatchCipher(cipher)
    shape = (3, 3, 96, 112)
    batch = torch.from_numpy(
        np.broadcast_to(images(np.uint8, (1, 96, 112, 3)), (3, 96, 112, 3)).copy()
    ).permute(0, 3, 1, 2)
    # Of a known seed, since a rare draw has no patch of each orientation.
    rng = np.random.default_rng(0)
    drawn = cipher.draw(shape, rng)
    again = cipher.draw(shape, rng)
    # Of the kind that the reference draws.
    alone = cipher.stack([reference.draw((96, 112, 3), rng) for _ in range(3)])
    for one, other, known in zip(drawn, again, alone, strict=True):
        assert (one is None) == (known is None)
        if one is not None:
            assert one.shape == known.shape and one.dtype == known.dtype
            assert not torch.equal(one, other)
            assert not torch.equal(one[0], one[1])
            if known.dtype != torch.int16:
                assert torch.equal(
                    torch.sort(one.flatten(1).long()).values[0, [0, -1]],
                    torch.sort(known.flatten(1).long()).values[0, [0, -1]],
                )
    out = cipher.apply(batch, drawn)
    assert out.shape[:2] == (3, 3)
    if reference.random:
        assert not torch.equal(out[0], out[1])
        assert not torch.equal(cipher(batch), out)
    else:
        assert torch.equal(out[0], out[1])
        assert torch.equal(cipher(batch), out)


def test_drop_draws_its_share():
    for percent, count in ((50, 21), (1, 0), (99, 41)):
        drawn = BatchCipher(f'drop{percent}').draw((6, 3, 96, 112))[0]
        assert drawn.dtype == torch.bool
        assert drawn.sum(1).tolist() == [count] * 6


def test_noise_has_its_spread():
    drawn = BatchCipher('noise25').draw((4, 3, 64, 64))[0].float()
    assert abs(drawn.std() - 25) < 0.5 and abs(drawn.mean()) < 0.7


def test_a_seeded_source_repeats():
    cipher = BatchCipher('noise5+shuffle')
    batch = to_batch(images(np.uint8))
    first = [cipher(batch, rng) for rng in [np.random.default_rng(3)] for _ in range(2)]
    second = [cipher(batch, rng) for rng in [np.random.default_rng(3)] for _ in range(2)]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


def test_odd_places_in_memory():
    """Where a patch row is no run of aligned words."""
    flat = torch.randint(0, 256, (1 + 2 * 3 * 32 * 48,), dtype=torch.uint8)
    odd = flat[1:].view(2, 3, 32, 48)
    cipher = BatchCipher('shuffle')
    drawn = cipher.draw(odd.shape)
    assert torch.equal(cipher.apply(odd, drawn), cipher.apply(odd.clone(), drawn))


def test_no_images():
    for text in ('shuffle', 'drop50', 'noise5+shuffle', 'orient'):
        assert BatchCipher(text)(torch.zeros(0, 3, 32, 32)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize('name', sorted(STEPS))
def test_every_step_has_a_form_or_is_shared(name):
    if STEPS[name]().shared:
        assert name not in FORMS
        with pytest.raises(CipherError, match=f"'{name}' .*hime encrypt"):
            BatchCipher(name)
    else:
        assert issubclass(FORMS[name], TorchForm)
        assert BatchCipher(name).cipher == Cipher(name)


def test_a_step_without_a_form_is_refused(monkeypatch):
    monkeypatch.delitem(FORMS, 'negate')
    with pytest.raises(CipherError, match="'negate' .*`hime_mm.Encrypt`"):
        BatchCipher('shuffle+negate')


def test_every_form_is_of_a_step():
    assert set(FORMS) <= set(STEPS)


def test_every_step_is_covered():
    tried = {step.name for text in CIPHERS for step in Cipher.build(text).steps}
    assert tried == set(STEPS) - {'permute_pixels'}


def test_refused():
    with pytest.raises(CipherError, match='permute_pixels.*hime encrypt'):
        BatchCipher('permute_pixels+shuffle')
    with pytest.raises(CipherError, match="'shufle'"):
        BatchCipher('shufle')
    cipher = BatchCipher('shuffle')
    batch = to_batch(images(np.uint8))
    drawn = cipher.draw(batch.shape)
    with pytest.raises(PictureError, match='B, C, H, W'):
        cipher.apply(batch[0], drawn)
    with pytest.raises(TypeError, match='int32'):
        cipher.apply(batch.int(), drawn)
    with pytest.raises(CipherError, match='1 steps.* 0 draws'):
        cipher.apply(batch, [])
    with pytest.raises(CipherError, match='draw.* 4 images.*batch.* 2'):
        cipher.apply(batch[:2], drawn)
    with pytest.raises(PictureError, match='48x79.*patch size 16'):
        cipher.apply(batch[..., :-1], drawn)
    with pytest.raises(PictureError, match="'permute_channels' .*channels"):
        BatchCipher('permute_channels').draw((2, 1, 32, 32))


def test_draws_are_in_no_message():
    # Numbers that would be recognised.
    cipher, batch = BatchCipher('shuffle'), to_batch(images(np.uint8))
    perms = torch.full_like(cipher.draw(batch.shape)[0], 4321)
    for drawn in ([perms, perms], [perms[:-1]]):
        with pytest.raises(CipherError) as error:
            cipher.apply(batch, drawn)
        assert '4321' not in str(error.value)


def test_repr_shows_no_secret():
    cipher = BatchCipher('shuffle')
    cipher(to_batch(images(np.uint8)))
    assert repr(cipher) == "BatchCipher('shuffle', patch_size=16)"


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_gpu_equals_cpu():
    batch = to_batch(images(np.uint8))
    for text in CIPHERS:
        cipher = BatchCipher(text)
        drawn = cipher.draw(batch.shape)
        there = [d if d is None else d.cuda() for d in drawn]
        assert torch.equal(cipher.apply(batch, drawn), cipher.apply(batch.cuda(), there).cpu()), (
            text
        )
        assert cipher(batch.cuda()).is_cuda
