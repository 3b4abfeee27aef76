# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A hook that draws what the model saw, and no original."""

import os.path as osp
from collections.abc import Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import MLflowVisBackend, Visualizer
from torch import Tensor, nn
from torch.utils.data import Dataset

from hime_mm.errors import ConfigError, PictureError
from hime_mm.registry import HOOKS

from .seen_samples import TRUTH, seen, truth_of


def undo_normalization(image: Tensor, preprocessor: nn.Module) -> np.ndarray:
    """Turn a normalised network input back into a picture.

    The input has the shape (C, H, W), the picture is RGB of shape (H, W, 3). Means and channel
    order are those of the data preprocessor that made it.
    """
    image = image.detach().float().cpu()
    mean = getattr(preprocessor, 'mean', None)
    if mean is not None:
        std = preprocessor.std.float().cpu().view(-1, 1, 1)
        image = image * std + mean.float().cpu().view(-1, 1, 1)
    if len(image) == 1:
        image = image.expand(3, -1, -1)
    if len(image) != 3:
        raise PictureError(
            f'cannot show an image of {len(image)} channels: turn the visualization hook off'
        )
    # Both families of preprocessors swap channels on request; images are
    # loaded as BGR.
    swapped = any(getattr(preprocessor, name, False) for name in ('_channel_conversion', 'to_rgb'))
    if not swapped:
        image = image.flip(0)
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


@HOOKS.register_module()
class EncryptedVisualizationHook(Hook):
    """Draw predictions on what the model saw.

    MMDetection's ``DetVisualizationHook`` reads the image file again and so
    logs the *plain* image when encryption happens in the pipeline. This hook
    takes the output of the model's data preprocessor, the very pixels that
    were learnt from, and never opens a file. It serves MMDetection and
    MMPretrain, in place of either's hook.

    Boxes, masks and maps of classes come back from the model in pixels of the
    original; they are scaled to the encrypted image by ``scale_factor``. With
    shuffled patches they stay where the encrypted image shows the object.
    Annotations are drawn to the left of them, as MMDetection does, where the
    pipeline tells in which pixels they are; of shuffled images only such as
    were shuffled with them.

    Args:
        draw (bool): Whether to draw at all. Defaults to False.
        interval (int): Draw every that many validation iterations (in
            MMPretrain, samples). Defaults to 50.
        score_thr (float): Least score of a drawn box. Defaults to 0.3.
        show (bool): Show pictures in a window instead of storing them.
            Defaults to False.
        wait_time (float): How long a window stays, in seconds. Defaults to 0.
        test_out_dir (str, optional): Folder for the pictures of a test run,
            below the runner's time-stamped folder. None hands them to the
            visualizer's backends. Defaults to None.
        enable (bool): MMPretrain's name of ``draw``. Defaults to False.
        out_dir (str, optional): MMPretrain's name of ``test_out_dir``.
            Defaults to None.
        draw_gt (bool): Whether to draw annotations, too. Defaults to True.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        enable: bool = False,
        out_dir: str | None = None,
        draw_gt: bool = True,
    ) -> None:
        if interval < 1:
            raise ConfigError(f'`interval` must be at least 1, got {interval}')
        self.draw = draw or enable
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir or out_dir
        self.draw_gt = draw_gt
        self._visualizer: Visualizer = Visualizer.get_current_instance()
        self._inputs: Sequence[Tensor] | None = None
        self._flipped = False
        self._truth: str | None = None
        self._preprocessor: nn.Module | None = None
        self._handle = None
        self._test_index = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Watch what the model gets to see."""
        if self.draw:
            self._watch(runner.model, runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Runner) -> None:
        """Watch what the model gets to see."""
        self._test_index = 0
        if self.draw:
            self._watch(runner.model, runner.test_dataloader.dataset)

    def _watch(self, model: nn.Module, dataset: Dataset) -> None:
        self._truth = truth_of(dataset) if self.draw_gt else None
        if is_model_wrapper(model):
            model = model.module
        # Test-time augmentation wraps the model whose preprocessor runs.
        if isinstance(model, BaseTTAModel):
            model = model.module
        self._preprocessor = model.data_preprocessor
        self._handle = self._preprocessor.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple, output: dict) -> None:
        # With test-time augmentation the first view stands for all; of flipped
        # and other ones the first that is not, as what is predicted is not.
        flipped = any(sample.get('flip') for sample in output.get('data_samples') or ())
        if self._inputs is None or (self._flipped and not flipped):
            self._inputs, self._flipped = output['inputs'], flipped

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._inputs = None

    after_test_epoch = after_val_epoch

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        if self.draw and batch_idx % self.interval == 0:
            self._draw('val_img', 0, outputs, runner.iter + batch_idx, None)
        self._inputs = None

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw every image."""
        if not self.draw:
            return
        for i, sample in enumerate(outputs):
            self._test_index += 1
            out_file = None
            if self.test_out_dir is not None:
                stem = osp.splitext(osp.basename(sample.get('img_path') or ''))[0]
                # Numbered: images of different folders may share a name.
                stem = f'{self._test_index:06d}_{stem}'.rstrip('_')
                # PNG: another lossy step would not be what the model saw.
                out_file = osp.join(
                    runner.work_dir, runner.timestamp, self.test_out_dir, f'{stem}.png'
                )
            self._draw('test_img', i, outputs, self._test_index, out_file)
        self._inputs = None

    def _draw(
        self,
        name: str,
        index: int,
        outputs: Sequence[BaseDataElement],
        step: int,
        out_file: str | None,
    ) -> None:
        picture = undo_normalization(self._inputs[index], self._preprocessor)
        shape = outputs[index].get('img_shape', picture.shape)[:2]
        picture = np.ascontiguousarray(picture[: shape[0], : shape[1]])
        sample = seen(outputs[index], picture.shape[:2], self._truth)
        backends = getattr(self._visualizer, '_vis_backends', {}).values()
        if any(isinstance(backend, MLflowVisBackend) for backend in backends):
            # It takes the format from the name, and does not add the step.
            name = f'{name}_{step}.png'
        options = dict(show=self.show, wait_time=self.wait_time, out_file=out_file, step=step)
        if hasattr(self._visualizer, 'visualize_cls'):
            self._visualizer.visualize_cls(
                picture, sample, name=name, draw_gt=self.draw_gt, **options
            )
            return
        self._visualizer.add_datasample(
            name,
            picture,
            data_sample=sample,
            # Where nothing was annotated, the host would show the picture twice.
            draw_gt=any(name in sample and sample.get(name).keys() for name in TRUTH),
            pred_score_thr=self.score_thr,
            **options,
        )
