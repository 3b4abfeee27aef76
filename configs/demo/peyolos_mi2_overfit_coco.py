# The COCO config in the small: can it learn a handful of images by heart? A
# narrow PEYOLOS from scratch, one fixed size, no augmentation, trained and
# tested on the same images. A check of the whole chain, not a benchmark.
#
#   python tools/dataset_converters/subset_coco.py \
#       data/coco/annotations/instances_train2017.json \
#       work_dirs/overfit/instances.json --number 8
#   python tools/train.py configs/demo/peyolos_mi2_overfit_coco.py
_base_ = ['../hime_vit_coco.py']

ann_file = 'work_dirs/overfit/instances.json'
img_dir = 'data/coco/train2017/'
dims = 128
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=dims, num_layers=4, num_heads=4, feedforward_channels=4 * dims
        ),
        img_size=(256, 320),
        pos_init='sincos',
        init_cfg=None,
    ),
    bbox_head=dict(embed_dims=dims),
)

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 256), keep_ratio=True),
    _base_.encrypt,
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = (320, 256)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    batch_sampler=None,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=100,
        dataset=dict(
            type='CocoDataset', ann_file=ann_file, data_prefix=dict(img=img_dir), pipeline=pipeline
        ),
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root='', ann_file=ann_file, data_prefix=dict(img=img_dir), pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=ann_file)
test_evaluator = dict(ann_file=ann_file)

max_epochs = 12
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
randomness = dict(seed=0)
