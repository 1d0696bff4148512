"""How alike an image and a text are to a CLIP model."""

from pathlib import Path

import torch
from PIL import Image

from sdapp.diffusion.loading import load_part, loading
from sdapp.images import on_white
from sdapp.jobs import Job
from sdapp.models.clip import SCORE


class ClipScore:
    """A CLIP model in float32 on the CPU, where it takes no memory of the device."""

    def __init__(self, folder: Path) -> None:
        """Load it. Raises UnavailableError."""
        with loading(SCORE, folder):
            from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

            self._model = load_part(CLIPModel, folder, torch.float32, key=SCORE).eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        size = self._model.config.vision_config.image_size
        self._length = self._model.config.text_config.max_position_embeddings
        # Its usual colours and sizes, which all models of OpenAI and LAION have.
        self._prepare = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)

    def of(self, image: Image.Image, job: Job) -> float:
        """The cosine between what CLIP makes of an image and of its prompt, −1 to 1, without its markup.

        It sees the middle of the image at its own size, and the first 77 tokens of the text (Radford et al.
        2021, arXiv:2103.00020).
        """
        tokens = self._tokenizer(
            job.last_words, truncation=True, max_length=self._length, return_tensors="pt"
        )
        pixels = self._prepare(on_white(image), return_tensors="pt").pixel_values
        with torch.no_grad():
            output = self._model(input_ids=tokens.input_ids, pixel_values=pixels)
        return float(torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds))
