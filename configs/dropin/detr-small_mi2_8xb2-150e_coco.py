# DETR on COCO 2017, compact MI.
_base_ = ['mmdet::detr/detr_r50_8xb2-150e_coco.py', '../_base_/dropin_mi2.py']

model = dict(
    type='hime_mm.PaddingAware',
    detector='mmdet.DETR',
    data_preprocessor={{_base_.mi2.preprocessor}},
    backbone={{_base_.mi2.vit}},
    neck=dict(in_channels=[384]),
)
train_dataloader = {{_base_.mi2.train_detr}}
val_dataloader = {{_base_.mi2.test}}
test_dataloader = {{_base_.mi2.test}}
default_hooks = {{_base_.mi2.hooks}}
