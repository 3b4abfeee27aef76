# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pickle

import cv2
import numpy as np
import pytest
from client_parts import KEY, random_boxes
from owner_data import named

from hime_mm.apis import Client, encrypt_folder
from hime_mm.ciphers import Cipher, InvalidKey, Key
from hime_mm.errors import CipherError, ClientError, PictureError, UnreadableImage
from hime_mm.images.codec import as_loaded, decode_image, encode_image, read_image
from hime_mm.images.preprocess import Preprocess

# Encryption


@pytest.mark.parametrize(
    'cipher', ['shuffle', 'mix2', 'mix2+shuffle', 'center+erode2+shuffle', 'negate']
)
@pytest.mark.parametrize('fit', ['resize', 'pad'])
def test_layout_of_an_encrypted_picture(picture, cipher, fit):
    if 'center' in cipher and fit == 'pad':
        # The padding would show the means, as in a data set.
        with pytest.raises(CipherError, match=named("fit='pad'", repr(cipher))):
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
    'wrong, error, thing',
    [
        (np.zeros((32, 32, 3), np.float32), TypeError, '32x32x3 float32'),
        (np.zeros((2, 32, 32, 3), np.uint8), TypeError, '2x32x32x3'),
        ([np.zeros((32, 32, 3), np.uint8)], TypeError, 'list'),
        ('missing.png', UnreadableImage, 'missing.png'),
    ],
)
def test_what_is_no_picture(wrong, error, thing):
    with pytest.raises(error, match=thing):
        Client('shuffle').encrypt(wrong)


def test_sizes_that_do_not_fit(picture):
    with pytest.raises(PictureError, match='203x270'):
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
    with pytest.raises(TypeError, match='key'):
        pickle.dumps(keyed)


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_an_owner_can_store_what_maps_back(picture, cipher):
    found = Client(cipher).encrypt(picture)
    again = pickle.loads(pickle.dumps(dict(kept=found)))['kept']
    np.testing.assert_array_equal(again.img, found.img)
    assert again.in_place == found.in_place and repr(again.layout) == repr(found.layout)
    boxes = [[3, 4, 30, 50], [100, 20, 180, 90]]
    np.testing.assert_array_equal(again.layout.unmap_boxes(boxes), found.layout.unmap_boxes(boxes))


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
    with pytest.raises(ClientError, match=named('encrypted.jpg', '.png')):
        found.save(tmp_path / 'encrypted.jpg')
    assert [p.name for p in tmp_path.iterdir()] == ['encrypted.png']


# Data sets


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
    other = Key(bytes(32))
    with pytest.raises(InvalidKey, match=named(KEY.id, other.id)):
        Client.from_manifest(data, other)
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
    with pytest.raises(ClientError, match=named(data / 'photo.png', data / 'hime.json')):
        client.encrypt(data / 'photo.png')
    found = client.encrypt(picture)
    with pytest.raises(ClientError, match='`predict`'):
        client.encrypt(found)
