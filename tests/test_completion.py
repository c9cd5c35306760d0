"""What one call may ask for beside its requests: proposals, beams, and which of them go together."""

import pytest
from test_automaton import random_model

from jgpt.sampling import Sampling

GREEDY = Sampling(temperature=0.0)


@pytest.mark.slow
def test_proposals_change_no_greedy_text_and_say_what_they_were_worth() -> None:
    model = random_model()
    prose = model.task_of_kind("text")
    plain = model.complete(prose, ["so so so"], sampling=GREEDY, max_new_tokens=24)
    drafted = model.complete(prose, ["so so so"], sampling=GREEDY, max_new_tokens=24, draft=model, ahead=3)
    looked = model.complete(prose, ["so so so"], sampling=GREEDY, max_new_tokens=24, lookup=2)
    streamed = "".join(model.stream("so so so", sampling=GREEDY, max_new_tokens=24, lookup=2))
    assert plain.values == drafted.values == looked.values == [streamed]
    assert drafted.samples.accepted_share() == 1.0
    assert drafted.samples.passes[0].count < plain.samples.passes[0].count


@pytest.mark.slow
def test_beams_find_texts_at_least_as_probable_as_the_greedy_one() -> None:
    """Of equal requests the first gets the best text, and a pattern is followed."""
    model = random_model()
    prose = model.task_of_kind("text")
    options = {"max_new_tokens": 4, "pattern": "[a-d]{4}x"}  # ends by its length, so that sums hold all tokens
    greedy = model.complete(prose, ["so"], sampling=GREEDY, **options)
    found = model.complete(prose, ["so"] * 3, sampling=GREEDY, beams=8, **options)
    sums = [values.sum() for values in found.samples.logprobs]
    assert sums == sorted(sums, reverse=True) and len(set(found.values)) == 3
    assert sums[0] >= greedy.samples.logprobs[0].sum() - 1e-5
    assert all(set(text) <= set("abcd") for text in found.values)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"ahead": 3}, "ahead is 3, but nobody proposes"),
        ({"draft": "self", "lookup": 2}, "only one of them can propose"),
        ({"draft": "characters"}, "is not the model's"),
        ({"draft": "short"}, "the draft's model.context_length is 8"),
        ({"length_penalty": 1.0}, "beams is not given"),
        ({"beams": 2, "stop": ["x"]}, "stop strings"),
        ({"beams": 2, "top": 2}, "together with top"),
        ({"beams": 2, "lookup": 2}, "a draft or lookup"),
        ({"beams": 2, "sampling": Sampling(top_k=2)}, "draws nothing"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict, value: str) -> None:
    drafts = {"self": random_model(), "characters": random_model("characters"), "short": random_model(context=8)}
    if "draft" in options:
        options = {**options, "draft": drafts[options["draft"]]}
    model = random_model()
    with pytest.raises(ValueError) as error:
        model.complete(model.task_of_kind("text"), ["so"], **{"sampling": GREEDY, "max_new_tokens": 8, **options})
    assert value in str(error.value)
