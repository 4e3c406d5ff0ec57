"""Rows for any number of ranks: as many tokens in a step, and room for the longest sample."""

from hypothesis import given
from hypothesis import strategies as st

from llavakit.recipes import RECIPES
from llavakit.recipes.fit_ranks import GRAIN, adopt_ranks, fit_rows
from llavakit.train import run_directory

ROWS, TOKENS = st.integers(1, 300), st.integers(1024, 40_000)


@given(rows=ROWS, tokens=TOKENS, ranks=st.integers(1, 600), share=st.floats(0.05, 1))
def test_a_step_keeps_its_tokens(rows, tokens, ranks, share):
    longest = int(tokens * share)
    count, each = fit_rows(rows, tokens, ranks, longest)
    assert each >= longest
    assert abs(count * each - rows * tokens) <= count * GRAIN
    idle = -count % ranks
    # Some are idle only where a row for each would be too short, and one pass less would be none at all.
    assert not idle or (rows < ranks and rows * tokens / ranks < longest + GRAIN)


def test_what_was_given_stays_and_so_does_a_run_that_goes_on(tmp_path, monkeypatch, capsys):
    recipe = RECIPES["onevision-ov-72b"]
    run = recipe().model_copy(update={"out": tmp_path / "run"})
    assert adopt_ranks(run, recipe, ["optim.rows=22"], 64, resume=False) == run
    assert capsys.readouterr().out == ""
    fitted = adopt_ranks(run, recipe, [], 64, resume=False)
    assert fitted.optim.rows > run.optim.rows
    assert "64 ranks" in capsys.readouterr().out
    monkeypatch.setattr(run_directory, "newest_checkpoint", lambda out: out)
    run_directory.begin(fitted)
    assert adopt_ranks(run, recipe, [], 8, resume=True) == fitted
    monkeypatch.setenv("WORLD_SIZE", "64")
    assert adopt_ranks(run, recipe, [], None, resume=False) == fitted
