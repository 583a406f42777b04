"""The trainer: a DenseNet-121 from random weights, on the CPU, in an hour. Never fits to the held-out folds."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cxrnode.core.findings import NIH14
from cxrnode.training.films import AUXILIARY, FilmRow, auxiliary_of, balance, load_films, targets_of
from cxrnode.training.measure import auc

#: Grey levels to model input: (level / 255 - MEAN) / STD.
MEAN, STD = 0.5, 0.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. `stages` are (side of the input in pixels, epochs), first small and fast, last as read."""

    stages: tuple[tuple[int, int], ...] = ((128, 15), (224, 5))
    batch: int = 32
    rate: float = 1e-3
    weight_decay: float = 0.02
    average: float = 0.98
    smoothing: float = 0.05
    dropout: float = 0.2
    auxiliary: float = 0.3
    held_out: tuple[int, ...] = (0, 1)
    seed: int = 1
    threads: int = os.cpu_count() or 1

    @property
    def epochs(self) -> int:
        """All epochs of all stages."""
        return sum(epochs for _, epochs in self.stages)

    def size_at(self, epoch: int) -> int:
        """Return the side of the input in this epoch, counted from 0."""
        for size, epochs in self.stages:
            if epoch < epochs:
                return size
            epoch -= epochs
        return self.stages[-1][0]

    def rate_at(self, done: float) -> float:
        """Return the learning rate when `done` of the run, in [0, 1], is over: a linear rise, then a cosine."""
        rise = 0.15
        if done < rise:
            return self.rate * (0.04 + 0.96 * done / rise)
        return self.rate * (0.002 + 0.998 * (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2)


def new_network(outputs: int) -> nn.Module:
    """Return torchvision's DenseNet-121 (Huang et al., CVPR 2017) with random weights."""
    network: nn.Module = torchvision.models.densenet121(weights=None, num_classes=outputs)
    return network.to(memory_format=torch.channels_last)


def to_input(films: Tensor) -> Tensor:
    """Return float32 (N, 3, H, W) from grey levels in [0, 1], (N, 1, H, W)."""
    grey = ((films - MEAN) / STD).expand(-1, 3, -1, -1)
    return grey.contiguous(memory_format=torch.channels_last)


def augment(films: Tensor, generator: torch.Generator) -> Tensor:
    """Vary grey levels in [0, 1], (N, 1, H, W), as exposure, positioning and collimation do; same shape back.

    Mirrored films are among them: no label depends on the side, and the data set is small.
    """
    n, _, side, _ = films.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape or (n,), generator=generator) * (high - low) + low

    angle = uniform(-0.14, 0.14)
    zoom = uniform(0.88, 1.08)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [
            torch.stack([cos * flip, -sin, uniform(-0.08, 0.08)], 1),
            torch.stack([sin * flip, cos, uniform(-0.08, 0.08)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, [n, 1, side, side], align_corners=False)
    films = functional.grid_sample(films, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    films = films.clamp(1e-4, 1) ** torch.exp(uniform(-0.35, 0.35)).view(n, 1, 1, 1)
    films = (films - 0.5) * uniform(0.75, 1.25).view(n, 1, 1, 1) + 0.5 + uniform(-0.1, 0.1).view(n, 1, 1, 1)
    # Margins carry laterality marks and letterboxing, which betray where a film comes from.
    edge = (uniform(0, 0.12, n, 4) * (uniform(0, 1, n, 4) < 0.3)).view(n, 4, 1)
    at = ((torch.arange(side) + 0.5) / side).view(1, side)
    columns = (at >= edge[:, 0]) & (at <= 1 - edge[:, 1])
    lines = (at >= edge[:, 2]) & (at <= 1 - edge[:, 3])
    return films.clamp(0, 1) * (lines[:, None, :, None] & columns[:, None, None, :])


class Trainer:
    """One run in one folder. A run that was stopped goes on after its last whole epoch."""

    def __init__(self, rows: tuple[FilmRow, ...], folder: Path, recipe: Recipe) -> None:
        self.recipe, self.folder = recipe, folder
        self.train_rows = tuple(row for row in rows if row.fold not in recipe.held_out)
        self.held_rows = tuple(row for row in rows if row.fold in recipe.held_out)
        self.targets = torch.from_numpy(np.concatenate([targets_of(self.train_rows), auxiliary_of(self.train_rows)], 1))
        extra = np.full((len(self.train_rows), len(AUXILIARY)), recipe.auxiliary, np.float32)
        self.weights = torch.from_numpy(np.concatenate([balance(self.train_rows), extra], 1))
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.network = new_network(len(NIH14) + len(AUXILIARY))
        average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.mean = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        self.steps = len(self.train_rows) // recipe.batch

    @property
    def checkpoint(self) -> Path:
        """Where the last whole epoch is kept."""
        return self.folder / "checkpoint.pt"

    def run(self) -> nn.Module:
        """Train what is left to train and return the averaged network, in eval mode."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first = self._resume()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        size = 0
        with Progress(*columns) as progress:
            bar = progress.add_task("epoch", total=self.recipe.epochs * self.steps, completed=first * self.steps)
            for epoch in range(first, self.recipe.epochs):
                if size != self.recipe.size_at(epoch):
                    size = self.recipe.size_at(epoch)
                    films = torch.from_numpy(load_films(self.train_rows, size))
                    held = torch.from_numpy(load_films(self.held_rows, size))
                total = 0.0
                for loss in self._epoch(epoch, films):
                    total += loss / self.steps
                    progress.advance(bar)
                scores = self.score(held)
                areas = [auc(scores[:, i], targets_of(self.held_rows)[:, i]) for i in range(len(NIH14))]
                line = f"epoch {epoch + 1} of {self.recipe.epochs} at {size}: loss {total:.4f}, "
                line += f"held-out AUC {np.nanmean(areas):.4f}:"
                progress.console.print(line, " ".join(f"{a:.2f}" for a in areas), highlight=False, soft_wrap=True)
                progress.update(bar, description=f"epoch {epoch + 1} AUC {np.nanmean(areas):.3f}")
                self._save(epoch + 1)
        return self._averaged()

    def last(self) -> nn.Module:
        """Return the averaged network of the last checkpoint, in eval mode, without training."""
        self._resume()
        return self._averaged()

    def score(self, films: Tensor) -> npt.NDArray[np.float32]:
        """Return the averaged network's scores, float32 (N, 14), for uint8 (N, H, W)."""
        self.mean.eval()
        out = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for batch in torch.split(films, self.recipe.batch):
                out.append(self.mean(to_input(batch[:, None].float() / 255)).float().sigmoid()[:, : len(NIH14)])
        return torch.cat(out).numpy()

    def _epoch(self, epoch: int, films: Tensor) -> Iterator[float]:
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        torch.manual_seed(recipe.seed * 1000 + epoch)
        order = torch.randperm(len(films), generator=generator)
        self.network.train()
        for step, chosen in enumerate(torch.split(order[: self.steps * recipe.batch], recipe.batch)):
            rate = recipe.rate_at((epoch + step / self.steps) / recipe.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = to_input(augment(films[chosen][:, None].float() / 255, generator))
            with torch.autocast("cpu", torch.bfloat16):
                # torchvision's own forward, with a dropout before the classifier.
                pooled = functional.relu(self.network.features(batch)).mean((2, 3))  # type: ignore[operator]
                logits = self.network.classifier(functional.dropout(pooled, recipe.dropout)).float()  # type: ignore[operator]
            truth = self.targets[chosen] * (1 - recipe.smoothing) + recipe.smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            loss = (losses * self.weights[chosen]).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.mean.update_parameters(self.network)
            yield float(loss.detach())

    def _averaged(self) -> nn.Module:
        network: nn.Module = self.mean.module
        return network.eval()

    def _save(self, epochs: int) -> None:
        state = {
            "epochs": epochs,
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def _resume(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.mean.load_state_dict(state["mean"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["epochs"])
