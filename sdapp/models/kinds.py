"""What people give as a model and sdapp cannot paint with: one row for each kind, found without torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdapp.models.families import FAMILIES

ONLY = "supported: " + ", ".join(family.name for family in FAMILIES)
WHOLE = "give the whole checkpoint, with autoencoder and text encoder"
UNUSED = f"sdapp does not use any; {WHOLE}"
LORA_OPTION = "it only changes another model: give it as --lora FILE, with a whole model"
CONTROL_OPTION = "it only steers another model: give it as --control FILE:IMAGE, with a whole model"
UPSCALE_OPTION = (
    "use it with a whole model, as a diffusers folder: "
    "--set upscale.method=diffusion --set upscale.model=FILE"
)
FOLDER = "give the same model as a diffusers folder"
SCHEDULER = "if it is a Stable Diffusion after all, give it the scheduler folder of its base model"


@dataclass(frozen=True)
class Kind:
    r"""A kind of file or folder that is refused by its name.

    `mark` is a regular expression that is found in `Model.marks`. In `name`, as in "is a LoRA", `\1` is what
    its first group found. `fix` is the way out.
    """

    mark: str
    name: str
    fix: str = ONLY


IN_FILE = r"^model\.diffusion_model\."
DIGITS = dict.fromkeys(map(ord, "0123456789"))
# Files without the UNet of a checkpoint. The first row that fits counts, here and below.
IS_LORA = r"(^|[._])lora[._]|^lycoris_|\.(hada_w|lokr_w|oft_|dora_scale|(diff(_b)?|[wb]_norm)(\s|$))"
IS_UPSCALER = r"^(model\.\d+\.sub|body\.\d+\.rdb1|RRDB_trunk|conv_first)\b"
LOOSE_PARTS = (
    Kind(IS_LORA, "a LoRA", LORA_OPTION),
    Kind(r"\A([^.\n]+ [\dx]*\n)+\Z", "a textual inversion embedding",
         "its name in a prompt stands for it: give it as --embedding FILE, with a whole model"),
    Kind(r"^(lllite_|difference |lora_controlnet )", "a ControlNet of another kind", UNUSED),
    Kind(r"^(control_model\.|controlnet_|input_hint_block\.)", "a ControlNet", CONTROL_OPTION),
    Kind(r"^(ip_adapter|image_proj)\.", "an IP-Adapter", UNUSED),
    Kind(r"^(adapter\.)?body\.\d+\.(block1|resnets)", "a T2I-Adapter", UNUSED),
    Kind(r"motion_modules\.", "a motion module for videos", UNUSED),
    Kind(r"^unet\.", "a checkpoint in the layout of diffusers", FOLDER),
    Kind(r"^(first_stage_model\.|vae\.)?decoder\.(conv_in|layers\.\d+|\d+)\.", "an autoencoder (VAE)",
         "use it with a whole model: --set vae=FILE"),
    Kind(r"^(cond_stage_model\.|transformer\.|model\.)?(text_model|resblocks|encoder\.block|layers)\.",
         "a text encoder alone", WHOLE),
    Kind(IS_UPSCALER, "an upscaler of finished images",
         "use it with a whole model: --set upscale.method=model --set upscale.model=FILE"),
)  # fmt: skip
# Whole models.
OTHER_MODELS = (
    Kind(r"^(model\.diffusion_model\.)?joint_blocks\.|^pipeline StableDiffusion3", "Stable Diffusion 3"),
    Kind(r"^(model\.diffusion_model\.)?double_blocks\.|^pipeline Flux", "FLUX"),
    Kind(r"^clip_txt_mapper|\.channelwise\.|^pipeline (StableCascade|Wuerstchen)", "Stable Cascade"),
    Kind(r"^(embedder\.model\.visual|noise_augmentor)\.|^pipeline StableUnCLIP", "Stable unCLIP"),
    Kind(r"^pipeline StableDiffusionLatentUpscale", "the x2 latent upscaler", UPSCALE_OPTION),
    Kind(r"\.time_stack\.|^unet (UNetSpatioTemporal|UNetMotion|UNet3D)", "a model for videos"),
    Kind(r"^(model\.diffusion_model\.)?((joint_|single_)?transformer_blocks|blocks|layers)\.\d+\.",
         "a diffusion transformer"),
    Kind(r"^transformer folder$", "a diffusion transformer"),
    Kind(r"^pipeline ((Kandinsky|IF|AltDiffusion|AudioLDM|LDM|DDPM)\w*)$", r"a model of another kind (\1)"),
    Kind(r"^code (\S+)$", r"a model with code of its own (\1), which is not run"),
    Kind(r"^class (\S+)$", r"a model with a part of another class (\1)"),
    Kind(r"^unet (?!UNet2DConditionModel$)(\S+)$", r"a model with a UNet of another class (\1)"),
    Kind(r"^text_encoder (?!clip)(\S+)$", r"a model with another text encoder than CLIP (\1)"),
    Kind(r"^channels 8$", "InstructPix2Pix (8 input channels)"),
    Kind(r"^channels 5$", "a model for depth (5 input channels)"),
    Kind(r"^channels 7$", "the x4 upscaler (7 input channels)", UPSCALE_OPTION),
    Kind(r"^channels (?!4$|9$)(\d+)$", r"a model with \1 input channels"),
    Kind(r"^(edm_mean|edm_vpred\.sigma_max) |^scheduler EDM", "a model of the EDM kind (such as Playground)"),
    Kind(r"^context 1280$", "the refiner of Stable Diffusion XL"),
    Kind(r"^(scheduler \w*FlowMatch|prediction flow)", "a model of the flow matching kind", SCHEDULER),
    Kind(r"^betas none$", "a model without betas in its scheduler_config.json", SCHEDULER),
    Kind(r"(^|\.)(scaled_fp8|scale_weight|weight_scale|comfy_quant|absmax|quant_map|SCB) |^quantized ",
         "quantized with scales, which would be ignored", "give the float16 or float32 checkpoint"),
    Kind(r"^smaller XL$", "a smaller SDXL (such as SSD-1B)", FOLDER),
)  # fmt: skip


def marks_of(shapes: Mapping[str, Sequence[int]]) -> str:
    """The tensors of a file as text, one `NAME SHAPE` a line, for the regular expressions of kinds.

    Of names that differ in numbers only, such as those of a model's blocks, the first stands for all.
    """
    first: dict[str, str] = {}
    for name in shapes:
        first.setdefault(name.translate(DIGITS), name)
    return "".join(f"{name} {'x'.join(map(str, shapes[name]))}\n" for name in first.values())


def find_kind(marks: str, is_part: bool) -> str | None:
    """What a model with these marks is, and the way out, if sdapp cannot paint with it.

    `is_part` says that it is a file without the UNet of a checkpoint.
    """
    for kind in (*LOOSE_PARTS, *OTHER_MODELS) if is_part else OTHER_MODELS:
        if match := re.search(kind.mark, marks, re.MULTILINE):
            return f"{match.expand(kind.name)}; {kind.fix}"
    return None
