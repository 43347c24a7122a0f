"""The prompts byte for byte, written out here once more from the paper and the official script."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rar_prompt.items import Item
from rar_prompt.templates import BUILT_IN, clean_rephrasing, load_templates
from shared_core.errors import InputError

Q = 'Take the last letters of the words in "Jim Amanda" and concatenate them.'
X = "What are the final letters?"
LETTERS = Item("1", Q, "ma", "last_letter_concatenation", "letters")
COIN = Item("1", "A coin is heads up.  Is the coin still heads up?", "yes", "coin_val")
CSQA = Item("1", "Where?", "here", "csqa", choices=("here", "there"))
STEREO = Item("1", "Which?", "a", "stereo", choices=("a", "b", "c"))
REPHRASE = (
    "Given the above question, rephrase and expand it to help you do better answering. "
    "Maintain all information in the original question."
)
USE = "Use your answer for the rephrased question to answer the original question."
USE_REVISED = "Use your answer in the revised question to answer the original question."

EXPECTED = {
    "paper": [
        ("plain", LETTERS, Q),
        ("one_step", LETTERS, f'"{Q}"\nRephrase and expand the question, and respond.'),
        ("rephrase", LETTERS, f'"{Q}"\n{REPHRASE}'),
        ("respond", LETTERS, f"(original) {Q}\n(rephrased) {X}\n{USE}"),
        ("cot", LETTERS, f"{Q}\nLet's think step by step."),
        ("one_step_cot", LETTERS, f'"{Q}"\nRephrase and expand the question, and respond. Let\'s think step by step.'),
        ("plain", CSQA, "Where?\nChoices: A. here B. there"),
    ],
    "official-gpt4": [
        ("plain", LETTERS, f"{Q}\n"),
        ("plain", COIN, f"{COIN.question}\nAnswer the Yes or No question."),
        ("plain", CSQA, "Where?\nChoices: A. here B. there\nSelect the *single* most sensible answer.\n"),
        ("one_step", LETTERS, f'"{Q}"\nRephrase and expand the question, and respond. '),
        (
            "one_step",
            COIN,
            f'"{COIN.question}"\nRephrase and expand the question, and respond. Answer the Yes or No question.',
        ),
        (
            "one_step",
            CSQA,
            '"Where?"\nRephrase and expand the question, and respond. Choices: A. here B. there\n'
            "Select the *single* most sensible answer.\n",
        ),
        ("respond", LETTERS, f"(original) {Q}\n(rephrased) {X}\n{USE}"),
        (
            "respond",
            COIN,
            f"(original) {COIN.question}\n(rephrased) {X}\nAnswer the Yes or No question.{USE}",
        ),
        (
            "respond",
            CSQA,
            f"(original) Where?\n(rephrased) {X}\nChoices: A. here B. there\n{USE}\n"
            "Select the *single* most sensible answer.\n",
        ),
        (
            "respond",
            STEREO,
            f"(original)Which?\n(revised){X}\nChoices: A. a B. b C. c\n{USE_REVISED}\n"
            "Select the *single* most sensible answer.",
        ),
        ("cot", STEREO, "Which?Choices: A. a B. b C. c\nLet's think step by step."),
        ("rephrase", CSQA, f'"Where?"\n{REPHRASE}'),
    ],
    "official-gpt35": [
        ("one_step", LETTERS, f'"{Q}"\nReword and elaborate on the inquiry, then provide an answer. '),
        ("respond", LETTERS, f"(original) {Q}\n(revised) {X}\n{USE_REVISED}"),
        (
            "respond",
            COIN,
            f"(original) {COIN.question}\n(revised) {X}\nAnswer the Yes or No question.{USE_REVISED}",
        ),
    ],
}
WORDINGS = {
    "main": "Rephrase and expand the question, and respond.",
    "reword": "Reword and elaborate on the inquiry, then provide an answer.",
    "reframe": "Reframe the question with additional context and detail, then provide an answer.",
    "modify": "Modify the original question for clarity and detail, then offer an answer.",
    "restate": "Restate and elaborate on the inquiry before proceeding with a response.",
}
# a changed text must come with a new version: then these hashes are written anew
HASHES = {
    "paper": (1, "221800cee1a5b0db"),
    "official-gpt4": (1, "360bc422fbfe0090"),
    "official-gpt35": (1, "c5104617b70d21ee"),
}


@pytest.mark.parametrize(("style", "name", "item", "text"), [(s, *row) for s in EXPECTED for row in EXPECTED[s]])
def test_prompts_byte_for_byte(style, name, item, text):
    templates = load_templates(style)
    assert templates.render(name, item, x=X, sentence=templates.sentence()) == text


@pytest.mark.parametrize("style", BUILT_IN)
def test_all_wordings_of_the_one_step_instruction(style):
    assert dict(load_templates(style).sentences) == WORDINGS


@pytest.mark.parametrize("style", BUILT_IN)
def test_a_set_keeps_its_texts_under_its_version(style):
    templates = load_templates(style)
    assert (templates.version, templates.hash) == HASHES[style]


def test_repair_quotes_the_whole_exemplar_text():
    templates = load_templates("paper")
    text = templates.render_exemplars((("1+1?", "2."), ("2+2?", "4.")))
    assert text == "Q: 1+1?\nA: 2.\n\nQ: 2+2?\nA: 4."
    assert templates.render("repair", LETTERS, exemplars=text) == f'"{text}"\n{REPHRASE}'
    assert templates.render("few_shot", LETTERS, exemplars=text) == f"{text}\n\nQ: {Q}\nA:"


def test_the_rephraser_sees_neither_choices_nor_specification():
    for style in BUILT_IN:
        assert load_templates(style).render("rephrase", CSQA) == f'"Where?"\n{REPHRASE}'


def test_context_stands_before_the_question_and_is_not_quoted():
    item = Item("1", "Who?", context="A passage.")
    assert load_templates().render("rephrase", item) == f'A passage.\n\n"Who?"\n{REPHRASE}'


@given(st.text(min_size=1), st.text())
def test_user_text_is_never_a_template(question, rephrased):
    question, rephrased = question + " {x} {q} (rephrased)", rephrased + "{q}"
    text = load_templates().render("respond", Item("1", question), x=rephrased)
    assert text == f"(original) {question}\n(rephrased) {rephrased}\n{USE}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (' "What?" \n', "What?"),
        ('"What?', '"What?'),
        ('""What?""', '"What?"'),
        ("", ""),
        ('"', '"'),
        ('say "x"', 'say "x"'),
        ('<think>What is "even"?</think>\n\n"What?"', "What?"),
        ("<think>never ends", ""),
    ],
)
def test_reasoning_and_one_outer_pair_of_quotes_are_dropped(given, kept):
    assert clean_rephrasing(given) == kept


def test_a_users_set_extends_a_built_in_one(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"id": "mine", "version": 1, "extends": "paper", "templates": {"plain": "Q={q}"}}))
    mine = load_templates(str(path))
    assert mine.render("plain", LETTERS) == f"Q={Q}"
    assert mine.hash != load_templates().hash


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"id": "m", "version": 1, "extends": "paper", "templates": {"plain": "{nope}"}}, "unknown slot {nope}"),
        ({"id": "m", "version": 1, "templates": {}}, "the template 'plain' is missing"),
        ({"id": "m", "version": 1, "extends": "paper", "prompts": {}}, "unknown key 'prompts'"),
        ({"version": 1, "extends": "paper"}, "an id of its own"),
        ({"id": "m", "version": 1, "extends": "nope"}, "there is no template set 'nope'"),
    ],
)
def test_a_bad_template_file_is_named(tmp_path, content, words):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words.replace("{", r"\{").replace("}", r"\}")):
        load_templates(str(path))
