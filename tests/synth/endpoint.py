"""An endpoint that answers at once, or as badly as a prompt tells it to.

A word in a prompt chooses what happens to it (MISDEEDS); everything else gets a good answer that its words decide.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

from benchmarks.endpoint import said, served, text_of

TEXT = """
apple river stone window garden yellow walking under beside three children wooden table bright
morning train station holding umbrella smiling dog across street building glass mountain cloud
silver bicycle quiet market orange boat sleeping corner paper lantern crowd bridge green field tall
narrow round empty heavy soft distant
"""
WORDS = TEXT.split()
FACT = re.compile(r"fact (\w+)")
MISDEEDS = ("broken", "garbage", "truncated", "refuses", "leaks", "slow", "busy", "flaky", "declines", "dies")


def prose(seed: str, words: int = 50) -> str:
    """Words that follow from a seed; two seeds have little in common."""
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(words)) + "."


def shape_of(body: dict, words: str) -> dict | str:
    """A good answer: of the shape that is asked for, or in words."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    names = set(schema.get("properties", ()))
    if names == {"description"}:
        return {"description": words}
    if names == {"comparison"}:
        return {"comparison": words}
    if names == {"turns"}:
        pieces = words.split()
        return {"turns": [
            {"question": f"What of the {pieces[0]} {pieces[n]} {n}?", "answer": " ".join(pieces[n + 1 : n + 9])}
            for n in (1, 10)
        ]}  # fmt: skip
    if names == {"question", "answer"}:
        return {"question": f"Why is the {words.split()[0]} there?", "answer": words}
    if names == {"text", "questions"}:
        pieces = words.split()
        return {"text": words, "questions": [
            {"question": "What is first?", "answer": pieces[0]}, {"question": "What else?", "answer": "nowhere"},
        ]}  # fmt: skip
    if names == {"open", "choice"}:
        pieces = words.split()
        return {
            "open": [{"kind": "count", "question": f"How many {pieces[0]}s?", "answer": " ".join(pieces[:8])}],
            "choice": {
                "kind": "order", "question": "What is first?", "right": "B",
                "options": ["one", "two", "three", "four"],
            },
        }  # fmt: skip
    if names == {"explanation", "score"}:
        return {
            "explanation": "It says so.",
            "score": 5 if "right" in text_of(body).rpartition("rated:")[2].partition("\n")[0] else 1,
        }
    return verdict_of(text_of(body)) or words


def verdict_of(prompt: str) -> str:
    """What a judge says: of a pair what the prompt gives away, or which answer has the word `right` in it."""
    if "Begin with a line: Score" in prompt:
        return "Score: 70\nIt is good enough."
    if "The better response" not in prompt:
        return ""
    one, two = ("right" in prompt.partition(f"[Response {n}]")[2].partition("[End")[0] for n in (1, 2))
    if "their verdict is" in prompt:
        one, two = "the first response is better" in prompt, "the second response is better" in prompt
    verdict = "equally good" if one == two else "1" if one else "2"
    return f"They differ.\nThe better response: [{verdict}]"


class Script:
    """What is said to a request; `asked` counts each (prompt, seed), `seen` all requests, `last` is the newest."""

    def __init__(self, slow: float = 0.3, at_once: int | None = None) -> None:
        """Says that it is busy to who is more than `at_once`; then every answer takes a while."""
        self.asked: Counter[str] = Counter()
        self.slow, self.seen, self.last = slow, 0, {}
        self.at_once, self.under_way, self.busy = at_once, 0, 0
        self.most: int | None = None  # requests that are answered before everybody has to wait
        self.guesses = False  # whether who sees nothing says what the writer wrote
        self.written: dict[str, str] = {}
        self.fixed = ""  # what is said to every request

    async def reply(self, body: dict) -> tuple[int, dict, dict[str, str]]:
        if self.at_once is not None:
            if self.under_way == self.at_once:
                self.busy += 1
                return 429, {"error": {"message": "slow down"}}, {}
            self.under_way += 1
            await asyncio.sleep(0.03)
            self.under_way -= 1
        self.seen, self.last = self.seen + 1, body
        while self.most is not None and self.seen > self.most:
            await asyncio.sleep(0.01)
        text = text_of(body)
        key = blake2b(json.dumps([body["messages"], body.get("seed")]).encode(), digest_size=8).hexdigest()
        self.asked[key] += 1
        misdeed = next((word for word in MISDEEDS if f"fact {word}" in text), "")
        if misdeed == "busy" and self.asked[key] == 1:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}
        if misdeed == "flaky" and self.asked[key] == 1:
            return 500, {"error": {"message": "oops"}}, {}
        if misdeed == "declines":
            return 400, {"error": {"message": "not that"}}, {}
        if misdeed == "dies":
            return 502, {"error": {"message": "gone"}}, {}
        if misdeed == "slow":
            await asyncio.sleep(self.slow)
        fact = FACT.search(text)
        words = self.fixed or f"{fact[1] if fact else ''} {prose(key)}".strip()
        if "you may guess" in text and self.guesses:
            words = self.written[text.partition("\n")[0]]
        elif "Which one?" in text and int(key, 16) % 2:
            words = f"right {words}"
        answer = shape_of(body, words)
        if isinstance(answer, dict) and "turns" in answer:
            self.written |= {turn["question"]: turn["answer"] for turn in answer["turns"]}
        whole, finish = spoil(misdeed, answer if isinstance(answer, str) else json.dumps(answer))
        return 200, said(whole, text, finish), {}


def spoil(misdeed: str, whole: str) -> tuple[str, str]:
    """The answer and how it ended."""
    if misdeed == "broken":
        return "Sure! Here it is:\n```json\n" + whole.removesuffix("}") + ",\n```", "stop"
    if misdeed == "garbage":
        return "no such thing", "stop"
    if misdeed == "truncated":
        return whole[: len(whole) // 2], "length"
    if misdeed == "refuses":
        return json.dumps({"description": "I'm sorry, but I cannot see the image. " + whole}), "stop"
    if misdeed == "leaks":
        return json.dumps({"description": "The caption says that it is so. " + whole}), "stop"
    return whole, "stop"


@contextmanager
def endpoint(script: Script | None = None) -> Iterator[tuple[str, Script]]:
    """The endpoint in a thread: its URL, and what it was asked."""
    script = script or Script()
    with served(lambda body: script.reply(body)) as url:
        yield url, script
