"""What is said of measures, beside how they are computed."""

import pytest

from bids_fmmtc.learning.judging.metrics import CLASSIFICATION, REGRESSION
from bids_fmmtc.results.measures import FALLBACK, MEASURES, ON_CARD, PRIMARY, words_of


def test_every_measure_is_computed_and_every_computed_one_is_described():
    assert list(MEASURES) == [*CLASSIFICATION, *REGRESSION]
    assert {PRIMARY["classification"].name, *ON_CARD} <= CLASSIFICATION.keys()
    assert {PRIMARY["regression"].name, FALLBACK.name} <= REGRESSION.keys()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_chance_lies_inside_the_range(measure):
    assert measure.low < measure.high
    assert measure.chance is None or measure.low <= measure.chance < measure.high
    assert measure.words
    assert measure.text


def test_verdicts_rest_on_measures_with_a_chance_level():
    assert [PRIMARY[kind].chance for kind in ("classification", "regression")] == [0.5, 0.0]


def test_a_measure_that_is_not_known_is_called_by_its_name():
    assert words_of("auroc_within") == "AUROC within folds"
    assert words_of("kappa") == "kappa"
