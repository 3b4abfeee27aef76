# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""ViTs of timm: looked at before they are built."""

import difflib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from hime_mm.errors import ConfigError, HimeError

from ..weights.reader import allow_namespaces
from ..weights.report import log_gaps

#: The tokens before the patches, in timm's order.
PREFIX_TOKENS = ('cls_token', 'dist_token', 'reg_token')
# Classes of timm whose forward pass is that of TIMMPEViT.
_VITS = ('VisionTransformer', 'VisionTransformerDistilled')
# Modules of timm and torch that commute with a permutation of the tokens.
_NORMS = (
    'LayerNorm',
    'LayerNormFp32',
    'RMSNorm',
    'RmsNorm',
    'RmsNormFp32',
    'SimpleNorm',
    'SimpleNormFp32',
    'Identity',
)
_ACTIVATIONS = (
    'GELU',
    'GELUTanh',
    'GeluTanh',
    'QuickGELU',
    'QuickGelu',
    'ReLU',
    'ReLU6',
    'LeakyReLU',
    'ELU',
    'CELU',
    'SELU',
    'SiLU',
    'Swish',
    'Mish',
    'Sigmoid',
    'Tanh',
    'Hardswish',
    'HardSwish',
    'Hardsigmoid',
    'HardSigmoid',
    'Softplus',
)
_TOKENWISE = frozenset(
    _NORMS
    + _ACTIVATIONS
    + (
        'Block',
        'ResPostBlock',
        'ParallelScalingBlock',
        'ParallelThingsBlock',
        'DiffParallelScalingBlock',
        'Attention',
        'DiffAttention',
        'Mlp',
        'GluMlp',
        'SwiGLU',
        'SwiGLUPacked',
        'LayerScale',
        'DropPath',
        'Dropout',
        'Linear',
        'Sequential',
        'ModuleList',
    )
)


def _is_known_class(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether the class is one of these names, and timm's or torch's own."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.partition('.')[0] in ('timm', 'torch')


def _order_signs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """What makes a model depend on the patch order, and where it is."""
    for name, module in model.named_modules():
        if not name:
            continue
        kind = type(module).__name__.lower()
        window = getattr(module, 'window_size', None)
        tensors = {**module._parameters, **module._buffers}
        if 'rotary' in kind or 'rope' in kind:
            yield 'rotary positions', name
        if (
            'relpos' in kind
            or kind == 'gpsa'
            or any(
                'relative_position' in key or 'rel_pos' in key
                for key, value in tensors.items()
                if value is not None
            )
        ):
            yield 'relative position biases', name
        if (
            'window' in kind
            or (isinstance(window, int) and window > 0)
            or (window and hasattr(module, 'shift_size'))
        ):
            yield 'windowed attention', name
        if kind.startswith('spatialgating') or name.endswith(('mlp_tokens', 'linear_tokens')):
            yield 'layers that mix tokens by their place', name
        if isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)):
            yield 'pooling over neighbouring patches', name
        # Kernel = stride is a patch embedding, which sees its patch only.
        if (
            isinstance(module, nn.Conv2d)
            and max(module.kernel_size) > 1
            and (module.kernel_size != module.stride)
        ):
            yield 'convolutions over neighbouring pixels or patches', name


def order_dependence(model: nn.Module) -> list[str]:
    """Why a timm model cannot be made permutation-equivariant, if it cannot.

    Decided by what the model consists of, not by its name: every module that
    the tokens pass has to be known to treat them alike.
    """
    reasons = []
    if not _is_known_class(model, _VITS):
        reasons.append(
            f'it is a {type(model).__name__}, and only the VisionTransformer of timm is supported'
        )
        places = {}
        for sign, name in _order_signs(model):
            places.setdefault(sign, name)
        return reasons + [f'it has {sign} (`{name}`)' for sign, name in places.items()]

    embed = model.patch_embed
    if not _is_known_class(embed, ('PatchEmbed',)):
        sign = next(_order_signs(embed), ('an unknown forward pass', ''))[0]
        reasons.append(
            f'its stem is a {type(embed).__name__}, not the PatchEmbed of timm: it has {sign}'
        )
    else:
        conv = embed.proj
        if conv.kernel_size != conv.stride or any(conv.padding) or max(conv.dilation) > 1:
            reasons.append(
                f'its patches overlap: kernel {conv.kernel_size}, '
                f'stride {conv.stride}, padding {conv.padding}'
            )
        elif conv.stride[0] != conv.stride[1]:
            reasons.append(f'its patches are not square: {conv.stride}')
        if not _is_known_class(embed.norm, _NORMS):
            reasons.append(f'`patch_embed.norm` is a {type(embed.norm).__name__}')
    for part in ('norm_pre', 'norm', 'fc_norm'):
        module = getattr(model, part, None)
        if module is not None and not _is_known_class(module, _NORMS):
            reasons.append(f'`{part}` is a {type(module).__name__}')
    unknown = {}
    for name, module in model.blocks.named_modules(prefix='blocks'):
        if not _is_known_class(module, _TOKENWISE):
            unknown.setdefault(type(module).__name__, name)
    reasons += [
        f'`{name}` is a {kind}, not known to treat all tokens alike'
        for kind, name in unknown.items()
    ]
    tokens = sum(
        getattr(model, name).shape[1]
        for name in PREFIX_TOKENS
        if getattr(model, name, None) is not None
    )
    if tokens != model.num_prefix_tokens:
        reasons.append(
            f'it counts {model.num_prefix_tokens} tokens before the patches, but has {tokens}'
        )
    return reasons


def check_name(model_name: str) -> None:
    """See that timm knows the model, and its weights where it names some."""
    import timm

    if ':' in model_name:
        # timm's own schemes, `hf-hub:` and `local-dir:`.
        return
    arch, _, tag = model_name.partition('.')
    if not timm.is_model(arch):
        close = difflib.get_close_matches(arch, timm.list_models(), n=5)
        raise ConfigError(
            f'timm has no model {arch!r}: '
            + (
                f'did you mean {" or ".join(map(repr, close))}?'
                if close
                else 'see `timm.list_models()`'
            )
        )
    # Deprecated names have no list, and timm resolves them.
    tags = timm.list_pretrained(f'{arch}.*') if tag else []
    if tags and model_name not in tags:
        raise ConfigError(f'timm has no weights {tag!r} of {arch!r}: choose from {tags}')


def outline(model_name: str, **kwargs) -> nn.Module:
    """A model without weights: costs no memory and no download."""
    import timm

    with torch.device('meta'):
        return timm.create_model(model_name, pretrained=False, **kwargs)


def timm_patch_size(model_name: str) -> int | None:
    """Side of a patch of a timm ViT, without making its weights.

    Args:
        model_name (str): As :class:`TIMMPEViT` takes it.

    Returns:
        int | None: In pixels. None where timm is missing, does not know the
        name, or the model is none that :class:`TIMMPEViT` takes; building it
        says why.
    """
    try:
        check_name(model_name)
        if ':' in model_name:
            # Its description may have to be downloaded.
            return None
        model = outline(model_name)
    except (ImportError, HimeError, RuntimeError):
        return None
    if order_dependence(model):
        return None
    return model.patch_embed.proj.stride[0]


def check_masks() -> None:
    """Refuse a timm whose blocks take no mask, or add a bool one to the scores."""
    import timm

    if not hasattr(timm.layers, 'resolve_self_attn_mask'):
        raise ConfigError(
            'some tokens of this batch are padding, which the blocks of timm '
            f'{timm.__version__} cannot leave out: install timm 1.0.31 or later, or make all '
            'images of a batch of one size'
        )


def build_vit(model_name: str, pretrained: bool, checkpoint_path: str, **kwargs) -> nn.Module:
    """Build a model of timm without a head, for images of any size, and inspect it.

    Arguments are as :class:`TIMMPEViT`'s, and those that are None are timm's.
    """
    import timm
    from timm.models import load_checkpoint
    from timm.models.vision_transformer import checkpoint_filter_fn

    check_name(model_name)
    # Any size comes in; what is no whole patch is filled up with zeros.
    kwargs = dict(
        num_classes=0,
        dynamic_img_size=True,
        dynamic_img_pad=True,
        **{k: v for k, v in kwargs.items() if v is not None},
    )
    error = None
    try:
        model = outline(model_name, **kwargs)
    except TypeError as caught:
        # Other models do not take a ViT's arguments.
        error, model = caught, outline(model_name)
    reasons = order_dependence(model)
    if reasons:
        raise ConfigError(
            f'{model_name!r} cannot be made permutation-equivariant: '
            + '; '.join(reasons)
            + '. Use a plain ViT such as '
            "'deit_small_patch16_224' or "
            "'vit_small_patch14_reg4_dinov2'"
        )
    if error is not None:
        raise error
    model = timm.create_model(model_name, pretrained=pretrained, **kwargs)
    if checkpoint_path:
        # `create_model` would refuse a checkpoint that has a head.
        found = load_checkpoint(
            model,
            checkpoint_path,
            strict=False,
            weights_only=True,
            filter_fn=partial(checkpoint_filter_fn, adapt_layer_scale=True),
        )
        allow_namespaces()
        if found is not None:
            log_gaps(checkpoint_path, found.missing_keys, found.unexpected_keys)
    return model
