# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures of encrypted images and what a model made of them."""

from collections.abc import Sequence

import cv2
import numpy as np

from hime_mm.errors import PictureError

_PALETTE = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 200, 220),
    (210, 60, 200),
    (128, 128, 0),
)
_GAP = 8


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8, (H, W, 3), of anything a cipher takes; wider types are scaled."""
    if image.dtype == np.uint16:
        image = image >> 8
    image = np.clip(image, 0, 255).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    if image.shape[2] != 3:
        raise PictureError(f'cannot show an image of {image.shape[2]} channels')
    return np.ascontiguousarray(image)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """Draw boxes with their names.

    Args:
        image (np.ndarray): Shape (H, W) or (H, W, C) with C of 1 or 3, RGB,
            0 to 255.
        boxes (np.ndarray): Shape (n, 4), (x1, y1, x2, y2) in pixels. Parts
            outside the image are not shown.
        labels (Sequence[int], optional): A colour and a name for each box.
            Defaults to None.
        classes (Sequence[str], optional): Names by label. Defaults to None.
        scores (Sequence[float], optional): Written behind the names.
            Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    # Pictures are tiled where MMEngine is not installed, too.
    from mmengine.visualization import Visualizer

    image = _as_rgb(image)
    h, w = image.shape[:2]
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    visualizer = Visualizer(image=image)
    for i, box in enumerate(boxes):
        box = np.clip(box, 0, [w - 1, h - 1, w - 1, h - 1])
        if (box[2:] - box[:2]).min() < 1:
            continue
        label = 0 if labels is None else int(labels[i])
        colour = _PALETTE[label % len(_PALETTE)]
        visualizer.draw_bboxes(box, edge_colors=colour, line_widths=max(1, min(h, w) / 160))
        text = '' if classes is None or labels is None else classes[label]
        if scores is not None:
            text = f'{text} {scores[i]:.2f}'.strip()
        if text:
            visualizer.draw_texts(
                text,
                box[:2],
                font_sizes=int(np.clip(min(h, w) / 30, 5, 12)),
                colors='w',
                bboxes=dict(
                    facecolor=tuple(c / 255 for c in colour), pad=0.6, alpha=0.8, edgecolor='none'
                ),
            )
    return visualizer.get_image()


def side_by_side(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    height: int | None = None,
) -> np.ndarray:
    """Put images next to each other at one height.

    Args:
        images (Sequence[np.ndarray]): Shape (H, W) or (H, W, C), RGB, 0 to
            255. Enlarged without interpolation, so that pixels stay visible.
        captions (Sequence[str], optional): A line above each image. Defaults
            to None.
        height (int, optional): Height in pixels. None is the tallest image's.
            Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    images = [_as_rgb(image) for image in images]
    height = height or max(len(image) for image in images)
    parts = []
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        size = (max(1, round(w * height / h)), height)
        mode = cv2.INTER_NEAREST if height >= h else cv2.INTER_AREA
        part = cv2.resize(image, size, interpolation=mode)
        if captions is not None:
            font = cv2.FONT_HERSHEY_SIMPLEX
            wide = cv2.getTextSize(captions[i], font, 0.42, 1)[0][0] + 4
            # Room for the whole line above a narrow image.
            part = cv2.copyMakeBorder(
                part,
                0,
                0,
                0,
                max(0, wide - part.shape[1]),
                cv2.BORDER_CONSTANT,
                value=(255, 255, 255),
            )
            bar = np.full((22, part.shape[1], 3), 255, np.uint8)
            cv2.putText(bar, captions[i], (2, 15), font, 0.42, (30, 30, 30), 1, cv2.LINE_AA)
            part = np.vstack([bar, part])
        parts.append(part)
    gap = np.full((len(parts[0]), _GAP, 3), 255, np.uint8)
    return np.hstack([piece for part in parts for piece in (gap, part)][1:])


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures below each other on white.

    Args:
        rows (Sequence[np.ndarray]): uint8, shape (H, W, 3).

    Returns:
        np.ndarray: uint8, shape (H, W, 3).
    """
    width = max(row.shape[1] for row in rows)
    gap = np.full((_GAP, width, 3), 255, np.uint8)
    wide = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.vstack([piece for row in wide for piece in (gap, row)][1:])
