"""`llavakit` and `python -c` in processes that need not import everything anew: forks of one that has.

Importing torch and the models of transformers takes 8 s of a core, most of what a command of the documents takes. A
server imports them once and forks for every command, which has a folder, environment, stdin and stdout of its own,
and is told the signals that its caller gets. `shims` makes two programs that ask it, for the PATH of a shell.
"""

import array
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HEAVY = [
    "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
    "llavakit.chat", "llavakit.cli", "llavakit.train.loop",
]  # fmt: skip
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
words = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
files = array.array("i", [0, 1, 2])
server.sendmsg([len(words).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
server.sendall(words)
child = int.from_bytes(server.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
code = server.recv(1)
sys.exit(code[0] if code else 70)
"""


class Server:
    """Forks a process for each command; lives until `stop`."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "preloaded.socket")
        command = [sys.executable, "-m", "tests.preloaded", self.address]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def shims(self, folder: Path) -> Path:
        """A folder with programs `llavakit` and `python`."""
        folder.mkdir()
        for name in ("llavakit", "python"):
            file = folder / name
            file.write_text(CLIENT.format(python=sys.executable, address=self.address, name=name))
            file.chmod(0o755)
        return folder

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def serve(address: str) -> None:
    """Import, listen, fork. A child answers its number and, at its end, its exit code."""
    for name in HEAVY:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            caller, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                answer(caller)
            caller.close()


def answer(caller: socket.socket) -> None:
    """In the child: become the process that the caller would have been. Does not return."""
    head, given, _, _ = caller.recvmsg(4, socket.CMSG_SPACE(12))
    size, files = int.from_bytes(head, "big"), array.array("i", given[0][2])
    name, words, folder, environ = json.loads(caller.recv(size, socket.MSG_WAITALL))
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    caller.sendall(os.getpid().to_bytes(4, "big"))
    code = run(name, words)
    sys.stdout.flush()
    sys.stderr.flush()
    caller.sendall(bytes([code]))
    os._exit(code)


def run(name: str, words: list[str]) -> int:
    """The exit code of `llavakit WORDS`, `python -c CODE` or `python -` with the code as input."""
    sys.argv = [name, *words]
    try:
        if name == "llavakit":
            from llavakit.cli import main

            main()
        else:
            sys.argv = words
            code = {"-c": lambda: words[1], "-": sys.stdin.read}[words[0]]()
            exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
