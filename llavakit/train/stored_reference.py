"""A reference as numbers on disk: what the start gives for every answer of the data, computed once.

With it a run has no copies of weights, and makes no pass by the reference once its data is known. The first run
fills the folder before its first step; others with the same start, template, image rule and precision find it full.
"""

from pathlib import Path

import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.core.progress import bar, say
from llavakit.core.types import Batch
from llavakit.data.answer_cache import AnswerCache
from llavakit.data.encode import Sample
from llavakit.data.loader import Loader
from llavakit.data.pack import collate, pack_rows
from llavakit.data.records import FAULTS
from llavakit.model.adapters import adapter_parameters
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.directory import resolve
from llavakit.model.fingerprint import hash_weights
from llavakit.model.llava import Llava
from llavakit.train.answers import answer_logprobs
from llavakit.train.balance import balance_batches
from llavakit.train.precision import autocast
from llavakit.train.ranks import Ranks
from llavakit.train.run import Run
from llavakit.train.sharding import gather_full, reshard


class StoredReference:
    """The start's log-probabilities of the answers, by what the pairs say and show."""

    def __init__(self, folder: Path, started: Checkpoint, run: Run, ranks: Ranks) -> None:
        """`started` is what the run starts from; it must not change before `let_go`. Every rank calls it."""
        assert run.preference is not None
        self._model: Llava | None = started.model
        self._precision, self._length_weight = run.precision, run.preference.length_weight
        self._ranks = ranks
        self._cache = AnswerCache(folder, fingerprint_start(run, started))
        self.key = self._cache.key
        if self._cache.others:
            say(
                f"reference: {folder} holds another start's answers too (weights, template, image rule, precision "
                "or preference.length_weight differ); they are left there and not used"
            )

    def fill(self, loader: Loader) -> None:
        """Compute what is missing of a loader's pairs; the ranks share the work, and all of them must call it.

        A pair whose pictures cannot be decoded is left out: whoever reads its record says so.
        """
        assert self._model is not None, "the start was let go of"
        self._ranks.barrier()  # a rank that still wrote for the last loader is done
        self._cache.read()
        records, window = loader.records, loader.config.window
        training, computed = self._model.training, 0
        self._model.eval()
        with bar("reference", len(records)) as progress:
            for first in range(0, len(records), window):
                numbers = range(first, min(first + window, len(records)))
                computed += self._fill_window(self._model, loader, numbers)
                progress.advance(len(numbers))
        reshard(self._model)
        self._model.train(training)
        [everywhere] = self._ranks.sums([computed])
        self._cache.read()  # what the other ranks found
        say(
            f"reference: {everywhere:.0f} pair(s) computed, the rest of {len(records)} known: {self._cache.folder}"
        )

    def let_go(self) -> None:
        """The data is known: from now on the model may change."""
        self._model = None

    def logprobs(self, model: Llava, batch: Batch, length_weight: float) -> Tensor:
        """float32[A], looked up."""
        try:
            numbers_A = self._cache.logprobs(batch.keys)
        except KeyError:
            raise DataError(
                f"a pair is not among the reference's in {self._cache.folder}: its text or a picture has changed "
                "since the run began; go on with --resume, which computes it"
            ) from None
        return torch.tensor(numbers_A, dtype=torch.float32, device=model.device)

    def _fill_window(self, model: Llava, loader: Loader, numbers: range) -> int:
        """This rank's share of a window: pairs that are not known, dealt out by their keys; returns how many."""
        missing: dict[str, Sample] = {}
        for number in numbers:
            sample = loader.samples(loader.records[number])
            if sample is None or (key := self._key_of(sample)) is None or key in self._cache:
                continue
            if int(key, 16) % self._ranks.size == self._ranks.rank:
                missing[key] = sample
        keys, samples = list(missing), list(missing.values())
        rows = pack_rows([sample.num_inputs for sample in samples], loader.config.tokens)
        [passes] = self._ranks.largest([len(rows)])
        rows += [[]] * (passes - len(rows))
        return sum(self._compute(model, loader, {keys[at]: samples[at] for at in row}) for row in rows)

    def _key_of(self, sample: Sample) -> str | None:
        try:
            return self.key(sample)
        except DataError:  # gone since its header was read
            return None

    @torch.no_grad()
    def _compute(self, model: Llava, loader: Loader, row: dict[str, Sample]) -> int:
        """One packed row, or a place beside the other ranks' rows; returns how many pairs are known by it."""
        tiles: list[Tensor] = []
        readable: dict[str, Sample] = {}
        for key, sample in row.items():
            try:
                cut = [loader.tiles(media) for media in sample.media]
            except (DataError, *FAULTS):
                continue
            readable[key] = sample
            tiles += cut
        batches = [collate(list(readable.values()), tiles)] if readable else []
        for batch in balance_batches(batches, model, self._ranks, tile=loader.encoder.image.size):
            with autocast(model, self._precision):
                logprobs_A, _ = answer_logprobs(model, batch.to(model.device), self._length_weight)
        if readable:
            answers = logprobs_A.split([len(sample.leaves) for sample in readable.values()])
            self._cache.add({key: one.tolist() for key, one in zip(readable, answers, strict=True)})
        return len(readable)


def fingerprint_start(run: Run, started: Checkpoint) -> str:
    """A name for what a run starts from: of every weight, and of all else that log-probabilities depend on.

    Adapters that start here add nothing yet, so any shape of them has one reference.
    """
    assert run.preference is not None and run.model.start is not None
    model, adapter = started.model, started.adapter
    fresh: set[int] = set()
    if adapter is not None and adapter.base == resolve(run.model.start):
        parts = [model.part(name) for name in adapter.lora.parts]
        fresh = {id(param) for part in parts for param in adapter_parameters(part).values()}
    names = {name for name, param in model.named_parameters() if id(param) in fresh}
    decoder = model.language.config.to_dict()
    decoder.pop("_name_or_path", None)
    told = (
        decoder,
        model.tower.architecture(),
        started.card.model_dump(mode="json", exclude={"tower": {"path"}}),
        None if adapter is None or fresh else adapter.lora.model_dump(mode="json"),
        run.precision,
        run.preference.length_weight,
    )
    tensors = ((name, gather_full(t)) for name, t in model.state_dict().items() if name not in names)
    return hash_weights(repr(told), tensors)
