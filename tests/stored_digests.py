"""Recipes and the digests that the program gave them when this list was made; none of them may ever change."""

from bids_fmmtc.recipe import (
    AtlasSpec,
    Connectivity,
    Denoising,
    ModalitySpec,
    Recipe,
    SpaceSpec,
    Windows,
)
from bids_fmmtc.recipes import TABLE

SHA = "5" * 64
RECIPES = {
    **{name: entry.recipe for name, entry in TABLE.items()},
    "default": Recipe(),
    "an atlas that was read": Recipe(atlas=AtlasSpec("Schaefer200", SHA, 200), modalities=(ModalitySpec("fc", SHA),)),
    "whole numbers for others": Recipe(target_repetition_time=2, least_coverage=1, denoising=Denoising(high_pass=1)),
    "minus nought": Recipe(least_coverage=-0.0, most_lost=-0.0),
    "a third": Recipe(least_coverage=1 / 3, denoising=Denoising("scrubbing", "power2", 0.008, 1 / 9, fd_threshold=0.1)),
    "large and small": Recipe(target_repetition_time=1e300, denoising=Denoising(high_pass=5e-324, low_pass=1e22)),
    "all frames": Recipe(connectivity=Connectivity("tangent", fisher_z=False, frames="all")),
    "windows, spelled out": Recipe(connectivity=Connectivity("gram", frames="windows"), scaling="none"),
    "words of other people": Recipe(atlas=AtlasSpec('Ä "ß" \u2028 \U0001f9e0 \\ /'), space=SpaceSpec("affine", "auto")),
    "options of every kind": Recipe(
        modalities=(
            ModalitySpec("x", None, {"b": [1, 1.0, True, None, -0.0, "é", {}], "a": {"z": [], "2": {"1": 1e-7}}}),
            ModalitySpec("fc", options={"": 10**20, "null": None}),
        )
    ),
    "tuples in options": Recipe(modalities=(ModalitySpec("x", options={"order": (3, (1, 2)), "n": 0.1}),)),
    "short windows": Recipe(windows=Windows(2, 1, "reflect", 2), scaling="median_iqr"),
    "a template of TemplateFlow": Recipe(
        space=SpaceSpec("fail", "templateflow"),
        denoising=Denoising(
            "compcor",
            None,
            None,
            0.1,
            detrend=False,
            drop_non_steady_state=False,
            require_confounds=False,
            std_dvars_threshold=2,
            least_segment=1,
        ),
    ),
}

DIGESTS = {
    "fmm_tc": "f10394e05ab3eab674275a8c25a4c3f3f3f026af02e45ff1bcca709c89ff233d",
    "fmm_vc": "55ee9879bd585879f0d3b52c24cc1c6e3e9664a8dedc80e58df82709f9c7ffb0",
    "fmm_tvc": "a91f9399dda17cc54515a60b1dfb2fd9772af7c59461f95a8b6728c808fdc006",
    "fmm_tc_denoised": "c63ab732d1843be7ff204a769e707af2ca469fae50824b4a6350ebaf4c5aaba4",
    "default": "70eaffb907a70e75cd36f5890ead51eb458e46537ac4f5916ef22000904862a2",
    "an atlas that was read": "223171e3bd24f30e165d6db63de447d3029ad17d6a8e7ca8304910a3cfe3fbfc",
    "whole numbers for others": "9f9e8e593e819581f98c6faed17d7a9696bd9347593d6e47065382e9c0308b80",
    "minus nought": "83fc7b3740d3efc2484ee1176ff90ad3d9c0c70d5560664a84c99e66e847fbca",
    "a third": "57c38f1568334ea194935b5d2cab943c7793f2ef28614b47ce4afd854067de6b",
    "large and small": "ea7db64e3bd763dd2488a019166f26b9836fd89e2ee36fc14e3284fb0f8a6520",
    "all frames": "74f1d37b665aca1eaa50f28b9003dd05be90380b8d39133d23e95c8ab7e6f91f",
    "windows, spelled out": "8eb669bc8bb596c461c02b096981d50e2c310ec7a1f6e37f0cea24292683786b",
    "words of other people": "3a594a3cca0b2e971b8c9ddf77a2542d67e47d3ef35b4a8ee0d40e70d39d514d",
    "options of every kind": "5d300fe921b2157b47f039d2368b9cbf2544b577a0d358d23cc064fdc1bda8c7",
    "tuples in options": "70be308db0933a361241fb338ff19c73f558df6347144c1310a87a150e7d0c42",
    "short windows": "6b9c12511fd466138966c2c69d06677f4b4dbe58b9afc206a6a66dd2d322cddb",
    "a template of TemplateFlow": "502c992725bad15fb8c17d5334db948fd71c583c1a508dd1591400f5de5c7a3e",
}
