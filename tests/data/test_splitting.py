"""Splits never leak: whatever is asked, nothing that belongs together stands on both sides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.data.examples import Conversation, Message, QuestionAnswer
from jgpt.data.holdout import hold_out
from jgpt.data.splitting import connected, hold_out_groups, splits_of, without_held_out

WORDS = st.text("abcdef ", min_size=1, max_size=2).filter(str.strip)
SOMETIMES = st.one_of(st.just(""), WORDS)
QUESTIONS = st.lists(
    st.builds(QuestionAnswer, question=WORDS.map(lambda word: f" {word.upper()}"), answer=st.just("x")),
    min_size=2,
    max_size=40,
)


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=25))
def test_components_are_those_of_the_graph(keys: list[list[int]]) -> None:
    """Against a slow reference: spread numbers along shared keys until nothing changes."""
    numbers = list(range(len(keys)))
    for _ in keys:
        for i, a in enumerate(keys):
            for j, b in enumerate(keys):
                if set(a) & set(b):
                    numbers[i] = numbers[j] = min(numbers[i], numbers[j])
    names = {number: i for i, number in enumerate(dict.fromkeys(numbers))}
    assert connected(keys) == [names[number] for number in numbers]


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 3))
def test_groups_stay_whole_and_the_share_is_met(groups: list[int], fraction: float, seed: int) -> None:
    components = connected([[group] for group in groups])
    if max(components) == 0:
        with pytest.raises(ValueError, match="cannot be split"):
            hold_out_groups(components, fraction, seed, "questions")
        return
    train, held = hold_out_groups(components, fraction, seed, "questions")
    assert sorted(train + held) == list(range(len(groups))) and train and held
    assert not {groups[i] for i in train} & {groups[i] for i in held}
    largest = max(groups.count(group) for group in groups)
    assert abs(len(held) - len(groups) * fraction) <= largest + 1
    assert (train, held) == hold_out_groups(components, fraction, seed, "questions")


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 5))
def test_elements_of_their_own_are_held_out_as_documents_are(count: int, fraction: float, seed: int) -> None:
    assert hold_out_groups(range(count), fraction, seed, "texts") == hold_out(count, fraction, seed)


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(QUESTIONS, st.integers(0, 3))
def test_equal_questions_stay_on_one_side(examples: list[QuestionAnswer], seed: int) -> None:
    asked = {example.question.strip().lower() for example in examples}
    if len(asked) < 2:
        with pytest.raises(ValueError, match=f"{len(examples)} questions cannot be split"):
            splits_of(examples, 0.2, seed)
        return
    splits = splits_of(examples, 0.2, seed)
    sides = [{e.question.strip().lower() for e in part} for part in (splits.train, splits.validation)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == asked
    assert without_held_out(splits.train, splits.validation) == (splits.train, ())


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.tuples(WORDS, SOMETIMES), min_size=2, max_size=40), st.integers(0, 3))
def test_a_context_stays_on_one_side(pairs: list[tuple[str, str]], seed: int) -> None:
    examples = [QuestionAnswer(question, "x", context=context) for question, context in pairs]
    try:
        splits = splits_of(examples, 0.2, seed)
    except ValueError:
        return
    sides = [{e.context.strip().lower() for e in part} - {""} for part in (splits.train, splits.validation)]
    assert not sides[0] & sides[1]
    assert without_held_out(splits.train, splits.validation) == (splits.train, ())


def test_one_question_of_many_contexts_is_split_by_context() -> None:
    examples = [QuestionAnswer("Where is Mary?", "x", context=f"story {i // 2}") for i in range(40)]
    splits = splits_of(examples, 0.1, 0)
    assert (len(splits.train), len(splits.validation)) == (36, 4) and "context alone" in splits.notes[0]
    assert not {e.context for e in splits.train} & {e.context for e in splits.validation}


WHY = QuestionAnswer("Why?", "So.")


@pytest.mark.parametrize("seed", range(8))
def test_a_scored_question_is_no_follow_up_of_training(seed: int) -> None:
    """But what follows everywhere and opens nothing, such as "Why?", ties nothing."""
    examples = [QuestionAnswer(f"q{i}", "a", more=(QuestionAnswer(f" Q{i + 1} ", "b"), WHY)) for i in range(0, 40, 2)]
    examples += [QuestionAnswer(f"q{i + 1}", "b") for i in range(0, 40, 2)]
    splits = splits_of(examples, 0.3, seed)
    assert len(splits.validation) == 12 and not splits.notes
    assert without_held_out(splits.train, splits.validation) == (splits.train, ())


def test_a_follow_up_of_many_that_also_opens_one_does_not_forbid_the_split() -> None:
    examples = [QuestionAnswer(f"q{i}", "a", more=(WHY,)) for i in range(100)] + [WHY]
    splits = splits_of(examples, 0.1, seed=0)
    assert len(splits.validation) == 10 and "come later in many" in splits.notes[0]


def dialogue(*turns: str) -> Conversation:
    return Conversation(tuple(Message(role, turn) for turn in turns for role in ("user", "assistant")))


@pytest.mark.parametrize("seed", range(4))
def test_conversations_that_all_open_alike_are_split_by_all_their_turns(seed: int) -> None:
    examples = [dialogue("Hello", f"question {i // 2}") for i in range(40)]
    splits = splits_of(examples, 0.2, seed)
    assert len(splits.validation) == 8 and "many conversations open alike" in splits.notes[0]
    assert without_held_out(splits.train, splits.validation) == (splits.train, ())


@pytest.mark.parametrize("seed", range(4))
def test_what_opens_a_held_out_conversation_is_no_later_turn_of_training(seed: int) -> None:
    examples = [dialogue(f"a{i}", f"b{i}") for i in range(20)] + [dialogue(f"B{i} ") for i in range(20)]
    splits = splits_of(examples, 0.3, seed)
    said = {message.content.strip().lower() for of in splits.train for message in of.messages if message.role == "user"}
    assert len(splits.validation) == 12 and not said & {
        of.messages[0].content.strip().lower() for of in splits.validation
    }


def test_what_a_given_split_holds_out_is_not_trained() -> None:
    held = [
        QuestionAnswer("Who is  Ann?", "x", context="C"),
        QuestionAnswer("Caf\u00e9?", "x"),
        "a text",
        dialogue("a", "b"),
    ]
    gone = [
        QuestionAnswer("who is ann?", "y", context="c "),
        QuestionAnswer("q", "a", more=(QuestionAnswer("cafe\u0301?", "z"),)),
    ]
    stay = [QuestionAnswer("who is ann?", "y", context="d"), QuestionAnswer("Ann", "x", more=(WHY,))]
    for train, kept in (([*gone, *stay], stay), (["a text", " a  text\n", "A text"], ["A text"])):
        found, notes = without_held_out(train, held)
        assert found == kept and f"{len(train) - len(kept)} of {len(train)} training" in notes[0]
    assert without_held_out([dialogue("a", "c"), dialogue("a", "B")], held)[0] == [dialogue("a", "c")]
    with pytest.raises(ValueError, match="2 of 2 training questions are held out too.*its own"):
        without_held_out(gone, held)


def test_contexts_that_a_given_split_shares_are_counted() -> None:
    held = [QuestionAnswer("who?", "x", context="A story.")]
    train = [QuestionAnswer(f"q{i}", "x", context=context) for i, context in enumerate(("a  story.", "other", ""))]
    kept, (note,) = without_held_out(train, held)
    assert kept == train and note.startswith("1 of 3 training questions ask about the context of a held-out one")
    blank = [QuestionAnswer("a?", "x", context=" ")], [QuestionAnswer("b?", "x", context="\n")]
    assert without_held_out(train[1:], held)[1] == without_held_out(*blank)[1] == ()


def test_texts_that_differ_in_white_space_alone_stay_together() -> None:
    texts = [text for i in range(20) for text in (f"text {i}", f"text  {i}\n")]
    splits = splits_of(texts, 0.3, 0)
    sides = [{int(text.split()[1]) for text in part} for part in (splits.train, splits.validation)]
    assert len(splits.validation) == 12 and not sides[0] & sides[1]


def test_groups_of_a_file_stay_whole() -> None:
    examples = [QuestionAnswer(f"q{i}", "x", context=f"c{i}") for i in range(30)]
    splits = splits_of(examples, 0.2, 0, [f"article {i % 5}" for i in range(30)])
    sides = [{int(e.question[1:]) % 5 for e in part} for part in (splits.train, splits.validation)]
    assert len(splits.validation) == 6 and not sides[0] & sides[1]


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(WORDS, min_size=2, max_size=30), st.integers(0, 3))
def test_equal_texts_count_once(texts: list[str], seed: int) -> None:
    distinct = list(dict.fromkeys(texts))
    if len({text.strip() for text in texts}) < 2:
        return
    splits = splits_of(texts, 0.3, seed)
    assert sorted([*splits.train, *splits.validation]) == sorted(distinct)
    assert bool(splits.notes) == (len(distinct) < len(texts))


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=30))
def test_conversations_that_open_alike_stay_together(turns: list[tuple[str, str]]) -> None:
    talks = [
        Conversation((Message("system", "be kind"), Message("user", opening), Message("assistant", reply)))
        for opening, reply in turns
    ]
    if len({opening.strip() for opening, _ in turns}) < 2:
        return
    splits = splits_of(talks, 0.2, 0)
    sides = [{talk.messages[1].content.strip() for talk in part} for part in (splits.train, splits.validation)]
    assert splits.kind == "chat" and not sides[0] & sides[1]


def test_examples_of_two_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="questions, texts.*its own task"):
        splits_of(["text", QuestionAnswer("q", "a")], 0.1, 0)
    with pytest.raises(ValueError, match=r"\['int'\]"):
        splits_of([1, 2], 0.1, 0)
    with pytest.raises(ValueError, match="at least two"):
        splits_of([], 0.1, 0)
