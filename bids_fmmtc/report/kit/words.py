"""What flags and kinds of failure mean, in words for people who did not write the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bids_fmmtc.modalities import about
from bids_fmmtc.quality import ABOUT

FLAG_WORDS: Mapping[str, str] = {
    "high_motion": "The head moved a great deal (mean framewise displacement above 0.5 mm).",
    "motion_unknown": "How much the head moved is not known.",
    "few_minutes": "Less than five minutes are left to use; connectivity of one person is unreliable then.",
    "parcels_lost": "More than 5 % of parcels hold no signal.",
    "low_coverage": "More than 5 % of parcels lie half or more outside the field of view or the brain mask.",
    "no_brain_mask": "There was no brain mask: voxels outside the brain may have been averaged.",
    "space_affine": "Labels were placed as if two different templates were one: some millimetres off.",
    "padded": "The recording was shorter than a window and was extended by reflection.",
    "repetition_time_disagrees": "Sidecar and header disagree on the repetition time; the sidecar was believed.",
    "repetition_time_from_header": "No sidecar tells the repetition time; the image's header was believed.",
    "single_echo": "The image is of a single echo; those of several echoes combined are less noisy.",
    "places_disagree": "The image's header says in two ways where it lies (sform, qform), and they differ.",
    "mask_thresholded": "The brain mask held shares of voxels; those of at least one half counted as brain.",
    "imported_series": "Parcel series were imported; how they were made is not known here.",
    "frames_removed": "Frames were taken out before import: neighbours in the series were none in the scanner.",
    "names_differ": "Columns were matched to parcels by position, though their names differ.",
    "recipe_differs": "The recording was brought to the atlas otherwise than those the model learnt from.",
    "features_failed_since": "The features could not be made again since; the number is of earlier ones.",
    "features_changed_since": "The features were made anew since; the number is of earlier ones.",
    "demo_model": "The model is a demonstration; its number means nothing.",
}
REFERENCE_WORDS: Mapping[str, str] = {name: said.words for name, said in ABOUT.items() if said.words}
PREFIX_WORDS: Mapping[str, str] = {
    "outside_reference": "Outside what the model saw in training: {}. The probability is not to be relied on.",
    "unknown": "Not known for this recording, so it cannot be compared with training: {}.",
    "run_failed": "A run of this session failed and is not in the number: {}.",
}


_EMBEDDING = "embedding_"


def is_embedding(name: str) -> bool:
    """Tell whether what a model compares with its training is a modality's vector, by its distance."""
    return name.startswith(_EMBEDDING)


def reference_words(name: str) -> str:
    """Return what a model compares with its training, in words: a number of the recording, or a modality's vector."""
    if is_embedding(name):
        return about(name.removeprefix(_EMBEDDING)).embedding
    return REFERENCE_WORDS.get(name, name.replace("_", " "))


def flag_words(flag: str) -> str:
    """Return a flag as a sentence; one without words is named as it is."""
    prefix, _, rest = flag.partition(":")
    if prefix in PREFIX_WORDS and rest:
        word = rest if prefix == "run_failed" else reference_words(rest)
        return PREFIX_WORDS[prefix].format(word)
    return FLAG_WORDS.get(flag, f"Flag {flag}.")


def serious(flag: str) -> bool:
    """Tell whether a flag takes the ground from under the probability, not only calls for care."""
    return flag.startswith(("outside_reference:", "demo_model"))


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names as a list in words, cut after ``most``."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + (names[-1] if names else "")


def left_out_words(names: Sequence[str]) -> str:
    """Say that encoders have no features for want of their weights, and how these are added."""
    return (
        f"No weights of {listed(names)} were on the machine: the features hold connectivity only. The same command "
        "with the weights (--encoder-weights DIR) adds the others to this folder and computes nothing again."
    )
