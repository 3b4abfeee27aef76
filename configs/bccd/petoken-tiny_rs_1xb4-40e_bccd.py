# RS on BCCD: a position-free ViT from scratch, whose head reads each patch
# token by itself; every image gets a new permutation in every epoch.
_base_ = [
    '../_base_/models/petoken_tiny.py',
    '../_base_/datasets/bccd_320x240.py',
    '../_base_/schedules/petoken_40e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(img_size=(240, 320)), bbox_head=dict(num_classes=3))
