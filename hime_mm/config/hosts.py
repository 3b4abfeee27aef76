# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Names in configs that decide a case: those of the hosts, and two of ours."""

SAFE_HOOK = 'hime_mm.EncryptedVisualizationHook'
#: What the hosts' visualization hooks are told that ours understands.
HOOK_OPTIONS = (
    'draw',
    'interval',
    'score_thr',
    'show',
    'wait_time',
    'test_out_dir',
    'enable',
    'out_dir',
)
LOADING = 'hime_mm.LoadEncryptedMeta'

#: Wrappers that do not run their transforms on every image.
CHANCE = ('RandomApply', 'RandomChoice')
#: How transforms begin that leave pixels and their places alone.
HARMLESS = ('Pack', 'LoadImage', 'LoadAnnotations', 'Filter')
#: Transforms that fix the size of an image, and where they have it.
SIZES = {
    'CenterCrop': 'crop_size',
    'RandomCrop': 'crop_size',
    'RandomResizedCrop': 'scale',
    'Resize': 'scale',
}
#: How transforms begin after which the size depends on the image.
RESIZERS = ('ResizeEdge', 'Pad')

#: ViTs of MMPretrain that do not extend its VisionTransformer.
VITS = ('BEiTViT', 'RevVisionTransformer', 'ViTSAM')
#: Batch augmentations whose edges run through patches.
CUTTERS = ('CutMix', 'ResizeMix')
#: Metrics that take boxes from the pipeline unless they get a file.
BOX_METRICS = ('CocoMetric', 'VOCMetric')
#: How the places of pipelines begin that are for evaluation.
EVALUATION = ('val_', 'test_', 'tta_')
#: Keys of dicts that no registry builds: MMEngine passes on all but their type, as arguments.
CALLED = ('collate_fn', 'worker_init_fn', 'clip_grad')
