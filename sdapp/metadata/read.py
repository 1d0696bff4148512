"""Which tool painted an image, and its settings."""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags

from sdapp import images
from sdapp.errors import InputError
from sdapp.metadata import containers, infotext
from sdapp.metadata.carry import json_object
from sdapp.metadata.comfyui import _comfy, _is_node
from sdapp.metadata.named import KOHYA, read_named
from sdapp.metadata.record import dotted_keys, parse_content, record_text, to_layer
from sdapp.metadata.samplers import Values
from sdapp.settings.layers import Layer


def read_foreign(info: Mapping[Any, Any], exif_comment: str | None) -> tuple[str, Values, list[str]] | None:
    """The tool, values with the keys of a config, and the names of what could not be carried over; None if unknown.

    `info` is Pillow's `image.info`; nothing in it is executed. An infotext wins over a ComfyUI graph beside it. kohya does not
    write the size. Raises InputError for metadata that is too long, too deep or broken.
    """
    for candidate in _infotexts(info, exif_comment):
        prompt, negative, fields = infotext.split_infotext(candidate)
        if fields:
            return infotext.tool_of(fields), *infotext.carry_fields(prompt, negative, fields).result()
    if "invokeai_metadata" in info:
        data = json_object(info["invokeai_metadata"])
        if not data:
            raise InputError("the metadata of InvokeAI is broken")
        return "InvokeAI", *read_named(data).result()
    for text in (info.get("prompt"), containers.exif_tags(info.get("exif")).get(ExifTags.Base.Model)):
        graph = json_object(text.removeprefix("prompt:")) if isinstance(text, str) else {}
        if nodes := {key: node for key, node in graph.items() if _is_node(node)}:
            return "ComfyUI", *_comfy(nodes).result()
    if isinstance(info.get("prompt"), str) and {"sampler", "scale", "steps"} & info.keys():
        return "kohya", *read_named({key: info[key] for key in KOHYA if key in info}).result()
    if data := json_object(info.get("parameters")):
        return "diffusers-workflow", *read_named(data).result()
    text = info.get("parameters")
    return ("A1111", *infotext.read_infotext(text)) if isinstance(text, str) and text.strip() else None


def _infotexts(info: Mapping[str, Any], exif_comment: str | None) -> Iterator[str]:
    """Where infotext may stand; A1111 lets EXIF win over PNG text. stable-diffusion.cpp uses comments and XMP, too."""
    comment, packet = (_as_text(info.get(key)) for key in ("comment", "xmp"))
    _, _, packet = packet.partition("<sdcpp:parameters>")
    in_xmp = html.unescape(packet.partition("</sdcpp:parameters>")[0])
    for text in (exif_comment, info.get("parameters"), comment, in_xmp):
        if isinstance(text, str) and text and not json_object(text):  # diffusers-workflow writes JSON there
            yield text


def _as_text(data: object) -> str:
    return (
        data.decode("utf-8", "replace") if isinstance(data, bytes) else data if isinstance(data, str) else ""
    )


def read_settings(path: Path) -> Layer:
    """What an image was painted with, as a layer of settings: by sdapp, or by a tool whose metadata it can read.

    What could not be carried over from another tool is in the layer's notes. Raises MissingInputError, InputError.
    """
    image = images.decode_image(images.read_bytes(str(path), "image")[0], str(path), "image")
    if record_text(image) is not None:
        return to_layer(parse_content(image, path)["job"], path)
    found = read_foreign(image.info, containers.exif_comment(image))
    if found is None:
        raise InputError(f"{path}: has no sdapp record inside, nor settings of another tool; take the file as it was painted: "
                         "editors and messengers leave them out")  # fmt: skip
    tool, values, left_out = found
    if not {"width", "height"} & values.keys() and not (image.width % 8 or image.height % 8):
        values |= {"width": image.width, "height": image.height}
    notes = (f"{path} was painted by {tool}; not carried over: {'; '.join(left_out)}",) if left_out else ()
    return Layer(values, {dotted: str(path) for dotted in dotted_keys(values)}, notes)
