"""Files of features -> whether they may be mixed, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.store.features import describe_features
from wsi_pipeline.store.passport import Difference, compare_passports


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether files of features may be mixed.

    Attributes
    ----------
    files : int
        How many there are.
    encoder : str
        Encoder of most of them; empty if none has a passport.
    differences : tuple of Difference
        What differs.
    unknown : tuple of str
        Files without a passport, of which nothing can be said.
    """

    files: int
    encoder: str
    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]

    @property
    def may_mix(self) -> bool:
        """Whether nothing forbids it, and all files say how they were made."""
        return not self.unknown and not any(d.forbids for d in self.differences)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "may_mix": self.may_mix,
            "files": self.files,
            "encoder": self.encoder,
            "forbids": [str(d) for d in self.differences if d.forbids],
            "rounding": [str(d) for d in self.differences if not d.forbids],
            "unknown": list(self.unknown),
        }

    def __str__(self) -> str:
        lines = [f"{self.files} files of encoder {self.encoder or '(unknown)'}"]
        lines += [f"differ in {d}" for d in self.differences if d.forbids]
        lines += [f"differ by rounding in {d}" for d in self.differences if not d.forbids]
        if self.unknown:
            shown = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            lines.append(f"{len(self.unknown)} files have no passport: {shown}")
        lines.append("they may be mixed" if self.may_mix else "they may NOT be mixed")
        return "\n".join(lines)


def verify_features(files: Mapping[str, Path]) -> Verdict:
    """Compare the passports of files of features.

    Parameters
    ----------
    files : mapping of str to Path
        Files by a name for messages.

    Returns
    -------
    Verdict
        What differs.

    Raises
    ------
    FeaturesError
        If a file is damaged.
    """
    passports = {name: describe_features(path).passport for name, path in files.items()}
    known = {name: passport for name, passport in passports.items() if passport is not None}
    usual = Counter(passport.encoder for passport in known.values()).most_common(1)
    return Verdict(
        files=len(files),
        encoder=usual[0][0] if usual else "",
        differences=tuple(compare_passports(known)),
        unknown=tuple(name for name in passports if name not in known),
    )
