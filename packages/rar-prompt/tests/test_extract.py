"""Final answers out of replies that restate the question, hedge, list options, or contradict themselves."""

import time

import pytest
from rar_prompt.drift import drift, essentials
from rar_prompt.extract import EXTRACTORS, infer_kind, normal_gold
from rar_prompt.items import Item

YES_NO = [
    ("Yes", "yes"),
    ('"Did X do it, yes or no?"\n\nNo, X did not.', "no"),
    ("Was it a yes? The answer is: **No**.", "no"),
    ("<think>Yes it is</think>\nNo.", "no"),
    ("Step 1: no flips. Step 2: none.\nTherefore, yes, it is still heads up.", "yes"),
    ("The number of flips is two. So yes.", "yes"),
    ("I cannot determine whether it is.", None),
    ("It depends.", None),
    ("", None),
    ("No one flips the coin. Therefore the coin is still heads up.", "yes"),
    # a published example page ends like this: the last word is the conclusion, which contradicts its beginning
    ("No, the coin is not heads up once more.", "no"),
]
LETTERS = [
    ("nk", "nk"),
    ('"nk"', "nk"),
    ("n k", "nk"),
    ("n-k", "nk"),
    ("N, K", "nk"),
    ("n and k", "nk"),
    ('The last letters are "n" and "k". Concatenated they give "nk".', "nk"),
    ('Could you take the last letters of "Jean Frank"?\n\nThe result is "nk."', "nk"),
    ('You get "ol." The "o" is from "Pablo" and the "l" from "Daniel."', "ol"),
    ("nondro", "nondro"),
    ("NyxX", "nyxx"),
    ("The answer is nk. Great!", "nk"),
    ("The answer is n, k.", "nk"),
    ("The answer is \\boxed{nk}.", "nk"),
    ("The answer is nk, which is short.", "nk"),
    ("The last letters are n and k. Concatenated: nk", "nk"),
    ('Answer: Sure, the last letters are "n" and "k". Together they are "nk".', "nk"),
    ("The answer is LÉ.", "lé"),
    ("", None),
]
DATES = [
    ("Today is 04/30/2021, so tomorrow is 05/01/2021.", "05/01/2021"),
    ('"The date is 1/2/2020, what is next?" Answer: 1/3/2020', "01/03/2020"),
    ("It is May 1st, 2021.", "05/01/2021"),
    ("13/45/2020", None),
    ("It is 1 May 2021.", "05/01/2021"),
    ("It is the 1st of May 2021.", "05/01/2021"),
    ("Final answer: 2021-05-01", "05/01/2021"),
]
CHOICES = [
    ("B", "B"),
    ("(B)", "B"),
    ("The answer is B. the pond", "B"),
    ("A. is wrong, B. is possible. Answer: C", "C"),
    ("The sea is large, but the answer is the pond.", "B"),
    ("It could be the sea or the pond.", None),
    ("Pond.", "B"),
    ("It is either A or B.", None),
    ("Answer: B because A is wrong", "B"),
    ("E", None),
]
NUMBERS = [
    ("3 + 4 = 7", "7"),
    ("The answer is 1,234.50 dollars", "1234.5"),
    ("none", None),
    ("007 and -0.0", "0"),
    ("1" * 400, "1" * 400),
]
CASES = {"yes-no": YES_NO, "letters": LETTERS, "date": DATES, "choice": CHOICES, "number": NUMBERS}


@pytest.mark.parametrize(("kind", "text", "value"), [(kind, *row) for kind in CASES for row in CASES[kind]])
def test_the_final_answer_is_read(kind, text, value):
    item = Item(
        "1",
        'Is the coin, or "Pablo Daniel", still heads up?',
        "yes",
        "coin-flip",
        choices=("the sea", "the pond", "a cup"),
    )
    assert EXTRACTORS[kind](text, item).value == value


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize("piece", ["w", "1", "a b ", "' ", "A. ", "not ", "answer ", "yes no ", "is heads\n", '"'])
def test_a_degenerate_reply_is_read_in_no_time(kind, piece):
    item = Item("1", "Was A born earlier than B?", "yes", "compare-ages", choices=("red", "blue"))
    start = time.process_time()
    EXTRACTORS[kind](piece * 10_000, item)
    drift(item, piece * 10_000)
    essentials(piece * 10_000)
    assert time.process_time() - start < 1


def test_a_nested_choice_is_not_a_second_one():
    item = Item("1", "Where?", "water", choices=("water", "cold water"))
    assert EXTRACTORS["choice"]("In cold water.", item).value == "B"


def test_letters_that_are_words_are_not_found_inside_words():
    item = Item("1", 'Take the last letters of the words in "Shannon Alejandro" and concatenate them.', "no")
    assert EXTRACTORS["letters"]("There is no way to know, so it is nondro", item).value == "nondro"


def test_kinds_are_inferred_from_all_golds():
    assert infer_kind([Item("1", "?", "Yes"), Item("2", "?", "no")]) == "yes-no"
    assert infer_kind([Item("1", "?", "Yes"), Item("2", "?", "maybe")]) == "text"
    assert infer_kind([Item("1", "?", "3"), Item("2", "?", "-1,000.5")]) == "number"
    assert infer_kind([Item("1", "?", "01/02/2003")]) == "date"
    assert infer_kind([Item("1", "?", "a", choices=("a", "b"))]) == "choice"


def test_golds_take_the_extractors_form():
    assert normal_gold(Item("1", "?", "the pond", choices=("the sea", "the pond")), "choice") == "B"
    assert normal_gold(Item("1", "?", "b", choices=("the sea", "the pond")), "choice") == "B"
    assert normal_gold(Item("1", "?", "1/2/2003"), "date") == "01/02/2003"
    assert normal_gold(Item("1", "?", "The Sea."), "text") == "sea"
