"""Generated golds against rules written independently, and the frame model against itself."""

import datetime
import random
import re

import pytest
from rar_prompt.frame_model import FrameModel
from rar_prompt.generators import GENERATORS, GenOptions, generate
from rar_prompt.items import Item, check_item, check_unique
from shared_core.errors import InputError


def test_without_a_number_a_generator_gives_a_hundred_or_all_there_are():
    assert len(generate("coin-flip")) == 100
    people = generate("even-day", seed=3)
    assert len({item.cluster for item in people}) == len(people) == 93


@pytest.mark.parametrize("task", GENERATORS)
def test_generators_repeat_themselves_and_differ_by_seed(task):
    first = generate(task, 60, 3)
    assert first == generate(task, 60, 3)
    assert first != generate(task, 60, 4)
    assert len({item.question for item in first}) == 60
    check_unique(first, task)
    for item in first:
        check_item(item, task)


@pytest.mark.parametrize("words", [1, 2, 4, 7])
def test_last_letters(words):
    for item in generate("last-letters", 50, 1, GenOptions(words=words)):
        inside = re.search('"(.*)"', item.question)[1].split()
        assert len(inside) == words
        assert item.answer == "".join(word[-1] for word in inside)


def test_coin_flips_are_balanced_and_follow_the_parity():
    items = generate("coin-flip", 100, 1, GenOptions(people=5))
    assert [item.answer for item in items].count("yes") == 50
    for item in items:
        assert (item.question.count(" flips the coin.") % 2 == 0) == (item.answer == "yes")
        assert "  Is the coin still heads up? Flip means reverse." in item.question
    assert not generate("coin-flip", 1, 0, GenOptions(ambiguous=True))[0].question.endswith("reverse.")


@pytest.mark.parametrize("part", ["day", "month", "year"])
def test_even_birthdays(part):
    for item in generate(f"even-{part}", 40, 1, GenOptions(given=True)):
        born = datetime.datetime.strptime(re.search("was born on (.*?)[.] Was", item.question)[1], "%B %d, %Y")
        assert item.answer == ("Yes" if getattr(born, part) % 2 == 0 else "No")
        assert item.cluster in item.question


def test_compare_ages():
    for item in generate("compare-ages", 60, 1, GenOptions(given=True)):
        born = [datetime.datetime.strptime(d, "%B %d, %Y") for d in re.findall(r"born on (.*?\d{4})", item.question)]
        assert item.answer == ("Yes" if born[0] < born[1] else "No")


def test_dates():
    for item in generate("date-arithmetic", 60, 1):
        day, count, unit, way = re.search(r"is (.*?\d{4})\..* (\d+) (\w+) (ago|from now)", item.question).groups()
        days = int(count) * {"days": 1, "weeks": 7}[unit] * (-1 if way == "ago" else 1)
        there = datetime.datetime.strptime(day, "%B %d, %Y") + datetime.timedelta(days=days)
        assert item.answer == f"{there.month:02d}/{there.day:02d}/{there.year}"


@pytest.mark.parametrize(
    ("task", "n", "words"),
    [("nope", 1, "no generator"), ("even-day", 1000, "fewer than 1000"), ("even-day", 0, "n must")],
)
def test_bad_requests_are_refused(task, n, words):
    with pytest.raises(InputError, match=words):
        generate(task, n)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Item("1", "  "), "the question is empty"),
        (Item("1", "x" * 1_000_000), "1000000 characters"),
        (Item("1", "?", "c", choices=("a", "b")), "none of the choices"),
        (Item("1", "?", "a", choices=("a", "a")), "two choices are the same"),
        (Item("1", "?", "a", choices=("a",)), "2 to 26"),
        (Item("1", "?", " "), "answer is empty"),
        (Item("1", "?", "a", kind="riddle"), "no kind 'riddle'"),
    ],
)
def test_bad_items_are_refused_with_their_place(item, words):
    with pytest.raises(InputError, match=f"file.jsonl, line 3: .*{words}"):
        check_item(item, "file.jsonl, line 3")


MODEL = FrameModel((0.35, 0.65), (0.95, 0.05), (0.5, 0.0), (1.0, 0.0), ignore=0.1)


def test_the_frame_models_closed_form():
    assert MODEL.heard == pytest.approx((0.89, 0.11))
    values = {name: MODEL.accuracy(name) for name in ("plain", "cot", "rar", "rar-cot")}
    assert values == pytest.approx({"plain": 0.175, "cot": 0.35, "rar": 0.445, "rar-cot": 0.89})
    assert values["rar-cot"] - values["rar"] - values["cot"] + values["plain"] == pytest.approx(MODEL.interaction)


def test_no_gain_without_ambiguity_and_harm_by_a_bad_rephraser():
    sure = FrameModel((1.0, 0.0), (1.0, 0.0), (0.7, 0.1), (0.9, 0.1))
    assert sure.accuracy("rar") == sure.accuracy("plain")
    worse = FrameModel((0.8, 0.2), (0.4, 0.6), (0.7, 0.1), (0.9, 0.1))
    assert worse.accuracy("rar") < worse.accuracy("plain")


def test_draws_follow_the_model():
    draw = random.Random(0)
    share = sum(MODEL.draw_frame(draw, rephrased=True) == 0 for _ in range(20_000)) / 20_000
    assert share == pytest.approx(0.95, abs=0.01)


def test_impossible_models_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        FrameModel((0.5, 0.4), (1.0, 0.0), (1.0, 1.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="one entry per frame"):
        FrameModel((1.0,), (1.0, 0.0), (1.0, 1.0), (1.0, 1.0))


def test_no_public_name_is_hidden_by_a_module():
    import importlib
    import pkgutil

    import rar_prompt

    modules = {info.name for info in pkgutil.iter_modules(rar_prompt.__path__)}
    assert not modules & set(rar_prompt.__all__)
    for name in rar_prompt.__all__:
        assert callable(getattr(importlib.import_module("rar_prompt"), name))
