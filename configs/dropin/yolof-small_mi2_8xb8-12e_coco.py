# YOLOF on COCO 2017, compact MI: one map of stride 8.
_base_ = ['mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', '../_base_/dropin_mi2.py']

model = dict(
    type='hime_mm.PaddingAware',
    detector='mmdet.YOLOF',
    data_preprocessor={{_base_.mi2.preprocessor}},
    backbone={{_base_.mi2.vit}},
    neck=dict(in_channels=384),
    # Anchors of half of the stock sides.
    bbox_head=dict(
        anchor_generator=dict(strides=[8], scales=[2, 4, 8, 16, 32]), bbox_coder=dict(ctr_clamp=16)
    ),
)
train_dataloader = {{_base_.mi2.train}}
val_dataloader = {{_base_.mi2.test}}
test_dataloader = {{_base_.mi2.test}}
optim_wrapper = {{_base_.mi2.optim}}
default_hooks = {{_base_.mi2.hooks}}
