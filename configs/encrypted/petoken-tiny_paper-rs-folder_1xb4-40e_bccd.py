# Detection on a folder of shuffled BCCD, a small one from scratch. The owner's
# command, at the size of ../bccd/petoken-tiny_rs_1xb4-40e_bccd.py:
#   hime encrypt coco data/bccd data/bccd_paper-rs -c paper-rs --key owner.key \
#       --resize 320x240
# A model without positions does not mind that the permutations stay the same.
_base_ = ['../bccd/petoken-tiny_rs_1xb4-40e_bccd.py']

data_root = 'data/bccd_paper-rs/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Mirroring a shuffled image is shuffling the mirrored one.
    dict(
        type='RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys={{_base_.meta_keys}}),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
# What can be judged without the key; the owner has `hime eval` for the file that
# `tools/test.py` leaves.
val_evaluator = dict(
    type='hime_mm.SlotCocoMetric', ann_file=data_root + 'annotations/instances_val.json'
)
test_evaluator = dict(**val_evaluator, outfile_prefix='work_dirs/bccd')
