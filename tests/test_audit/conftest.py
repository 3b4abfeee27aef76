# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import pytest
from attack_parts import PHOTOS, photo

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key


@pytest.fixture(autouse=True)
def little_to_learn_from(monkeypatch):
    """Two small pictures in place of six large ones: costs are learnt in a moment."""
    monkeypatch.setattr(
        'hime_mm.audit.public._shipped',
        lambda: [photo('astronaut', 96, 96), photo('rocket', 96, 96)],
    )


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    """Eight small photos, in two folders."""
    root = tmp_path_factory.mktemp('plain')
    for i, name in enumerate(PHOTOS):
        folder = root / ('a', 'b')[i % 2]
        folder.mkdir(exist_ok=True)
        img = photo(name, 160, 160)
        cv2.imwrite(str(folder / f'{name}.png'), img)
        cv2.imwrite(str(folder / f'{name}_small.png'), cv2.resize(img, (96, 80)))
    return root


@pytest.fixture(scope='session')
def owner_key():
    return Key(bytes(range(32)))


@pytest.fixture(scope='session')
def delivered(pictures, owner_key, tmp_path_factory):
    """These, mixed and shuffled with the key."""
    out = tmp_path_factory.mktemp('delivered') / 'set'
    encrypt_folder(
        str(pictures), str(out), 'center+shuffle', key=owner_key, patch_size=16, progress=False
    )
    return out
