"""Public data sets that `sage-ray data fetch NAME` knows: where each lies, and the contents that it must have.

A new set is one entry of `PUBLIC_SETS`. Archives that a forge packs of a commit are not the same bytes every day, so a
set is known by its data fingerprint, which is over its pictures alone, and not by a check sum of the archive.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from sage_ray.errors import UserError


@dataclass(frozen=True)
class PublicSet:
    """One public data set at one commit of a GitHub repository."""

    name: str
    title: str
    repository: str
    """OWNER/NAME on GitHub."""
    commit: str
    """40 hex digits."""
    folders: tuple[str, str]
    """The repository's folder of images and its folder of masks; only they, and the licence, are unpacked."""
    pairs: int
    fingerprint: str
    """Data fingerprint (16 hex digits) of the pairs, as `pairs.fingerprint` counts it."""
    licence: str
    citation: str
    limit_bytes: int
    """Most that the archive may take, packed or unpacked; the real size is well below it."""

    @property
    def url(self) -> str:
        """Address of a zip archive of the commit."""
        return f"https://codeload.github.com/{self.repository}/zip/{self.commit}"

    def source_note(self) -> str:
        """Text of the file that tells where the pictures come from."""
        folders = " and ".join(self.folders)
        return (
            f"# {self.title}\n\n"
            f"- source: https://github.com/{self.repository}, commit {self.commit}, folders {folders}\n"
            f"- contents: {self.pairs} pairs, data fingerprint {self.fingerprint}\n"
            f"- licence: {self.licence}\n"
            f"- please cite: {self.citation}\n"
        )


_SETS = (
    PublicSet(
        name="emps",
        title="EMPS: Electron Microscopy Particle Segmentation",
        repository="by256/emps",
        commit="dd8f86d714894fd08f3db80041893982ce058dd6",
        folders=("images", "segmaps"),
        pairs=465,
        fingerprint="62d5f68f299782be",
        licence="MIT",
        citation=(
            'B. Yildirim, J. M. Cole, "Bayesian Particle Instance Segmentation for Electron Microscopy Image '
            'Quantification", J. Chem. Inf. Model. 2021, doi:10.1021/acs.jcim.0c01455'
        ),
        limit_bytes=1 << 30,
    ),
)
PUBLIC_SETS: dict[str, PublicSet] = {entry.name: entry for entry in _SETS}


def public_set(name: str) -> PublicSet:
    """The public set of a name.

    Raises:
        UserError: no set has this name; the message says which it may have been.
    """
    found = PUBLIC_SETS.get(name)
    if found is None:
        near = difflib.get_close_matches(name.lower(), PUBLIC_SETS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PUBLIC_SETS)}"
        mend = f"{hint} (another archive: its http:// or https:// address, with --sha256)"
        raise UserError("no public data set of this name", name, mend)
    return found
