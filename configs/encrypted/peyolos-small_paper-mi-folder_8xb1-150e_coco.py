# PEYOLOS-Small trained from a folder that the owner of COCO encrypted with MI;
# no original is needed. The owner's command, at the size of the evaluation:
#   hime encrypt coco data/coco data/coco_paper-mi -c paper-mi \
#       --short-side 800 --max-side 1333
# Sizes and crops cannot be drawn after encryption; `--short-side 480,640,800
# --views 3` of the training images prepares some, with three times the files.
_base_ = ['../hime_vit_coco.py']

data_root = 'data/coco_paper-mi/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Mirroring a mixed image is mixing the mirrored one.
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# Predictions come back in pixels of the encrypted images, those of the
# annotations that were handed over. Who has the original annotations sets
# `coordinates='original'` here and their path in the evaluators.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        # Half of COCO's 32: the images have half of the sides.
        filter_cfg=dict(min_size=16),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
