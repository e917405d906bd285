"""The benchmark of over-optimisation: what its remedies are paid by, and for which seeds."""

from __future__ import annotations

from benchmarks import over_optimization

PROMPT = "write to nina. confirm the booking: the table, friday. reply:"
REPLIES = {
    "hi nina, your table is booked for friday. thanks": 1.0,
    "hi nina, your table is booked for monday. thanks": -1.0,  # the wrong day
    "hi nina, your lamp is booked for friday. thanks": -1.0,  # the wrong item
    "hi nina, your table is booked. thanks": -1.0,  # no day
    "hello.": -1.0,
}


def test_a_program_takes_two_points_off_where_a_slot_is_wrong_or_missing():
    reward = over_optimization.with_slots(lambda prompts, completions: [1.0] * len(completions))
    assert reward([PROMPT] * len(REPLIES), list(REPLIES)) == list(REPLIES.values())


def test_what_helped_is_run_on_five_seeds():
    for run in ("ppo", "ppo, beta 0.1", "slots checked"):
        planned = [p for p in over_optimization.PLAN if p[:2] == (run, over_optimization.BASE)]
        assert sorted(seed for _, _, seed in planned) == [1, 2, 3, 4, 5], run
