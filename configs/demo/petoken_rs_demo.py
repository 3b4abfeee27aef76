# RS hardened: a small detector from scratch on a folder that the owner of the
# demo data set encrypted, for two CPU cores: the second act of `make demo`.
# What the owner does there:
#   hime keygen owner.key
#   hime encrypt coco data handed_over/train --ann annotations/instances_train.json \
#       -c center+erode2+shuffle --key owner.key --resize 160x160 --flip 0.5 --crop 0.5,1 --views 10
#   hime encrypt coco data handed_over/val --ann annotations/instances_val.json \
#       -c center+erode2+shuffle --key owner.key --resize 160x160
_base_ = ['./petoken_mi2_demo.py']

train_root = 'work_dirs/demo/handed_over/train/'
val_root = 'work_dirs/demo/handed_over/val/'
# 12 of 16 pixels of each patch are left.
patch_size = 12

meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout')
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
# As many images as there: the ten views of each.
train_dataloader = dict(
    dataset=dict(times=1, dataset=dict(data_root=train_root, pipeline=pipeline))
)
val_dataloader = dict(dataset=dict(data_root=val_root, pipeline=pipeline))
test_dataloader = val_dataloader
# All that can be judged without the key; the owner's numbers come after.
val_evaluator = dict(
    type='hime_mm.SlotCocoMetric', ann_file=val_root + 'annotations/instances_val.json'
)
test_evaluator = val_evaluator

model = dict(
    # Images without means; the deviation was measured on them.
    data_preprocessor=dict(mean=[128.0] * 3, std=[28.0] * 3),
    backbone=dict(patch_size=patch_size, patch_embed='linear', pos_encoding='rpe'),
    bbox_head=dict(patch_size=patch_size),
    # More than after a suppression, which is the owner's.
    test_cfg=dict(max_per_img=100, nms=None),
)

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
