"""Public data sets that `sage-ray data fetch NAME` knows: where each lies, and the contents that it must have.

A new set is one entry of `PUBLIC_SETS`. Archives that a forge packs of a commit are not the same bytes every day, so a
set is known by its data fingerprint, which is over its pictures alone, and not by a check sum of the archive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sage_ray.errors import UserError, did_you_mean


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
    stems: frozenset[str] | None = None
    """The pictures that make a part of a published set, by file name without ending; None for all."""

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


# The first 140 names, in sorted order, of the published training split.
_EMPS_140 = """
00655d9628 0113230c21 0144266d21 01ac659240 027f25010a 0289bd97e6 032bd4a6b1 03a1d18cc6 03cd0b2741 065d8e352c
06f605c0b1 07330c8ea1 08549eb98f 0a30487a4e 0a55e7c93f 0ca41ed5b8 0e41d62d5d 0fa38de2c7 10d85f70bd 1206963ed7
15a3ba1c51 1700be1235 1736c60650 173c98ef82 19b0afdf81 1a29c5b84f 1b3c6536a3 1b935635dd 1bed563906 1bf56ce626
1cb46bfdd5 1d67fb3321 1e011bd992 1e0f5d817e 1ecd5c901c 1ff313314c 207bb15702 21308b3614 2242820128 226dc58f03
22c776b059 23d581d8a9 245e1a4826 2556313831 25af264996 26e5f24689 2807b90ea9 2897b777fe 28d7e31165 291898b7c6
296a52bf09 2b9ccd5679 2bc87a8698 2bf4aa0195 2c6c108b4d 2d1a6c5ce4 2daa27a6df 2dadb1ced1 2e4a3ab627 2e5dab1969
2ee0518d7a 3027f9ffe7 30da4fa249 31a727b95d 31f17306c8 33f8a59619 3430b20071 34864e691e 3537f150cd 3692286ecf
36de69b2c0 37ce835fb2 398ae34c19 39dda96b25 39e18a8f4c 3a0a2f5edf 3a8af6d3f4 3a9246e0ee 3ac1920a79 3bbd05202e
404b0836f1 406975041a 406d70e411 410284d28b 41ac55ed12 41bb4d19a4 41c25dca24 42750053e0 427ebc9e15 434e287439
43875c5b20 43be4d0a2c 441414704c 453123a947 4545280c2b 4628753cd8 47286679c2 478a6c42ec 482193653a 4822787326
48f3a148f6 4b07dbd803 4cd9e65aae 4ec7671d11 50a4901372 513158cf83 51f82fcb93 535134e785 544b32e4cd 55511ff512
555eb05b4c 5568be0f4c 5737e0c2c7 5842aa1a32 586dc6cc59 5898a2ac02 58e8237dab 59424b060a 5a6c23682b 5addfe7111
5c1cd79e2e 5c244a9ea8 5c418c2eb0 5d72761807 5e22377208 5eb66b74ea 5fc8c5b53c 60feb7de8f 611b9564a4 6169a602a0
62223ab32f 62594342ac 62a54f335d 62e729e838 6360a823da 636334b3f1 63df66fb4d 6643f01cf4 66a6ddb34e 671b7c8831
"""
_EMPS = PublicSet(
    name="emps",
    title="EMPS (Electron Microscopy Particle Segmentation)",
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
)
_SETS = (
    _EMPS,
    # The part on which docs/results/ was measured: as many pairs as the paper's set has.
    replace(
        _EMPS,
        name="emps-140",
        title=f"{_EMPS.title}, the 140 pairs of docs/results",
        pairs=140,
        fingerprint="371c403c839736f4",
        stems=frozenset(_EMPS_140.split()),
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
        hint = did_you_mean(name.lower(), PUBLIC_SETS, f"known are {', '.join(PUBLIC_SETS)}", least=0.5)
        mend = f"{hint} (another archive: its http:// or https:// address, with --sha256)"
        raise UserError("no public data set of this name", name, mend)
    return found
