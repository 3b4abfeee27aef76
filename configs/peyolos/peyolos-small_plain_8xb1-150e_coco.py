# The twin without encryption, which is YOLOS-S: what MI is compared with, and
# a start for peyolos-small_mi2-yolos_8xb1-150e_coco.py.
_base_ = ['../hime_vit_coco.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    # Embeds whole 16-pixel patches, with one layer: nothing new to train
    # faster.
    backbone=dict(patch_embed='linear'),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'backbone.patch_embed': dict(lr_mult=1.0),
            'backbone.patch_embed.projection.bias': dict(lr_mult=1.0),
        }
    )
)

train_pipeline = [t for t in _base_.train_pipeline if t != _base_.encrypt]
test_pipeline = [t for t in _base_.test_pipeline if t != _base_.encrypt]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
