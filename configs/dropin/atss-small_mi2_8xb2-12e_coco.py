# ATSS on COCO 2017, compact MI.
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/dropin_mi2.py']

model = dict(
    type='hime_mm.PaddingAware',
    detector='mmdet.ATSS',
    data_preprocessor={{_base_.mi2.preprocessor}},
    backbone={{_base_.mi2.vit}},
    neck={{_base_.mi2.pyramid}},
    bbox_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
)
train_dataloader = {{_base_.mi2.train}}
val_dataloader = {{_base_.mi2.test}}
test_dataloader = {{_base_.mi2.test}}
optim_wrapper = {{_base_.mi2.optim}}
default_hooks = {{_base_.mi2.hooks}}
