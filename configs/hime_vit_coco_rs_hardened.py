# The same with RS hardened: each patch loses its mean and a border of 2 pixels
# before it moves, so 12 of 16 pixels remain, of mean 128. A jigsaw solver
# without the key put 11.9 % of the neighbouring patches back at 224x224, against
# 97.5 % for RS.
_base_ = ['./hime_vit_coco_rs.py']

cipher = 'center+erode2+shuffle'
train_pipeline = [
    dict(t, cipher=cipher) if t.type == 'hime_mm.Encrypt' else t for t in _base_.train_pipeline
]
test_pipeline = [
    dict(t, cipher=cipher) if t.type == 'hime_mm.Encrypt' else t for t in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(
    # Measured on encrypted images, 20 at short side 800 and 25 at 480. The patch
    # embedding is resampled to 12 pixels when the weights are loaded.
    data_preprocessor=dict(mean=[128.0] * 3, std=[22.0] * 3, pad_size_divisor=12),
    backbone=dict(patch_size=12),
    bbox_head=dict(patch_size=12),
)
