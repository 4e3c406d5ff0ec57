"""The page of a run: what it says is so, what it links to is there, and it runs nothing."""

import html
import re
import shlex

from llavakit.train.loop import train
from tests.train.test_loop import losses, tiny_run


def test_a_run_leaves_a_page_whose_command_repeats_it(tmp_path, run):
    made = tiny_run(tmp_path, "a <b>", save_every=3)
    train(made)
    page = (made.out / "index.html").read_text()
    assert "<h1>a &lt;b&gt;: a run</h1>" in page and "<script" not in page
    assert "Step 6 of 6" in page and f"{losses(made)[-1]:.4f} now" in page
    assert re.search(r'<img alt="Loss of every step[^"]*" src="data:image/png;base64,', page)
    links = re.findall(r'href="([^"]+)"', page)
    assert "step000006" in links and "metrics.jsonl" in links
    assert all((made.out / link).exists() for link in links)
    assert "seed: 0" in page

    [again, *_] = re.findall(r"<code>(llavakit train [^<]*)</code>", page)
    code, _, error = run(*shlex.split(html.unescape(again))[1:])
    assert (code, error) == (0, "")
    copy = made.model_copy(update={"out": made.out.with_name(f"{made.out.name}-again")})
    assert losses(copy) == losses(made)
