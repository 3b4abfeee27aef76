# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Names in configs that decide a case: those of the hosts, and a few of ours."""

SAFE_HOOK = 'hime_mm.EncryptedVisualizationHook'
#: Checks a run that others have begun.
CHECK_HOOK = 'hime_mm.EncryptionCheckHook'
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
    'draw_gt',
)
#: Visualization hooks that draw only when they are told to.
QUIET_HOOKS = (
    'DetVisualizationHook',
    'GroundingVisualizationHook',
    'TrackVisualizationHook',
    'VisualizationHook',
)
LOADING = 'hime_mm.LoadEncryptedMeta'
#: The head that reads tokens of moved patches.
TOKEN_HEAD = 'hime_mm.PatchTokenHead'
#: Makes a detector of MMDetection that hands data samples on to its backbone.
PADDING_AWARE = 'hime_mm.PaddingAware'
#: Our metrics: for whoever may see the originals, and for whoever has no key.
ORIGINAL_METRIC = 'hime_mm.OriginalCocoMetric'
SLOT_METRIC = 'hime_mm.SlotCocoMetric'

#: Wrappers that do not run their transforms on every image.
CHANCE = ('RandomApply', 'RandomChoice')
#: Wrappers that may run their transforms, or not.
MAYBE = ('RandomApply',)
#: Wrappers whose lists are alternatives, of which each image goes through one or all.
CHOICES = ('RandomChoice', 'MultiView')
#: Those that give several images, one for each list.
VIEWS = ('MultiView',)
#: Wrappers whose entries are alternatives.
BRANCHES = ('MultiBranch',)
#: Wrappers whose lists are stages, each of alternative transforms.
STAGES = ('TestTimeAug',)
#: Wrappers that run all their transforms.
SEQUENCES = ('Compose', 'KeyMapper', 'TransformBroadcaster', 'ApplyToList', 'RandomOrder')
#: How transforms begin that read the file, whatever was done before.
READERS = ('LoadImage', 'LoadMultiChannelImage')
#: The wrapper of data sets that looks at each transform's type.
MIXER = 'MultiImageMixDataset'

#: How transforms begin that leave pixels and their places alone.
HARMLESS = (
    'Pack',
    'LoadImage',
    'LoadAnnotations',
    'LoadEmptyAnnotations',
    'LoadPanopticAnnotations',
    'LoadTextAnnotations',
    'Filter',
)
#: How transforms begin that leave coordinates alone.
STILL = ('Load', 'Pack', 'Filter', 'Color', 'Photo', 'ToTensor', 'Normalize', 'TestTimeAug')
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
#: Backbones of MMPretrain that attend within windows of a fixed size.
WINDOWED = ('SwinTransformer', 'SwinTransformerV2')
#: Necks that make a pyramid of several levels of a backbone, from `start_level` on.
PYRAMIDS = ('FPN', 'PAFPN')
#: Those that put levels side by side, which have to be twice as large as one another then.
CONCATENATING = ('YOLOXPAFPN', 'CSPNeXtPAFPN', 'YOLOV3Neck')
#: Stride of a CNN's last stage.
LAST_STRIDE = 32
#: What is counted in pixels of the image: by dense heads the strides of what they read, by
#: extractors of regions those and the sizes of their levels, and the rest.
STRIDES = ('strides', 'point_strides')
REGIONS = ('featmap_strides', 'finest_scale')
LENGTHS = ('regress_ranges', 'scale_ranges', 'base_edge_list')
#: Batch augmentations whose edges run through patches.
CUTTERS = ('CutMix', 'ResizeMix')
#: Batch augmentations that resize images.
BATCH_RESIZERS = ('BatchSyncRandomResize', 'BatchResize')
#: How metrics end that take boxes from the data set unless they get a file.
BOX_METRICS = ('CocoMetric', 'VOCMetric')
#: Keys of dicts that no registry builds: MMEngine passes on all but their type, as arguments.
CALLED = ('collate_fn', 'worker_init_fn', 'clip_grad')
#: How metrics end that judge boxes in whole images.
DETECTION_METRICS = (
    'CocoMetric',
    'VOCMetric',
    'LVISMetric',
    'OpenImagesMetric',
    'CrowdHumanMetric',
    'Flickr30kMetric',
    'CocoOccludedSeparatedMetric',
)
#: How metrics end that take boxes as transforms leave them, and whether a file replaces these.
PIPELINE_METRICS = {'VOCMetric': False, 'Flickr30kMetric': False, 'FasterCocoMetric': True}
