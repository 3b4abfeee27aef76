# PEYOLOS-Small on MI-encrypted COCO 2017, from DeiT-S: the paper's detector.
# 8 GPUs x 1 image, 150 epochs; `data/coco` is laid out as for MMDetection.
_base_ = [
    './_base_/models/peyolos_small.py',
    './_base_/datasets/coco_detection_encrypted.py',
    './_base_/schedules/peyolos_150e.py',
    './_base_/default_runtime.py',
]
