# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The pictures of the pages can be made again."""

import cv2
import pytest
from chromium import browser
from scripts import run_script


@pytest.mark.parametrize(
    ('script', 'panels', 'rows'),
    [
        pytest.param('tools/misc/make_attack_picture.py', 5, 1, marks=pytest.mark.slow),
        ('tools/misc/make_pictures.py', 3, 2),
    ],
)
def test_pictures_are_made(tmp_path, script, panels, rows):
    out = tmp_path / 'picture.jpg'
    given = ('--height', '96', '--panel', '64', '--ciphers', 'shuffle', 'center')
    run_script(script, *given, '-o', str(out))
    height, width = cv2.imread(str(out)).shape[:2]
    assert width >= 64 * panels
    assert height >= 64 * rows


@pytest.mark.slow
def test_picture_of_a_report(tmp_path):
    with browser():  # skips where there is none
        pass
    out = tmp_path / 'report.jpg'
    given = ('--pictures', '2', '--size', '64', '--ciphers', 'mix2', '--width', '900')
    run_script('tools/misc/make_report_picture.py', *given, '-o', str(out))
    height, width = cv2.imread(str(out)).shape[:2]
    assert width == 900
    assert height > 900
