"""Parts of an image file that hold text: EXIF, XMP."""

import html
import re
import struct
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

EXIF_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
)


def exif_bytes(text: str) -> bytes:
    """EXIF for `save(exif=…)` of JPEG, WebP and PNG, with the text as UserComment: `UNICODE\\0` and UTF-16BE (piexif's form).

    JPEG takes at most 65,533 bytes of it, some 32,000 characters.
    """
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif.tobytes()


def exif_tags(data: object) -> Mapping[int, Any]:
    """The tags of an EXIF block, its Exif IFD's among them; none of one that is broken."""
    exif = Image.Exif()
    try:
        with warnings.catch_warnings(action="ignore"):
            exif.load(data if isinstance(data, bytes) else b"")
            return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except EXIF_ERRORS:
        return {}


def exif_comment(image: Image.Image) -> str | None:
    """The EXIF UserComment of an image as text, in whichever encoding it says to have; None where there is none."""
    raw = exif_tags(image.info.get("exif")).get(ExifTags.Base.UserComment)
    if not isinstance(raw, bytes):
        return raw if isinstance(raw, str) else None
    code, body = raw[:8], raw[8:]
    if code != b"UNICODE\0":
        return (body if code in (b"ASCII\0\0\0", bytes(8)) else raw).decode("utf-8", "replace").rstrip("\0")
    little = body[1::2].count(0) > body[::2].count(
        0
    )  # some tools write it so, with or without a byte order mark
    return body.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\ufeff\0")


def xmp(kind: str, record: str = "") -> str:
    """An XMP packet that labels an image as made by AI (IPTC's DigitalSourceType); of an image, if it began as one.

    It can carry sdapp's own record, text without control characters, for formats that have no other place for it.
    """
    carried = (
        f'<sdapp:record xmlns:sdapp="urn:sdapp:">{html.escape(record, quote=False)}</sdapp:record>'
        if record
        else ""
    )
    source = "trainedAlgorithmicMedia" if kind == "txt2img" else "compositeWithTrainedAlgorithmicMedia"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
        f"http://cv.iptc.org/newscodes/digitalsourcetype/{source}"
        f'</Iptc4xmpExt:DigitalSourceType>{carried}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def record_in(packet: object) -> str | None:
    """The record that `xmp` put into a packet of bytes. No XML parser reads it: one could be told to expand entities."""
    found = (
        re.search(rb"<sdapp:record\b[^<>]*>([^<>]*)</sdapp:record>", packet)
        if isinstance(packet, bytes)
        else None
    )
    return html.unescape(found[1].decode("utf-8", "replace")) if found else None
