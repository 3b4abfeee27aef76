# Detection on a folder that the owner of COCO shuffled; no original and no key
# is needed. The owner's command, at the size of the evaluation:
#   hime encrypt coco data/coco data/coco_paper-rs -c paper-rs --key owner.key \
#       --short-side 800 --max-side 1333
# `-c center+erode2+shuffle` hardens it: the folder is data/coco_hardened then,
# and the model that of ../hime_vit_coco_rs_hardened.py.
_base_ = ['../hime_vit_coco_rs.py']

data_root = 'data/coco_paper-rs/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Mirroring a shuffled image is shuffling the mirrored one.
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout'),
    ),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
# What can be judged without the key, in encrypted coordinates. The owner judges
# the results file that `tools/test.py` leaves, work_dirs/rs.bbox.json:
#   hime eval work_dirs/rs.bbox.json --data data/coco_paper-rs \
#       --ann data/coco/annotations/instances_val2017.json --key owner.key
val_evaluator = dict(
    type='hime_mm.SlotCocoMetric', ann_file=data_root + 'annotations/instances_val2017.json'
)
test_evaluator = dict(**val_evaluator, outfile_prefix='work_dirs/rs')
