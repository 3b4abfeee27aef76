# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
from linkage_parts import evidence, gallery, photos, ranks, recoded

from hime_mm.attacks.linkage import PatchHash
from hime_mm.attacks.linkage.patch_hash import patch_hashes


@pytest.mark.parametrize(
    'steps', ('shuffle', 'mix4+shuffle', 'center+erode3+shuffle', 'permute_pixels+shuffle')
)
def test_all_patches_are_found(steps):
    attack = PatchHash()
    attack.prepare(evidence(steps))
    for i in range(len(gallery())):
        scores = attack.guess(i).scores
        assert scores[i] == 1
        assert np.delete(scores, i).max() < 0.2


def test_choices_of_the_key_are_looked_up():
    attack = PatchHash()
    attack.prepare(evidence('negate+center+orient+permute_channels+shuffle'))
    scores = [attack.guess(i).scores[i] for i in range(len(gallery()))]
    assert np.mean(scores) > 0.97


@pytest.mark.parametrize('interpolation', (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC))
def test_the_owners_scaling_is_found_out(interpolation):
    sized = [cv2.resize(img, (64, 48), interpolation=interpolation) for img in gallery()]
    attack = PatchHash()
    attack.prepare(evidence('shuffle', sized, gallery()))
    assert [attack.guess(i).scores[i] for i in range(len(sized))] == [1.0] * len(sized)


def test_other_bytes_are_not_found():
    attack = PatchHash()
    attack.prepare(evidence('shuffle', shown=[recoded(img) for img in gallery()]))
    assert np.mean([attack.guess(i).scores.max() for i in range(len(gallery()))]) < 0.1


def test_noise_leaves_nothing_to_look_up():
    assert "'noise'" in PatchHash.why_not(evidence('noise5+shuffle'))


def test_hashes():
    rng = np.random.default_rng(0)
    pieces = rng.integers(0, 256, (5, 4, 4, 3), np.uint8)
    pieces[2] = 9
    hashes = patch_hashes(pieces)
    assert len(set(hashes)) == len(hashes) == 4
    turned = np.rot90(pieces, axes=(1, 2))[::-1, ..., ::-1]
    assert patch_hashes(turned) == hashes[::-1]
    pieces[0, 0, 0, 0] ^= 1
    assert len(set(hashes) & set(patch_hashes(pieces))) == 3


@pytest.mark.slow
@pytest.mark.parametrize('steps', ('shuffle', 'mix2+center+shuffle', 'center+erode2+shuffle'))
def test_strength(coco_tiny, steps):
    originals, plain = photos(coco_tiny)
    assert (ranks(PatchHash(), evidence(steps, plain, originals)) == 0).all()
