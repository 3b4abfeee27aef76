# Photos of chess positions in COCO format: 640x428 pixels, twelve classes, and
# where a piece stands says much about what it is.
_base_ = ['./bccd_320x240.py']

data_root = 'data/chess/'
metainfo = dict(
    classes=(
        'black-bishop',
        'black-king',
        'black-knight',
        'black-pawn',
        'black-queen',
        'black-rook',
        'white-bishop',
        'white-king',
        'white-knight',
        'white-pawn',
        'white-queen',
        'white-rook',
    )
)
scale = (384, 256)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    {{_base_.encrypt}},
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    {{_base_.encrypt_owner}},
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys={{_base_.meta_keys}}),
]
dataset = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
