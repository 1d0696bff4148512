"""Masks by words: a segmentation or detection model of transformers says where things are in an image."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdapp.diffusion.loading import load_part, loading
from sdapp.images import on_white
from sdapp.jobs import BY_WORDS, Box, Job
from sdapp.models.mask_models import MASK_KEY, MaskModel, find_mask_model
from sdapp.settings.stages import Detail
from sdapp.settings.tasks import Inpaint

# Of each class: what prepares images for it. By Pillow, so that masks do not depend on torchvision.
PROCESSORS = {
    "CLIPSegForImageSegmentation": "ViTImageProcessor",
    "OwlViTForObjectDetection": "OwlViTImageProcessor",
    "Owlv2ForObjectDetection": "Owlv2ImageProcessor",
    "YolosForObjectDetection": "YolosImageProcessor",
    "SegformerForSemanticSegmentation": "SegformerImageProcessor",
}
SPECK = 1 / 2000  # of an image: what is smaller is taken for noise
FoundPixels = np.ndarray[Any, np.dtype[np.bool_]]


class MaskFinder:
    """Finds what words name, with mask models in float32; those of the last job that had any stay loaded."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._loaded: dict[str, _Loaded] = {}
        self._last: tuple[object, Image.Image | None] = None, None  # what was found, and of what

    def keep_for(self, job: Job) -> None:
        """Drop the models that a job does not need, if it needs any."""
        if names := job.mask_models:
            self._loaded = {name: model for name, model in self._loaded.items() if name in names}

    def find(self, image: Image.Image, asked: Inpaint | Detail, stays: bool) -> Image.Image | None:
        """Return a mask in mode L of an RGB or RGBA image: 255 where the words are found, grown, 0 elsewhere.

        None if nothing is found. The model is on the device meanwhile, and afterwards if it `stays`. Raises
        UnavailableError.
        """
        words = [getattr(asked, key) for key in BY_WORDS]
        key = hashlib.sha256(image.tobytes()).digest(), image.size, *words
        if key != self._last[0]:  # many images are often made from one
            self._last = key, self._find(image, asked, stays)
        return self._last[1]

    def _find(self, image: Image.Image, asked: Inpaint | Detail, stays: bool) -> Image.Image | None:
        name = str(asked.mask_model)
        if name not in self._loaded:
            self._loaded[name] = _Loaded(find_mask_model(name))
        finds = self._loaded[name]
        assert asked.mask_prompt is not None
        assert asked.mask_threshold is not None
        try:
            found = finds.pixels(on_white(image), asked.mask_prompt, asked.mask_threshold, self._device)
        finally:
            if not stays:
                finds.model.to("cpu")
        found = without_specks(found)
        if not found.any():
            return None
        return Image.fromarray(grown_on_all_sides(found, asked.mask_growth)).convert("L")


class _Loaded:
    """A mask model with what prepares its inputs."""

    def __init__(self, files: MaskModel) -> None:
        """Load it on the CPU. Raises UnavailableError."""
        self._files, folder = files, files.folder
        self._tokenizer: Any = None
        with loading(MASK_KEY, folder):
            import transformers

            name = PROCESSORS[files.kind]
            processor = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
            cls = getattr(transformers, files.kind)
            self.model = load_part(cls, folder, torch.float32, key=MASK_KEY).eval()
            self._prepare: Any = processor.from_pretrained(folder, local_files_only=True)
            if not files.labels:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def pixels(self, image: Image.Image, words: str, threshold: float, device: torch.device) -> FoundPixels:
        """Where the words are in an RGB image, [H, W]."""
        given = dict(self._prepare(images=image, return_tensors="pt"))
        if self._tokenizer:
            given |= self._tokenizer([words], return_tensors="pt")
        names = ("pixel_values", "pixel_mask", "input_ids", "attention_mask")
        output = self.model.to(device)(**{key: given[key].to(device) for key in names if key in given})
        label = self._files.label_of(words)
        match self._files.kind:
            case "CLIPSegForImageSegmentation":
                return _above(output.logits.sigmoid(), image.size, threshold)
            case "SegformerForSemanticSegmentation":
                return _above(output.logits.softmax(1)[0, label], image.size, threshold)
        sizes = torch.tensor([[image.height, image.width]])
        [found] = self._prepare.post_process_object_detection(_on_cpu(output), threshold, sizes)
        boxes, labels = found["boxes"].tolist(), found["labels"].tolist()
        if label is not None:
            boxes = [box for box, each in zip(boxes, labels, strict=True) if each == label]
        return _filled(boxes, image.size)


def _on_cpu(output: Any) -> Any:
    """What a detector says, in float32 on the CPU, where the boxes are made."""
    output.logits, output.pred_boxes = output.logits.float().cpu(), output.pred_boxes.float().cpu()
    return output


def _above(scores: torch.Tensor, size: tuple[int, int], threshold: float) -> FoundPixels:
    """Where scores [h, w], or [1, h, w], are high enough, when they are enlarged to `size`."""
    cells = scores.reshape(1, 1, *scores.shape[-2:]).float().cpu()
    whole = torch.nn.functional.interpolate(cells, size[::-1], mode="bilinear", antialias=True)
    found: FoundPixels = (whole[0, 0] >= threshold).numpy()
    return found


def _filled(boxes: Iterable[list[float]], size: tuple[int, int]) -> FoundPixels:
    found: FoundPixels = np.zeros(size[::-1], bool)
    for left, top, right, bottom in boxes:
        rows, columns = slice(max(0, round(top)), round(bottom)), slice(max(0, round(left)), round(right))
        found[rows, columns] = True
    return found


# --- places -------------------------------------------------------------------------------------------------


def without_specks(found: FoundPixels) -> FoundPixels:
    """Leave out connected parts that are smaller than `SPECK`."""
    from scipy import ndimage

    labels, _ = ndimage.label(found)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: FoundPixels = (sizes >= SPECK * found.size)[labels]
    return kept


def grown_on_all_sides(found: FoundPixels, pixels: int) -> FoundPixels:
    """Widen each place by so many pixels, diagonally too, as far as the image goes."""
    from scipy import ndimage

    return np.asarray(ndimage.maximum_filter(found, 2 * pixels + 1))


def places(mask: Image.Image) -> list[tuple[Box, Image.Image]]:
    """The connected parts of a mask, each as its box and a mask of its own; from left to right."""
    from scipy import ndimage

    labels, _ = ndimage.label(np.asarray(mask) > 0)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        box = columns.start, rows.start, columns.stop, rows.stop
        found.append((box, Image.fromarray(labels == number).convert("L")))
    return sorted(found, key=lambda each: each[0])
