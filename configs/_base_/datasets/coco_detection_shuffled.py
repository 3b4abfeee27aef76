# COCO 2017 with DETR's augmentation, shuffled last thing in the pipeline. Who
# evaluates here holds the permutations, as the owner does: predictions are
# mapped back, clipped and suppressed, and judged by the original annotations.
_base_ = ['./coco_detection_encrypted.py']

shuffle = dict(type='hime_mm.Encrypt', cipher='shuffle', patch_size=16, fit='resize')
train_pipeline = [shuffle if t == _base_.encrypt else t for t in _base_.train_pipeline]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(**shuffle, keep_permutation=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout'),
    ),
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(type='hime_mm.OriginalCocoMetric')
test_evaluator = dict(type='hime_mm.OriginalCocoMetric')
