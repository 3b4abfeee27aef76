# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Configs that MMDetection and MMPretrain bring along, and options that make their runs short."""

from pathlib import Path
from typing import Any

import mmdet
import mmpretrain
from mmengine.config import Config

from hime_mm.config import load_config
from hime_mm.config.plan import Node

DETECTORS = (
    'detr/detr_r50_8xb2-150e_coco.py',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'retinanet/retinanet_r50_fpn_1x_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'atss/atss_r50_fpn_1x_coco.py',
    'gfl/gfl_r50_fpn_1x_coco.py',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'yolox/yolox_tiny_8xb8-300e_coco.py',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    'pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py',
    'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-scp-90k_coco.py',
)
CLASSIFIERS = (
    'deit/deit-tiny_4xb256_in1k.py',
    'swin_transformer/swin-tiny_16xb64_in1k.py',
    'resnet/resnet18_8xb32_in1k.py',
    'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py',
    'mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py',
    'csra/resnet101-csra_1xb16_voc07-448px.py',
)
TOOLS = {host.__name__: Path(host.__file__).parent / '.mim/tools' for host in (mmdet, mmpretrain)}
PADS = ('BatchFixedSizePad', 'BatchSyncRandomResize')
#: Where steps of pipelines, and batch augmentations, have sizes in pixels.
SIZES = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'border', 'image_size')


def names() -> list[str]:
    """All of them, as a tool takes them."""
    return [f'mmdet::{name}' for name in DETECTORS] + [f'mmpretrain::{one}' for one in CLASSIFIERS]


def file_name(name: str) -> str:
    """A short one for what is kept of a config."""
    return Path(name).stem


def small(value: Any) -> Any:
    """An eighth, in whole patches of 32 pixels, at least 128; what is no large number stays."""
    if isinstance(value, (list, tuple)):
        return type(value)(small(one) for one in value)
    if not isinstance(value, int) or abs(value) < 100:
        return value
    # Mosaics have borders of half their size.
    step = 16 if value < 0 else 32
    length = max(step * round(abs(value) / 8 / step), 4 * step)
    return -length if value < 0 else length


def nodes(cfg: Config) -> list[Node]:
    return list(Node('', cfg._cfg_dict).walk())


def short_options(name: str, data: dict[str, str], iterations: int = 2) -> dict[str, Any]:
    """Overrides for a run of seconds: roots of data, no weights, batch, size and length.

    Args:
        name (str): As of :func:`names`.
        data (dict[str, str]): Folder of the data set, by its kind: ``'coco'``,
            ``'voc'`` or ``'imagenet'``.
        iterations (int): Of the training, one image each. Defaults to 2.
    """
    cfg = load_config(name)
    options: dict[str, Any] = {}
    for node in nodes(cfg):
        place = node.place
        if place.partition('.')[0] not in (
            'model',
            'data_preprocessor',
            'train_dataloader',
            'val_dataloader',
            'test_dataloader',
            'val_evaluator',
            'test_evaluator',
            'custom_hooks',
            'tta_pipeline',
        ):
            continue
        if Node('', node.value.get('init_cfg')).short == 'Pretrained':
            options[f'{place}.init_cfg'] = None
        # Classifiers know the size of their images.
        resizes = name.startswith('mmdet') and ('model' not in place or node.short in PADS)
        for key in SIZES if resizes else ():
            value = node.value.get(key)
            if value is not None and small(value) != value:
                options[f'{place}.{key}'] = small(value)
        if 'score_thr' in node.value and 'test_cfg' in place:
            # After two iterations no model is sure of anything.
            options[f'{place}.score_thr'] = 0.0
        if 'min_bbox_size' in node.value and 'test_cfg' in place:
            # Nor of any width.
            options[f'{place}.min_bbox_size'] = -1
        if 'nms_pre' in node.value:
            options[f'{place}.nms_pre'] = 50
        if 'max_per_img' in node.value and place.startswith('model'):
            options[f'{place}.max_per_img'] = 20
        if node.value.get('type') in ('SyncBN', 'MMSyncBN'):
            # It needs a GPU.
            options[f'{place}.type'] = 'BN'
        options |= _data_options(node, data)
    for phase in ('train', 'val', 'test'):
        loader = f'{phase}_dataloader'
        if cfg.get(loader):
            options |= {
                f'{loader}.num_workers': 0,
                f'{loader}.persistent_workers': False,
                f'{loader}.batch_size': 1,
            }
    if cfg.model.get('num_queries', 0) > 300:
        # No more than there are tokens.
        options['model.num_queries'] = 30
    sampler = cfg.train_dataloader.get('sampler') or {}
    if sampler.get('type') == 'GroupMultiSourceSampler':
        options |= {
            'train_dataloader.batch_size': 2,
            'train_dataloader.sampler.batch_size': 2,
            'train_dataloader.sampler.source_ratio': [1, 1],
        }
    by_epoch = 'max_epochs' in cfg.train_cfg
    options |= {
        'train_cfg.max_epochs' if by_epoch else 'train_cfg.max_iters': 1
        if by_epoch
        else iterations,
        'train_cfg.val_interval': 1 if by_epoch else iterations,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 1 if by_epoch else iterations,
        'load_from': None,
        'param_scheduler': None,
        # Untrained models do not bear more.
        'optim_wrapper.optimizer.lr': 1e-5,
    }
    return options


def _data_options(node: Node, data: dict[str, str]) -> dict[str, Any]:
    place, value = node.place, node.value
    options: dict[str, Any] = {}
    if node.short.endswith('CocoMetric') and 'ann_file' in value:
        options[f'{place}.ann_file'] = f'{data["coco"]}/annotations/instances_val2017.json'
    elif node.short == 'CocoDataset':
        options[f'{place}.data_root'] = f'{data["coco"]}/'
        if 'semi_anns' in value['ann_file']:
            options[f'{place}.ann_file'] = 'annotations/instances_train2017.json'
    elif node.short == 'VOCDataset':
        options[f'{place}.data_root'] = f'{data["voc"]}/'
    elif node.short == 'VOC':
        options[f'{place}.data_root'] = f'{data["voc"]}/VOC2007'
    elif node.short == 'ImageNet':
        options |= {f'{place}.data_root': data['imagenet'], f'{place}.indices': 2}
    return options


def written(options: dict[str, Any]) -> list[str]:
    """As ``--cfg-options`` takes them."""
    return [f'{key}={_text(value)}' for key, value in options.items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value).replace(' ', '')
