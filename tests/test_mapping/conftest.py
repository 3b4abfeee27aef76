# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest


@pytest.fixture(scope='module')
def picture():
    """A photo whose sides are no multiples of the patches."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[:203, 120:390, ::-1])


@pytest.fixture(scope='module')
def path(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures') / 'photo.png'
    cv2.imwrite(str(path), picture)
    return path


@pytest.fixture(scope='module')
def folder(path):
    return path.parent
