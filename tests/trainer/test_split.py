"""The split: stable, honest, and written out for the eval suite."""

from trainer.data import Example
from trainer.preflight.split import draw, split_by_hash


def examples(num: int) -> list[Example]:
    return [Example(f"prompt {i}", f"answer {i}", f"f:{i}") for i in range(num)]


def prompts(part: list[Example]) -> set[str]:
    return {example.prompt for example in part}


def test_equal_prompts_stay_together_and_order_does_not_matter() -> None:
    rows = [*examples(200), *examples(200)]
    split = split_by_hash(rows, 0.25, 0.1, seed=1)
    parts = [split.train, split.validation, split.test]
    assert sum(map(len, parts)) == len(rows) == sum(2 * len(prompts(part)) for part in parts)
    assert 60 < len(split.validation) < 140
    assert 20 < len(split.test) < 60
    again = split_by_hash([*rows[::-1], Example("new", "n", "f:0")], 0.25, 0.1, seed=1)
    for part in ("train", "validation", "test"):
        assert prompts(getattr(again, part)) - {"new"} == prompts(getattr(split, part))
    other = split_by_hash(rows, 0.25, 0.1, seed=2)
    assert prompts(other.validation) != prompts(split.validation)


def test_one_share_does_not_move_the_other() -> None:
    rows = examples(300)
    small, large = (split_by_hash(rows, 0.2, share, seed=0) for share in (0.05, 0.4))
    assert small.validation == large.validation
    assert prompts(small.test) < prompts(large.test)
    assert split_by_hash(rows, 0, 0, seed=0).train == rows


def test_a_group_stays_on_one_side() -> None:
    rows = [Example(f"p {i}", "a", f"f:{i}", group=f"customer {i % 40}") for i in range(400)]
    split = split_by_hash(rows, 0.3, 0.2, seed=0)
    groups = [{e.group for e in part} for part in (split.train, split.validation, split.test)]
    assert all(groups)
    assert sum(map(len, groups)) == 40
    moved = split_by_hash(rows[::-1][:200], 0.3, 0.2, seed=0)
    assert {e.group for e in moved.test} == groups[2]


def test_white_space_around_a_text_does_not_part_it() -> None:
    rows = [Example("w", "c", "f:1", {"input": text}) for text in ("a", " a", "a\n")]
    for seed in range(20):
        split = split_by_hash(rows, 0.3, 0.3, seed)
        assert sorted(map(len, (split.train, split.validation, split.test))) == [0, 0, 3]


def test_draw_takes_exactly_that_many() -> None:
    assert len(draw(examples(5) * 3, 7, seed=0)) == 7
    assert draw(examples(3), 7, seed=0) == examples(3)
