"""What is said of modalities to people."""

import pytest

from bids_fmmtc.modalities import TABLE, about, by_letter, encoder_references, pretrained
from bids_fmmtc.modalities.about import LETTERS, About
from bids_fmmtc.recipe import ModalitySpec, Recipe


def test_a_letter_says_what_is_read():
    assert About("V").reads == "volumes"
    with pytest.raises(ValueError, match="T, V, C"):
        About("X")


def test_a_vector_is_an_embedding_and_a_matrix_is_itself():
    assert About("C").embedding == "connectivity"
    assert About("T", "A network").embedding == "embedding of the time series"


@pytest.mark.parametrize("name", TABLE)
def test_every_pretrained_encoder_is_cited_with_its_licence(name):
    found = about(name)
    assert (found.letter == "V") == (TABLE[name].form is not None)
    if name in pretrained():
        assert found.encoder
        assert found.cite.split(" et al.")[0] in found.reference
        assert found.reference.endswith(".")
        assert found.encoder in found.licence
        assert not found.licence.endswith(".")


def test_one_that_nobody_knows_is_taken_to_read_series(monkeypatch):
    assert about("newer") == About("T")
    monkeypatch.setitem(TABLE, "mine", TABLE["neurostorm"]._replace(about=None))
    assert about("mine") == About("V")


def test_modalities_are_sorted_by_what_they_read():
    assert by_letter(("fc", "neurostorm", "newer", "brainlm")) == {
        "T": ("newer", "brainlm"),
        "V": ("neurostorm",),
        "C": ("fc",),
    }
    assert list(by_letter(("fc", "brainlm"))) == [letter for letter in LETTERS if letter != "V"]
    assert by_letter(()) == {}


def test_the_works_of_a_recipe():
    recipe = Recipe(modalities=(ModalitySpec("neurostorm"), ModalitySpec("brainlm"), ModalitySpec("fc")))
    assert [work.split(",")[0] for work in encoder_references(recipe)] == ["Wang et al.", "Ortega Caro et al."]
    assert encoder_references(Recipe()) == ()
