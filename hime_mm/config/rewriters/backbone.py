# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A ViT in place of a model's backbone, with neck and head that fit it."""

from collections.abc import Iterator
from fractions import Fraction

from mmpretrain.models.backbones import VisionTransformer

from hime_mm.ciphers import Mix
from hime_mm.errors import ConfigError
from hime_mm.models.backbones import TIMMPEViT

from ..findings import Finding, error
from ..hosts import LAST_STRIDE, LENGTHS, PADDING_AWARE, REGIONS, STRIDES, TOKEN_HEAD
from ..plan import Node
from .job import Job
from .preprocessor import preprocessors
from .priors import scale, spell_out

#: Weights of DeiT in MMPretrain, by size.
WEIGHTS = {
    'tiny': 'deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth',
    'small': 'deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth',
    'base': 'deit-base_3rdparty_pt-16xb64_in1k_20211124-6f40c188.pth',
}
SOURCE = 'https://mmassets.onedl.ai/mmclassification/v0/deit/'
CHOICES = f'{", ".join(f"pevit-{size}" for size in WEIGHTS)}, or timm:NAME with a name of timm'
#: What they take off, and divide by.
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
#: Necks whose levels have the strides of a CNN's stages, each half of the one before.
LEVELS = (
    'FPN',
    'PAFPN',
    'FPN_CARAFE',
    'HRFPN',
    'NASFPN',
    'YOLOXPAFPN',
    'CSPNeXtPAFPN',
    'ChannelMapper',
)
#: Heads of classifiers that read one vector for each image.
VECTOR_HEADS = ('LinearClsHead', 'MultiLabelLinearClsHead', 'VisionTransformerClsHead')


class Swap:
    """A ViT that is to take a backbone's place.

    Args:
        job (Job): The config and the cipher.
        name (str): ``'pevit-tiny'``, ``'pevit-small'``, ``'pevit-base'`` or
            ``'timm:NAME'``.

    Raises:
        ConfigError: If there is no such backbone, or timm's model depends on
            the patch order.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.plain = job.cipher.patch_size
        kind, separator, model_name = name.partition(':')
        self.trained = trained = _starts_trained(job)
        if kind == 'timm' and separator and model_name:
            self.backbone, self.width = self._timm(model_name, trained)
        elif name.removeprefix('pevit-') in WEIGHTS and name.startswith('pevit-'):
            self.backbone, self.width = self._pevit(name.removeprefix('pevit-'), trained)
        else:
            raise ConfigError(f'unknown backbone {name!r}: choose from {CHOICES}')

    def _common(self) -> dict:
        return dict(pos_encoding='rpe' if self.job.cipher.shuffles else 'learned')

    def _pevit(self, size: str, trained: bool) -> tuple[dict, int]:
        mixes = [step for step in self.job.cipher.steps if isinstance(step, Mix)]
        splits = {step.num_splits for step in mixes}
        embed = dict(patch_size=self.job.side)
        if len(splits) == 1:
            compact = any(step.form == 'compact' for step in mixes)
            embed = dict(
                # Of the patch that mixing alone would have come from.
                patch_size=self.job.side * (mixes[0].num_splits if compact else 1),
                patch_embed='mixed',
                num_splits=mixes[0].num_splits,
                input_form='compact' if compact else 'full',
            )
        init = dict(type='Pretrained', checkpoint=SOURCE + WEIGHTS[size], prefix='backbone.')
        backbone = dict(
            type='hime_mm.PEViT',
            arch=f'deit-{size}',
            **embed,
            **self._common(),
            out_type='cls_token',
            init_cfg=init if trained else None,
        )
        self.plain_statistics = IMAGENET
        return backbone, VisionTransformer.arch_zoo[f'deit-{size}']['embed_dims']

    def _timm(self, name: str, trained: bool) -> tuple[dict, int]:
        options = dict(model_name=name, patch_size=self.job.side, **self._common())
        built = TIMMPEViT(out_type='avg_featmap', **options)
        out_type = 'avg_featmap' if built.timm_model.cls_token is None else 'cls_token'
        backbone = dict(type='hime_mm.TIMMPEViT', **options, pretrained=trained, out_type=out_type)
        known = built.timm_model.pretrained_cfg or {}
        self.plain_statistics = {
            name: [round(255 * value, 3) for value in known[name]] if name in known else usual
            for name, usual in IMAGENET.items()
        }
        return backbone, built.embed_dims

    def refusals(self) -> Iterator[Finding]:
        """Why it cannot take the backbone's place."""
        model = self.job.model
        if 'head' in model.value:
            head = model.child('head', model.value['head'])
            if head.short not in VECTOR_HEADS:
                yield error(
                    head.place,
                    f'is {head.name}, which does not read the one vector that a ViT gives for '
                    'each image',
                    f'use one of {", ".join(VECTOR_HEADS)}, or leave `--backbone` out',
                )
        elif not self.job.cipher.shuffles:
            yield from self._fits(model)
        elif self.num_classes is None:
            yield error(
                model.place,
                f'is {model.name}, which has no head whose classes are counted',
                'write the detector by hand, as a `hime_mm.PESingleStageDetector`',
            )

    @property
    def num_classes(self) -> int | None:
        """int | None: Of the boxes that a detector predicts."""
        model = self.job.model
        heads = [model.child(key, model.value.get(key)) for key in ('roi_head', 'bbox_head')]
        counts = (node.value.get('num_classes') for head in heads for node in head.walk())
        return next((count for count in counts if count is not None), None)

    def _fits(self, model: Node) -> Iterator[Finding]:
        neck = _first(model.child('neck', model.value.get('neck')))
        in_channels = neck.value.get('in_channels')
        known = neck.short in LEVELS or (
            neck.short == 'DilatedEncoder' and isinstance(in_channels, int)
        )
        if not known:
            name = neck.name or 'nothing'
            yield error(
                neck.place,
                f'is {name}, which --backbone does not know how to fit to a ViT',
                f'it knows {", ".join((*LEVELS, "DilatedEncoder"))}; leave `--backbone` out, or '
                'write the neck by hand, for instance as `hime_mm.SimpleFeaturePyramid`',
            )

    def normalize(self) -> None:
        """Have plain images normalized as those that its weights were trained on."""
        if not self.trained:
            return
        options = preprocessors(self.job)[-1].value
        options.pop('rgb_to_bgr', None)
        order = 'to_rgb' if 'head' in self.job.model.value else 'bgr_to_rgb'
        options.update({order: True}, **{n: list(v) for n, v in self.plain_statistics.items()})

    def make(self) -> None:
        """Put it there, and make neck and heads fit."""
        model = self.job.model
        node = self.job.plan.backbone
        if self.trained and any(
            step.removes_means or step.drops_border or isinstance(step, Mix)
            for step in self.job.cipher.steps
        ):
            self.backbone['warm_start'] = self._warm_start()
        if 'head' in model.value:
            node.owner[node.key] = self.backbone
            model.value.pop('neck', None)
            model.value['head']['in_channels'] = self.width
        elif self.job.cipher.shuffles:
            self._token_detector(model)
        else:
            self.backbone['out_type'] = 'featmap'
            node.owner[node.key] = self.backbone
            self._fit_neck(model)
            model.value.update(type=PADDING_AWARE, detector=model.name)
            _pad(self.job)
        self._attach_preprocessor()
        self._advise()

    def _attach_preprocessor(self) -> None:
        """Give one to a config that has none: that of the host would normalize nothing."""
        node = preprocessors(self.job)[-1]
        if node.owner is None and node.value:
            kind = 'mmpretrain.Cls' if 'head' in self.job.model.value else 'mmdet.Det'
            owner, _, key = node.place.rpartition('.')
            found = self.job.plan.find(owner).value
            found[key] = dict(type=f'{kind}DataPreprocessor', **node.value)

    def _warm_start(self) -> dict:
        """For weights of plain images; the data preprocessor is that of encrypted ones by now."""
        options = preprocessors(self.job)[-1].value
        encrypted = {name: list(options[name]) for name in ('mean', 'std')}
        plain = {f'plain_{name}': value for name, value in self.plain_statistics.items()}
        return dict(self.job.written, **encrypted, **plain)

    def _token_detector(self, model: Node) -> None:
        """Where patches move, a head that looks at each of them by itself."""
        self.backbone['out_type'] = 'featmap'
        new = dict(
            type='hime_mm.PESingleStageDetector',
            backbone=self.backbone,
            bbox_head=dict(
                type=TOKEN_HEAD,
                num_classes=self.num_classes,
                in_channels=self.width,
                patch_size=self.job.side,
                loss_bbox=dict(type='mmdet.GIoULoss', loss_weight=2.0),
            ),
            test_cfg=dict(score_thr=0.01, nms_pre=1000, max_per_img=300),
        )
        if 'data_preprocessor' in model.value:
            new['data_preprocessor'] = model.value['data_preprocessor']
        model.value.clear()
        model.value.update(new)
        _pad(self.job)

    def _fit_neck(self, model: Node) -> None:
        neck = _first(model.child('neck', model.value['neck']))
        if neck.short == 'DilatedEncoder':
            neck.value['in_channels'] = self.width
            head = model.child('bbox_head', model.value['bbox_head'])
            ratio = Fraction(self.job.side, LAST_STRIDE)
            for name in STRIDES:
                scale(head, name, ratio)
            return
        channels = neck.value['in_channels']
        if len(channels) == 1:
            neck.value['in_channels'] = [self.width]
            return
        finest = LAST_STRIDE >> (len(channels) - 1)
        strides = [finest << level for level in range(len(channels))]
        strides = strides[neck.value.get('start_level', 0) :]
        neck.owner[neck.key] = dict(
            type='hime_mm.SimpleFeaturePyramid',
            in_channels=self.width,
            out_channels=neck.value['out_channels'],
            scale_factors=[self.plain / stride for stride in strides],
            num_outs=neck.value.get('num_outs', len(strides)),
        )
        # The ViT's strides follow the cipher, and so does what stands on them.
        for key in ('bbox_head', 'mask_head', 'rpn_head', 'roi_head'):
            part = model.child(key, model.value.get(key))
            spell_out(part)
            for name in (*STRIDES, *LENGTHS, *REGIONS):
                scale(part, name, self.job.ratio)

    def _advise(self) -> None:
        plan = self.job.plan
        optimizer = plan.find('optim_wrapper.optimizer')
        if optimizer.short == 'SGD':
            self.job.note(
                optimizer.place,
                'is SGD, made for the backbone before; ViTs are trained with AdamW',
                'Write the config with tools/encrypt_config.py, and one over it with '
                "`optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05)` in its "
                '`optim_wrapper`',
            )


def _starts_trained(job: Job) -> bool:
    """Whether the backbone that is there starts from weights."""
    init = job.plan.backbone.value.get('init_cfg')
    entries = init if isinstance(init, (list, tuple)) else [init]
    return any(Node('', one).short == 'Pretrained' for one in entries if one) or bool(
        job.plan.backbone.value.get('pretrained')
    )


def _first(neck: Node) -> Node:
    """The first neck, be it one of several."""
    return next(neck.walk(), Node(neck.place, {}))


def _pad(job: Job) -> None:
    """Batches hold whole patches."""
    preprocessors(job)[-1].value['pad_size_divisor'] = job.side
