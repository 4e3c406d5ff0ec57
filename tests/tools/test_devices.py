"""Where a tool with weights runs: bounds and environment of its process."""

import os
from pathlib import Path

import pytest

from llavakit.core.bounded import GIGABYTE, Bounded
from llavakit.core.errors import ConfigError
from llavakit.tools import devices
from llavakit.tools.devices import ADDRESS_SPACE, Room, room_on
from llavakit.tools.skills import open_tools

ASK = """
import os, resource
def reply_to(name):
    return [os.environ.get(name), resource.getrlimit(resource.RLIMIT_AS)[0]]
"""


def test_a_card_is_hidden_or_named_and_cuda_has_no_bound_on_what_it_maps(monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", Path("/nonexistent"))
    assert room_on("auto", "ground") == Room() and room_on("cpu", "ground") == Room(
        environ={devices.VISIBLE: ""}
    )
    with pytest.raises(ConfigError, match=r"ground\.device=cuda:1: there is no NVIDIA driver"):
        room_on("cuda:1", "ground")
    with pytest.raises(ConfigError, match="write auto, cpu, cuda or cuda:0"):
        open_tools(["ground"], {"ground": {"device": "gpu"}})
    monkeypatch.setattr(devices, "DRIVER", Path(os.devnull))
    assert room_on("auto", "ground") == Room(None) == room_on("cuda", "ground")
    assert room_on("cuda:1", "ground") == Room(None, {devices.VISIBLE: "1"})


@pytest.mark.parametrize(
    ("memory", "limit"), [(None, -1), (ADDRESS_SPACE, int(ADDRESS_SPACE * GIGABYTE))], ids=["any", "bound"]
)
def test_a_process_has_its_bound_and_its_environment(memory, limit):
    with Bounded(ASK, seconds=10, memory=memory, environ={"WHERE": "1"}, needs="x") as process:
        assert process.ask("WHERE", seconds=10).value == ["1", limit]
        assert process.ask("PATH", seconds=10).value[0] == os.environ["PATH"]
