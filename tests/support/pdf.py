"""PDFs with a text layer, written by hand (ISO 32000-1, 7.5)."""

from __future__ import annotations

from collections.abc import Sequence


def pdf_of(pages: Sequence[str]) -> bytes:
    """A PDF of one line of Helvetica a page."""
    return pdf_drawn([words(72, 700, text) for text in pages])


def words(x: float, y: float, text: str, size: float = 12) -> str:
    """The operators that write a line of Helvetica."""
    return f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET"


def filled(left: float, bottom: float, width: float, height: float) -> str:
    """The operators that fill a box with grey."""
    return f"0.8 g {left} {bottom} {width} {height} re f 0 g"


def pdf_drawn(pages: Sequence[str]) -> bytes:
    """A PDF of pages of operators (ISO 32000-1, annex A), with Helvetica as F1."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for i, drawn in enumerate(pages):
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>")
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    data, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    return (data + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n").encode()
