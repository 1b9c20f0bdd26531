"""The steps of the participant level on images, in this process: for tests of many small recordings."""

import pytest
from group.parts import _no_page

from bids_fmmtc.cli import parse
from bids_fmmtc.dataset.derivatives.describe import prepare_dataset
from bids_fmmtc.dataset.store import Layout
from bids_fmmtc.participant import process_subject
from bids_fmmtc.plan import resolve
from bids_fmmtc.run import discover, make_tasks


def make_features(root, *more, output="out", recipe="recipe.json"):
    """Make the features of ``fmriprep`` with atlas, recipe and weights below ``root``, without pages."""
    words = [root / "fmriprep", root / output, "participant", "--atlas", root / "atlas-Demo", "--device", "cpu"]
    words += ["--recipe", root / recipe, "--encoder-weights", root / "weights"]
    settings = parse([*map(str, words), *more], {})
    plan = resolve(settings)
    selection, links = discover(settings, plan.recipe, plan.atlas.space, plan.transform)
    prepare_dataset(Layout(settings.output_dir, plan.atlas.name), plan.recipe, plan.atlas, links)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bids_fmmtc.participant.draw_participant", _no_page)  # a second each, and tested elsewhere
        for task in make_tasks(settings, plan, selection, links):
            process_subject(task, lambda report: None)
    return settings.output_dir
