# The same from a folder of hardened RS. The owner's command:
#   hime encrypt coco data/coco data/coco_hardened -c center+erode2+shuffle \
#       --key owner.key --short-side 800 --max-side 1333
_base_ = ['./petoken-small_paper-rs-folder_8xb2-50e_coco.py']

data_root = 'data/coco_hardened/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = dict(**val_evaluator, outfile_prefix='work_dirs/hardened')
model = dict(
    # 12 of 16 pixels of each patch are left, of mean 128 and the standard deviation
    # that was measured on encrypted images.
    data_preprocessor=dict(mean=[128.0] * 3, std=[22.0] * 3, pad_size_divisor=12),
    backbone=dict(patch_size=12),
    bbox_head=dict(patch_size=12),
)
