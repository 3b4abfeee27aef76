# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import json
import logging
import pickle
import pprint
from dataclasses import replace
from functools import partial
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import travel_of
from owner_data import forms_of_permutation, found, named

from hime_mm.ciphers import Cipher, PatchLayout, shuffle_patches
from hime_mm.ciphers.travel import BORDER
from hime_mm.errors import BoxError, CipherError


def random_layout(rng, rows, cols, patch_size, scale) -> PatchLayout:
    return PatchLayout(
        (round(rows * patch_size / scale[1]), round(cols * patch_size / scale[0])),
        patch_size,
        (rows, cols),
        scale,
        rng.permutation(rows * cols),
    )


def random_boxes(rng, layout, num=20) -> np.ndarray:
    """Boxes of any size whose centres lie inside the original."""
    w = layout.shape[1] / layout.scale[0]
    h = layout.shape[0] / layout.scale[1]
    centre = rng.uniform(0, (w, h), (num, 2))
    half = rng.uniform(0, (w, h), (num, 2))
    return np.concatenate([centre - half, centre + half], 1)


LAYOUTS = dict(
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    patch_size=st.sampled_from([1, 4, 8, 16]),
    scale=st.sampled_from(
        [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25), (0.7, 1.3), (400 / 427, 592 / 601)]
    ),
    seed=st.integers(0, 999),
)


@given(**LAYOUTS)
def test_boxes_there_and_back(rows, cols, patch_size, scale, seed):
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, rows, cols, patch_size, scale)
    boxes = random_boxes(rng, layout)
    before = boxes.copy()
    mapped = layout.map_boxes(boxes)
    np.testing.assert_allclose(layout.unmap_boxes(mapped), boxes, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(boxes, before)
    # Encrypted boxes whose centres lie inside come back as well.
    encrypted = random_boxes(rng, PatchLayout(layout.shape, patch_size, layout.grid))
    np.testing.assert_allclose(
        layout.map_boxes(layout.unmap_boxes(encrypted)), encrypted, rtol=0, atol=1e-6
    )


@given(**LAYOUTS)
def test_map_is_the_loop(rows, cols, patch_size, scale, seed):
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, rows, cols, patch_size, scale)
    boxes = random_boxes(rng, layout)
    # Whole numbers are on borders.
    boxes[:5] = np.round(boxes[:5] * np.tile(scale, 2)) / np.tile(scale, 2)
    mapped = layout.map_boxes(boxes)
    scaled = boxes * np.tile(scale, 2)
    inverse = np.argsort(layout.permutation)
    wanted = [travel_of(box, inverse, patch_size, (rows, cols)) for box in scaled]
    np.testing.assert_allclose(mapped, wanted, rtol=0, atol=1e-6)
    # Size, and the offset of the centre to its patch.
    np.testing.assert_allclose(
        mapped[:, 2:] - mapped[:, :2], scaled[:, 2:] - scaled[:, :2], rtol=0, atol=1e-6
    )
    moved = ((mapped - scaled)[:, :2]) / patch_size
    np.testing.assert_allclose(moved, moved.round(), rtol=0, atol=1e-6)
    centre = (mapped[:, :2] + mapped[:, 2:]) / 2
    assert (centre >= -1e-6).all()
    assert (centre <= np.array(layout.shape[::-1]) + 1e-6).all()


def test_box_direction():
    # perm = [1, 2, 0]: patch 0 lies in slot 2, patch 1 in 0, patch 2 in 1.
    layout = PatchLayout((16, 48), 16, (1, 3), permutation=[1, 2, 0])
    boxes = [[0, 0, 16, 16], [16, 0, 32, 16], [34, 3, 44, 9]]
    mapped = [[32, 0, 48, 16], [0, 0, 16, 16], [18, 3, 28, 9]]
    assert layout.map_boxes(boxes).tolist() == mapped
    assert layout.unmap_boxes(mapped).tolist() == boxes


def test_the_box_follows_the_pixels(make_image):
    img = make_image((12, 20, 3))
    perm = np.random.default_rng(0).permutation(15)
    shuffled = shuffle_patches(img, perm, 4)
    layout = PatchLayout((12, 20), 4, (3, 5), permutation=perm)
    boxes = [[x + 1, y, x + 3, y + 4] for y in range(0, 12, 4) for x in range(0, 20, 4)]
    mapped = layout.map_boxes(boxes).astype(int)
    for (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(boxes, mapped, strict=True):
        np.testing.assert_array_equal(shuffled[v1:v2, u1:u2], img[y1:y2, x1:x2])


def test_centre_on_a_border_and_outside():
    layout = PatchLayout((32, 32), 16, (2, 2), permutation=[3, 2, 1, 0])
    # On a border it belongs to the patch to the right or below.
    assert layout.map_boxes([[15, 15, 17, 17]]).tolist() == [[-1, -1, 1, 1]]
    # Outside it is moved to the nearest point of the image, and goes with the patch there.
    for box, moved, back in (
        ([-9, -9, -7, -7], [15, 15, 17, 17], [-1, -1, 1, 1]),
        ([40, 0, 50, 2], [11, 16, 21, 18], [27, 0, 37, 2]),
        ([0, 40, 2, 50], [16, 11, 18, 21], [0, 27, 2, 37]),
        ([0, -40, 2, -38], [16, 15, 18, 17], [0, -1, 2, 1]),
    ):
        mapped = layout.map_boxes([box])
        np.testing.assert_allclose(mapped, [moved], rtol=0, atol=1e-6)
        assert layout.cells(mapped)[0] == layout.permutation.tolist().index(layout.cells([box])[0])
        np.testing.assert_allclose(layout.unmap_boxes(mapped), [back], rtol=0, atol=1e-6)


def test_without_shuffling():
    layout = PatchLayout((32, 64), 8, (2, 4), (0.5, 0.5))
    assert not layout.shuffled
    assert layout.shape == (16, 32)
    assert layout.num_patches == 8
    boxes = [[0, 0, 10, 20], [-5, 3, 70, 9]]
    mapped = layout.map_boxes(boxes)
    assert mapped.dtype == np.float64
    assert mapped.tolist() == [[0, 0, 5, 10], [-2.5, 1.5, 35, 4.5]]
    assert layout.unmap_boxes(mapped).tolist() == boxes


def test_scale_is_x_then_y():
    layout = PatchLayout((10, 100), 1, (20, 50), (0.5, 2.0))
    assert layout.map_boxes([[2, 3, 4, 5]]).tolist() == [[1, 6, 2, 10]]
    assert layout.unmap_boxes([[1, 6, 2, 10]]).tolist() == [[2, 3, 4, 5]]


@pytest.mark.parametrize('shuffled', [True, False])
def test_no_boxes(shuffled):
    layout = PatchLayout((32, 32), 16, (2, 2), permutation=[3, 2, 1, 0] if shuffled else None)
    for boxes in (np.zeros((0, 4), np.float32), np.zeros((0, 4))):
        assert layout.map_boxes(boxes).shape == (0, 4)
        assert layout.unmap_boxes(boxes).shape == (0, 4)


@pytest.mark.parametrize(
    'boxes', [[], [1, 2, 3, 4], [[1, 2, 3]], np.zeros((2, 5)), np.zeros((1, 2, 4))]
)
def test_box_errors(boxes):
    layout = PatchLayout((32, 32), 16, (2, 2), permutation=[3, 2, 1, 0])
    for call in (layout.map_boxes, layout.unmap_boxes):
        with pytest.raises(BoxError, match=named('(n, 4)', np.shape(boxes))):
            call(boxes)


def test_public_layout():
    perm = np.random.default_rng(0).permutation(400)
    secret = PatchLayout((320, 320), 16, (20, 20), permutation=perm)
    public = secret.public()
    assert public.permutation is None
    assert public.shuffled
    np.testing.assert_array_equal(secret.permutation, perm)
    for call in (public.map_boxes, public.unmap_boxes):
        with pytest.raises(BoxError, match='key'):
            call([[0, 0, 1, 1]])
    # A key holder's layout prints as the public one does.
    for show in (repr, str, PatchLayout.to_dict, lambda x: f'{x}'):
        assert show(secret) == show(public)
    assert 'permutation' not in repr(secret) + str(secret.to_dict())
    assert perm.tobytes() not in pickle.dumps(public)


@pytest.mark.parametrize('shuffled', [True, False])
def test_reshuffled(shuffled):
    """In neither direction, whatever was known before."""
    layout = PatchLayout((320, 320), 16, (20, 20), shuffled=shuffled, reshuffled=True)
    for call in (layout.map_boxes, layout.unmap_boxes):
        with pytest.raises(BoxError, match='hime_mm.PatchReshuffle'):
            call([[0, 0, 1, 1]])


def test_dict_round_trip():
    secret = PatchLayout(
        (427, 640), 8, (26, 40), (0.5, 416 / 427 / 2), np.random.default_rng(0).permutation(1040)
    )
    state = json.loads(json.dumps(secret.to_dict()))
    assert state == secret.to_dict()
    layout = PatchLayout.from_dict(state)
    assert repr(layout) == repr(secret.public())
    assert layout.permutation is None


def test_dict():
    layout = PatchLayout((64, 32), 12, (4, 2), (0.75, 0.75), np.arange(8)[::-1], erosion=2)
    state = layout.to_dict()
    assert state == dict(
        ori_shape=[64, 32], patch_size=12, grid=[4, 2], scale=[0.75, 0.75], shuffled=True, erosion=2
    )
    assert PatchLayout.from_dict(state).erosion == 2
    # As it was written before there was erosion.
    del state['erosion']
    layout = PatchLayout.from_dict(state)
    assert layout.erosion == 0 and layout.shuffled
    assert layout.scale == (0.75, 0.75)


def test_cropped_is_written_and_read():
    layout = PatchLayout((64, 32), 16, (4, 2), cropped=True)
    assert layout.to_dict()['cropped'] is True
    for one in (layout, PatchLayout.from_dict(layout.to_dict())):
        with pytest.raises(BoxError, match='`center_crop`'):
            one.unmap_boxes([[0, 0, 8, 8]])


@pytest.mark.parametrize(
    'text, p, moved',
    [
        # Slot 0 shows patch 1, slot 1 patch 2, slot 2 patch 0.
        ('shuffle', 16, [2, 0, 1]),
        ('center+erode2+shuffle', 12, [2, 0, 1]),
        ('shuffle+erode4', 8, [2, 0, 1]),
        ('erode4:filled+shuffle', 16, [2, 0, 1]),
        ('shuffle+mix2', 8, [2, 0, 1]),
        ('erode2+mix3+shuffle+drop34', 4, [2, 0, 1]),
        ('erode2+mix3', 4, [0, 1, 2]),
        ('orient+permute_pixels+noise9', 16, [0, 1, 2]),
    ],
)
def test_boxes_of_ciphers(text, p, moved):
    """A point keeps its relative place in its patch."""
    cipher = Cipher(text)
    drawn = cipher.draw((16, 48, 3))
    for i, step in enumerate(cipher.steps):
        if step.name == 'shuffle':
            drawn[i] = np.array([1, 2, 0])
    layout = cipher.secret_layout((16, 48), drawn)
    # The middle of a patch, its lower right quarter, a box of two patches.
    boxes, mapped = [], []
    for patch, slot in enumerate(moved):
        for box in ((4, 4, 12, 12), (8, 8, 16, 16), (-10, 4, 22, 12)):
            boxes.append(np.add(box, [16 * patch, 0] * 2))
            mapped.append(np.array(box) * p / 16 + [p * slot, 0] * 2)
    np.testing.assert_allclose(layout.map_boxes(boxes), mapped, atol=1e-9)
    np.testing.assert_allclose(layout.unmap_boxes(mapped), boxes, atol=1e-9)


def test_eroded_box_holds_what_is_left(make_image):
    """A patch's box there is the box of what erosion left of it."""
    img = make_image((32, 48, 3))
    cipher = Cipher('erode3+shuffle')
    encrypted, layout, _ = cipher.encrypt(img)
    boxes = [[x, y, x + 16, y + 16] for y in (0, 16) for x in (0, 16, 32)]
    for (x, y, _, _), mapped in zip(boxes, layout.map_boxes(boxes), strict=True):
        x1, y1, x2, y2 = mapped.round().astype(int)
        np.testing.assert_allclose(mapped, [x1, y1, x2, y2], atol=1e-9)
        np.testing.assert_array_equal(encrypted[y1:y2, x1:x2], img[y + 3 : y + 13, x + 3 : x + 13])


def state(layout) -> dict:
    """All that a layout says, its permutation too."""
    perm = layout.permutation
    return {**vars(layout), 'permutation': None if perm is None else perm.tolist()}


def assert_public(again, secret) -> None:
    assert state(again) == state(secret.public())
    assert again.permutation is None and again.shuffled == secret.shuffled


DUMPS = [
    *(partial(pickle.dumps, protocol=n) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
    # Without the accelerator in C.
    pickle._dumps,
]


@given(**LAYOUTS, erosion=st.integers(0, 3), cropped=st.booleans(), known=st.booleans())
def test_pickled_layouts_hold_no_permutation(seed, erosion, cropped, known, **args):
    """Whatever dumps it: alone, in containers, with any protocol."""
    secret = random_layout(np.random.default_rng(seed), **args)
    secret = replace(secret, erosion=erosion, cropped=cropped)
    if not known:
        secret = secret.public()
    for dumps in DUMPS:
        again = pickle.loads(dumps([dict(layout=secret, twice=(secret, 1))]))[0]
        assert_public(again['layout'], secret)
        assert again['twice'][0] is again['layout']
    for copied in (copy.copy(secret), copy.deepcopy(dict(layout=secret))['layout']):
        assert state(copied) == state(secret)
    # What multiprocessing and PyTorch's loaders send between processes.
    sent = pickle.loads(ForkingPickler.dumps([secret]))[0]
    assert type(sent) is PatchLayout and state(sent) == state(secret)


def test_nothing_of_a_permutation_is_pickled_or_shown():
    perm = np.random.default_rng(0).permutation(400)
    secret = PatchLayout((320, 320), 16, (20, 20), permutation=perm)
    forms = forms_of_permutation(perm)
    # It is in what stays between processes.
    assert found(forms, [bytes(ForkingPickler.dumps(secret))])
    shown = [repr(secret), pprint.pformat(secret), f'{secret} {[secret]}', str(secret.to_dict())]
    shown.append(logging.LogRecord('a', 1, 'a', 1, 'a %s', (secret,), None).getMessage())
    contents = [dumps(secret) for dumps in DUMPS] + [text.encode() for text in shown]
    assert all(b'ori_shape' in data for data in contents)
    assert not found(forms, contents)


def test_permutation_of_another_grid():
    for perm in ([0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 4]):
        with pytest.raises(CipherError, match='permutation'):
            PatchLayout((32, 32), 16, (2, 2), permutation=perm)


def loop_places(box, layout) -> int:
    """Slots that a box can have come from: it is put into each with its patch."""
    p = layout.patch_size
    x1, y1, x2, y2 = box
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    x, y = x + BORDER, y + BORDER
    col = next((c for c in range(layout.grid[1]) if x < (c + 1) * p), layout.grid[1] - 1)
    row = next((r for r in range(layout.grid[0]) if y < (r + 1) * p), layout.grid[0] - 1)
    height = layout.ori_shape[0] * layout.scale[1]
    width = layout.ori_shape[1] * layout.scale[0]
    found, slack = 0, 1e-3
    for r in range(layout.grid[0]):
        for c in range(layout.grid[1]):
            dx, dy = (c - col) * p, (r - row) * p
            found += (
                min(x1 + dx, y1 + dy) >= -slack
                and x2 + dx <= min(width, layout.shape[1]) + slack
                and y2 + dy <= min(height, layout.shape[0]) + slack
            )
    return found


@given(**LAYOUTS)
def test_places_are_those_of_the_loop(rows, cols, patch_size, scale, seed):
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, rows, cols, patch_size, scale)
    boxes = random_boxes(rng, layout)
    # Whole numbers lie on the edges, and some boxes are the picture.
    boxes[:5] = np.round(boxes[:5])
    boxes[5] = [0, 0, layout.ori_shape[1], layout.ori_shape[0]]
    encrypted = layout.map_boxes(boxes)
    places = layout.count_places(encrypted)
    assert places.tolist() == [loop_places(box, layout) for box in encrypted]
    # A key holder knows no more places than anybody else.
    np.testing.assert_array_equal(layout.public().count_places(encrypted), places)
    assert layout.count_telling(encrypted) == (places <= 2).sum()


@given(**LAYOUTS)
def test_a_box_inside_has_the_place_it_came_from(rows, cols, patch_size, scale, seed):
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, rows, cols, patch_size, scale)
    h, w = np.array(layout.shape) / layout.scale[::-1]
    corners = np.sort(rng.uniform(0, np.minimum((w, h), layout.ori_shape[::-1]), (20, 2, 2)), 1)
    boxes = corners.reshape(-1, 4)
    assert (layout.count_places(layout.map_boxes(boxes)) >= 1).all()


@pytest.mark.parametrize(
    'box, places',
    [
        ([0, 0, 64, 48], 1),
        ([0, 0, 64, 16], 3),
        ([8, 4, 56, 44], 1),
        ([8, 0, 40, 48], 2),
        ([8, 4, 72, 44], 0),
        ([-20, 0, 60, 48], 0),
        ([3, 3, 5, 5], 12),
    ],
)
def test_places_of_boxes(box, places):
    layout = PatchLayout((48, 64), 16, (3, 4), shuffled=True)
    assert layout.count_places([box]).tolist() == [places]
    assert layout.count_telling([box]) == (places <= 2)
    still = PatchLayout((48, 64), 16, (3, 4))
    assert still.count_telling([box]) == 0


def test_places_of_no_boxes():
    layout = PatchLayout((48, 64), 16, (3, 4), shuffled=True)
    assert layout.count_places(np.zeros((0, 4))).shape == (0,)
    with pytest.raises(BoxError, match='shape'):
        layout.count_places([[1, 2, 3]])


def test_boxes_of_photos_that_leave_few_places(coco_tiny):
    """The figure of docs/protection.md, at the photos' own size."""
    telling = total = 0
    for split in ('train2017', 'val2017'):
        coco = json.loads((coco_tiny / f'annotations/instances_{split}.json').read_text())
        boxes = {image['id']: [] for image in coco['images']}
        for ann in coco['annotations']:
            x, y, w, h = ann['bbox']
            boxes[ann['image_id']].append([x, y, x + w, y + h])
        for image in coco['images']:
            h, w = image['height'], image['width']
            grid, found = (h // 16, w // 16), boxes[image['id']]
            scale = (grid[1] * 16 / w, grid[0] * 16 / h)
            perm = np.random.default_rng(image['id']).permutation(grid[0] * grid[1])
            layout = PatchLayout((h, w), 16, grid, scale, perm)
            telling += layout.count_telling(layout.map_boxes(np.reshape(found, (-1, 4))))
            total += len(found)
    assert (telling, total) == (11, 1520)


def test_frozen():
    layout = PatchLayout((32, 32), 16, (2, 2))
    with pytest.raises(AttributeError):
        layout.permutation = np.arange(4)
