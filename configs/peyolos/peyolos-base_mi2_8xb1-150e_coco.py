# PEYOLOS-Base: DeiT-B. Layers are recomputed in the backward pass to fit.
_base_ = ['../hime_vit_coco.py']

model = dict(
    backbone=dict(
        arch='deit-base',
        with_cp=True,
        init_cfg=dict(
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/deit/'
            'deit-base_3rdparty_pt-16xb64_in1k_20211124-6f40c188.pth'
        ),
    ),
    bbox_head=dict(embed_dims=768),
)
