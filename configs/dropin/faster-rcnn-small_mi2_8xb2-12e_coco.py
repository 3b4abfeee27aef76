# Faster R-CNN on COCO 2017, compact MI.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/dropin_mi2.py']

model = dict(
    type='hime_mm.PaddingAware',
    detector='mmdet.FasterRCNN',
    data_preprocessor={{_base_.mi2.preprocessor}},
    backbone={{_base_.mi2.vit}},
    neck={{_base_.mi2.fine_pyramid}},
    rpn_head={{_base_.mi2.fine_rpn}},
    roi_head=dict(bbox_roi_extractor={{_base_.mi2.fine_rois}}),
)
train_dataloader = {{_base_.mi2.train}}
val_dataloader = {{_base_.mi2.test}}
test_dataloader = {{_base_.mi2.test}}
optim_wrapper = {{_base_.mi2.optim}}
default_hooks = {{_base_.mi2.hooks}}
