# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A patch embedding for encrypted patches, out of one for plain patches."""

import json
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.pixels import mid_grey
from hime_mm.errors import ConfigError

from ..ciphers.base import FORMS
from ..ciphers.prediction import compose, correlations, predict_mixed
from ..layers import MixedPatchEmbed

#: Buffer of a model that says what its patch embedding was made for, as bytes of JSON.
EMBED_CIPHER = 'embed_cipher'


class WarmStart:
    """Makes the weights of a patch embedding fit what a cipher does to patches.

    The linear embedding of a plain patch is composed with the best linear
    guess of that patch from the encrypted one: an eroded patch is a crop,
    whose border is predicted by :func:`predict_patch`; a mixed one is a mean of
    sub-patches, which :func:`predict_mixed` takes apart; a centred one has no
    mean, so that the kernel's response to constants goes. It is exact for
    patches that are planes (erosion, mixing) and whose mean is that of all
    images (centring). What the key decides, no kernel undoes.

    Args:
        cipher (str | dict | Sequence | :obj:`Cipher`): What encrypts the
            images of the model.
        patch_size (int, optional): Side of a plain patch in pixels. None is
            the cipher's own, or 16. Defaults to None.
        mean, std (Sequence[float], optional): What the encrypted images are
            normalized by, on the 0–255 scale, in the order of the model's
            channels.
        plain_mean, plain_std (Sequence[float], optional): The same of the
            plain images that the weights were trained on. Without them the
            encrypted images count as normalized like the plain ones, but for
            a mean of mid-grey, 128 of 255, where a step removes means.

    Raises:
        CipherError: If the cipher makes no sense.
        ConfigError: If some of the statistics are given and others not.
    """

    def __init__(
        self,
        cipher: str | dict | Sequence | Cipher,
        patch_size: int | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        plain_mean: Sequence[float] | None = None,
        plain_std: Sequence[float] | None = None,
    ) -> None:
        self.cipher = Cipher.build(cipher, patch_size)
        statistics = dict(mean=mean, std=std, plain_mean=plain_mean, plain_std=plain_std)
        missing = [name for name, value in statistics.items() if value is None]
        if 0 < len(missing) < len(statistics):
            raise ConfigError(
                '`warm_start`: the statistics of plain and of encrypted images come together, '
                f'without {missing[0]!r} the others say nothing'
            )
        self.statistics = {
            name: [float(one) for one in value]
            for name, value in statistics.items()
            if value is not None
        }

    @classmethod
    def build(cls, config: 'None | str | dict | WarmStart') -> 'WarmStart | None':
        """Make one of what a config says: a cipher, or a dict of the arguments."""
        if config is None or isinstance(config, cls):
            return config
        if isinstance(config, dict) and 'cipher' in config:
            return cls(**config)
        return cls(config)

    def to_dict(self) -> dict:
        """The arguments that give it back."""
        return dict(cipher=str(self.cipher), patch_size=self.cipher.patch_size, **self.statistics)

    def linear(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Adapt a linear embedding.

        Args:
            weight (Tensor): For plain patches, shape (D, C, P, P).
            bias (Tensor, optional): Shape (D,).

        Returns:
            tuple: The same for encrypted patches: (D, C, P', P') and (D,).

        Raises:
            ConfigError: If the patches have another side than the cipher's,
                or a bias is needed and there is none.
        """
        side = self.cipher.patch_size
        if tuple(weight.shape[2:]) != (side, side):
            raise ConfigError(
                f'`warm_start`: the weights embed patches of {tuple(weight.shape[2:])} pixels, '
                f'those of the cipher {self.cipher!r} are of {side}'
            )
        centred = False
        for step in self.cipher.steps:
            if step.name in FORMS:
                weight = FORMS[step.name](step).embed(weight, centred)
            centred = step.removes_means or (centred and not step.drops_border)
        if not self.statistics:
            return weight, bias
        mean, std, plain_mean, plain_std = (
            torch.tensor(values, dtype=weight.dtype).view(-1, 1, 1)
            for values in self.statistics.values()
        )
        if any(step.removes_means for step in self.cipher.steps):
            # They all have this one, and taking it off leaves what a plain patch has beside its.
            plain_mean = torch.full_like(plain_mean, mid_grey(np.dtype(np.uint8)))
        shift = (weight * ((mean - plain_mean) / plain_std)).sum(dim=(1, 2, 3))
        if bias is not None:
            bias = bias + shift
        elif shift.abs().max() > 1e-3:
            raise ConfigError(
                '`warm_start`: the patch embedding has no bias, so that encrypted images have to '
                f'be normalized by the mean of the plain ones, {plain_mean.flatten().tolist()}'
            )
        return weight * (std / plain_std), bias

    def mixed(
        self, weight: Tensor, bias: Tensor | None, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], float]:
        """Make a mixed embedding of a linear one, which GELU lies within.

        GELU has a linear part: gelu(t) - gelu(-t) = t for every t. So two of
        the D channels between the layers carry one direction of the kernel,
        exactly; where it has more than D/2, those that matter least for
        patches that are correlated as photos are left out.

        Args:
            weight (Tensor): For plain patches, shape (D, C, P, P).
            bias (Tensor, optional): Shape (D,).
            state (dict): ``projection.weight`` (D, C, P', P'),
                ``projection.bias``, ``mapping.weight``, ``mapping.bias`` of a
                new embedding. Channels that are not needed stay as they are
                there, and are not read at first.

        Returns:
            tuple: Such a dict, and the share of the tokens' variance that is
            lost, of 0 to 1.

        Raises:
            ConfigError: As :meth:`linear`.
        """
        weight, bias = self.linear(weight, bias)
        out = {name: value.clone() for name, value in state.items()}
        side = state['projection.weight'].shape[-1]
        if weight.shape[-1] != side:
            # Of tiled or plain images it mixes the sub-patches itself.
            centred = any(step.removes_means for step in self.cipher.steps)
            plain = weight.shape[-1]
            weight = compose(weight, predict_mixed(plain, plain // side, centred))
        dims, channels = weight.shape[:2]
        cov = torch.from_numpy(correlations(side))
        root = torch.linalg.cholesky(torch.block_diag(*[cov] * channels))
        kernel = weight.double().flatten(1)
        left, values, right = torch.linalg.svd(kernel @ root, full_matrices=False)
        rank = min(dims // 2, len(values))
        lost = float((values[rank:] ** 2).sum() / (values**2).sum())
        scale = values[:rank].sqrt()
        first = torch.linalg.solve_triangular(root.T, (right[:rank] * scale[:, None]).T, upper=True)
        first = first.T.reshape(rank, channels, side, side)
        last = (left[:, :rank] * scale)[:, :, None, None]
        out['projection.weight'][: 2 * rank] = torch.cat((first, -first))
        out['projection.bias'][: 2 * rank] = 0
        out['mapping.weight'].zero_()[:, : 2 * rank] = torch.cat((last, -last), 1)
        out['mapping.bias'] = torch.zeros_like(state['mapping.bias']) if bias is None else bias
        return out, lost


def register_warm_start(model: nn.Module, config: None | str | dict) -> None:
    """Give a model ``warm_start``, and the buffer that says so in its checkpoints."""
    model.warm_start = warm = WarmStart.build(config)
    mark = None
    if warm is not None:
        mark = torch.tensor([*json.dumps(warm.to_dict()).encode()], dtype=torch.uint8)
    model.register_buffer(EMBED_CIPHER, mark)


def read_mark(mark: Tensor) -> dict:
    """What the buffer says: the arguments of a :class:`WarmStart`."""
    return json.loads(bytes(mark.tolist()))


def check_warm_start(model: nn.Module) -> None:
    """Refuse a cipher that leaves patches of another side than the model embeds."""
    warm = model.warm_start
    if warm is not None and warm.cipher.encrypted_patch_size != model.patch_stride:
        raise ConfigError(
            f'`warm_start`: {warm.cipher!r} leaves patches of {warm.cipher.encrypted_patch_size} '
            f'pixels, the model embeds such of {model.patch_stride}: set its `patch_size`'
        )


def start_warm(
    model: nn.Module, embed: dict[str, Tensor], mark: Tensor | None
) -> tuple[dict[str, Tensor], str] | None:
    """Adapt the patch embedding of a checkpoint to the cipher of a model.

    Args:
        model (nn.Module): With ``warm_start`` and, where that is a
            :class:`MixedPatchEmbed`, ``patch_embed``.
        embed (dict): The embedding, by the names of :class:`PEViT`'s. A kernel
            of the side that the cipher leaves, which is not its plain one, is
            taken for one that was trained on encrypted images.
        mark (Tensor, optional): The buffer in the checkpoint.

    Returns:
        tuple, optional: The new embedding, and what was done in words; None
        if nothing is to be done.

    Raises:
        ConfigError: If the embedding was made for another cipher before, or
            for other statistics, or does not fit the cipher.
    """
    warm, weight = model.warm_start, embed.get('projection.weight')
    if mark is not None:
        known = read_mark(mark)
        if warm is None:
            _log(f'The patch embedding was made for {known} before, and is left as it is.')
        elif known != warm.to_dict():
            raise ConfigError(
                f'`warm_start`: the patch embedding of the weights was made for {known} before, '
                f'which the model says is made for {warm.to_dict()}: give the model the former, '
                'and `data_preprocessor` its mean and std, or leave `warm_start` out'
            )
        return None
    if warm is None or weight is None or 'mapping.weight' in embed:
        return None
    cipher = warm.cipher
    if weight.shape[-1] == cipher.encrypted_patch_size != cipher.patch_size:
        _log(f'The patch embedding is of the side that {cipher!r} leaves: it is left as it is.')
        return None
    # Predictions are computed there; whoever loads it brings it back.
    embed = {name: value.detach().cpu() for name, value in embed.items()}
    plain = resampled(embed['projection.weight'], cipher.patch_size)
    told = f'made for {cipher.canonical!r}'
    if not warm.statistics and any(step.removes_means for step in cipher.steps):
        told += ', normalized by a mean of 128 and the standard deviation of the plain images'
    mixed = getattr(model, 'patch_embed', None)
    if isinstance(mixed, MixedPatchEmbed):
        out, lost = warm.mixed(plain, embed.get('projection.bias'), mixed.state_dict())
        told += f', without {lost:.2%} of its variance'
    else:
        changed, bias = warm.linear(plain, embed.get('projection.bias'))
        out = {'projection.weight': changed} | ({} if bias is None else {'projection.bias': bias})
    return out, told


def resampled(weight: Tensor, side: int) -> Tensor:
    """A kernel for patches of another side that show the same."""
    from timm.layers import resample_patch_embed

    if tuple(weight.shape[2:]) == (side, side):
        return weight
    out = resample_patch_embed(weight, [side, side])
    _log(f'Resampled a patch embedding from {tuple(weight.shape)} to {tuple(out.shape)}.')
    return out


def _log(message: str) -> None:
    MMLogger.get_current_instance().info(message)
