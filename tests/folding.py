"""How a search compares text, and what text can be seen: from Unicode's properties, without the tables of TaskQL."""

import unicodedata
from collections.abc import Iterable
from functools import cache

# The first words of the names of marks that form other words: scripts of India and South East Asia.
KEPT_SCRIPTS = frozenset(
    """
    DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR TAGALOG
    HANUNOO BUHID TAGBANWA KHMER LIMBU BUGINESE TAI BALINESE SUNDANESE BATAK LEPCHA SYLOTI SAURASHTRA KAYAH REJANG
    JAVANESE CHAM MEETEI KHAROSHTHI BRAHMI KAITHI CHAKMA MAHAJANI SHARADA KHOJKI KHUDAWADI GRANTHA NEWA TIRHUTA SIDDHAM
    MODI TAKRI AHOM DOGRA DIVES NANDINAGARI BHAIKSUKI MARCHEN MASARAM GUNJALA MAKASAR ZANABAZAR SOYOMBO
    """.split()  # noqa: SIM905 - one is easier to read
)
ACCENTS = ("DEVANAGARI STRESS SIGN", "DEVANAGARI GRAVE ACCENT", "DEVANAGARI ACUTE ACCENT", "BALINESE MUSICAL SYMBOL")
# Format characters that are drawn, or that annotate.
NO_IGNORABLE_FORMATS = ("ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN", "INTERLINEAR")
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2065\u3164\uffa0"
SINGLE_QUOTES = (
    "\u00b4\u0384\u1fbd\u1fbf\u1ffd\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u055a\u05f3\u2018\u2019\u201a\u201b\u2032"
    "\u2035\u2039\u203a\u275b\u275c\u275f\ua78b\ua78c"
)
DOUBLE_QUOTES = "″‶«»ʺ״“”„‟❝❞❠⹂〝〞〟"
MORE_DASHES = "\u2043\u2212"
SPELLED = dict(zip("øłđħŧıðæœþ", ["o", "l", "d", "h", "t", "i", "d", "ae", "oe", "th"], strict=True))
TATWEEL = "\u0640"
EMPTY = "\u2800\ufff9\ufffa\ufffb\U0001d159"


@cache
def is_ignorable(letter: str) -> bool:
    """Whether Unicode calls a character default ignorable."""
    name, code = unicodedata.name(letter, ""), ord(letter)
    return (
        letter in FILLERS
        or "VARIATION SELECTOR" in name
        or 0xE0000 <= code <= 0xE0FFF
        or 0xFFF0 <= code <= 0xFFF8
        or (unicodedata.category(letter) == "Cf" and not (name.startswith(NO_IGNORABLE_FORMATS) and letter != "\u061c"))
    )


@cache
def is_ignored_mark(letter: str) -> bool:
    """Whether a mark is an accent, a vowel point or another addition to a letter that a search ignores."""
    name = unicodedata.name(letter, "")
    if name == "COMBINING BINDU BELOW" or (name.split(" ")[0] in KEPT_SCRIPTS and not name.startswith(ACCENTS)):
        return False
    return unicodedata.combining(letter) != 0 or unicodedata.category(letter) == "Me" or letter == TATWEEL


@cache
def _folded(letter: str) -> str:
    """A decomposed character."""
    if is_ignored_mark(letter):
        return ""
    if letter in SINGLE_QUOTES:
        return "'"
    if letter in DOUBLE_QUOTES:
        return '"'
    if unicodedata.category(letter) == "Pd" or letter in MORE_DASHES:
        return "-"
    small = letter.casefold()
    return SPELLED.get(small, small)


@cache
def _decomposed(letter: str) -> str:
    if letter in SINGLE_QUOTES + DOUBLE_QUOTES:
        return "'" if letter in SINGLE_QUOTES else '"'
    parts = unicodedata.normalize("NFKD", letter)
    return "" if len(parts) > 1 and parts[0] == " " and not parts[1:].isspace() else parts


def folded(text: str) -> str:
    """What texts have in common that a search does not tell apart."""
    seen = (letter for letter in text if not is_ignorable(letter))
    parts = unicodedata.normalize("NFKD", "".join(map(_decomposed, seen)))
    return "".join(map(_folded, parts))


def words_of(text: str) -> list[str]:
    """The different words of a search."""
    return list(dict.fromkeys("".join(letter for letter in text if not is_ignorable(letter)).split()))


def is_found(text: str, searched: Iterable[str]) -> bool:
    """Whether each word of a search occurs in one of these texts. A blank search finds everything."""
    keys, texts = [folded(word) for word in words_of(text)], [folded(each) for each in searched]
    return all(key != "" and any(key in each for each in texts) for key in keys)


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return all(letter.isspace() or letter in EMPTY or is_ignorable(letter) for letter in text)


def is_line(text: str) -> bool:
    """Whether a text has no line breaks or control characters."""
    return all(unicodedata.category(letter) not in {"Cc", "Zl", "Zp"} for letter in text)


def has_controls(text: str) -> bool:
    """Whether a text has control characters besides tabs and line breaks."""
    return any(unicodedata.category(letter) == "Cc" and letter not in "\t\n\r\x85" for letter in text)
