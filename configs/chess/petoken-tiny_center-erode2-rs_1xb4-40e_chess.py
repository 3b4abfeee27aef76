# The same, RS hardened: patches lose their means and a border of 2 pixels
# before they move, so 12 of 16 pixels remain, of mean 128.
_base_ = ['./petoken-tiny_rs_1xb4-40e_chess.py']

cipher = 'center+erode2+shuffle'
train_pipeline = [
    dict(t, cipher=cipher) if t['type'] == 'hime_mm.Encrypt' else t for t in _base_.train_pipeline
]
test_pipeline = [
    dict(t, cipher=cipher) if t['type'] == 'hime_mm.Encrypt' else t for t in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    # Measured on encrypted training images.
    data_preprocessor=dict(mean=[128.0] * 3, std=[36.0] * 3),
    backbone=dict(patch_size=12),
    bbox_head=dict(patch_size=12),
)
