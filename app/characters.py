"""Classes of characters: those that separate words, that cannot be seen, and that control.

They are written as classes in regular expressions, with the same meaning in Python and in PostgreSQL, where migrations
have copies.
"""

import re

# White space, as in str.split(). Each run becomes one space.
WHITE_SPACE = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# The characters that Unicode calls default ignorable. A key has none of them. A name keeps those that change how its
# other characters look: joiners, and selectors of variants such as the color of an emoji.
INVISIBLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
JOINING = r"\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e0fff"
# Other characters that are drawn as nothing: the blank of Braille, the marks of annotations, and a head of a note.
_EMPTY = r"\u2800\ufff9-\ufffb\U0001d159"
UNSEEN = WHITE_SPACE + INVISIBLE + JOINING + _EMPTY
# Control characters and line breaks, and those that text of several lines does not contain either.
CONTROL = r"\u0001-\u001f\u007f-\u009f\u2028\u2029"
CONTROL_IN_LINES = r"\u0001-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f"

_seen = re.compile(f"[^{UNSEEN}]")
_ignorable = re.compile(f"[{INVISIBLE}{JOINING}]+")
_control, _control_in_lines = (re.compile(f"[{characters}]") for characters in (CONTROL, CONTROL_IN_LINES))


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen. Marks alone can: they are drawn on a placeholder."""
    return _seen.search(text) is None


def is_one_line(text: str) -> bool:
    """Whether a text contains neither control characters nor line breaks."""
    return text.isprintable() or _control.search(text) is None


def is_printable(text: str) -> bool:
    """Whether a text contains no other control characters than line breaks and tabs."""
    return text.isprintable() or _control_in_lines.search(text) is None


def words(text: str) -> list[str]:
    """The different words of a text, without ignorable characters. The longest come first, as the rarest."""
    return sorted(dict.fromkeys(_ignorable.sub("", text).split()), key=len, reverse=True)
