# The same on tiled MI images, which keep their size: patches of 16 pixels.
_base_ = ['./pedino-small_mi2-dinov2_8xb2-50e_coco.py']

tiled = dict(_base_.encrypt, cipher='mix2:tiled')
train_pipeline = [tiled if t == _base_.encrypt else t for t in _base_.train_pipeline]
test_pipeline = [tiled if t == _base_.encrypt else t for t in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(img_size=(800, 1344), patch_size=16),
)
