# Hardened RS, from DINOv2-S, which timm downloads; `checkpoint_path=PATH` with
# `pretrained=False` names a file in its place.
_base_ = ['../hime_vit_coco_rs_hardened.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='hime_mm.TIMMPEViT',
        model_name='vit_small_patch14_dinov2.lvd142m',
        pretrained=True,
        patch_size=12,
        pos_encoding='rpe',
        drop_path_rate=0.1,
        out_type='featmap',
    )
)
