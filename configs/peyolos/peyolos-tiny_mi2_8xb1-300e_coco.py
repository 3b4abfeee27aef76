# PEYOLOS-Tiny: DeiT-Ti, with YOLOS-Ti's 300 epochs and short side of 512 at
# test time. The training scales are ours.
_base_ = ['../hime_vit_coco.py']

model = dict(
    backbone=dict(
        arch='deit-tiny',
        init_cfg=dict(
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/deit/'
            'deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth'
        ),
    ),
    bbox_head=dict(embed_dims=192),
)

_scales = [
    (272, 864),
    (304, 864),
    (336, 864),
    (368, 864),
    (400, 864),
    (432, 864),
    (464, 864),
    (496, 864),
    (512, 864),
]
train_pipeline = _base_.train_pipeline
train_pipeline[3]['transforms'][0][0]['scales'] = _scales
train_pipeline[3]['transforms'][1][2]['scales'] = _scales
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = (864, 512)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

max_epochs = 300
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        eta_min=0,
    )
]
