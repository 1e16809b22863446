"""Bank: hundreds of experts of one base, each a delta, of which the model shows one, or each row of a batch its own.

    theta = theta0 + tau_e         merged into a buffer, in milliseconds; back to theta0 by a swap of pointers
    y_i   = f(x_i; theta0 + tau_e(i))

Experts lie in the form in which they are stored: two bits an entry for signs (ComPEFT, arXiv 2311.13171), factors for
adapters; files are read when an expert is first asked for, and experts not asked for give their place to others under a
cap (bank_shelf.py). The paper unpacks an expert to a dense vector before it adds it; here the sum is made from the
planes or factors in one pass (bank_show.py). Rows of low-rank experts run together, unmerged (bank_factors.py); other
rows in groups, one an expert.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, SupportsIndex

import torch
from torch import nn

from dtheta.compose.atlas import learn_coefficients
from dtheta.compose.bank_experts import Experts
from dtheta.compose.bank_factors import by_row
from dtheta.compose.bank_origin import Origin
from dtheta.compose.bank_rows import cut, index, joined, order
from dtheta.compose.bank_show import Display
from dtheta.compose.bank_turns import Turns
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.compose import Weights, compose
from dtheta.compose.search import search_coefficients
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, DthetaError, NonFinite


class Bank:
    """Experts by name, and a model that shows one of them.

    The base's storage is never written to, and is back, to the bit, whenever no expert is shown. What is shown lives in
    buffers of the bank, as large as the tensors that experts change; these, and the expert that is shown when it gave
    its place to others, come on top of ``capacity_bytes``. Tensors taken from the model while an expert is shown, such
    as those of ``state_dict()``, are these buffers: clone them to keep them.

    Threads may share a bank: they wait for each other's blocks (bank_turns.py). A bank is neither copied nor pickled;
    two banks on one model, used by one thread, show the sum of their experts.

    Attributes:
        model: The base. It must not be replaced or moved while an expert is shown.
        current: Name of the expert shown; None for the base.
    """

    def __init__(
        self, model: nn.Module, capacity_bytes: int | None = None, *, strict: bool = True, exact: bool = False
    ) -> None:
        """Make an empty bank.

        Args:
            model: The base of all experts: any module.
            capacity_bytes: Most bytes that experts in memory may take together; None for no limit.
            strict: Whether the tensors that an expert changes must be, bit for bit, those it was made on.
            exact: Whether a shown expert must have the bits that ``applied`` gives also where it is not made of signs:
                slower; otherwise it agrees up to the rounding of float32.

        Raises:
            ConfigError: If the model is no module, or the capacity cannot be meant.
        """
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"the model is a {type(model).__name__}; expected a torch module, the base of the experts"
            )
        self.model = model
        self.current: str | None = None
        self._by_row_now = False
        self._origin = Origin(model, strict)
        self._experts = Experts(self._origin, capacity_bytes)
        self._display = Display(self._origin, exact)
        self._turns = Turns(lambda: self.current)

    # ---- experts

    def add(self, name: str, source: Delta | str | os.PathLike[str]) -> None:
        """Add an expert.

        Args:
            name: By which it is asked for.
            source: A delta, which stays in memory; or a ``.delta`` file, of which only the header is read now. The
                file has to stay where it is.

        Raises:
            ConfigError: If the name is taken or empty, there is no such file, or the cap cannot hold it.
            FormatError: If the file is damaged.
            BaseMismatch: If it was made on another base.
            UnknownParameter, ShapeMismatch: If it does not fit the model.
            UnsupportedLayer: If it brings new vectors, or changes one tied tensor by two names.
            NonFinite: If it holds NaN or infinity.
        """
        with self._turns.lock:
            self._experts.add(name, source)

    def remove(self, name: str) -> None:
        """Forget an expert; its file stays.

        Raises:
            UnknownParameter: If there is none.
            ConfigError: If the model shows it.
        """
        with self._turns.lock:
            if name == self.current:
                raise ConfigError(f"the model shows {name!r} just now; bank.switch(None) first")
            self._experts.shelf.remove(name)

    def __getitem__(self, name: str) -> Delta:
        """Return an expert's delta, read if it is not in memory; it must not be written to."""
        with self._turns.lock:
            return self._experts.shelf.take([name])[name]

    def __contains__(self, name: object) -> bool:
        return name in self._experts.shelf

    def __iter__(self) -> Iterator[str]:
        return iter(self._experts.shelf)

    def __len__(self) -> int:
        return len(self._experts.shelf)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the experts in memory, the one asked for longest ago first."""
        return tuple(expert.name for expert in self._experts.shelf.loaded)

    @property
    def nbytes(self) -> int:
        """Bytes of the experts in memory."""
        return self._experts.shelf.nbytes

    @property
    def buffer_nbytes(self) -> int:
        """Bytes of the buffers in which experts are shown."""
        return self._display.nbytes

    def free(self) -> None:
        """Give back the memory of buffers that are not shown; the next switch takes it again."""
        with self._turns.lock:
            self._display.free()

    # ---- one expert

    def switch(self, name: str | None) -> None:
        """Show an expert until the next switch, or the base; if that fails, what was shown before is shown again.

        The sum is made anew, also for the expert that is shown already.

        Raises:
            UnknownParameter: If there is no such expert.
            BaseMismatch: If the base was written to since it was added.
            NonFinite: If base plus expert overflows the dtype of the base.
            ConfigError: If the cap cannot hold it, its file is gone or was replaced, the rows of a batch have experts
                of their own just now, or another thread shows an expert without a block.
            FormatError: If its file was damaged since.
            UnsupportedLayer: If a tensor cannot be changed, such as one that is stored in four bits.
        """
        with self._turns.taken():
            if self._by_row_now:
                raise ConfigError("the rows of a batch have experts of their own just now: leave that block first")
            changes = self._experts.changes([name])[name]
            expert = None if name is None else self._experts.shelf[name]
            before = self.current
            try:
                self._display.show(changes, check=expert is not None and not expert.sound)
            except BaseException as error:
                self._fall_back(before if name is not None else None)
                if isinstance(error, NonFinite):
                    raise NonFinite(f"expert {name!r}: {error}: it overflows the base, or is damaged") from None
                raise
            if expert is not None:
                expert.sound = True
            self.current = name

    def _fall_back(self, name: str | None) -> None:
        """Show an expert again after another could not be shown; the base, if that cannot be either."""
        self.current = None
        try:
            self._display.show(self._experts.changes([name])[name])
            self.current = name
        except DthetaError:
            self._display.show({})

    @contextmanager
    def using(self, name: str | None) -> Iterator[nn.Module]:
        """Run a block in which the model shows an expert, or the base; after it, it shows what it did before.

        Other threads wait with theirs until it ends.

        Raises:
            ConfigError: If it ends while a block that began inside of it is open.
            DthetaError: Otherwise as ``switch``.
        """
        with self._turns.taken():
            before = self.current
            self.switch(name)
            block = self._turns.begin(before)
            try:
                yield self.model
            finally:
                self.switch(self._turns.end(block))

    # ---- an expert for each row

    @contextmanager
    def batched(self, experts: Sequence[str | None] | str) -> Iterator[nn.Module]:
        """Run a block in which row i of every batch passes the model with its own low-rank expert, unmerged.

        Gradients pass. The rows must be the first axis of what every changed layer gets.

        Args:
            experts: One name a row; None for the base. One name alone stands for all rows of any batch.

        Raises:
            UnsupportedLayer: If an expert changes something else than linear layers by factors (use ``run``), or a
                layer gets something else than rows.
            DthetaError: Otherwise as ``switch``, which is refused inside of the block.
        """
        names = [experts] if isinstance(experts, str) else list(experts)
        with self.using(None):
            changes, rows = self._experts.changes(names), None if isinstance(experts, str) else names
            with by_row(changes, rows, self._origin.sites):
                self._by_row_now = True
                try:
                    yield self.model
                finally:
                    self._by_row_now = False

    def run(self, *args: Any, experts: Sequence[str | None], grouped: bool = False, **kwargs: Any) -> Any:
        """Run the model on a batch in which row i belongs to ``experts[i]``, without gradients.

        Low-rank experts, and rows of the base beside them, run together; each other expert runs on its own rows. Every
        row comes out as if its expert were alone, up to rounding, if the model treats rows alike: in eval mode.

        Args:
            args: The model's inputs. Tensors with one entry a row are cut; those with one entry, or none, are shared.
            experts: One name a row; None for the base.
            grouped: Whether low-rank experts run on their own rows, too.
            kwargs: Further inputs of the model.

        Returns:
            What the model returns, with the rows in the order of the batch.

        Raises:
            ConfigError: If there are no rows, or an input has another number of them.
            UnsupportedLayer, ShapeMismatch: If rows run in several groups, and an output has not one entry a row.
            DthetaError: Otherwise as ``switch`` and ``batched``.
        """
        names = list(experts)
        if isinstance(experts, str) or not names:
            raise ConfigError(f"experts is {experts!r}; expected one name, or None, for each row of the batch")
        with self._turns.taken():
            groups = order(names, frozenset() if grouped else self._experts.together(names))
            if len(groups) == 1:
                cut((args, kwargs), None, len(names))  # for what it refuses
                return self._run_group(names, args, kwargs)
            indices, parts = [index(rows) for rows in groups], []
            for rows, index_b in zip(groups, indices, strict=True):
                inside = cut((args, kwargs), index_b, len(names))
                parts.append(self._run_group([names[i] for i in rows], *inside))
            return joined(parts, indices)

    @torch.no_grad()
    def _run_group(self, names: Sequence[str | None], args: Any, kwargs: Any) -> Any:
        with self._group(names):
            return self.model(*args, **kwargs)

    def _group(self, names: Sequence[str | None]) -> AbstractContextManager[Any]:
        """Return the block in which rows of these experts run: unmerged where that can be, since that costs less."""
        if len(set(names)) > 1:
            return self.batched(names)
        name = names[0]
        return self.batched(name) if name is not None and self._experts.goes_by_row(name) else self.using(name)

    # ---- experts composed

    def compose(self, names: Sequence[str], coefficients: Weights) -> Delta:
        """Return the composition of experts; ``dtheta.compose`` says how coefficients are given."""
        with self._turns.lock:
            return compose(self._experts.all(names), coefficients)

    def learn(self, names: Sequence[str], batches: Any, loss: Any, **settings: Any) -> Coefficients:
        """Learn with how much of each expert to move each parameter (aTLAS); see ``dtheta.learn_coefficients``.

        The few-shot setting of the paper by default (``recipe="few-shot"``). The model shows the base meanwhile.
        """
        with self.using(None):
            settings = {"recipe": "few-shot", "strict": self._origin.strict, **settings}
            return learn_coefficients(self.model, self._experts.all(names), batches, loss, **settings)

    def search(self, names: Sequence[str], batches: Any, loss: Any, **settings: Any) -> Coefficients:
        """Search one coefficient an expert without gradients (LoraHub); see ``search_coefficients``.

        The model shows the base meanwhile.
        """
        with self.using(None):
            settings = {"strict": self._origin.strict, **settings}
            return search_coefficients(self.model, self._experts.all(names), batches, loss, **settings)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse copies and pickles: they would share buffers and what is shown, or lose it."""
        raise ConfigError("a bank cannot be copied or pickled: make another, Bank(model), and add the experts to it")

    def __repr__(self) -> str:
        shown = "the base" if self.current is None else repr(self.current)
        return f"Bank({len(self)} experts, {len(self.loaded)} in memory, {self.nbytes:,} bytes, shows {shown})"
