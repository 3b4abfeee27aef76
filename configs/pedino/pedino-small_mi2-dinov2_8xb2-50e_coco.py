# DINO on DINOv2-S, laid out as LW-DETR, on MI-encrypted COCO 2017, 8 GPUs x 2
# images, 50 epochs; `data/coco` is laid out as for MMDetection. Add `--amp`.
_base_ = [
    '../_base_/models/pedino_small.py',
    '../_base_/datasets/coco_detection_encrypted.py',
    '../_base_/schedules/pedino_50e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=2, dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
