"""Text in whatever encoding: declared, marked, or told by its letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidInput
from streams.parse import parse
from streams.parse.decoding import decode

TEXTS = {
    "ja": "ハブを再起動するには、電源ボタンを十秒間押し続けてください。ランプが青く点滅したら、アプリを開いて機器を追加します。",
    "zh": "要重启集线器，请按住电源按钮十秒钟。指示灯闪烁蓝色后，打开应用程序并添加设备。墙壁较厚时，无线电的覆盖范围会缩短。",
    "zh-tw": "要重新啟動集線器，請按住電源按鈕十秒鐘。指示燈閃爍藍色後，開啟應用程式並新增裝置。",
    "ko": "허브를 다시 시작하려면 전원 버튼을 십 초 동안 누르고 있으십시오. 표시등이 파란색으로 깜박이면 앱을 열고 장치를 추가합니다.",
    "ru": "Чтобы перезапустить концентратор, удерживайте кнопку питания десять секунд. Когда индикатор замигает синим, откройте приложение.",
    "el": "Για να επανεκκινήσετε τον κόμβο, κρατήστε πατημένο το κουμπί για δέκα δευτερόλεπτα. Όταν η λυχνία αναβοσβήνει, ανοίξτε την εφαρμογή.",
    "de": "Halten Sie die Taste zehn Sekunden lang gedrückt. Für dicke Wände gilt: Die Reichweite wird kürzer.",
    "fr": "Maintenez le bouton enfoncé pendant dix secondes. Lorsque le voyant clignote en bleu, ouvrez l'application et ajoutez l'appareil à côté.",
    "pl": "Aby ponownie uruchomić koncentrator, przytrzymaj przycisk zasilania przez dziesięć sekund. Gdy lampka zacznie migać, otwórz aplikację i dodaj urządzenie.",
    "he": "כדי להפעיל מחדש את הרכזת, החזיקו את לחצן ההפעלה במשך עשר שניות. כאשר הנורית מהבהבת בכחול, פתחו את היישום.",
    "ar": "لإعادة تشغيل الموزع، اضغط على زر الطاقة لمدة عشر ثوان. عندما يومض الضوء باللون الأزرق، افتح التطبيق وأضف الجهاز.",
    "th": "หากต้องการรีสตาร์ทฮับ ให้กดปุ่มเปิดปิดค้างไว้สิบวินาที เมื่อไฟกะพริบเป็นสีน้ำเงิน ให้เปิดแอปและเพิ่มอุปกรณ์",
    "en": "The hub pairs with sixty devices at most. Concrete walls shorten the radio range. It costs £5 at the café – that’s “all”.",
}
ENCODINGS = [
    *((language, "utf-8") for language in TEXTS), *((language, "utf-16") for language in TEXTS), ("ja", "utf-32"), ("ru", "utf-8-sig"), ("en", "utf-16-le"), ("fr", "utf-16-be"),
    ("ja", "cp932"), ("ja", "euc_jp"), ("ja", "iso2022_jp"), ("zh", "gb18030"), ("zh-tw", "big5"), ("ko", "cp949"), ("ru", "cp1251"), ("ru", "koi8_r"), ("ru", "cp866"), ("ru", "iso8859_5"),
    ("el", "cp1253"), ("de", "cp1252"), ("fr", "cp1252"), ("pl", "cp1250"), ("pl", "iso8859_2"), ("he", "cp1255"), ("ar", "cp1256"), ("th", "cp874"), ("en", "cp1252"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def detector() -> None:
    """What tells encodings and languages is loaded when it is first needed: not within the time of an example."""
    decode(b"\xeb")


@pytest.mark.parametrize(("language", "encoding"), ENCODINGS)
def test_the_text_is_read_as_it_was_written(language: str, encoding: str) -> None:
    data = TEXTS[language].encode(encoding)
    assert decode(data) == decode(data.decode(encoding).encode())
    long = "\n".join(["Only plain words in this line."] * 500 + [TEXTS[language]]).encode(encoding)
    assert decode(long).endswith(decode(TEXTS[language].encode()))


def test_what_a_media_type_or_a_page_declares_is_believed() -> None:
    said = TEXTS["ru"]
    (block,) = parse("text/plain; charset=KOI8-R", said[:20].encode("koi8_r"))  # too little to be told by
    assert block.text == said[:20].strip()
    page = f'<html><head><meta charset="windows-1251"></head><body><p>{said[:20]}</p></body></html>'
    assert said[:20].strip() in [b.text for b in parse("text/html", page.encode("cp1251"))]
    with pytest.raises(InvalidInput, match="unknown charset, nonsense"):
        parse("text/plain; charset=nonsense", b"x")
    with pytest.raises(InvalidInput, match="says euc_kr, and the document is not in it"):
        parse("text/plain; charset=EUC_KR", b"\xff\xff")


def test_a_few_wrong_bytes_do_not_change_the_encoding() -> None:
    data = TEXTS["ru"].encode() * 3 + b"\xff" + TEXTS["ru"].encode()[:-1]
    assert decode(data).startswith(TEXTS["ru"])


@given(st.binary(max_size=300).filter(lambda data: b"\0" not in data))
def test_any_bytes_without_zeros_are_text(data: bytes) -> None:
    assert isinstance(decode(data), str)


@given(st.text(max_size=300).filter(lambda text: "\0" not in text and "\x1b" not in text))
def test_utf8_is_never_taken_for_another(text: str) -> None:
    assert decode(text.encode(errors="replace")) == decode(text.encode(errors="replace").decode().encode("utf-8-sig"))
