"""Who may call what: rules, decisions that last, and what fails closed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.agent.policy import Decision, Kept, Policy, Rule, Subject, decide, load_policy
from llavakit.core.errors import ConfigError, DataError
from tests.agent.scripted import Fake, Scripted, call, kinds, run_agent


def subject(tool="write", server="", read_only=False, card="1", **arguments) -> Subject:
    return Subject(tool, server, arguments, read_only, card)


def verdict(policy, about, kept=None) -> str:
    return decide(policy, kept, about).do


def test_without_rules_reading_is_allowed_and_the_rest_is_asked():
    policy = Policy()
    assert verdict(policy, subject(read_only=True)) == "approve"
    assert verdict(policy, subject()) == "ask"
    assert verdict(policy, subject(server="web", read_only=True)) == "ask", "a server's word allows nothing"


def test_the_first_rule_that_fits_decides():
    policy = Policy(
        rules=(
            Rule(tool="write*", when={"path": "/tmp/*"}, do="approve"),
            Rule(tool="write*", do="reject", why="only /tmp"),
            Rule(server="w*", tool="get", do="modify", set={"size": 10}),
            Rule(server="*", tool="delete*", do="stop"),
        )
    )
    assert verdict(policy, subject(path="/tmp/x")) == "approve"
    assert decide(policy, None, subject(path="/etc/passwd")) == Decision(
        "reject", "only /tmp", arguments={"path": "/etc/passwd"}
    )
    assert decide(policy, None, subject("get", "web", size=99, url="u")).arguments == {"size": 10, "url": "u"}
    assert verdict(policy, subject("delete_all", "web")) == "stop"
    assert verdict(policy, subject("write", "web", path="/tmp/x")) == "ask", (
        "a rule without server is for ours"
    )


@pytest.mark.parametrize("path", [None, [], {}, ["/tmp/a", "/etc/b"], {"a": "/etc/b"}, {"a": ["/tmp/x", 1]}])
def test_a_rule_allows_only_what_it_can_read(path):
    allow = Policy(rules=(Rule(tool="write", when={"path": "/tmp/*"}, do="approve"),), otherwise="reject")
    assert verdict(allow, subject(path=path)) == "reject"


def test_a_rule_forbids_as_soon_as_one_value_is_bad():
    policy = Policy(rules=(Rule(when={"path": "/etc/*"}, do="reject"),), otherwise="approve")
    assert verdict(policy, subject(path=["/tmp/a", {"b": "/etc/c"}])) == "reject"
    assert verdict(policy, subject(path=["/tmp/a"])) == "approve"


def test_arguments_that_cannot_be_read_are_never_allowed(tmp_path):
    policy = Policy(rules=(Rule(do="approve"),), otherwise="approve")
    about = Subject("write", "", None, True, "1")
    assert verdict(policy, about) == "reject"
    tool = Fake("write")
    bad = '"thoughts🤔" x\n"actions🚀" [{"API_name": "write", "API_params": "rm"}]\n"value👉" \n'
    from llavakit.agent.forms import FORMS

    answer, _ = run_agent(tmp_path, Scripted(bad, "No."), [tool], policy=policy, form=FORMS["llava_plus"])
    assert tool.asked == [] and answer.plain == "No."


def test_decisions_last_by_server_and_tool_until_the_card_changes(tmp_path):
    kept, policy = Kept(tmp_path / "k.json"), Policy()
    kept.pin(subject("get", "web"), "approve")
    kept.pin(subject("put", "web"), "reject")
    again = Kept(tmp_path / "k.json")
    assert verdict(policy, subject("get", "web"), again) == "approve"
    assert verdict(policy, subject("put", "web"), again) == "reject"
    assert verdict(policy, subject("get", "other"), again) == "ask"
    changed = decide(Policy(rules=(Rule(server="*", do="approve"),)), again, subject("get", "web", card="2"))
    assert changed.do == "ask" and "has changed" in changed.why


def test_a_rule_is_stronger_than_a_decision_unless_it_asks(tmp_path):
    kept = Kept(tmp_path / "k.json")
    kept.pin(subject("get", "web"), "approve")
    assert verdict(Policy(rules=(Rule(server="*", do="reject"),)), subject("get", "web"), kept) == "reject"
    assert verdict(Policy(rules=(Rule(server="*", do="ask"),)), subject("get", "web"), kept) == "approve"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from("ab"), st.text() | st.integers() | st.lists(st.text()) | st.none()))
def test_no_arguments_break_a_rule(arguments):
    policy = Policy(rules=(Rule(when={"a": "[", "b": "*"}, do="approve"),), otherwise="stop")
    assert decide(policy, None, Subject("t", "", arguments, False, "")).do in ("approve", "stop")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": {"do": "approve"}}', '{"a": {"card": 1}}'])
def test_a_file_of_decisions_that_is_none_is_not_taken_for_empty(tmp_path, text):
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(DataError, match="decisions"):
        Kept(tmp_path / "k.json")


def test_a_policy_file_with_a_mistake_names_it(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("rules: [{tool: x, do: aprove}]")
    with pytest.raises(ConfigError, match=r"rules\.0\.do='aprove'"):
        load_policy(path)
    path.write_text("rules: [{tool: 'write_*', when: {path: '/tmp/*'}, do: approve}]\notherwise: stop")
    assert load_policy(path).rules[0].when == {"path": "/tmp/*"}


@pytest.mark.parametrize(
    ("answer", "asked", "said"),
    [
        (Decision("approve"), [{"path": "a"}], "OK."),
        (Decision("modify", arguments={"path": "b"}), [{"path": "b"}], "OK."),
        (Decision("reject"), [], "OK."),
        (Decision("stop", "a person stopped the run"), [], "OK."),
    ],
)
def test_what_a_person_says_is_what_happens(tmp_path, answer, asked, said):
    tool = Fake("write", {"done": True}, read_only=False)
    model = Scripted(call("write", path="a"), said)
    heard = []

    def ask(made, card, why):
        heard.append((made.name, json.loads(made.arguments), card.name))
        return answer

    answered, events = run_agent(tmp_path, model, [tool], ask=ask)
    assert heard == [("write", {"path": "a"}, "write")] and tool.asked == asked
    decided = next(event for event in events if event.kind == "decided")
    assert (decided.do, decided.by) == (answer.do, "person")
    assert (answered.stopped == "a person stopped the run") == (answer.do == "stop")
    assert ("not called" in str(answered.missing)) == (not asked)


def test_always_is_asked_once(tmp_path):
    tool = Fake("write", lambda arguments, desk: {"n": arguments["n"]}, read_only=False)
    times = []

    def ask(made, card, why):
        times.append(made)
        return Decision("approve", lasting=True)

    model = Scripted(call("write", n=1) + call("write", n=2), call("write", n=3), "OK.")
    run_agent(tmp_path, model, [tool], ask=ask, kept=Kept(tmp_path / "k.json"))
    assert len(times) == 1 and len(tool.asked) == 3


def test_with_nobody_there_the_run_waits_and_no_call_of_the_turn_runs(tmp_path):
    reading, writing = Fake("read", {"x": 1}), Fake("write", read_only=False)
    answer, events = run_agent(tmp_path, Scripted(call("read") + call("write"), "OK."), [reading, writing])
    assert answer is None and kinds(events) == "said call call decided waiting"
    assert reading.asked == writing.asked == []
