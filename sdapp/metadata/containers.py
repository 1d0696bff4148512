"""The parts of an image file that hold text: EXIF and XMP."""

import html
import re
import struct
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import iTXt

XMP_TEXTS = ("sdcpp:parameters", "exif:UserComment")  # of stable-diffusion.cpp and Draw Things


def exif_bytes(text: str) -> bytes:
    """Return EXIF for Pillow's `save(exif=…)` with the text as UserComment, encoded as piexif does.

    That is `UNICODE\\0` and UTF-16BE. A JPEG has room for 65,533 bytes of EXIF, about 32,000 characters.
    """
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif.tobytes()


def exif_tags(data: object) -> Mapping[int, Any]:
    """Return the tags of an EXIF block and of its Exif IFD; none if it is broken."""
    exif = Image.Exif()
    try:
        with warnings.catch_warnings(action="ignore"):
            exif.load(data if isinstance(data, bytes) else b"")
            return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, OverflowError, struct.error):
        return {}


def texts(info: Mapping[Any, Any]) -> dict[str, str]:
    """Return all texts in Pillow's `image.info` by where they stand.

    PNG texts have their own keys; the others are `EXIF Make` and so on, `comment` and `XMP sdcpp:parameters`.
    """
    found = {str(key): _repair(value) for key, value in info.items() if isinstance(value, str)}
    if isinstance(comment := info.get("comment"), bytes):
        found["comment"] = _decode(comment)
    for tag, value in exif_tags(info.get("exif")).items():
        name = f"EXIF {ExifTags.TAGS.get(tag, tag)}"
        if tag == ExifTags.Base.UserComment:
            found[name] = _decode_comment(value)
        elif isinstance(value, str):
            found[name] = _repair(value)
    packet = info.get("xmp", found.get("XML:com.adobe.xmp", ""))
    packet = _decode(packet) if isinstance(packet, bytes) else str(packet)
    for tag, value in re.findall(rf"(?s)<({'|'.join(XMP_TEXTS)})>(.*?)(?:</\1>|$)", packet):
        found[f"XMP {tag}"] = html.unescape(re.sub(r"<[^<>]*>", "", value)).strip()
    return found


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _repair(text: str) -> str:
    """Return a text that Pillow decoded as Latin-1 as UTF-8 if its bytes are that; iTXt is always UTF-8."""
    try:
        return text if isinstance(text, iTXt) else text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _decode_comment(raw: object) -> str:
    """Return an EXIF UserComment, decoded as it says, as UTF-16 of either byte order, or as UTF-8."""
    if not isinstance(raw, bytes):
        return raw if isinstance(raw, str) else ""
    code, body = raw[:8], raw[8:].rstrip(b"\0")
    if code != b"UNICODE\0":
        return _decode(body if code in (b"ASCII\0\0\0", bytes(8)) else raw).rstrip("\0")
    if b"\0" not in body:  # in UTF-16 every ASCII letter has one
        return _decode(body).removeprefix("\ufeff")
    is_little_endian = body[1::2].count(0) > body[::2].count(0)
    encoding, size = ("utf-16-le" if is_little_endian else "utf-16-be"), len(body) + len(body) % 2
    return raw[8 : 8 + size].decode(encoding, "replace").strip("\ufeff\0")


def xmp(kind: str, record: str = "") -> str:
    """Return an XMP packet that labels an image as made by AI, or as edited by AI.

    `kind` is that of the task: `txt2img` (made), `img2img` or `inpaint` (edited).
    The label is IPTC's DigitalSourceType. The packet can contain sdapp's record, a text without control
    characters, because JPEG and WebP have no other place for it.
    """
    source = "trainedAlgorithmicMedia" if kind == "txt2img" else "compositeWithTrainedAlgorithmicMedia"
    if record:
        record = html.escape(record, quote=False)
        record = f'<sdapp:record xmlns:sdapp="urn:sdapp:">{record}</sdapp:record>'
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
        f"http://cv.iptc.org/newscodes/digitalsourcetype/{source}</Iptc4xmpExt:DigitalSourceType>"
        f'{record}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def record_in(packet: object) -> str | None:
    """Return the record in a packet of `xmp`. Uses no XML parser, which might expand entities."""
    if not isinstance(packet, bytes):
        return None
    found = re.search(rb"<sdapp:record\b[^<>]*>([^<>]*)</sdapp:record>", packet)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else None
