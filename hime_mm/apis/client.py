# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The client's side of inference.

Encrypt a picture, have any model of MMDetection or MMPretrain look at it, and
map what it found back to the picture.  Needs NumPy, OpenCV and cryptography;
torch and the model's packages are only imported once a model is called.
"""

import os
import secrets
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Iterator, List, Optional, Tuple, Union

import numpy as np

from hime_mm.ciphers import Cipher, Key, PatchLayout
from hime_mm.ciphers.cipher import CipherLike
from hime_mm.datasets.images import (UnreadableImage, decode_image,
                                     encode_image, read_image, write_atomic)
from hime_mm.datasets.manifest import Manifest, ManifestError, find_manifest
from hime_mm.datasets.preprocess import Preprocess
from hime_mm.errors import ClientError

from .boxes import (nms_threshold, suppress, unmap_boxes, unmap_masks,
                    unmap_rle)

Picture = Union[str, os.PathLike, np.ndarray]

# Geometry of the encrypted picture, which says nothing about the original.
_GEOMETRY = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape',
             'scale_factor', 'homography_matrix')
_SEG_MAPS = ('pred_sem_seg', 'pred_panoptic_seg')


@dataclass(frozen=True, eq=False, repr=False)
class EncryptedPicture:
    """A picture that may be handed over, and what maps results back.

    Attributes:
        img (np.ndarray): The encrypted picture; hand this over, by
            :meth:`save` or as it is.
        layout (PatchLayout): Between the original and the encrypted picture,
            with the permutation of patches that were moved: keep it, and this
            object with it.
        cropped (bool): Whether only the middle of the original is in it.
        in_place (bool): Whether all pixels stayed where they were, so that
            masks can be mapped back too.
    """

    img: np.ndarray
    layout: PatchLayout
    cropped: bool = False
    in_place: bool = True

    @property
    def public(self) -> PatchLayout:
        """PatchLayout: The layout without what undoes it."""
        return self.layout.public()

    def save(self, path: Union[str, os.PathLike],
             overwrite: bool = False) -> None:
        """Write the encrypted picture as PNG, without loss or metadata.

        Args:
            path (str | PathLike): Where to; ends with ``.png``.
            overwrite (bool): Replace what is there. Defaults to False.

        Raises:
            ClientError: If the name has another ending, since other formats
                lose pixels.
            OSError: If the file is there or cannot be written.
        """
        path = os.fspath(path)
        if not path.lower().endswith('.png'):
            raise ClientError(f'{path} does not end with .png: an encrypted '
                              'picture is stored without loss')
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError(f'{path} is there already: choose another '
                                  'file, or give `overwrite=True`')
        write_atomic(path, encode_image(self.img))

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(img={_shown(self.img)}, '
                f'ori_shape={tuple(self.layout.ori_shape)})')


def _shown(img: np.ndarray) -> str:
    return f'{"x".join(map(str, img.shape))} {img.dtype}'


class Client:
    """Encrypts pictures for inference and maps results back.

    Every picture gets randomness of its own from the operating system, also
    the same picture a second time; only what a cipher draws once per data set
    (``permute_pixels``) comes from the data set's key.

    Args:
        cipher (str | dict | Sequence | Cipher): The cipher or preset that the
            model was trained with.
        preprocess (Preprocess | dict, optional): How pictures are read and
            sized before, as the model's training pictures were; augmentation
            is left out. None reads files in colour, takes arrays as they are,
            and only fits their sides to the patches. Defaults to None.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.
        key (Key, optional): The key of the data set that the model was
            trained on, for ciphers that need it. Defaults to None.
        dataset_id (str, optional): The id of that data set. Defaults to None.

    Raises:
        ClientError: If the cipher needs a key and an id.

    Examples:
        >>> import numpy as np
        >>> from hime_mm.apis import Client
        >>> client = Client('mix2+shuffle')
        >>> encrypted = client.encrypt(np.zeros((64, 96, 3), np.uint8))
        >>> encrypted
        EncryptedPicture(img=32x48x3 uint8, ori_shape=(64, 96))
        >>> client.restore(np.array([[8., 8, 16, 16]]), encrypted).shape
        (1, 4)
    """

    def __init__(self,
                 cipher: CipherLike,
                 preprocess: Union[None, dict, Preprocess] = None,
                 patch_size: Optional[int] = None,
                 key: Optional[Key] = None,
                 dataset_id: Optional[str] = None) -> None:
        self.cipher = Cipher.build(cipher, patch_size)
        # Arrays that the owner gives without more are as they have to be.
        self._convert = preprocess is not None
        if preprocess is None:
            preprocess = Preprocess()
        elif isinstance(preprocess, dict):
            preprocess = Preprocess.from_dict(preprocess)
        self.preprocess = preprocess
        shared = [str(s) for s in self.cipher.steps if s.scope == 'dataset']
        if shared and (key is None or dataset_id is None):
            raise ClientError(
                f'{", ".join(shared)} is the same for all pictures of a data '
                'set: give its key and `dataset_id`, or use '
                '`Client.from_manifest(path, key=...)`')
        self._key = key if shared else None
        self._dataset_id = dataset_id

    @classmethod
    def from_manifest(cls, path: Union[str, os.PathLike],
                      key: Optional[Key] = None) -> 'Client':
        """A client for models that were trained on an encrypted data set.

        Pictures are read, sized and encrypted as those of the data set were,
        without their augmentation.

        Args:
            path (str | PathLike): Its manifest ``hime.json``, or its folder.
            key (Key, optional): The owner's key. Only a cipher that draws
                something once per data set needs it. Defaults to None.

        Returns:
            Client: The client.

        Raises:
            ManifestError: If there is no manifest, or it was changed.
            InvalidKey: If the key is another one.
            ClientError: If the cipher needs the key.
        """
        manifest = Manifest.load(path)
        if key is not None:
            manifest.check_key(key)
        return cls(
            manifest.cipher,
            Preprocess.from_dict(manifest.preprocess),
            key=key,
            dataset_id=manifest.dataset_id)

    def __repr__(self) -> str:
        return (f'{type(self).__name__}({str(self.cipher)!r}, '
                f'patch_size={self.cipher.patch_size}, '
                f'preprocess={self.preprocess.to_dict()})')

    def encrypt(self, picture: Picture) -> EncryptedPicture:
        """Encrypt one picture.

        Args:
            picture (str | PathLike | np.ndarray): A file, or an array of
                shape (H, W, C) in BGR or (H, W), uint8 or uint16.

        Returns:
            EncryptedPicture: The encrypted picture, and what maps results
            back.

        Raises:
            ClientError: If it is encrypted already.
            TypeError: If it is neither a file nor such an array.
            ValueError: If its size does not fit the cipher.
            UnreadableImage: If it cannot be read.
        """
        img = self._read(picture)
        fitted, scale = self.preprocess.apply(img, self.cipher.patch_size)
        source = None
        if self._key is not None:
            # A new name for each picture: what is drawn for it alone is new,
            # what is drawn for the data set is the data set's.
            source = self._key.source(self._dataset_id,
                                      f'client/{secrets.token_hex(16)}')
        encrypted, layout, _ = self.cipher.encrypt(fitted, source)
        layout = replace(
            layout,
            ori_shape=img.shape[:2],
            scale=tuple(a * b for a, b in zip(scale, layout.scale)))
        return EncryptedPicture(
            encrypted,
            layout,
            cropped=self.preprocess.center_crop is not None,
            in_place=not self.cipher.moves_pixels)

    def _read(self, picture: Picture) -> np.ndarray:
        if isinstance(picture, EncryptedPicture):
            raise ClientError('this picture is encrypted already: give it to '
                              '`predict`, or encrypt the original')
        color_type = self.preprocess.color_type
        if isinstance(picture, (str, os.PathLike)):
            path = os.fspath(picture)
            _check_plain(path)
            try:
                return read_image(path, color_type)
            except UnreadableImage as error:
                raise UnreadableImage(
                    f'cannot read the picture {path}: {error}') from None
        if not isinstance(picture, np.ndarray) or picture.dtype not in (
                np.uint8, np.uint16) or picture.ndim not in (2, 3):
            got = (f'an array of {_shown(picture)}' if isinstance(
                picture, np.ndarray) else type(picture).__name__)
            raise TypeError('a picture is a file name or an array of shape '
                            '(H, W) or (H, W, C), uint8 or uint16, got '
                            f'{got}')
        if not self._convert:
            return picture
        return as_loaded(picture, color_type)

    def predict(self,
                picture: Union[Picture, EncryptedPicture],
                model: Any,
                nms: Optional[float] = None,
                clip: bool = True,
                color_type: str = 'color',
                metainfo: Optional[dict] = None) -> Any:
        """Have a model look at the encrypted picture, and map the result back.

        The model gets the encrypted picture and nothing else. Its own
        pipeline is not used, so nothing is resized or encrypted twice; its
        data preprocessor is.

        Where patches are moved, the model's own non-maximum suppression
        compares boxes that are not where they belong, and may remove some
        that only meet by chance: a high IoU in its ``test_cfg`` leaves that
        to this method. A head that cuts boxes to the picture, as most of
        MMDetection's do, spoils those that stick out of it there and lie
        inside of the original.

        Args:
            picture (str | PathLike | np.ndarray | EncryptedPicture): A
                picture to encrypt, or one that :meth:`encrypt` gave.
            model: MMDetection's ``DetInferencer``, MMPretrain's
                ``ImageClassificationInferencer``, or a model as
                ``init_detector``, ``get_model`` or ``MODELS.build`` make it.
                A model that is built from a config alone has to have its
                ``data_preprocessor`` set.
            nms (float, optional): IoU of the non-maximum suppression in the
                original picture; 1 keeps all boxes. None is 0.6 where patches
                were moved, else 1. Defaults to None.
            clip (bool): Cut boxes to the picture. Defaults to True.
            color_type (str): As the ``LoadImageFromFile`` of the model's
                training has it. Defaults to 'color', three channels of 8
                bits.
            metainfo (dict, optional): Further meta information of the data
                sample, such as the ``text`` that some detectors ask for.
                Defaults to None.

        Returns:
            DetDataSample | DataSample: A detector's, in pixels of the
            original picture, or a classifier's as it is.

        Raises:
            TypeError: If ``model`` cannot be called.
            ClientError: If it is a model of several views, or its result
                cannot be mapped back.
        """
        model = _unwrapped(model)
        encrypted = picture
        if not isinstance(encrypted, EncryptedPicture):
            encrypted = self.encrypt(encrypted)
        nms_threshold(nms, encrypted.layout.shuffled)
        sample = _run(model, encrypted.img, color_type, metainfo or {})
        return self.restore(sample, encrypted, nms, clip)

    def restore(self,
                predictions: Any,
                encrypted: EncryptedPicture,
                nms: Optional[float] = None,
                clip: bool = True) -> Any:
        """Map results from elsewhere to the original picture.

        They have to be in pixels of the encrypted picture, as a model gives
        them whose pipeline does not resize.

        Args:
            predictions: A ``DetDataSample``; ``DetInferencer``'s dict with
                the key ``predictions``, or one of these predictions, with the
                keys ``bboxes``, ``scores`` and ``labels``; or an array or
                tensor of shape (n, 4) or more, (x1, y1, x2, y2, ...). What
                has no boxes, such as the result of a classifier, is given
                back as it is.
            encrypted (EncryptedPicture): What the model looked at.
            nms (float, optional): As in :meth:`predict`; not for bare arrays.
                Defaults to None.
            clip (bool): Cut boxes to the picture. Defaults to True.

        Returns:
            The same kind of result, new, in pixels of the original picture.
            Of what else a detector says, only what is no geometry is kept,
            with a warning.

        Raises:
            ClientError: If the results are not in pixels of the encrypted
                picture, or have a form that is not known.
        """
        if not isinstance(encrypted, EncryptedPicture):
            raise TypeError('`encrypted` is what `Client.encrypt` gave, got '
                            f'{type(encrypted).__name__}')
        mapper = _Mapper(encrypted, nms, clip)
        if isinstance(predictions, dict):
            return mapper.dict(predictions)
        if hasattr(predictions, 'metainfo'):
            return mapper.sample(predictions)
        if hasattr(predictions, 'shape'):
            return mapper.array(predictions)
        raise ClientError(
            f'cannot map a {type(predictions).__name__} back: give an array '
            'of boxes, a `DetDataSample` or a prediction of `DetInferencer`')


def _check_plain(path: str) -> None:
    """Refuse a file of an encrypted data set: it would be encrypted twice."""
    try:
        manifest = find_manifest(path)
    except ManifestError:
        return
    raise ClientError(
        f'{path} lies in an encrypted data set ({manifest}), so it is '
        'encrypted already. If it is not, give it as an array')


def as_loaded(img: np.ndarray, color_type: str) -> np.ndarray:
    """The pixels that loading this picture from a file would give.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C), uint8 or uint16.
        color_type (str): One of
            :data:`~hime_mm.datasets.images.COLOR_TYPES`.

    Returns:
        np.ndarray: The same array where that changes nothing.
    """
    colour = img.ndim == 3 and img.shape[2] == 3
    if color_type == 'unchanged' or (img.dtype == np.uint8 and (
            img.ndim == 2 if color_type == 'grayscale' else colour)):
        return img[..., 0] if img.ndim == 3 and img.shape[2] == 1 else img
    return decode_image(encode_image(img), color_type)


# Models.


def _unwrapped(model: Any) -> Any:
    """The model of an inferencer, or the model itself."""
    if not hasattr(model, 'test_step'):
        model = getattr(model, 'model', model)
    if not hasattr(model, 'test_step'):
        raise TypeError(
            'a model is an inferencer of MMDetection or MMPretrain, or what '
            'their `init_detector`, `get_model` or `MODELS.build` give, got '
            f'{type(model).__name__}')
    if hasattr(model, 'tta_cfg'):
        raise ClientError('a model for test-time augmentation resizes and '
                          'flips encrypted pictures: give its `.module`')
    inner = getattr(model, 'module', model)
    preprocessor = getattr(inner, 'data_preprocessor', None)
    if getattr(preprocessor, 'batch_cipher', None) is not None:
        raise ClientError(
            f'the {type(preprocessor).__name__} of this model encrypts what it '
            'gets, and the picture is encrypted already: build the model with '
            '`data_preprocessor.cipher=None`')
    return model


def _sample_type(model: Any) -> type:
    """The kind of data sample that a model writes its results to."""
    # Models of other packages derive from one of these two.
    for base in type(model).__mro__:
        module = base.__module__.split('.')[0]
        if module == 'mmdet':
            from mmdet.structures import DetDataSample
            return DetDataSample
        if module == 'mmpretrain':
            from mmpretrain.structures import DataSample
            return DataSample
    from mmengine.structures import BaseDataElement
    return BaseDataElement


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; all modes are as before then."""
    import torch
    modes: List[Tuple[Any, bool]] = []
    if isinstance(model, torch.nn.Module):
        modes = [(module, module.training) for module in model.modules()]
        if any(training for _, training in modes):
            model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _run(model: Any, img: np.ndarray, color_type: str, metainfo: dict) -> Any:
    """What a model says of a picture as it is."""
    import torch
    inner = model
    if isinstance(model, torch.nn.Module):
        from mmengine.model import is_model_wrapper
        while is_model_wrapper(inner):
            inner = inner.module
        _align_device(inner)
    img = as_loaded(img, color_type)
    img = img[None] if img.ndim == 2 else img.transpose(2, 0, 1)
    # Preprocessors of models convert to float32 anyway, and 16 bits fit.
    inputs = torch.from_numpy(np.ascontiguousarray(img, np.float32))
    shape = tuple(inputs.shape[1:])
    sample = _sample_type(inner)(metainfo={
        **metainfo,
        'img_id': 0,
        'ori_shape': shape,
        'img_shape': shape,
        'pad_shape': shape,
        'batch_input_shape': shape,
        'scale_factor': (1., 1.),
        'flip': False,
        'flip_direction': None,
        'homography_matrix': np.eye(3, dtype=np.float32),
    })
    with _evaluating(model):
        results = model.test_step(dict(inputs=[inputs], data_samples=[sample]))
    if not isinstance(results, (list, tuple)) or len(results) != 1:
        got = type(results).__name__
        if isinstance(results, (list, tuple)):
            got = f'{len(results)} results'
        raise ClientError(f'{type(inner).__name__} gave {got} for one '
                          'picture, not a list of one')
    return results[0]


def _align_device(model: Any) -> None:
    """Have a data preprocessor put pictures where the model's weights are.

    It does not notice when a module around the model is moved.
    """
    device = getattr(getattr(model, 'data_preprocessor', None), 'device', None)
    weights = {param.device for param in model.parameters()}
    if device is not None and len(weights) == 1 and device not in weights:
        model.to(weights.pop())


# Results.


def _numpy(value: Any) -> np.ndarray:
    """A tensor, box structure, array or list as an array."""
    value = getattr(value, 'tensor', value)
    if hasattr(value, 'detach'):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _like(value: np.ndarray, old: Any) -> Any:
    """An array as the kind that another value is."""
    old = getattr(old, 'tensor', old)
    if hasattr(old, 'new_tensor'):
        import torch
        floating = old.dtype.is_floating_point
        return old.new_tensor(
            value, dtype=old.dtype if floating else torch.float32)
    if isinstance(old, np.ndarray):
        floating = np.issubdtype(old.dtype, np.floating)
        return value.astype(old.dtype if floating else value.dtype)
    return value.tolist()


class _Mapper:
    """Maps results of one picture, whatever their form."""

    def __init__(self, encrypted: EncryptedPicture, nms: Optional[float],
                 clip: bool) -> None:
        self.layout = encrypted.layout
        self.cropped = encrypted.cropped
        self.masks_follow = encrypted.in_place and not encrypted.cropped
        self.asked = nms
        self.nms = nms_threshold(nms, self.layout.shuffled)
        self.clip = clip

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        if self.cropped:
            raise ClientError(
                'only the middle of this picture was encrypted '
                '(`center_crop`), which is for classification: boxes cannot '
                'be mapped back. Use a preprocessing without it')
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ClientError('boxes have the shape (n, 4), (x1, y1, x2, y2), '
                              f'got {boxes.shape}: rotated boxes cannot be '
                              'mapped back')
        return unmap_boxes(self.layout, boxes, self.clip)

    def kept(self, boxes: np.ndarray, scores: Any, labels: Any) -> Any:
        """Indices of the boxes that stay, None for all of them."""
        if self.nms is None:
            return None
        if scores is None or labels is None:
            if self.asked is None:
                return None
            raise ClientError('a non-maximum suppression needs scores and '
                              'labels of the boxes')
        return suppress(boxes, _numpy(scores), _numpy(labels), self.nms)

    def array(self, values: Any) -> Any:
        if values.ndim != 2 or values.shape[1] < 4:
            raise ClientError('an array of boxes has the shape (n, 4) or '
                              f'more, got {tuple(values.shape)}')
        if self.asked is not None:
            raise ClientError('bare boxes have no labels for a non-maximum '
                              'suppression: give a prediction with `bboxes`, '
                              '`scores` and `labels`')
        old = _numpy(values)
        boxes = self.boxes(old[:, :4])
        return _like(np.concatenate([boxes, old[:, 4:]], axis=1), values)

    def dict(self, result: dict) -> dict:
        if isinstance(result.get('predictions'), list):
            found = result['predictions']
            if len(found) != 1:
                raise ClientError(f'the results of {len(found)} pictures came '
                                  'together: give those of one picture')
            return dict(predictions=[
                self.dict(found[0]) if isinstance(found[0], dict) else
                self.sample(found[0])
            ])
        if 'bboxes' not in result:
            return result
        boxes = self.boxes(_numpy(result['bboxes']))
        kept = self.kept(boxes, result.get('scores'), result.get('labels'))
        kept = np.arange(len(boxes)) if kept is None else kept
        new, dropped = {}, []
        for name, value in result.items():
            if name == 'bboxes':
                new[name] = _like(boxes[kept], value)
            elif name == 'masks' and self.masks_follow:
                new[name] = [unmap_rle(self.layout, value[i]) for i in kept]
            elif isinstance(value, (list, np.ndarray)) and len(value) == len(
                    boxes) and not _is_geometry(value):
                new[name] = (value[kept] if isinstance(value, np.ndarray) else
                             [value[i] for i in kept])
            else:
                dropped.append(name)
        _warn_dropped(dropped)
        return new

    def sample(self, sample: Any) -> Any:
        instances = getattr(sample, 'pred_instances', None)
        maps = [name for name in _SEG_MAPS if name in sample]
        if instances is None and not maps:
            return sample
        shape = sample.metainfo.get('ori_shape')
        if shape is not None and tuple(shape[:2]) != self.layout.shape:
            raise ClientError(
                f'these results are in pixels of a picture of {shape[0]}x'
                f'{shape[1]} (height x width), not of the encrypted one of '
                f'{self.layout.shape[0]}x{self.layout.shape[1]}: leave '
                'resizing, encryption and the original\'s coordinates out of '
                "the model's pipeline, or use `predict`")
        h, w = self.layout.ori_shape
        new = type(sample)(metainfo={
            **{
                k: v
                for k, v in sample.metainfo.items() if k not in _GEOMETRY
            },
            'ori_shape': (h, w),
            'img_shape': (h, w),
            'scale_factor': (1., 1.),
        })
        dropped: List[str] = []
        if instances is not None:
            new.pred_instances = self._instances(instances, dropped)
        for name in maps:
            if self.masks_follow:
                setattr(new, name, self._seg_map(getattr(sample, name)))
            else:
                dropped.append(name)
        _warn_dropped(dropped)
        return new

    def _instances(self, instances: Any, dropped: List[str]) -> Any:
        found = {}
        if 'bboxes' in instances:
            boxes = self.boxes(_numpy(instances.bboxes))
            found['bboxes'] = _like(boxes, instances.bboxes)
        for name, value in instances.items():
            if name == 'bboxes':
                continue
            if name == 'masks' and self.masks_follow:
                found[name] = self._masks(value)
            elif not _is_geometry(value):
                found[name] = value
            else:
                dropped.append(name)
        new = type(instances)(**found)
        if 'bboxes' in found:
            kept = self.kept(boxes, instances.get('scores'),
                             instances.get('labels'))
            if kept is not None:
                new = new[kept]
        return new

    def _masks(self, masks: Any) -> Any:
        found = unmap_masks(self.layout, _numpy(masks))
        if hasattr(masks, 'new_tensor'):
            import torch
            return torch.from_numpy(found).to(masks.device)
        return found

    def _seg_map(self, data: Any) -> Any:
        """A map of classes, the nearest pixel's for each original pixel."""
        sem_seg = data.sem_seg
        if tuple(sem_seg.shape[-2:]) != self.layout.shape:
            raise ClientError(
                f'a segmentation of {tuple(sem_seg.shape[-2:])} is not that '
                f'of an encrypted picture of {self.layout.shape}')
        at = []
        for side, scale, end in zip(self.layout.ori_shape,
                                    self.layout.scale[::-1],
                                    self.layout.shape):
            centre = np.floor((np.arange(side) + 0.5) * scale)
            at.append(centre.astype(np.int64).clip(0, end - 1))
        return type(data)(sem_seg=sem_seg[..., at[0][:, None], at[1]])


def _is_geometry(value: Any) -> bool:
    """Whether a field may hold coordinates: it has more than one axis.

    Scores, labels and names have one.
    """
    if hasattr(value, 'shape'):
        return len(value.shape) > 1
    return not isinstance(value, (list, tuple)) or any(
        isinstance(item, (list, tuple, dict)) or len(
            getattr(item, 'shape', ())) > 0 for item in value)


def _warn_dropped(names: List[str]) -> None:
    if names:
        warnings.warn(
            f'{", ".join(f"`{name}`" for name in names)} of the results '
            'cannot be mapped back to the original picture and is left out',
            stacklevel=4)
