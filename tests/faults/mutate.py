"""The bytes of a sound file -> those of a damaged or malicious one, drawn from a generator."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Draws = np.random.Generator
Mutator = Callable[[bytes, Draws], bytes]

HEAD_BYTES = 1024
"""Where headers lie, in which half of the changes are made."""

EXTREMES = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)

NUMBERS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1", b"0", b"1e-300", b"1e300", b"9" * 400,
    b"null", b'"5"', b"true", b"[]", b"{}", b"inf", b"nan", b"0,5", b"2147483648", b"-0.0",
)  # fmt: skip

WORDS = (
    b"", b"NA", b"../../x", b"/etc/passwd", b"\\u0000", b"a$_$b", b"<script>alert(1)</script>",
    b"[/bold]", b"=cmd()", b"\xff\xfe", b"\x1b[2J", b"\xe2\x80\xae", b"x" * 20_000, b"\\ud800",
)  # fmt: skip


def _place(content: bytes | bytearray, draws: Draws) -> int:
    end = min(len(content), HEAD_BYTES) if draws.random() < 0.5 else len(content)
    return int(draws.integers(max(1, end)))


def flip_bit(content: bytes, draws: Draws) -> bytes:
    """Flip one bit."""
    changed = bytearray(content or b"\0")
    changed[_place(changed, draws)] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def set_bytes(content: bytes, draws: Draws) -> bytes:
    """Overwrite some bytes by random ones."""
    at, count = _place(content, draws), int(draws.integers(1, 64))
    return content[:at] + draws.bytes(count) + content[at + count :]


def set_number(content: bytes, draws: Draws) -> bytes:
    """Overwrite an aligned number of a binary header by an extreme one."""
    width = int(draws.choice([2, 4, 8]))
    at = _place(content, draws) // 2 * 2
    extreme = EXTREMES[int(draws.integers(len(EXTREMES)))] & ((1 << 8 * width) - 1)
    number = extreme.to_bytes(width, "little" if draws.random() < 0.8 else "big")
    return content[:at] + number + content[at + width :]


def cut_off(content: bytes, draws: Draws) -> bytes:
    """Cut the end off, as a copy that broke off does."""
    return content[: int(draws.integers(len(content) + 1))]


def cut_out(content: bytes, draws: Draws) -> bytes:
    """Take a piece out of the middle."""
    at = _place(content, draws)
    return content[:at] + content[at + int(draws.integers(1, 512)) :]


def put_in(content: bytes, draws: Draws) -> bytes:
    """Put random bytes in between."""
    at = _place(content, draws)
    return content[:at] + draws.bytes(int(draws.integers(1, 512))) + content[at:]


def repeat(content: bytes, draws: Draws) -> bytes:
    """Repeat a piece."""
    at, count = _place(content, draws), int(draws.integers(1, 2048))
    return content[: at + count] + content[at:]


def blank(content: bytes, draws: Draws) -> bytes:
    """Zero a piece, as a disk that was full or a sparse copy leaves it."""
    at, count = _place(content, draws), int(draws.integers(1, 4096))
    count = len(content[at : at + count])
    return content[:at] + bytes(count) + content[at + count :]


def _replace_match(pattern: bytes, content: bytes, draws: Draws, by: Callable[[], bytes]) -> bytes:
    found = list(re.finditer(pattern, content))
    if not found:
        return flip_bit(content, draws)
    match = found[int(draws.integers(len(found)))]
    return content[: match.start()] + by() + content[match.end() :]


def odd_number(content: bytes, draws: Draws) -> bytes:
    """Put an extreme in the place of a number of a text."""
    return _replace_match(
        rb"-?\d+(\.\d+)?([eE][-+]?\d+)?",
        content,
        draws,
        lambda: NUMBERS[int(draws.integers(len(NUMBERS)))],
    )


def odd_word(content: bytes, draws: Draws) -> bytes:
    """Put something malicious in the place of a word of a text."""
    return _replace_match(
        rb"[A-Za-z_][A-Za-z_.]*", content, draws, lambda: WORDS[int(draws.integers(len(WORDS)))]
    )


def odd_line(content: bytes, draws: Draws) -> bytes:
    """Drop, repeat or swap lines."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return b"\n"
    one, other = draws.integers(len(lines), size=2)
    how = draws.integers(3)
    if how == 0:
        del lines[one]
    elif how == 1:
        lines.insert(other, lines[one])
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def odd_sign(content: bytes, draws: Draws) -> bytes:
    """Drop, repeat or change a sign of a text's grammar."""
    return _replace_match(
        rb"[\[\]{}<>\"',;:=/&\n]",
        content,
        draws,
        lambda: [b"", b"[", b"}}", b"<", b'"', b",,", b";", b"\t", b"\0"][int(draws.integers(9))],
    )


def nest(content: bytes, draws: Draws) -> bytes:
    """Put a deep nest of brackets in."""
    at, depth = _place(content, draws), int(draws.choice([100, 2_000, 60_000]))
    opening, closing = [(b"[", b"]"), (b"{", b"}"), (b"<a>", b"</a>"), (b'{"a":', b"}")][
        int(draws.integers(4))
    ]
    return content[:at] + opening * depth + closing * depth + content[at:]


BINARY: tuple[Mutator, ...] = (
    flip_bit, set_bytes, set_number, set_number, cut_off, cut_out, put_in, repeat, blank,
)  # fmt: skip
"""For formats of bytes; numbers of headers count twice."""

TEXT: tuple[Mutator, ...] = (
    flip_bit, set_bytes, cut_off, cut_out, repeat, odd_number, odd_number, odd_number, odd_word,
    odd_word, odd_line, odd_sign, odd_sign, nest,
)  # fmt: skip
"""For formats of words and numbers."""


def mutate(content: bytes, mutators: tuple[Mutator, ...], draws: Draws) -> bytes:
    """Change a file once, or a few times."""
    for _ in range(int(draws.choice([1, 1, 1, 2, 4]))):
        content = mutators[int(draws.integers(len(mutators)))](content, draws)
    return content
