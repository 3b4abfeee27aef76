# FCOS on COCO 2017, compact MI.
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/dropin_mi2.py']

model = dict(
    type='hime_mm.PaddingAware',
    detector='mmdet.FCOS',
    data_preprocessor={{_base_.mi2.preprocessor}},
    backbone={{_base_.mi2.vit}},
    neck={{_base_.mi2.pyramid}},
    bbox_head=dict(
        strides=[4, 8, 16, 32, 64],
        regress_ranges=((-1, 32), (32, 64), (64, 128), (128, 256), (256, 1e8)),
    ),
)
train_dataloader = {{_base_.mi2.train}}
val_dataloader = {{_base_.mi2.test}}
test_dataloader = {{_base_.mi2.test}}
optim_wrapper = {{_base_.mi2.optim}}
default_hooks = {{_base_.mi2.hooks}}
