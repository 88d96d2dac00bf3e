"""One run in several processes, a share of every batch each: torchrun --nproc-per-node 2 -m trainer.fit ...

Data parallelism as in Li et al. 2020, arXiv 2006.15704, with one difference. The losses are ratios of sums over the
whole batch, pseudo labels among them, and a mean of the processes' losses would be another loss. So every process makes
the whole batch (it follows from seed and iteration), forwards its own views, gathers the logits of all, computes the
loss of the whole, and goes back through its own views; the sum of their gradients is the gradient of the whole batch.
It holds for every network and objective, and two processes take the steps of one.

Layers of BatchNorm normalise by the views of their own process, as they do in DistributedDataParallel: torch's
SyncBatchNorm runs on accelerators only. Their running statistics are averaged after each step.

B views of the whole batch · R processes · process r has the views r, r + R, r + 2 R, ...
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.machine import settled
from trainer.model import CHECKPOINT
from trainer.networks.blocks import seed_dropout
from trainer.run import Progress, Run
from trainer.sample import Sample

Value = TypeVar("Value")
WAIT = timedelta(hours=4)  # that the others wait while the first process validates or predicts


def several() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this process is the one that writes and tells; alone, it is."""
    return int(os.environ.get("RANK", "0")) == 0


def run_class() -> type[Run]:
    """What to train with: a Run, or its share where torchrun started several processes."""
    return SharedRun if several() else Run


@contextmanager
def joined() -> Iterator[None]:
    """The processes that torchrun started can talk inside; nothing happens where one is alone or they already can."""
    if not several() or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


class SharedRun(Run):
    """A Run whose batches are shared between processes. The first one keeps the time, validates and owns the folder,
    which the others must be able to read where a run goes on; all end after the same step."""

    def __iter__(self) -> Iterator[Progress]:
        with joined():
            yield from super().__iter__()

    def begin(self) -> None:
        self._fraction = 0.0
        # the first one's choices: measured on each, the number format could differ
        config = told(settled(self.config))
        self.config = replace(config, device=own_device(config.device))
        if not first():
            self.validation = []
        super().begin()
        if self.iteration != (begun := told(self.iteration)):
            raise ValueError(
                f"the first process goes on from iteration {begun}, this one from {self.iteration}; "
                f"put {self.folder} where all of them can read it"
            )
        if not first():
            self.folder = None
        self.groups: dict[str, dist.ProcessGroup] = {}
        for name, network in self.networks.items():
            self.share(name, network)

    def share(self, name: str, network: nn.Module) -> None:
        """Let a network's call take the whole batch and its gradients be those of the whole batch."""
        # networks that run side by side must not wait for each other's messages: a channel each
        group = dist.new_group(timeout=WAIT) if self.config.device == "cpu" else dist.group.WORLD
        self.groups[name] = group
        self.calls[name] = partial(self.call, network, self.calls[name], group)

    def backpropagate(self, name: str, output: Tensor | list[Tensor], logits: Tensor | list[Tensor]) -> None:
        super().backpropagate(name, output, logits)
        sum_gradients(self.groups[name], self.networks[name])

    def call(
        self,
        network: nn.Module,
        plain: Callable[[Tensor], Tensor | list[Tensor]],
        group: dist.ProcessGroup,
        image: Tensor,
    ) -> Tensor | list[Tensor]:
        """Image (B, C, *space) -> logits (B, K, *space), or a list of scales, of which this process made its share."""
        if self.config.speedup != "graphs":
            seed = self.config.seed * 1_000_003 + self.iteration
            seed_dropout(network, seed * dist.get_world_size() + dist.get_rank())
        output = plain(image[own_views(len(image)) % len(image)])
        if isinstance(output, list):
            return [Gathered.apply(scale, len(image), group) for scale in output]
        return Gathered.apply(output, len(image), group)

    def record(self, losses: dict[str, float]) -> Progress:
        average_statistics(list(self.networks.values()))
        return super().record(losses)

    def update(self, samples: Sequence[Sample]) -> None:
        raise RuntimeError("a run in several processes takes no new strokes; stop it, and train again with them")

    @property
    def fraction(self) -> float:
        """0..1 of the budget by the first process's clock, as it was before this step."""
        return self._fraction

    @property
    def late(self) -> bool:
        """Never: each process spreads the strokes, and all must come to the same."""
        return False

    def in_turn(self) -> Iterator[Sample]:
        """All at once, since the processes' clocks differ."""
        return iter(self.samples)

    @property
    def finished(self) -> bool:
        """What the first process finds; the loop asks once a step, in all processes at once."""
        over, self._fraction = told((super().finished, super().fraction))
        return over

    def open_folder(self) -> None:
        if first():
            super().open_folder()
        elif self.resume and (self.folder / CHECKPOINT).is_file():
            self.load_checkpoint()


class Gathered(torch.autograd.Function):
    """Logits of a process's own views (n, ...) -> those of the whole batch (B, ...), and the gradient back.

    Nothing is summed on the way back: each process has computed the loss of the whole batch.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, own: Tensor, size: int, group: dist.ProcessGroup) -> Tensor:
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous(), group)
        return torch.stack(parts, 1).flatten(0, 1)[:size]  # (n, R, ...) -> (B, ...)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        views, size = own_views(len(gradient)), len(gradient)
        own = gradient[views % size]
        own[views >= size] = 0  # these only fill up
        return own, None, None


def own_views(size: int) -> Tensor:
    """Of a batch of `size`: equally many in each process; those beyond the batch repeat its first ones."""
    processes = dist.get_world_size()
    return torch.arange(dist.get_rank(), -(-size // processes) * processes, processes)


def sum_gradients(group: dist.ProcessGroup, network: nn.Module) -> None:
    """Over the processes, in one message."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def average_statistics(networks: list[nn.Module]) -> None:
    """Running means and variances of BatchNorm, in one message."""
    layers = [
        layer for net in networks for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
    if not buffers:
        return
    flat = torch.cat(buffers)
    dist.all_reduce(flat)
    for buffer, mean in zip(buffers, (flat / dist.get_world_size()).split([len(b) for b in buffers]), strict=True):
        buffer.copy_(mean)


def told(value: Value) -> Value:
    """The first process's value, in every process."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def own_device(device: str) -> str:
    """This process's graphics card, where they run on such."""
    if not device.startswith("cuda"):
        return device
    card = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(card)
    return f"cuda:{card}"
