# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A classifier retrained on what the adversary encrypted."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from hime_mm.ciphers import PatchLayout
from hime_mm.errors import AttackError

from .base import Attack, Evidence, Labels, matched, register_attack, resized


@register_attack
class Probe(Attack):
    """Tell the class of encrypted pictures, as a network learns it from others.

    The public pictures are scaled to the size of the encrypted ones and
    encrypted by the adversary, anew in each epoch, so that the network learns
    what the cipher leaves. Networks that were retrained so recognise what
    people do not (McPherson et al.): judge by it, not by eye.

    Args:
        backbone (dict, optional): Config of one of MMPretrain's backbones, or
            of ours. None is :func:`small_backbone`. Defaults to None.
        settings: Of :func:`train_probe`.
    """

    name = 'probe'
    title = 'classifier retrained on encrypted public pictures'
    source = 'McPherson et al., Defeating Image Obfuscation with Deep Learning, 2016'
    requires = ('torch', 'mmpretrain')
    guesses = Labels

    def __init__(self, backbone: dict | None = None, **settings: Any) -> None:
        self.backbone, self.settings = backbone, settings

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if len(set(evidence.labels)) < 2 or len(evidence.labels) != len(evidence.public):
            return 'there are no public pictures of at least two classes, each with its class'
        if len({layout.grid for layout in evidence.layouts}) > 1:
            return 'the pictures have several sizes: a batch needs one'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        """Train the classifier."""
        super().prepare(evidence)
        backbone = self.backbone or small_backbone(evidence.layouts[0])
        settings = {'seed': evidence.seed, **self.settings}
        self._probe = train_probe(EncryptedAnew(evidence), evidence.labels, backbone, **settings)

    def guess(self, index: int) -> Labels:
        scores = self._probe.scores([self.evidence.images[index]])[0]
        return Labels(float(scores.max()), scores)


class EncryptedAnew(Sequence):
    """Public pictures; each is encrypted anew whenever it is asked for."""

    def __init__(self, evidence: Evidence) -> None:
        self.cipher, layout = evidence.cipher, evidence.layouts[0]
        channels = evidence.images[0].shape[2:]
        self.plain = [
            next(resized(matched(picture, channels), layout.grid, self.cipher.patch_size))
            for picture in evidence.public
        ]
        self.rng = np.random.default_rng(evidence.seed)

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: Any) -> Any:
        return self.cipher.encrypt(self.plain[index], self.rng)[0]


def small_backbone(layout: PatchLayout) -> dict:
    """A vision transformer that CPUs train: without positions where patches move.

    Its tokens are the patches of encrypted pictures of this layout.
    """
    return dict(
        type='hime_mm.PEViT',
        img_size=layout.shape,
        patch_size=layout.patch_size,
        pos_encoding='rpe' if layout.shuffled else 'learned',
        out_type='avg_featmap',
        arch=dict(embed_dims=96, num_layers=3, num_heads=3, feedforward_channels=192),
    )


class TrainedProbe:
    """A classifier, and what it is asked.

    Attributes:
        model (ImageClassifier): In evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    def scores(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities of the classes, float64 of shape (n, k), picture by picture."""
        import torch

        with torch.no_grad():
            found = [self.model.test_step(_batch([one]))[0].pred_score for one in pictures]
        return torch.stack(found).cpu().numpy().astype(np.float64)

    def accuracy(self, pictures: Sequence[np.ndarray], labels: Sequence[int]) -> float:
        """Share of pictures whose class it tells."""
        return float((self.scores(pictures).argmax(axis=1) == np.asarray(labels)).mean())


def train_probe(
    pictures: Sequence[np.ndarray],
    labels: Sequence[int],
    backbone: dict,
    *,
    epochs: int = 20,
    batch_size: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = 'cpu',
) -> TrainedProbe:
    """Train a classifier on pictures of any kind: encrypted, reconstructed, plain.

    With the same settings for each kind, accuracies can be compared. AdamW, the
    learning rate up over the first tenth of the steps and down to nothing in a
    half cosine. The same seed gives the same weights on the same machine; the
    global generator of torch is left as it was.

    Args:
        pictures (Sequence[np.ndarray]): uint8 of shape (H, W) or (H, W, 3), all
            of one size; each is asked for anew in each epoch.
        labels (Sequence[int]): Their classes, counted from 0.
        backbone (dict): Config of one of MMPretrain's backbones, or of ours
            such as ``dict(type='hime_mm.PEViT', ...)``. It gets three channels.
        epochs (int): Defaults to 20.
        batch_size (int): Defaults to 16.
        lr (float): The highest learning rate. Defaults to 1e-3.
        seed (int): Of weights, order and dropout. Defaults to 0.
        device (str): Defaults to 'cpu'.

    Returns:
        TrainedProbe: The classifier.

    Raises:
        AttackError: If there are not as many labels as pictures, or fewer than
            two classes.
    """
    if len(labels) != len(pictures) or len(set(labels)) < 2:
        raise AttackError(
            f'{len(pictures)} pictures came with {len(labels)} labels of {len(set(labels))} '
            'classes: give one each, and at least two classes'
        )
    import torch
    from mmengine.optim import OptimWrapper

    rng = np.random.default_rng(seed)
    starts = range(0, len(pictures), batch_size)
    devices = [torch.device(device)] if device != 'cpu' else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = _classifier(backbone, max(labels) + 1, pictures[0]).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
        total = epochs * len(starts)
        steps = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda k: min(10 * (k + 1) / total, 1) * (1 + math.cos(math.pi * k / total)) / 2,
        )
        wrapper = OptimWrapper(optimizer)
        for _ in range(epochs):
            order = rng.permutation(len(pictures))
            for start in starts:
                chosen = order[start : start + batch_size].tolist()
                batch = _batch([pictures[i] for i in chosen], [labels[i] for i in chosen])
                model.train_step(batch, wrapper)
                steps.step()
    return TrainedProbe(model)


def _classifier(backbone: dict, num_classes: int, picture: np.ndarray) -> Any:
    """MMPretrain's classifier on a backbone; what its last output is like is tried out."""
    import torch
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    with DefaultScope.overwrite_default_scope('mmpretrain'), _quiet():
        body = MODELS.build(backbone)
        # Those of the hosts return nothing.
        body.eval()
        with torch.no_grad():
            inputs = torch.stack(_batch([picture, picture])['inputs']).float()
            features = body(inputs)[-1]
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=body,
                neck=dict(type='GlobalAveragePooling') if features.ndim == 4 else None,
                head=dict(
                    type='LinearClsHead', num_classes=num_classes, in_channels=features.shape[1]
                ),
                data_preprocessor=dict(
                    num_classes=num_classes, mean=[127.5] * 3, std=[64.0] * 3, to_rgb=False
                ),
            )
        )
        model.init_weights()
    return model


def _batch(pictures: Sequence[np.ndarray], labels: Sequence[int] | None = None) -> dict:
    """What MMPretrain's data loaders give: channels first, grey three times."""
    import torch
    from mmpretrain.structures import DataSample

    inputs = [
        torch.from_numpy(np.ascontiguousarray(matched(one, (3,)).transpose(2, 0, 1)))
        for one in pictures
    ]
    samples = [DataSample() for _ in pictures]
    for sample, label in zip(samples, labels or (), strict=False):
        sample.set_gt_label(int(label))
    return dict(inputs=inputs, data_samples=samples)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for each parameter that was initialised."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)
