# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from hime_mm.attacks.base import ATTACKS, Evidence, Labels
from hime_mm.attacks.probe import EncryptedAnew, Probe, small_backbone, train_probe
from hime_mm.ciphers import Cipher
from hime_mm.errors import AttackError

TINY = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)


def textures(count: int, seed: int, side: int = 32) -> tuple[list, list]:
    """Cuts of two photos, as many of each, and which photo each is of."""
    rng = np.random.default_rng(seed)
    photos = [cv2.resize(getattr(data, name)(), (400, 300)) for name in ('coffee', 'rocket')]
    labels = [k % 2 for k in range(count)]
    cuts = []
    for label in labels:
        y, x = rng.integers(0, (300 - side, 400 - side))
        cuts.append(photos[label][y : y + side, x : x + side].copy())
    return cuts, labels


def backbone(layout):
    return {**small_backbone(layout), 'arch': TINY}


def given(steps='shuffle', count=40, patch_size=8, seed=0):
    cipher = Cipher(steps, patch_size)
    public, labels = textures(count, 1)
    plain, truth = textures(20, 2)
    rng = np.random.default_rng(3)
    images, layouts, _ = zip(*(cipher.encrypt(img, rng) for img in plain), strict=True)
    layouts = [layout.public() for layout in layouts]
    return Evidence(images, layouts, cipher, public=public, labels=labels, seed=seed), truth


def accuracy(attack, evidence, truth):
    attack.prepare(evidence)
    told = [attack.guess(i).scores.argmax() for i in range(len(evidence.images))]
    return np.mean(np.array(told) == truth)


def tiny_probe(evidence, **settings):
    return Probe(backbone(evidence.layouts[0]), **{'epochs': 10, 'batch_size': 8, **settings})


def test_it_is_known_by_name():
    assert ATTACKS['probe'] is Probe


@pytest.mark.parametrize('steps', ('shuffle', 'mix2'))
def test_it_learns_from_encrypted_pictures(steps):
    evidence, truth = given(steps)
    attack = tiny_probe(evidence)
    assert accuracy(attack, evidence, truth) >= 0.9
    guess = attack.guess(0)
    assert isinstance(guess, Labels)
    assert guess.scores.shape == (2,)
    assert guess.scores.sum() == pytest.approx(1)
    assert guess.confidence == guess.scores.max()


def test_shuffled_labels_get_chance():
    evidence, truth = given()
    found = []
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation(evidence.labels).tolist()
        attack = tiny_probe(evidence, epochs=5)
        found.append(accuracy(attack, replace(evidence, labels=labels), truth))
    assert np.mean(found) < 0.7


def test_guesses_repeat_and_know_no_order():
    evidence, _ = given()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second = tiny_probe(evidence, epochs=2), tiny_probe(evidence, epochs=2)
    first.prepare(evidence)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    second.prepare(replace(evidence, images=evidence.images[::-1]))
    for i in (0, 7, 19):
        scores = first.guess(i).scores
        np.testing.assert_array_equal(scores, first.guess(i).scores)
        np.testing.assert_allclose(scores, second.guess(19 - i).scores, atol=1e-6)
    other = tiny_probe(evidence, epochs=2, seed=8)
    other.prepare(evidence)
    assert (other.guess(0).scores != first.guess(0).scores).any()


def test_each_epoch_sees_another_encryption():
    evidence, _ = given()
    pictures = EncryptedAnew(evidence)
    first, again = pictures[0], pictures[0]
    assert (first != again).any()
    assert sorted(first.ravel()) == sorted(again.ravel())
    small = replace(evidence, public=[evidence.public[0][:9, :20, 0]], labels=[0])
    assert EncryptedAnew(small)[0].shape == evidence.images[0].shape


@pytest.mark.parametrize(
    'config',
    (
        dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
        dict(type='VisionTransformer', img_size=32, patch_size=8, arch=TINY),
        dict(type='hime_mm.PEViT', img_size=32, patch_size=8, arch=TINY, out_type='featmap'),
    ),
    ids=lambda one: one['type'],
)
def test_any_backbone_and_plain_pictures(config):
    """Grey ones too."""
    pictures, labels = textures(8, 0)
    pictures[0] = pictures[0][..., 0]
    probe = train_probe(pictures, labels, config, epochs=1, batch_size=4)
    scores = probe.scores(pictures)
    assert scores.shape == (8, 2)
    assert np.isfinite(scores).all()
    assert probe.accuracy(pictures, scores.argmax(axis=1)) == 1


def test_default_backbones():
    for steps, encoding in (('shuffle', 'rpe'), ('mix2', 'learned')):
        layout = Cipher(steps).plan((64, 32))
        config = small_backbone(layout)
        assert config['pos_encoding'] == encoding
        assert config['patch_size'] == layout.patch_size
        assert config['img_size'] == layout.shape


@pytest.mark.parametrize(
    'change, words',
    (
        (dict(labels=()), 'each with its class'),
        (dict(labels=(0,) * 40), 'at least two classes'),
        (dict(public=(), labels=()), 'no public pictures'),
    ),
)
def test_nothing_to_learn_from(change, words):
    evidence, _ = given()
    assert not Probe.why_not(evidence)
    assert words in Probe.why_not(replace(evidence, **change))


def test_sizes_that_differ():
    evidence, _ = given()
    layouts = [*evidence.layouts[1:], Cipher('shuffle', 8).plan((24, 32))]
    assert 'several sizes' in Probe.why_not(replace(evidence, layouts=layouts))


@pytest.mark.parametrize('labels', ([0], [0, 0], []))
def test_labels_that_do_not_fit(labels):
    with pytest.raises(AttackError, match='at least two classes'):
        train_probe(textures(2, 0)[0], labels, {})


def test_initialising_says_nothing(capsys):
    pictures, labels = textures(4, 0)
    train_probe(pictures, labels, backbone(Cipher('shuffle', 8).plan((32, 32))), epochs=1)
    assert 'init_weights' not in capsys.readouterr().out
