"""Train the stroke network on generated images: python -m trainer.pretrain [--minutes 80] [--out FILE.safetensors]

Every image is of `trainer.shapes`; none is real. Beside the weights (float16) a card in JSON: how they were made, their
hash, and how well they do on generated images of the same kind that they were not trained on. Each image takes about
a quarter of a second of a core before the minutes of training, on one thread.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from torch import Tensor

from trainer.files import replacing, write_tensors
from trainer.machine import best_dtype
from trainer.metrics import mean_dice
from trainer.propagation import contrast, first_looks
from trainer.shapes import Drawn, generate
from trainer.strokenet import WEIGHTS, StrokeNet, inputs, refined

console = Console(stderr=True)

SIDES = 112, 112, 112, 112, 192  # pixels; drawn in turn
BATCH = {112: 8, 192: 3}  # examples, so that each batch costs about the same
RATE, DECAY = 4e-3, 1e-2  # of AdamW
WARM = 50  # steps until the rate is reached
CLASSES = 3  # of an image, each against the rest
HELD_OUT = 10**6  # seeds from here on are not trained on

Example = tuple[np.ndarray, np.ndarray]  # what the network sees (INPUTS, S, S) float16, and the mask (S, S) bool


@dataclass(frozen=True)
class Options:
    """Make images, train the stroke network on them, write weights and card."""

    out: Path = WEIGHTS
    """Safetensors file; the card lies beside it, with the ending json."""
    minutes: float = 80.0
    """Training time of one thread, without the making of images."""
    images: int = 9000
    """Generated images to train on."""
    tested: int = 50
    """Generated images to score on."""
    seed: int = 0
    """Of the images and of the training."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    network = train(made(options), options)
    write(network, options)
    console.print(f"{options.out}")


def made(options: Options) -> list[Example]:
    """On all cores: the same images, whoever makes them."""
    examples: list[Example] = []
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        seeds = range(options.images)
        for i, some in enumerate(pool.map(partial(examples_of, options.seed), seeds, chunksize=8)):
            examples += some
            if i % 100 == 99:
                console.print(f"{i + 1} images")
    return examples


def drawing(seed: int, i: int) -> Drawn:
    return generate(np.random.default_rng([seed, i]), SIDES[i % len(SIDES)])


def seen(drawn: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image (1, S, S) as a refinement gets it, the random walk and the forest (K, S, S)."""
    image, classes = drawn.image[None, None], drawn.label.max() + 1
    P, L = first_looks(image, drawn.strokes[None], int(classes))
    return contrast(image)[:, 0], P[:, 0], L[:, 0]


def examples_of(seed: int, i: int) -> list[Example]:
    """Some of an image's classes, each against the rest."""
    drawn = drawing(seed, i)
    image, P, L = seen(drawn)
    views = inputs(image, drawn.strokes, P, L, np.arange(len(P))).astype(np.float16)
    return [(views[c], drawn.label == c) for c in np.random.default_rng([seed, i, 1]).permutation(len(P))[:CLASSES]]


# ---- training ----


def train(examples: list[Example], options: Options) -> StrokeNet:
    """AdamW with a rate that rises over WARM steps and falls to nothing when the minutes are over."""
    torch.manual_seed(options.seed)
    network = StrokeNet()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    half = best_dtype("cpu") == "bfloat16"
    begun, losses = time.thread_time(), []
    for step, (views, masks) in enumerate(batches(examples, np.random.default_rng(options.seed))):
        spent = (time.thread_time() - begun) / (60 * options.minutes)
        if spent >= 1:
            return network.eval()
        optimiser.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARM) * (1 - spent)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(views)[:, 0]
        loss = against_the_rest(logits.float(), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step % 100 == 99:
            console.print(f"step {step + 1}, {spent:.0%}: loss {np.mean(losses[-100:]):.3f}")
    raise AssertionError("batches never end")


def against_the_rest(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy and 1 - Dice of each example, (B, H, W) -> ()."""
    mine = torch.sigmoid(logits)
    shared, sizes = (mine * masks).sum((1, 2)), (mine**2 + masks**2).sum((1, 2))
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - 2 * shared / (sizes + 1e-3)).mean()


def batches(examples: list[Example], rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end: examples of one size, (B, INPUTS, S, S) and (B, S, S) float32, each turned and exposed anew."""
    while True:
        some = []
        for size, count in BATCH.items():
            order = rng.permutation([i for i, (_, mask) in enumerate(examples) if len(mask) == size])
            some += np.array_split(order, np.arange(count, len(order), count)) if len(order) else []
        for i in rng.permutation(len(some)):
            pairs = [turned(examples[j], rng) for j in some[i]]
            yield tuple(torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*pairs, strict=True))


def turned(example: Example, rng: np.random.Generator) -> Example:
    """By quarter turns, mirrored or not; the grey with another gain, offset and perhaps inverted."""
    views, mask = example
    turns, mirror = rng.integers(4), rng.choice([-1, 1])
    views, mask = (np.rot90(part, turns, (-2, -1))[..., ::mirror].copy() for part in (views, mask))
    views[0] = rng.choice([-1, 1]) * rng.uniform(0.75, 1.3) * views[0] + rng.uniform(-0.3, 0.3)
    views[1] = rng.uniform(0.75, 1.3) * views[1] + rng.uniform(-0.3, 0.3)
    return views, mask


# ---- what comes of it ----


def scores(network: StrokeNet, options: Options, weights: tuple[float, ...] = (0.0, 0.6, 1.0)) -> dict[str, float]:
    """Mean Dice of the classes beside the ground on held-out images, by the share of the network in the mixture."""
    found: dict[str, list[float]] = {f"{w:g}": [] for w in weights}
    for i in range(HELD_OUT, HELD_OUT + options.tested):
        drawn = drawing(options.seed, i)
        image, P, L = seen(drawn)
        better = refined(network, image, drawn.strokes, P, L)
        for w, values in zip(weights, found.values(), strict=True):
            answer = ((1 - w) * P + w * better).argmax(0)
            values.append(mean_dice(answer, drawn.label, range(1, len(P))))
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}


def write(network: StrokeNet, options: Options) -> None:
    """Weights as float16, and the card. The scores are those of the rounded weights."""
    rounded = {name: value.half() for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.float() for name, value in rounded.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(options.out, rounded)
    made_with = {name: value for name, value in asdict(options).items() if name != "out"}
    card = {
        "what": "StrokeNet of trainer.strokenet: strokes, their random walk and a forest -> better masks",
        "data": "generated by trainer.shapes; no real image was used",
        "script": "python -m trainer.pretrain",
        **made_with,
        "parameters": sum(p.numel() for p in network.parameters()),
        "licence": "BSD-3-Clause",
        "sha256": hashlib.sha256(options.out.read_bytes()).hexdigest(),
        "dice on held-out generated images, by share of the network": scores(network, options),
        "torch": torch.__version__,
    }
    with replacing(options.out.with_suffix(".json")) as file:
        file.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
