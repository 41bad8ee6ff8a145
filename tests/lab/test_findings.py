import dataclasses

from nero_lab.findings import findings
from nero_lab.plan import Arm
from nero_lab.results import Row, Score, markdown_table


def _row(optimizer: str, init: str, *accuracies: float) -> Row:
    score = Score(lr=0.01, accuracies=accuracies, seeds_wanted=len(accuracies), diverged=0)
    return Row(Arm(50, optimizer, init), score, score, steps=1, seconds=1.0)


ROWS = [
    _row("nero", "default", 0.7, 0.8),
    _row("sgd", "default", 0.1, 0.1),
    _row("adam", "default", 0.1, 0.12),
    _row("adam", "kaiming", 0.9, 0.95),
]


def test_says_who_is_stuck_and_that_the_initial_scale_explains_it():
    default, control = findings(ROWS)
    assert "Nero reaches 0.750 [0.700, 0.800]" in default
    assert "SGD 0.100 and Adam 0.110" in default
    assert "Adam from Kaiming-normal weights reaches 0.925" in control
    assert "above Nero's best on every seed" in control
    assert "Adam learned nothing from default weights" in control
    assert "much of its lead from default weights is that projection" in control


def test_words_follow_the_numbers():
    worse_control = [*ROWS[:3], _row("adam", "kaiming", 0.1, 0.11)]
    control = findings(worse_control)[1]
    assert "below Nero's best on every seed" in control
    assert "projection" not in control

    good_adam = [*ROWS[:2], _row("adam", "default", 0.75, 0.95), ROWS[3]]
    default = findings(good_adam)[0]
    assert "Adam at its best is above Nero's best on the mean, with seeds that overlap" in default


def test_a_nero_that_does_not_learn_is_told():
    default, control = findings([_row("nero", "default", 0.11, 0.14), *ROWS[1:]])
    assert "That is near chance (0.1) too." in default
    assert "learns little here" in control


def test_nothing_is_claimed_of_an_unfinished_depth():
    assert findings([*ROWS[:3], dataclasses.replace(ROWS[3], best=None)]) == [
        "50 layers: not all runs are in yet."
    ]


def test_table_says_what_diverged_and_what_is_missing():
    score = Score(lr=0.1, accuracies=(0.1,), seeds_wanted=3, diverged=1)
    row = Row(Arm(50, "sgd", "default"), None, score, steps=4, seconds=1.25)
    table = markdown_table([row])
    assert "| 50 | SGD | default | 0.001 | - | 0.1 | 0.100 (1 diverged, 1 of 3 seeds) |" in table
