# Detection on shuffled COCO 2017: DeiT-S without positions, and a head that
# reads each patch token by itself. Every image gets a new permutation each
# time it is drawn. 8 GPUs x 2 images, 50 epochs; `data/coco` is laid out as
# for MMDetection.
_base_ = [
    './_base_/models/petoken_small.py',
    './_base_/datasets/coco_detection_shuffled.py',
    './_base_/schedules/petoken_50e.py',
    './_base_/default_runtime.py',
]
