"""Facts of a card as plain data, and the card made of them."""

from bids_fmmtc.plain import to_json
from bids_fmmtc.results.card import Facts, Figure, trained_card

ESTIMATE = {"value": 0.71234, "low": 0.55, "high": 0.84}
FACTS = {
    "title": "Response to duloxetine",
    "datasets": ["ds000208"],
    "classes": {"non-responder": 22, "responder": 18},
    "outcome": "Response >= 20 % on the VAS",
    "findings": ["The model beats chance.", "It is not shown to beat: motion only."],
    "metrics": {"auroc": ESTIMATE, "calibration_slope": {"value": 0.9, "low": None, "high": None}},
    "baselines": {"motion only": {"auroc": ESTIMATE, "mcc": {"value": None, "low": None, "high": None}}},
    "protocol": {"folds": 5, "inner": {"folds": 5, "penalties": [0.1, 1.0]}},
    "software": {"numpy": "2.1.0"},
    "training_command": "bids_fmmtc in out group --outcome '`x` | y'",
}


def facts_of(given):
    def figures(metrics):
        return {name: Figure(each["value"], each["low"], each["high"]) for name, each in metrics.items()}

    of_many = {
        name: {k: figures(v) for k, v in given[name].items()} for name in ("baselines", "external") if name in given
    }
    own = {"metrics": figures(given["metrics"])} if "metrics" in given else {}
    own |= {"findings": tuple(given["findings"])} if "findings" in given else {}
    return Facts(**{**given, **own, **of_many})


def card_of(given):
    """Return the card that a bundle would store, as plain data."""
    return to_json(trained_card(facts_of(given)))
