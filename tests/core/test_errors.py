from reconciler.core.errors import LogGap, NotNow, Problem, SpecError


def test_a_problem_says_where_why_and_what_may_be_meant():
    problem = Problem("specs/tasks/a.yaml", 3, 7, "unknown field", "gaol", "goal")

    assert str(problem) == "specs/tasks/a.yaml:3:7: error: gaol: unknown field (did you mean 'goal'?)"
    assert str(SpecError([problem, problem])).count("\n") == 1


def test_a_gap_in_a_log_says_from_where_to_send_it():
    gap = LogGap(kept=100, offset=250)

    assert isinstance(gap, NotNow)
    assert gap.kept == 100
    assert "a piece that begins at 250 leaves a gap; send it from offset 100" in str(gap)
