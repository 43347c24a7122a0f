"""One rendering for sampling and training; the response is what the template makes of it, and nothing more."""

from typing import Any

import pytest
from shared_core.errors import InputError
from spin_llm.records import Example
from spin_llm.rendering import Renderer, TokenLimits, cut, tokenize

END = 1


def test_the_response_ends_with_the_end_token_and_the_prompt_with_the_assistants_header(
    tokenizer: Any, examples: list[Example]
) -> None:
    renderer = Renderer(tokenizer)
    prompt, real = renderer.pair(examples[2])  # three times a
    assert tokenizer.convert_ids_to_tokens(prompt) == ["<user>", "three", "a", "<end>", "<assistant>"]
    assert tokenizer.convert_ids_to_tokens(real) == ["a", "a", "a", "<end>"]
    assert prompt == renderer.prompt(examples[2].prompt)
    assert renderer.end_ids == [END]


def test_a_format_string_is_an_alternative(tokenizer: Any, examples: list[Example]) -> None:
    prompt, real = Renderer(tokenizer, "<user> {prompt} <assistant> ").pair(examples[0])
    assert tokenizer.convert_ids_to_tokens(prompt) == ["<user>", "one", "a", "<assistant>"]
    assert tokenizer.convert_ids_to_tokens(real) == ["a", "<end>"]


def test_text_after_the_end_token_is_no_part_of_the_response(tokenizer: Any, examples: list[Example]) -> None:
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("<end> {% endfor %}", "<end> one {% endfor %}")
    try:
        _, real = Renderer(tokenizer).pair(examples[0])
    finally:
        tokenizer.chat_template = template
    assert tokenizer.convert_ids_to_tokens(real) == ["a", "<end>"]


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer: Any, examples: list[Example]) -> None:
    template = tokenizer.chat_template
    tokenizer.chat_template = "{{ messages | length }} " + template
    try:
        with pytest.raises(InputError, match="rewrites the prompt"):
            Renderer(tokenizer).pair(examples[0])
    finally:
        tokenizer.chat_template = template


def test_cutting_takes_the_prompts_left_then_the_responses_right() -> None:
    limits = TokenLimits(max_length=6, max_prompt_length=4)
    assert cut("x", [1, 2, 3, 4, 5], [7, 8, 9], limits).prompt == (2, 3, 4, 5)
    both = cut("x", [1, 2, 3, 4, 5], [7, 8, 9], limits)
    assert (both.real, both.cut) == ((7, 8), "both")
    assert cut("x", [1], [7, 8, 9], limits).cut == ""
    assert cut("x", [1], [7] * 6, limits).cut == "response"


def test_bad_templates_and_limits(tokenizer: Any, examples: list[Example]) -> None:
    with pytest.raises(InputError, match=r"must hold \{prompt\}"):
        Renderer(tokenizer, "x")
    with pytest.raises(InputError, match="max_prompt_length"):
        TokenLimits(10, 10)
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(InputError, match="no chat template"):
            Renderer(tokenizer)
    finally:
        tokenizer.chat_template = template
    talk = Example("t", (*examples[0].prompt, {"role": "assistant", "content": "a"}, *examples[0].prompt), "a")
    with pytest.raises(InputError, match="single user message"):
        Renderer(tokenizer, "{prompt}").pair(talk)
    assert len(tokenize([talk], Renderer(tokenizer), TokenLimits())) == 1
