"""Learning from a model's own answers on any checkpoint: `model.start=DIR data.files=QUESTIONS`."""

from pathlib import Path

from llavakit.model.settings import LoraSettings, ModelConfig
from llavakit.train.policy_settings import Algorithm, PolicyConfig, ToolLoop
from llavakit.train.reward_terms import Exact, RewardsConfig, StopPenalty, ToolUse
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

RATE = 1e-6  # TRL's and verl's for whole models; adapters take ten to a hundred times as much


def grpo() -> Run:
    """Own answers scored by policy.rewards, against their group: GRPO. model.start=DIR data.files=FILE."""
    return _policy("grpo")


def rloo() -> Run:
    """As grpo, each answer against the others of its group, the KL taken from rewards: RLOO."""
    return _policy("rloo")


def ppo() -> Run:
    """Own answers scored by policy.rewards, against a value model: PPO, all roles adapters on one base."""
    return _policy("ppo", train=("language",), rate=3e-5, lora=LoraSettings(r=64, alpha=16))


def grpo_tools() -> Run:
    """As grpo, but answers may call tools; right ones that used one count more. model.start=DIR data.files=FILE."""
    rewards = RewardsConfig(
        terms={"exact": Exact(), "tool_use": ToolUse(weight=0.2), "stop_penalty": StopPenalty(value=-0.5)},
        gate="exact",
    )
    tools = ToolLoop(names=("count_shapes", "zoom", "colors"))
    how = Algorithm.model_validate("grpo")
    policy = PolicyConfig(algorithm=how, tools=tools, rewards=rewards, max_tokens=128)
    return _policy("grpo").model_copy(
        update={"name": "grpo-tools", "out": Path("runs/grpo-tools"), "policy": policy}
    )


def _policy(
    name: str,
    *,
    train: tuple[str, ...] = ("language", "newline"),
    rate: float = RATE,
    lora: LoraSettings | None = None,
) -> Run:
    return Run(
        name=name,
        out=Path("runs") / name,
        train=train,
        model=ModelConfig(start=Path("runs/demo"), lora=lora),
        policy=PolicyConfig(algorithm=Algorithm.model_validate(name)),
        optim=OptimConfig(
            lr=LearningRates.model_validate(dict.fromkeys(train, rate)), warmup=0.03, final=0.1
        ),
        save_every=50,
    )
