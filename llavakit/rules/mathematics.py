"""Whether two mathematical expressions are the same: `math-verify`, in a process of its own that may be killed."""

from llavakit.core.bounded import Bounded, Outcome

SECONDS = 10.0  # of one comparison; expressions can be made that simplify for ever
PROGRAM = """
from math_verify import parse, verify

def reply_to(pair):
    said, truth = pair
    return float(verify(parse(f"${truth}$"), parse(said)))
"""


class Mathematics:
    """Compares, in one process that is kept for the next comparison. Needs the extra `eval`."""

    def __init__(self, *, seconds: float = SECONDS) -> None:
        needs = "comparing mathematics needs math-verify (pip install 'llavakit[eval]')"
        self.process = Bounded(PROGRAM, seconds=seconds, needs=needs)

    def compare(self, answer: str, reference: str) -> Outcome:
        """1.0 if they are mathematically equal, 0.0 if not; or why that is not known."""
        return self.process.ask((answer, reference))
