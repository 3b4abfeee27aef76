# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Checks of a config before work starts. Used by the tools."""

import logging
import os
from typing import (Any, Iterator, List, NamedTuple, Optional, Sequence,
                    Tuple)

from mmengine.config import Config
from mmengine.logging import print_log

from hime_mm import transforms
from hime_mm.ciphers import Cipher, Mix
from hime_mm.datasets.manifest import Manifest, find_manifest, load_manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ManifestError
from hime_mm.models.backbones.timm_pevit import timm_patch_size
from hime_mm.models.data_preprocessors import (BatchCipher,
                                               EncryptClsDataPreprocessor)
from hime_mm.registry import BATCH_AUGMENTS, HOOKS, MODELS, TRANSFORMS
from hime_mm.transforms import (Encrypt, EncryptedAugment, LoadEncryptedMeta,
                                PatchReshuffle)
from hime_mm.transforms.loading import check_coordinates

SAFE_HOOK = 'hime_mm.EncryptedVisualizationHook'
LOADING = 'hime_mm.LoadEncryptedMeta'
# Wrappers that do not run their transforms on every image.
_CHANCE = ('RandomApply', 'RandomChoice')
# ViTs of MMPretrain that do not extend its VisionTransformer.
_VITS = ('BEiTViT', 'RevVisionTransformer', 'ViTSAM')


def force_safe_loading() -> None:
    """Keep every checkpoint of this process from executing code.

    MMEngine loads a checkpoint as plain data first and, where that fails,
    again as a pickle that may run anything; this stops the second try.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


def _walk(node: Any, path: str = '') -> Iterator[Tuple[str, Any]]:
    """All dicts of a config with their dotted paths."""
    if isinstance(node, dict):
        yield path, node
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        yield from _walk(value, f'{path}.{key}' if path else str(key))


def own_types() -> set:
    """Names of all types that hime_mm registers, without prefix."""
    names = set()
    for one in (BATCH_AUGMENTS, HOOKS, MODELS, TRANSFORMS):
        one.import_from_location()
        names |= set(one.module_dict)
    return names


def _name(node: Any) -> str:
    """The type of a config dict: a string, a class or a lazy import."""
    kind = node.get('type', '') if isinstance(node, dict) else ''
    if isinstance(kind, str):
        return kind
    module = getattr(kind, '__module__', '') or ''
    name = getattr(kind, '__name__', None) or str(kind)
    return f'{module}.{name}' if '.' not in name else name


def _is_ours(name: str, own: set) -> bool:
    scope, _, short = name.rpartition('.')
    return scope.split('.')[0] == 'hime_mm' and short in own


def _is_plain_hook(node: Any) -> bool:
    """Whether a hook draws pictures and is not known to draw safe ones.

    The hosts' visualization hooks read the image file again.
    """
    name = _name(node)
    return name.endswith('VisualizationHook') and not name.startswith(
        'hime_mm.')


def _is(node: Any, kind: type) -> bool:
    """Whether a config dict is of such a transform of ours."""
    name = _name(node)
    own = TRANSFORMS.module_dict
    return _is_ours(name, set(own)) and issubclass(
        own[name.rpartition('.')[2]], kind)


def _holds(node: Any, kind: type) -> bool:
    """Whether there is such a transform anywhere in a part of a config."""
    return any(_is(inner, kind) for _, inner in _walk(node))


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


class _Use(NamedTuple):
    """A cipher that images of a config are encrypted with.

    Attributes:
        place (str): Path of the transform.
        cipher (Cipher, optional): None where the data set is not there yet.
        manifest (Manifest, optional): Of a data set that is encrypted
            already.
        coordinates (str, optional): For such a data set.
    """

    place: str
    cipher: Optional[Cipher]
    manifest: Optional[Manifest] = None
    coordinates: Optional[str] = None

    @property
    def online(self) -> bool:
        """bool: Whether plain files are encrypted in the pipeline."""
        return self.coordinates is None

    @property
    def source(self) -> str:
        """str: The cipher, and where it comes from."""
        if self.manifest is None:
            return f'`{self.place}`, {self.cipher!r}'
        return (f'`{self.place}`, {self.cipher!r} of '
                f'{self.manifest.root / MANIFEST_NAME}')


def _image_folder(node: dict) -> Optional[str]:
    """Where the images of a data set's config lie, None if it is none."""
    while isinstance(node.get('dataset'), dict):
        node = node['dataset']
    if not {'data_root', 'data_prefix', 'ann_file'} & set(node):
        return None
    prefix = node.get('data_prefix') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img') or prefix.get('img_path') or ''
    # As MMPretrain's ImageNet has it.
    prefix = prefix or node.get('split') or ''
    return os.path.expanduser(
        os.path.join(node.get('data_root') or '', prefix))


def _manifest(place: str, step: dict, node: dict) -> Optional[Manifest]:
    """The manifest that a LoadEncryptedMeta in a pipeline will find."""
    path = step.get('manifest')
    if path is not None:
        path = os.path.abspath(os.path.expanduser(path))
        folder = path if os.path.isdir(path) else os.path.dirname(path)
    # The variables of a config file are no data sets.
    elif '.' not in place or (folder := _image_folder(node)) is None:
        return None
    if not os.path.isdir(folder):
        _warn(f'`{place}`: there is no folder {folder} yet, so whether the '
              'config fits its cipher was not checked.')
        return None
    remedy = ''
    try:
        if path is None:
            remedy = (f'. Copy {MANIFEST_NAME} to the images, or name it with '
                      '`manifest=`; images that are not encrypted yet need '
                      '`hime_mm.Encrypt` instead')
            path = find_manifest(folder)
            remedy = ''
        return load_manifest(path)
    except ManifestError as error:
        raise ValueError(f'`{place}`: {error}{remedy}') from None


def _keeps_grey(cipher: Optional[Cipher]) -> bool:
    """Whether mid-grey means something in images of a cipher."""
    return cipher is not None and any(
        step.name in ('center', 'drop')
        or getattr(step, 'form', None) == 'filled' for step in cipher.steps)


def _check_neighbours(place: str, steps: Sequence, flips: bool,
                      cipher: Optional[Cipher] = None) -> None:
    """Warn of what changes encrypted images."""
    harmless = ('Pack', 'LoadImage', 'LoadAnnotations', 'Filter')
    if flips:
        harmless += ('RandomFlip', )
    if cipher is not None and not _keeps_grey(cipher):
        harmless += ('ColorJitter', )
    for step in steps:
        short = _name(step).rpartition('.')[2]
        if _is(step, EncryptedAugment):
            if not place.startswith(('val_', 'test_', 'tta_')):
                continue
            if _is(step, PatchReshuffle):
                raise ValueError(
                    f'`{place}`: hime_mm.{short} is for training: what is '
                    'predicted for the new order cannot be mapped back, not '
                    'with the key either. Leave it out here')
            _warn(f'`{place}`: hime_mm.{short} is for training; metrics are '
                  'those of other pictures.')
        elif not short.startswith(harmless):
            _warn(f'`{place}`: {short} works on encrypted images. Whatever '
                  'resizes, flips, crops or recolours belongs before the '
                  'encryption; what may follow it is named in '
                  'docs/datasets.md.')


def _load_use(place: str, index: int, steps: Sequence, node: dict) -> _Use:
    """Check a pipeline with a LoadEncryptedMeta."""
    step = steps[index]
    manifest = _manifest(place, step, node)
    cipher = None if manifest is None else manifest.cipher
    # Mirroring an encrypted image is encrypting the mirrored one, but where
    # the pixels of all patches are permuted alike.
    fixed = cipher is not None and any(
        step.scope == 'dataset' for step in cipher.steps)
    others = [*steps[:index], *steps[index + 1:]]
    _check_neighbours(place, others, flips=not fixed, cipher=cipher)
    coordinates = step.get('coordinates', 'encrypted')
    if coordinates == 'original':
        if manifest is not None:
            try:
                check_coordinates(manifest, coordinates)
            except ValueError as error:
                raise ValueError(f'`{place}.{index}`: {error}') from None
        for after in steps[index + 1:]:
            if _name(after).endswith('LoadAnnotations') and after.get(
                    'with_mask'):
                raise ValueError(
                    f"`{place}.{index}`: with `coordinates='original'` masks "
                    'would be drawn at the size of the original, but they are '
                    'in encrypted coordinates: put LoadAnnotations before it')
    return _Use(f'{place}.{index}', cipher, manifest, coordinates)


def _encrypts_batches(node: Any) -> bool:
    """Whether a config dict is of a data preprocessor that encrypts."""
    name = _name(node)
    own = MODELS.module_dict
    if not _is_ours(name, set(own)) or not issubclass(
            own[name.rpartition('.')[2]], EncryptClsDataPreprocessor):
        return False
    # Said in so many words, it leaves images as they are.
    return 'cipher' not in node or node['cipher'] is not None


def _preprocessor(cfg: dict) -> Tuple[str, dict]:
    """The data preprocessor that the model will have, and its place."""
    place, node = 'data_preprocessor', cfg.get('data_preprocessor')
    model = cfg.get('model') or {}
    # The runner hands over the outer one only where the model names none.
    for prefix, owner in (('model', model),
                          ('model.module', model.get('module') or {})):
        if 'data_preprocessor' in owner:
            place = f'{prefix}.data_preprocessor'
            node = owner['data_preprocessor']
    return place, node or {}


def _preprocessor_use(cfg: dict) -> Optional[_Use]:
    """The cipher of a data preprocessor that encrypts on the device."""
    place, node = _preprocessor(cfg)
    if not _encrypts_batches(node):
        if _encrypts_batches(cfg.get('data_preprocessor')):
            raise ValueError(
                f'`data_preprocessor` encrypts, but `{place}` takes its '
                'place, which does not: images would pass in plain. Put the '
                'cipher there')
        return None
    if 'cipher' not in node:
        raise ValueError(f"`{place}` has no `cipher`: name one, such as "
                         "'shuffle'")
    try:
        cipher = BatchCipher(node['cipher'], node.get('patch_size')).cipher
    except (TypeError, ValueError) as error:
        raise type(error)(f'`{place}`: {error}') from None
    if node.get('pad_size_divisor', 1) == 1:
        for path, owner in _walk(cfg):
            steps = owner.get('pipeline')
            if '_dataloader' in path and isinstance(steps, (list, tuple)):
                _check_size(f'{path}.pipeline', steps, place, cipher)
    return _Use(place, cipher)


# Transforms that fix the size of an image, and where they have it.
_SIZES = {
    'CenterCrop': 'crop_size',
    'RandomCrop': 'crop_size',
    'RandomResizedCrop': 'scale',
    'Resize': 'scale'
}


def _check_size(place: str, steps: Sequence, where: str,
                cipher: Cipher) -> None:
    """See that a pipeline ends with a size that the cipher can cut up."""
    size = None
    for i, step in enumerate(steps):
        short = _name(step).rpartition('.')[2]
        if short in _SIZES:
            size = step.get(_SIZES[short])
            if step.get('keep_ratio'):
                size = None
            at, name = f'{place}.{i}.{_SIZES[short]}', short
        elif short.startswith(('ResizeEdge', 'Pad')):
            size = None
    if size is None:
        return
    sides = [size] if isinstance(size, int) else list(size)
    if any(isinstance(side, int) and side % cipher.patch_size
           for side in sides):
        raise ValueError(
            f'`{at}` is {size}, which holds no whole number of patches of '
            f'side {cipher.patch_size}, but `{where}` encrypts what {name} gives: '
            'choose a multiple, or set `pad_size_divisor='
            f'{cipher.patch_size}` there')


def cipher_on_device(cfg: dict) -> Optional[Cipher]:
    """The cipher with which a config's data preprocessor encrypts.

    Args:
        cfg (dict): A whole config.

    Returns:
        Cipher | None: None where the data preprocessor does not encrypt.

    Raises:
        ValueError: If its cipher makes no sense.
    """
    own_types()
    use = _preprocessor_use(cfg)
    return None if use is None else use.cipher


def _check_pipelines(cfg: dict, on_device: Optional[_Use]) -> List[_Use]:
    """Check what stands around our transforms; give the ciphers."""
    found = []
    for path, node in _walk(cfg):
        if _name(node).rpartition('.')[2] in _CHANCE and _holds(
                node.get('transforms', ()), Encrypt):
            raise ValueError(
                f'`{path}`: a {_name(node)} around the encryption would let '
                'images pass in plain: move the encryption out of it')
        for key, steps in node.items():
            if not isinstance(steps, (list, tuple)):
                continue
            place = f'{path}.{key}' if path else key
            loads = [i for i, step in enumerate(steps)
                     if _is(step, LoadEncryptedMeta)]
            ours = [i for i, step in enumerate(steps) if _is(step, Encrypt)]
            # A wrapper such as MultiImageMixDataset has a pipeline of its own.
            inner = node.get('dataset') if key == 'pipeline' else None
            if (ours and (loads or _holds(inner, LoadEncryptedMeta))) or (
                    loads and _holds(inner, Encrypt)):
                raise ValueError(
                    f'`{place}` would encrypt images that are encrypted '
                    f'already: {LOADING} is for a data set that `hime '
                    'encrypt` made, the other transforms of hime_mm for plain '
                    'images. Leave one of them out')
            found += [_load_use(place, i, steps, node) for i in loads]
            for i in ours:
                args = {k: v for k, v in steps[i].items() if k != 'type'}
                short = _name(steps[i]).rpartition('.')[2]
                found.append(
                    _Use(f'{place}.{i}',
                         getattr(transforms, short)(**args).cipher))
            if ours:
                _check_neighbours(
                    place,
                    steps[ours[-1] + 1:],
                    flips=False,
                    cipher=found[-1].cipher)
            if not path or key != 'pipeline' or loads or not steps:
                continue
            if _holds(inner, LoadEncryptedMeta):
                _check_neighbours(place, steps, flips=True)
            else:
                _check_plain_data(place, node,
                                  bool(ours) or on_device is not None)
    if on_device is None:
        return found
    for use in found:
        # The variables of a config file are not what is run.
        if '_dataloader.' in use.place:
            raise ValueError(
                f'`{on_device.place}` would encrypt images that '
                f'`{use.place}` has encrypted already: leave one of them out')
    return [on_device]


def _check_plain_data(place: str, node: dict, encrypts: bool) -> None:
    """See that images that are taken for plain are not encrypted."""
    folder = _image_folder(node)
    if folder is None or not os.path.isdir(folder):
        return
    try:
        manifest = find_manifest(folder)
    except ManifestError:
        return
    if encrypts:
        raise ValueError(
            f'`{place}` would encrypt images that are encrypted already: '
            f'{folder} belongs to {manifest}. Use {LOADING} instead')
    _warn(f'`{place}`: {folder} belongs to {manifest}, so its images are '
          f'encrypted: put `dict(type={LOADING!r})` behind LoadImageFromFile.')


def _vit_patch(backbone: dict) -> Optional[int]:
    """Side of a patch of a ViT, None for other backbones."""
    from mmpretrain.models.backbones import VisionTransformer
    from mmpretrain.registry import MODELS as HOST_MODELS
    short = _name(backbone).rpartition('.')[2]
    if short in ('TIMMPEViT', 'TIMMBackbone'):
        size = backbone.get('patch_size')
        if size is None:
            size = timm_patch_size(backbone.get('model_name', ''))
        return size if isinstance(size, int) else None
    kind = HOST_MODELS.module_dict.get(short)
    if not short.endswith(('PEViT', *_VITS)) and not (
            isinstance(kind, type) and issubclass(kind, VisionTransformer)):
        return None
    size = backbone.get('patch_size', 16)
    size = (backbone.get('patch_cfg') or {}).get('stride', size)
    return size if isinstance(size, int) else None


def _check_backbone(backbone: dict, use: _Use) -> None:
    """Compare a cipher with the backbone."""
    cipher = use.cipher
    side = cipher.encrypted_patch_size
    mixes = [step for step in cipher.steps if isinstance(step, Mix)]
    compact = any(step.form == 'compact' for step in mixes)
    ours = _name(backbone).endswith('PEViT')
    mixable = ours and not _name(backbone).endswith('TIMMPEViT')
    if mixable and backbone.get('patch_embed') == 'mixed':
        g = backbone.get('num_splits', 2)
        form = backbone.get('input_form', 'compact')
        wanted = 'compact' if compact else 'full'
        # The plain patch that mixing alone would have come from.
        whole = side * mixes[0].num_splits if compact else side
        fits = (backbone.get('patch_size', 16) == whole and form == wanted
                and all(step.num_splits == g for step in mixes))
        remedy = f'`patch_size={whole}`, ' + (
            f'`num_splits={mixes[0].num_splits}`, ' if mixes else
            '') + f'`input_form={wanted!r}`'
    else:
        size = _vit_patch(backbone)
        if size is None:
            return
        fits = size == side
        remedy = f'`patch_size={side}`'
        if compact and mixable:
            remedy += " or `patch_embed='mixed'`"
    if not fits:
        raise ValueError(
            f'`model.backbone` does not fit {use.source}: set its {remedy}')
    if not cipher.shuffles:
        return
    if ours and backbone.get('pos_encoding') == 'learned':
        _warn(f'`model.backbone.pos_encoding` is "learned", but `{use.place}` '
              'moves patches: learned positions mean nothing then, "rpe" and '
              '"none" do.')
    elif not ours:
        _warn(f'`model.backbone` is {_name(backbone)}, which learns positions,'
              f' but `{use.place}` moves patches: they mean nothing then. Use '
              "`type='hime_mm.PEViT'`, or 'hime_mm.TIMMPEViT' for a model of "
              "timm, with `pos_encoding='rpe'`.")


def _check_augments(cfg: dict, uses: List[_Use]) -> None:
    """Compare the ciphers of training with MMPretrain's batch augmentations.

    On the device they come before the encryption, and may be what they like.
    """
    model = cfg.get('model') or {}
    model = model.get('module') or model
    _, node = _preprocessor(cfg)
    place = 'data_preprocessor.batch_augments'
    options = node.get('batch_augments')
    if 'batch_augments' not in node:
        place, options = 'model.train_cfg', model.get('train_cfg')
    augments = options.get('augments') if isinstance(options, dict) else None
    augments = [augments] if isinstance(augments, dict) else augments or ()
    for use in uses:
        if use.cipher is None or not use.place.startswith('train_dataloader.'):
            continue
        side = use.cipher.encrypted_patch_size
        for augment in augments:
            name = _name(augment)
            short = name.rpartition('.')[2]
            if short == 'PatchCutMix' and augment.get('patch_size',
                                                      16) != side:
                raise ValueError(
                    f'`{place}.augments`: the patches of PatchCutMix '
                    f'do not fit {use.source}: set its `patch_size={side}`')
            if short in ('CutMix', 'ResizeMix'):
                _warn(f'`{place}.augments`: {short} works on encrypted '
                      'images, and its edges run through patches. Use '
                      f"`type='hime_mm.PatchCutMix', patch_size={side}`.")


def _check_statistics(cfg: dict, uses: List[_Use]) -> None:
    """See that images without means are not normalized by those of others."""
    place, node = _preprocessor(cfg)
    mean = node.get('mean')
    for use in uses:
        if use.cipher is None or not use.place.startswith(
            ('train_dataloader.', 'data_preprocessor', 'model.')):
            continue
        if mean is not None and any(
                step.name == 'center' for step in use.cipher.steps) and any(
                    abs(value - 128) > 8 for value in mean):
            _warn(f'`{place}` takes off the mean {list(mean)}, but '
                  f'{use.source} leaves images of mean 128 and less contrast. '
                  'Training goes faster with `mean=[128.0, 128.0, 128.0]` and '
                  'the standard deviation of the encrypted images (about 40 '
                  'for photos).')
            return


def _check_phases(uses: List[_Use]) -> None:
    """Compare the ciphers of training with those of evaluation."""

    def of(phase: str) -> List[_Use]:
        return [use for use in uses if use.cipher is not None
                and use.place.startswith(f'{phase}_dataloader.')]

    trained = of('train')
    for phase in ('val', 'test'):
        for use in of(phase):
            if not trained or any(use.cipher == one.cipher for one in trained):
                continue
            if use.online and all(one.online for one in trained):
                continue
            text = (f'{use.source} is another cipher than that of training, '
                    f'{trained[0].source}')
            if phase == 'val':
                raise ValueError(
                    f'{text}: encrypt both data sets with the same one')
            _warn(f'{text}: metrics are those of other pictures.')


def _check_evaluators(cfg: dict, uses: List[_Use]) -> None:
    """See that predictions and annotations are in the same coordinates."""
    for phase in ('val', 'test'):
        metrics = cfg.get(f'{phase}_evaluator') or []
        if isinstance(metrics, dict):
            metrics = [metrics]
        for use in uses:
            if use.online or not use.place.startswith(f'{phase}_dataloader.'):
                continue
            for metric in metrics:
                _check_metric(f'{phase}_evaluator', metric, use)


def _check_metric(place: str, metric: dict, use: _Use) -> None:
    ann_file = metric.get('ann_file')
    original = use.coordinates == 'original'
    if ann_file is None:
        if original and _name(metric).endswith(('CocoMetric', 'VOCMetric')):
            raise ValueError(
                f'`{place}` takes boxes from the pipeline, which are in '
                f'encrypted coordinates, but `{use.place}` has predictions '
                'come back in those of the original: name the original '
                "annotation file in `ann_file`, or set `coordinates="
                "'encrypted'`")
        return
    if use.manifest is None:
        return
    root = os.path.realpath(use.manifest.root)
    inside = os.path.realpath(ann_file).startswith(os.path.join(root, ''))
    if original and inside:
        raise ValueError(
            f'`{place}.ann_file` is that of the encrypted data set, but '
            f'`{use.place}` has predictions come back in pixels of the '
            "original: name the owner's own annotation file, or set "
            "`coordinates='encrypted'`")
    if not original and not inside:
        _warn(f'`{place}.ann_file` is not part of {root}, but `{use.place}` '
              'has predictions come back in pixels of the encrypted images. '
              'For the original annotation file set '
              "`coordinates='original'`.")


def _replace_hooks(cfg: Config, plain: dict, uses: List[_Use]) -> None:
    """Take out hooks that would draw on the files of the data set."""
    online = any(use.online for use in uses)
    if online:
        harm = 'would show the plain images'
    elif any(use.coordinates == 'original' for use in uses):
        harm = ('would draw boxes in coordinates of the original on encrypted '
                'images')
    else:
        return
    for i, hook in enumerate(plain.get('custom_hooks') or []):
        if _is_plain_hook(hook):
            text = (f'`custom_hooks.{i}` is {_name(hook)}, which {harm}: use '
                    f"`type='{SAFE_HOOK}'`")
            if online:
                raise ValueError(text)
            _warn(f'{text}.')
    for key, hook in (plain.get('default_hooks') or {}).items():
        if _is_plain_hook(hook):
            _warn(f'`default_hooks.{key}` is {_name(hook)}, which {harm}: '
                  f'replaced by {SAFE_HOOK}.')
            kept = ('draw', 'interval', 'score_thr', 'show', 'wait_time',
                    'test_out_dir', 'enable', 'out_dir')
            cfg.default_hooks[key] = dict(
                type=SAFE_HOOK, **{k: hook[k]
                                   for k in kept if k in hook})


def check_config(cfg: Config) -> Config:
    """Find what would fail late or leak, before work starts.

    Errors are a type of hime_mm without its prefix; an encryption that runs
    by chance only, or on images that are encrypted already; a ViT whose
    patches are not those of the cipher, be it the cipher of the pipeline or
    that of a data set which ``hime encrypt`` made; training and validation
    with different ciphers; and a metric that would compare boxes in different
    coordinates. Where data are not there yet, a warning says what was not
    checked.

    In a config that encrypts in its pipeline or on the device, a default hook
    that would draw the plain images is replaced by
    :class:`EncryptedVisualizationHook`, with a warning; a custom one is an
    error. For an encrypted data set the hosts' hooks stay, since they can show
    encrypted files only; but not with ``coordinates='original'``, whose boxes
    they would put at wrong places.

    Args:
        cfg (:obj:`Config`): The config, modified in place.

    Returns:
        :obj:`Config`: The same.

    Raises:
        ValueError: Names the place and the remedy.
    """
    plain = cfg._cfg_dict.to_dict() if hasattr(
        cfg._cfg_dict, 'to_dict') else cfg._cfg_dict
    own = own_types()
    for path, node in _walk(plain):
        name = _name(node)
        if name in own:
            raise ValueError(
                f"`{path}.type='{name}'` does not resolve: types of hime_mm "
                f"are written with their prefix, `type='hime_mm.{name}'`")
        scope, _, short = name.rpartition('.')
        if scope == 'hime_mm' and short not in own:
            raise ValueError(
                f"`{path}.type='{name}'`: hime_mm has no such type, choose "
                f'from {sorted(own)}')
    uses = _check_pipelines(plain, _preprocessor_use(plain))
    model = plain.get('model') or {}
    # Test-time augmentation wraps the model.
    backbone = (model.get('module') or model).get('backbone') or {}
    for use in uses:
        if use.cipher is not None:
            _check_backbone(backbone, use)
    _check_augments(plain, uses)
    _check_statistics(plain, uses)
    _check_phases(uses)
    _check_evaluators(plain, uses)
    _replace_hooks(cfg, plain, uses)
    return cfg
