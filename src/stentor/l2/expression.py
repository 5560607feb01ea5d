"""Go's regular expressions (RE2 syntax), as policies write interface names, for Python's engine.

What both engines read alike passes through; what Python spells differently is translated; what Go does not have (look-around,
back references, possessive quantifiers), and what Python has no equal for, is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NoReturn

_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_GROUP: Final = re.compile(r"\(\?(?:P?<(?P<name>[A-Za-z_]\w*)>|[ims]*(?:-[ims]+)?:|[ims]+\))")
_REPEAT: Final = re.compile(r"\{\d+(?:,\d*)?\}|[*+?]")
_HEX: Final = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")
_QUOTED: Final = re.compile(r"\\Q(.*?)(?:\\E|$)", re.DOTALL)
_SAME: Final = frozenset("afnrtvdDsSwW")
_ASSERTIONS: Final = {"A": r"\A", "b": r"\b", "B": r"\B", "z": r"\Z"}


@lru_cache(maxsize=256)
def compile_expression(text: str) -> re.Pattern[str]:
    """A pattern for `search`: like Go's, it matches anywhere unless it says otherwise. ValueError says what is wrong."""
    translated = _Translator(text).translate()
    try:
        return re.compile(translated, re.ASCII)
    except (re.error, OverflowError, RecursionError) as e:
        raise ValueError(f"{text!r}: {e}") from e


class _Translator:
    """One pass over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._out: list[str] = []

    def translate(self) -> str:
        while self._at < len(self._text):
            rest = self._text[self._at]
            if rest == "\\":
                self._escape(in_class=False)
            elif rest == "[":
                self._bracket()
            elif rest == "(":
                self._group()
            elif match := _REPEAT.match(self._text, self._at):
                self._repeat(match.group())
            else:
                self._put(re.escape(rest) if rest in "{}" else rest, 1)
        return "".join(self._out)

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"{self._text!r}: {why} at position {self._at}")

    def _put(self, translated: str, length: int) -> None:
        self._out.append(translated)
        self._at += length

    def _group(self) -> None:
        if not self._text.startswith("(?", self._at):
            self._put("(", 1)
            return
        match = _GROUP.match(self._text, self._at)
        if match is None:
            self._refuse("a group that Go or this version does not know")
        name = match.group("name")
        self._put(f"(?P<{name}>" if name else match.group(), len(match.group()))

    def _repeat(self, found: str) -> None:
        self._put(found, len(found))
        if self._text.startswith("?", self._at):
            self._put("?", 1)
        if _REPEAT.match(self._text, self._at):
            self._refuse("a repetition of a repetition")

    def _escape(self, *, in_class: bool) -> None:
        if not in_class and (quoted := _QUOTED.match(self._text, self._at)):
            self._put(re.escape(quoted.group(1)), len(quoted.group()))
            return
        if number := _HEX.match(self._text, self._at):
            code = int(number.group(1) or number.group(2), 16)
            if code > 0x10FFFF:
                self._refuse("no such character")
            self._put(re.escape(chr(code)), len(number.group()))
            return
        what = self._text[self._at + 1 : self._at + 2]
        if what in _SAME and what:
            self._put(f"\\{what}", 2)
        elif what in _ASSERTIONS and not in_class:
            self._put(_ASSERTIONS[what], 2)
        elif what and what.isascii() and not what.isalnum():
            self._put(re.escape(what), 2)
        else:
            self._refuse(f"\\{what} is not supported")

    def _bracket(self) -> None:
        start = "[^" if self._text.startswith("[^", self._at) else "["
        self._put(start, len(start))
        is_first = True
        while is_first or not self._text.startswith("]", self._at):
            if self._at >= len(self._text):
                self._refuse("a [ without its ]")
            if self._text[self._at] == "\\":
                self._escape(in_class=True)
            elif self._text.startswith("[:", self._at):
                self._posix()
            else:
                char = self._text[self._at]
                self._put(char if char in "-^" or char.isalnum() else re.escape(char), 1)
            is_first = False
        self._put("]", 1)

    def _posix(self) -> None:
        end = self._text.find(":]", self._at)
        name = self._text[self._at + 2 : end] if end > 0 else ""
        if name not in _POSIX:
            self._refuse("an unknown class of characters")
        self._put(_POSIX[name], end + 2 - self._at)
