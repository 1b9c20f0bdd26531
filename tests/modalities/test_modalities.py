from __future__ import annotations

import subprocess
import sys

import pytest

from bids_fmmtc.errors import RecipeError
from bids_fmmtc.modalities import (
    TABLE,
    Entry,
    check_spec,
    clip_forms,
    load_modality,
    of_centres,
    of_volumes,
    pretrained,
)
from bids_fmmtc.recipe import ModalitySpec, Recipe
from bids_fmmtc.types import ClipForm


def test_every_name_in_the_table_is_a_modality():
    from importlib import import_module

    for name, entry in TABLE.items():
        modality, check, form = (
            None if path is None else getattr(import_module(path.partition(":")[0]), path.partition(":")[2])
            for path in (entry.path, entry.check, entry.form)
        )
        assert modality.name == name
        assert callable(modality.from_spec)
        assert callable(modality.compute)
        assert check is None or callable(check)
        assert form is None or callable(form)
    assert pretrained() == ("brainlm", "neurostorm")


def test_the_table_tells_what_a_recipe_needs():
    recipe = Recipe(modalities=(ModalitySpec("neurostorm"), ModalitySpec("brainlm"), ModalitySpec("fc")))
    assert of_volumes(recipe) == ("neurostorm",)
    assert of_centres(recipe) == ("brainlm",)
    with pytest.raises(RecipeError, match="no modality 'telepathy'"):
        of_volumes(Recipe(modalities=(ModalitySpec("telepathy"),)))


def test_an_encoder_of_volumes_may_have_no_weights(monkeypatch):
    asked = []
    form = ClipForm((2, 2, 2), ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)), 1.0, 2)
    monkeypatch.setattr(sys.modules[__name__], "toy_form", lambda weights: asked.append(weights) or form, raising=False)
    monkeypatch.setitem(TABLE, "toy", Entry("nowhere:Toy", form=f"{__name__}:toy_form"))
    recipe = Recipe(modalities=(ModalitySpec("toy"), ModalitySpec("fc")))
    assert clip_forms(recipe, {}) == (form,)
    assert asked == [None]


def test_a_new_encoder_is_one_line(monkeypatch):
    made = []

    class Toy:
        from_spec = staticmethod(lambda *arguments: made.append(arguments) or "toy")

    monkeypatch.setattr(sys.modules[__name__], "Toy", Toy, raising=False)
    monkeypatch.setitem(TABLE, "toy", Entry(f"{__name__}:Toy", pretrained=True))
    assert pretrained() == ("brainlm", "neurostorm", "toy")
    spec = ModalitySpec("toy", "0" * 64)
    assert load_modality(spec, Recipe(), None) == "toy"
    assert made == [(spec, Recipe(), None, "cpu")]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ModalitySpec("telepathy"), "no modality 'telepathy'; known are brainlm, fc, neurostorm"),
        (ModalitySpec("fc", options={"kind": "gram", "a": 1}), "fc has no option a, kind; it takes none"),
        (ModalitySpec("fc", "0" * 64), "fc has no weights"),
        (ModalitySpec("brainlm", options={"zoo": 1}), "brainlm has no option zoo"),
    ],
)
def test_what_no_modality_takes_is_refused_before_one_is_built(spec, words):
    with pytest.raises(RecipeError, match=words) as caught:
        check_spec(spec, Recipe())
    assert caught.value.exit_code == 65
    with pytest.raises(RecipeError, match=words):
        load_modality(spec, Recipe(), None)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RecipeError, match="no modality 'telepathy'; known are brainlm, fc, neurostorm"):
        load_modality(ModalitySpec("telepathy"), Recipe(), None)


def test_what_is_known_of_an_encoder_of_volumes_needs_no_torch(tmp_path):
    code = (
        "import sys; from bids_fmmtc.modalities import *; from bids_fmmtc.recipe import *; from pathlib import Path\n"
        "r = Recipe(modalities=(ModalitySpec('neurostorm'),)); of_volumes(r); check_spec(r.modalities[0], r)\n"
        "from bids_fmmtc.modalities.neurostorm_config import PUBLISHED; import json\n"
        "f = Path(sys.argv[1]); (f / 'config.json').write_text(json.dumps(PUBLISHED.to_json()))\n"
        "print(clip_forms(r, {'neurostorm': f})[0].shape, {'torch', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(96, 96, 96) set()"


def test_only_the_named_encoder_is_imported():
    code = (
        "import sys; from bids_fmmtc.modalities import load_modality; from bids_fmmtc.recipe import *;"
        "load_modality(ModalitySpec('fc'), Recipe(), None); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
