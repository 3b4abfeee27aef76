# DINO on COCO 2017, compact MI: maps of strides 8, 16, 32, 64.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/dropin_mi2.py']

model = dict(
    type='hime_mm.PaddingAware',
    detector='mmdet.DINO',
    data_preprocessor={{_base_.mi2.preprocessor}},
    backbone={{_base_.mi2.vit}},
    neck=dict(in_channels=[384]),
)
train_dataloader = {{_base_.mi2.train_detr}}
val_dataloader = {{_base_.mi2.test}}
test_dataloader = {{_base_.mi2.test}}
default_hooks = {{_base_.mi2.hooks}}
