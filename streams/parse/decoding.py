"""Bytes into text, whatever their encoding: as it is declared, as a byte order mark says, UTF-8, or what charset_normalizer takes it for."""

from __future__ import annotations

import codecs
import re
from email.message import Message

from ftfy import fix_text

from runtime.errors import InvalidInput

MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
META = re.compile(rb"<meta[^>]{0,200}\bcharset\s*=\s*[\"']?\s*([\w:.-]+)|<\?xml[^>]{0,100}\bencoding\s*=\s*[\"']([\w:.-]+)", re.IGNORECASE)
"""Where an HTML page or an XML file names its encoding (HTML Standard, 13.2.3.2)."""
DECLARED_WITHIN, SAMPLE = 4096, 64 << 10
SPARSE = 0.05
"""A smaller share of bytes beyond ASCII tells Latin letters alone apart."""
LATIN = ["cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "mac_roman", "cp850"]
KNOWN = ["cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1251", "koi8_r", "cp866", "iso8859_5", "cp1253", "cp1255", "cp1256", "cp874", *LATIN]
"""Encodings that documents come in; with all that Python knows, rare ones win by chance."""
WESTERN = ("cp1252", "mac_roman", "cp850")
BY_LANGUAGE = {**dict.fromkeys(("bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl", "sq"), ("cp1250", "iso8859_2")), "tr": ("cp1254",), **dict.fromkeys(("et", "lt", "lv"), ("cp1257",))}
"""Of Latin letters, what a language is written in; others in `WESTERN`. Its plain letters tell the language (ISO 639-1)."""
DAMAGED = 0.1
"""With a smaller share of wrong ones among its characters beyond ASCII, a text is UTF-8 that was cut or mixed."""
ISO_2022_JP = b"\x1b$"
MOSTLY = 0.4
"""The share of zeros that makes UTF-16 of it."""


def decode(data: bytes, *, declares: bool = False) -> str:
    """The text of `data`, with broken Unicode repaired; `declares` where a page may name its own encoding.

    Raises:
        InvalidInput: binary data.
    """
    return fix_text(_decoded(data, declares=declares))


def to_utf8(media_type: str, data: bytes) -> bytes:
    """`data` in UTF-8 where its media type names another charset, else as it is.

    Raises:
        InvalidInput: a charset that nobody knows, or bytes that are not in it.
    """
    header = Message()
    header["content-type"] = media_type
    charset = str(header.get_content_charset("utf-8"))
    try:
        return data if codecs.lookup(charset).name in ("utf-8", "ascii") else data.decode(charset).encode()
    except LookupError as error:
        raise InvalidInput(f"the media type names an unknown charset, {charset}") from error
    except UnicodeError as error:
        raise InvalidInput(f"the media type says {charset}, and the document is not in it: {error}") from error


def _decoded(data: bytes, *, declares: bool) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if wide := _wide(data[:DECLARED_WITHIN]):
        return data.decode(wide, "replace")
    if b"\0" in data[:DECLARED_WITHIN]:
        raise InvalidInput("binary data where text was promised: check the media type")
    named = META.search(data[:DECLARED_WITHIN]) if declares else None
    declared = [(named[1] or named[2]).decode()] if named else []
    for likely in ("iso2022_jp" if ISO_2022_JP in data else "utf-8", *declared):
        try:
            return data.decode(likely)
        except (UnicodeError, LookupError):
            continue
    damaged = data.decode("utf-8", "replace")
    if damaged.count("\ufffd") < DAMAGED * sum(not c.isascii() for c in damaged):
        return damaged
    return data.decode(_told(data), "replace")


def _wide(start: bytes) -> str | None:
    """UTF-16 without a mark, by its zeros: every second byte of Latin text is one, and none of the others."""
    half = max(1, len(start) // 2)
    for zeros, others, encoding in ((start[1::2], start[::2], "utf-16-le"), (start[::2], start[1::2], "utf-16-be")):
        if zeros.count(0) >= MOSTLY * half and not others.count(0):
            return encoding
    return None


def _told(data: bytes) -> str:
    """The likeliest encoding of bytes that are no UTF-8, told by the lines that say something beyond ASCII."""
    import py3langid
    from charset_normalizer import from_bytes

    sample = b"\n".join(line for line in data.splitlines() if not line.isascii())[:SAMPLE]
    sparse = sum(byte > 127 for byte in sample) < SPARSE * len(sample)
    best = from_bytes(sample, cp_isolation=LATIN if sparse else KNOWN).best()
    if best and best.encoding not in LATIN:
        return best.encoding
    written = BY_LANGUAGE.get(py3langid.classify(sample.decode("ascii", "ignore"))[0], WESTERN)
    return best.encoding if best and best.encoding in written else written[0]
