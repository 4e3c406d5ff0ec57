"""Answers of the model as it is now, by a server: vLLM's, or `llavakit serve`. Messages out, tokens back.

A conversation is sent with its pictures, rendered and tokenised there; that the prompt has as many tokens as here
is checked, and that it means the same is seen in the learner's log-probabilities (`policy.drift`). New weights are
a directory that the server is told to load. Facts about vLLM's server: version 0.32.
"""

import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from llavakit.align.drawn import Drawn, Sampled
from llavakit.align.prompts import Prompt
from llavakit.align.remote_reward import API_KEY
from llavakit.align.sampler import Sampler
from llavakit.core.errors import ConfigError, RemoteError, RemoteRefused
from llavakit.model.adapters import write_foreign_adapter
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.convert.convert import merge
from llavakit.train.freezing import is_trained
from llavakit.train.policy_settings import PolicyConfig, RolloutServer
from llavakit.train.ranks import Ranks
from llavakit.train.run import Run
from llavakit.train.saving import save_model
from llavakit.wire import CHAT, CONTROL, FORGET, Server, write_message

FOLDER = "weights"  # of the run
TOKEN = "token_id:"  # what a server that is asked to says in the place of a token's text
HOW = {  # what a server must have been started with
    "directory": "vLLM with VLLM_SERVER_DEV_MODE=1, or llavakit serve with reload_root=FOLDER",
    "lora": "vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
}


class RemoteSampler(Sampler):
    """A sampler behind a URL. The key is the environment's."""

    def __init__(
        self, run: Run, policy: PolicyConfig, how: RolloutServer, checkpoint: Checkpoint, ranks: Ranks
    ) -> None:
        self.policy, self.how, self.checkpoint, self.ranks = policy, how, checkpoint, ranks
        self.folder = (run.out / FOLDER if how.weights is None else how.weights).resolve()
        self._written: list[Path] = []  # by the first rank; all but the last are soon gone
        self.template = checkpoint.card.prompt()
        name = how.model
        if how.reload == "lora":
            name = f"{run.name}-policy"
            if checkpoint.adapter is None or is_trained(checkpoint.model.connector):
                raise ConfigError(
                    "policy.rollouts.reload=lora sends the decoder's adapters alone: give model.lora, and do not "
                    "train the connector"
                )
        self.server = Server(
            how.url, model_name=name, at_once=how.at_once, seconds=how.seconds,
            api_key=(os.environ.get(API_KEY) or "").split(" ")[0] or None,
        )  # fmt: skip

    def refresh(self) -> None:
        """As `Sampler`: write the weights where nothing was before, and have them loaded."""
        [number] = self.ranks.sums([float(secrets.randbelow(2**40) if self.ranks.is_first else 0)])
        path = self.folder / f"{int(number):010x}"
        save_model(self.checkpoint, path, self.ranks)
        problem: Exception | None = None
        if self.ranks.is_first:
            self._written.append(path)
            try:
                self._send(path)
                self._remove(self._written[:-1])
            except (RemoteError, ConfigError) as error:
                problem = error
        # Nobody waits for a first rank that has given up, nor asks before the new weights are there.
        if self.ranks.any(problem is not None):
            raise problem or RemoteError("the first rank could not send new weights to the server")

    def _send(self, path: Path) -> None:
        """Have the server load what lies there."""
        if self.how.reload == "lora":
            write_foreign_adapter(path, path / "vllm")
            body: dict[str, Any] = {"lora_name": self.server.model_name, "lora_path": str(path / "vllm")}
            self._control("/load_lora_adapter", body | {"load_inplace": True})
        else:
            whole = path
            if self.checkpoint.adapter is not None:
                merge(path, whole := path.with_name(f"{path.name}-merged"))
            asked = {"method": "reload_weights", "kwargs": {"weights_path": str(whole)}}
            self._control(CONTROL, asked)
            for path_of_cache in FORGET:
                answer = self._control(path_of_cache, {})
                if isinstance(answer, dict) and answer.get("success") is False:
                    raise RemoteError(
                        f"{self.server.url} did not forget what it computed with the old weights"
                    )

    def _remove(self, folders: list[Path]) -> None:
        for path in folders:
            for each in (path, path.with_name(f"{path.name}-merged")):
                shutil.rmtree(each, ignore_errors=True)
            self._written.remove(path)

    def _control(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return self.server.post(path, body)
        except RemoteRefused as error:
            raise ConfigError(f"policy.rollouts: {error}; it wants {HOW[self.how.reload]}") from None

    def close(self) -> None:
        """Give the connections back; the server has the weights in memory, and the run its checkpoints."""
        self.server.close()
        self._remove(self._written[:])
        with suppress(OSError):  # not there, or others have something in it
            self.folder.rmdir()

    def answers(self, asked: Iterable[tuple[Prompt, int]]) -> list[list[Sampled]]:
        """As `Sampler`; a few more prompts are ready than are under way."""
        groups, under_way = list[list[Sampled]](), deque[Future[list[Sampled]]]()
        with ThreadPoolExecutor(self.how.at_once) as pool:
            try:
                for prompt, seed in asked:
                    if len(under_way) >= 2 * self.how.at_once:
                        groups.append(under_way.popleft().result())
                    under_way.append(pool.submit(self._ask, prompt, seed))
                groups += [each.result() for each in under_way]
            finally:
                pool.shutdown(cancel_futures=True)
        return groups

    def _ask(self, prompt: Prompt, seed: int) -> list[Sampled]:
        policy = self.policy
        stops = [
            *self.checkpoint.tokenizer.stop_strings(self.template),
            *([policy.cut_at] if policy.cut_at else []),
        ]
        body = {
            "model": self.server.model_name,
            "messages": [write_message(message) for message in prompt.talk.messages],
            # All that a model directory could have defaults for is said.
            "temperature": policy.temperature, "top_p": policy.top_p, "top_k": -1, "min_p": 0.0,
            "repetition_penalty": 1.0, "max_tokens": policy.max_tokens, "n": policy.answers, "seed": seed,
            "logprobs": True, "top_logprobs": 0, "return_tokens_as_token_ids": True,
        }  # fmt: skip
        answer = self.server.post(CHAT, body | ({"stop": stops} if stops else {}))
        try:
            read = int(answer["usage"]["prompt_tokens"])
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            drawn = [self._drawn(choice) for choice in choices]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RemoteError(
                f"{self.server.url} did not tell tokens and log-probabilities, as vLLM does with "
                f"return_tokens_as_token_ids: {str(answer)[:200]}"
            ) from None
        if read != prompt.sample.num_tokens:
            raise ConfigError(
                f"policy.rollouts: {prompt.key} has {read} tokens there and {prompt.sample.num_tokens} here: "
                f"{self.server.url} serves another model, or with another template"
            )
        if len(drawn) != policy.answers:
            raise RemoteError(f"{self.server.url} gave {len(drawn)} answers, not {policy.answers}")
        return drawn

    def _drawn(self, choice: dict[str, Any]) -> Sampled:
        """An answer by the rules of here: what the server drew behind its end is dropped."""
        drawn = Drawn(self.checkpoint.tokenizer, self.template, self.policy.cut_at)
        finish = "length"
        for entry in choice["logprobs"]["content"]:
            token, logprob = _token(entry["token"]), float(entry["logprob"])
            ended = drawn.ends(token)
            drawn.add(token, logprob)
            if ended:
                finish = "stop"
                break
        drawn.finish(finish)
        if finish == "length" and choice["finish_reason"] != "length" and not drawn.is_cut:
            raise RemoteError(
                f"{self.server.url} ended an answer after {len(drawn.answer.ids)} tokens "
                f"({choice['finish_reason']!r}) without telling the token that ends it, which is to be learned too"
            )
        return drawn.answer


def _token(said: str) -> int:
    if not said.startswith(TOKEN):
        raise ValueError(said)
    return int(said.removeprefix(TOKEN))
