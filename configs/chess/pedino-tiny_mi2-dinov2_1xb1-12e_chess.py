# DINO on DINOv2-S, laid out as LW-DETR, on photos of chess positions under
# MI: from weights that timm downloads, minutes on a CPU core.
_base_ = [
    '../_base_/models/pedino_tiny.py',
    '../_base_/datasets/chess_384x256.py',
    '../_base_/schedules/pedino_12e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(img_size=(128, 192)), bbox_head=dict(num_classes=12))

mixed = dict(_base_.encrypt, cipher='mix2')
train_pipeline = [mixed if t == _base_.encrypt else t for t in _base_.train_pipeline]
test_pipeline = [mixed if t == _base_.encrypt_owner else t for t in _base_.test_pipeline]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# Nothing has moved: boxes are those of the originals.
val_evaluator = dict(type='CocoMetric')
test_evaluator = val_evaluator
