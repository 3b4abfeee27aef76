# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import torch

from hime_mm.models.backbones import PEViT

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)


def build(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = PEViT(**{'arch': ARCH, 'img_size': 64, **kwargs})
    model.init_weights()
    # Positions and references of trained models are not small.
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos' in name or 'reference' in name:
                param.normal_()
    return model
