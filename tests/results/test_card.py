"""What a model card says, and what is read of a bundle."""

import math
from dataclasses import replace

import pytest
from card_parts import ESTIMATE, FACTS, card_of, facts_of

from bids_fmmtc.errors import BundleError
from bids_fmmtc.plain import from_json, to_json
from bids_fmmtc.results.card import (
    TEXTS,
    Document,
    ModelCard,
    document_of,
    estimate_of,
    estimates_of,
    trained_card,
)
from bids_fmmtc.results.estimate import Estimate


def test_a_trained_card_has_what_every_card_needs():
    card = card_of(FACTS)
    assert all(isinstance(card[name], str) and card[name].strip() for name in TEXTS)
    assert card["demo"] is False
    assert card_of({**FACTS, "demo": True})["demo"] is True
    for part in ("not a medical device", "40 people, 18 of them", "Not validated elsewhere", "outside_reference"):
        assert part in card["limits"]
    assert "must not guide the care" in card["intended_use"]
    assert card["data"] == "40 people (non-responder 22, responder 18) from ds000208. Ages were not read."


def test_who_they_were():
    more = {"sites": {"north": 21, "south": 19}, "ages": [31, 45.2, math.nan, 91], "arms": ["duloxetine"]}
    data = card_of({**FACTS, **more})["data"]
    assert "Arms: duloxetine. Sites: north 21, south 19." in data
    assert "Age 55 years on average (SD 31, 31 to over 89, known of 3)." in data
    assert "91" not in data  # so great an age could tell who it is
    assert "Age 40 years on average (SD 14, 30 to 50)." in card_of({**FACTS, "ages": [30, 50]})["data"]
    assert "Ages are not known" in card_of({**FACTS, "ages": [math.nan, 40]})["data"]


def test_other_cohorts_are_named():
    card = card_of({**FACTS, "external": {"Szeged": {"auroc": ESTIMATE}}})
    assert "Tried elsewhere only on: Szeged." in card["limits"]
    assert "Not validated elsewhere" not in card["limits"]


@pytest.mark.parametrize("name", FACTS)
def test_every_fact_but_a_few_is_missed(name):
    with pytest.raises(TypeError, match=name):
        card_of({k: v for k, v in FACTS.items() if k != name})


def test_unknown_facts_and_classes_are_refused():
    with pytest.raises(TypeError, match="author"):
        card_of({**FACTS, "author": "me"})
    with pytest.raises(BundleError, match="two classes"):
        card_of({**FACTS, "classes": {"all": 3}})


def test_what_was_stored_is_read_again():
    facts = {**FACTS, "external": {"far": {"auroc": ESTIMATE}}, "out_of_fold": {"0.0 to 0.1": {"responder": 2}}}
    card = trained_card(facts_of(facts))
    assert from_json(ModelCard, to_json(card), "the card") == card
    assert document_of({"card": {**to_json(card), "zone": "z"}}).card == card
    assert document_of({"card": {**to_json(card), "metrics": 5}}).card == replace(card, metrics={})


def test_of_a_broken_bundle_the_rest_is_read():
    found = document_of(
        {"threshold": "x", "conformal": {"alpha": 0.1, "quantiles": 3}, "shapes": {"fc": [4, 4], "x": 1}}
    )
    assert (found.threshold, found.conformal.alpha, found.conformal.quantiles) == (None, 0.1, ())
    assert found.shapes == {"fc": (4, 4)}
    assert document_of(None) == Document()


@pytest.mark.parametrize("value", [None, 3, "x", {}, {"value": 1}, {"value": "x", "low": None, "high": None}])
def test_what_is_no_estimate_is_none(value):
    assert estimate_of(value) is estimates_of(value) is None


def test_estimates_are_told_from_anything_else():
    assert estimate_of({"value": 1, "low": 0.5, "high": None, "more": 1}) == Estimate(1, 0.5, None)
    assert estimates_of({"auroc": ESTIMATE}) == {"auroc": Estimate(**ESTIMATE)}
    assert estimates_of({"auroc": ESTIMATE, "n": 3}) is None
