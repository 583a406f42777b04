"""The trainer: phases of epochs over films, on the processor or on CUDA. Never fits to what is held out.

A run that was stopped, even by kill -9, goes on after its last whole epoch, to the weights it would have had.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from cxrnode.cores import cores
from cxrnode.reading.network import Network, new_network
from cxrnode.training.augment import augment
from cxrnode.training.boxes import box_loss
from cxrnode.training.course import Course, Lesson
from cxrnode.training.epochs import Epoch, judged
from cxrnode.training.pixels import Pixels
from cxrnode.training.readers.film_set import FilmSet
from cxrnode.training.recipe import Phase, Recipe
from cxrnode.training.recipes import format_recipe
from cxrnode.training.student import SETTLED, RunError, Student, mixed, optimiser_of, rate_at, shape_of

#: Films of a list without watched folds that are scored after each epoch, for the eye alone.
SHOWN = 300

#: Films that batch normalisation's statistics are taken of anew, at most: a mean of so many moves little with more.
RENEWED = 4096


class Trainer:
    """One run in one folder. `tell` is called with (phase, epoch, share of the epoch, loss) after each step."""

    def __init__(
        self,
        course: Course,
        folder: Path,
        pixels: Pixels,
        *,
        mean: float,
        std: float,
        threads: int | None = None,
        device: str | None = None,
        start: Path | Network | None = None,
    ) -> None:
        self.course, self.folder, self.pixels = course, folder, pixels
        self.recipe: Recipe = course.recipe
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.set_num_threads(threads or cores())
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.manual_seed(self.recipe.seed)
        self.norm = (mean, std)
        self.shape = shape_of(self.recipe)
        network = new_network(self.shape)
        self._started = start is not None
        if isinstance(start, Network):
            network.load_state_dict(start.state_dict())  # its head too: it learnt these labels
        elif start is not None:
            from cxrnode.training.start import start_weights

            start_weights(network, start)
        student = Student(network, len(course.outputs) - len(self.recipe.films.labels))
        self.student = student.to(self.device).to(memory_format=torch.channels_last)
        self.mean: AveragedModel | None = None
        if self.recipe.optimiser.average:
            self.mean = AveragedModel(self.student, use_buffers=True)  # how it follows is said by each phase
        self.log: list[Epoch] = []
        half = torch.float16 if self.device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
        self._half = half if self.recipe.optimiser.precision == "bf16" else None
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)

    @property
    def checkpoint(self) -> Path:
        """Where the last whole epoch is kept."""
        return self.folder / "checkpoint.pt"

    def run(self, tell: Callable[[int, int, float, float], None], ended: Callable[[Epoch], None]) -> Network:
        """Train what is left to train and return the network to be exported, in eval mode on the processor."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self._resume()
        for number in range(state["phase"], len(self.course.lessons)):
            lesson = self.course.lessons[number]
            if number > state["phase"]:
                state = {"phase": number, "epoch": 0, "over": False, "best": None, "stale": 0, "scale": 1.0}
            self._phase(lesson, state, tell, ended)
            if state["best"] is not None and self.recipe.early_stopping.patience:
                self._restore(state["best"]["weights"])
        if self.recipe.optimiser.renew:
            self._renew(self.course.lessons[-1])
        network: Network = self._judged().network.cpu().eval()
        return network

    def _phase(self, lesson: Lesson, state: dict[str, Any], tell: Any, ended: Callable[[Epoch], None]) -> None:
        phase = lesson.phase
        self.student.require_parts(phase.frozen)
        self.student.freeze(self._frozen(phase))
        optimiser = optimiser_of(self.student, self.recipe.optimiser, phase.rate)
        if (kept := state.pop("optimiser", None)) is not None:
            optimiser.load_state_dict(kept)
        if state["over"] or state["epoch"] >= phase.epochs:
            return
        if self.mean is not None:
            followed = get_ema_multi_avg_fn(phase.average or self.recipe.optimiser.average)  # type: ignore[no-untyped-call]
            self.mean.multi_avg_fn = followed
        films = self.pixels.load(lesson.rows, phase.side)
        lesson = dataclasses.replace(
            lesson,
            truth=lesson.truth[films.places],
            weights=lesson.weights[films.places],
            boxes=lesson.boxes and lesson.boxes.kept(films.places),
        )
        shown = self._shown(lesson)
        seen = self.pixels.load([lesson.seen[i] for i in shown], phase.side) if len(shown) else None
        truth = lesson.seen_truth[shown][seen.places] if seen else lesson.seen_truth
        for epoch in range(state["epoch"], phase.epochs):
            began, total, steps = time.monotonic(), 0.0, 0
            for share, loss in self._epoch(lesson, films, epoch, state, optimiser):
                total, steps = total + loss, steps + 1
                tell(state["phase"], epoch, share, total / steps)
            logits = self.score(seen.pixels)[:, lesson.judged] if seen else np.zeros_like(truth)
            line = judged(
                logits,
                truth,
                [self.course.outputs[column] for column in lesson.judged],
                phase=state["phase"],
                epoch=epoch,
                side=phase.side,
                rate=optimiser.param_groups[0]["lr"],
                loss=total / steps,
                seconds=round(time.monotonic() - began, 2),
            )
            self.log.append(line)
            self._steer(line, phase, state)
            state["epoch"] = epoch + 1
            self._save(state, optimiser)
            ended(line)
            if state["over"]:
                return

    def _epoch(
        self, lesson: Lesson, films: FilmSet, epoch: int, state: dict[str, Any], optimiser: Any
    ) -> Iterator[tuple[float, float]]:
        recipe, phase = self.recipe, lesson.phase
        # All chance of an epoch comes from its place in the run: so a run that was stopped repeats nothing else.
        seed = int.from_bytes(hashlib.sha256(f"{recipe.seed}/{state['phase']}/{epoch}".encode()).digest()[:4], "big")
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        learnt = max(1, int(lesson.weights.any(0).sum()))
        size = min(recipe.optimiser.batch, len(films))
        steps = len(films) // size
        batches = torch.split(torch.randperm(len(films), generator=generator)[: steps * size], size)
        self.student.learning(self._frozen(phase))
        for step, chosen in enumerate(batches):
            rate = rate_at(phase, (epoch + step / steps) / phase.epochs) * state["scale"]
            for group in optimiser.param_groups:
                group["lr"] = rate
            fresh = state["phase"] == 0 and not self._started
            self.student.settle(epoch * steps + step if fresh else SETTLED)
            grey = torch.from_numpy(films.__getitems__(chosen.tolist())).to(self.device)[:, None].float() / 255
            masks = None if lesson.boxes is None else lesson.boxes.of(chosen.numpy()).to(self.device)
            varied, masks = augment(grey, recipe.augmentation, generator, masks)
            batch = self._input(varied)
            truth, weights = (
                torch.from_numpy(part[chosen.numpy()]).to(self.device) for part in (lesson.truth, lesson.weights)
            )
            share = 1.0
            if strength := recipe.loss.mixup if phase.mixup is None else phase.mixup:
                batch, truth, weights, masks, share = mixed(batch, truth, weights, masks, strength, generator)
            with self._autocast():
                logits, activations = self.student(batch)
                located = None if masks is None else box_loss(self.student.network, activations, masks)
            smooth = truth * (1 - recipe.loss.smoothing) + recipe.loss.smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
            # Over the outputs that the phase learns: the number then means the same in every phase.
            loss = (losses * weights).sum() / (len(losses) * learnt)
            if located is not None:
                heavy = recipe.loss.box_weight if phase.box_weight is None else phase.box_weight
                loss = loss + located * heavy * share
            if not torch.isfinite(loss):
                raise RunError(f"the loss of epoch {epoch + 1} is not finite: lower the rate of the phase")
            optimiser.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self._scaler.unscale_(optimiser)
            if recipe.optimiser.clip:
                nn.utils.clip_grad_norm_(self.student.parameters(), recipe.optimiser.clip)
            self._scaler.step(optimiser)
            self._scaler.update()
            if self.mean is not None:
                self.mean.update_parameters(self.student)
            yield (step + 1) / steps, float(loss.detach())

    def score(self, films: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return logits float32 (N, outputs) of what would be exported, for uint8 (N, H, W)."""
        judged, size = self._judged().eval(), self.recipe.optimiser.batch
        out = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(films), size):
                part = torch.from_numpy(films[start : start + size]).to(self.device)
                logits, _ = judged(self._input(part[:, None].float() / 255))
                out.append(logits.cpu())
        return torch.cat(out).numpy()

    def _renew(self, lesson: Lesson) -> None:
        """Take the statistics of batch normalisation anew, of the films that were learnt from, as they are read."""
        films = self.pixels.load(lesson.rows, self.recipe.input.size).pixels
        # Not in the list's order: there films of one kind may follow each other.
        some = np.random.default_rng(self.recipe.seed).permutation(len(films))[:RENEWED]
        parts = np.array_split(some, max(1, len(some) // self.recipe.optimiser.batch))
        batches = (self._input(torch.from_numpy(films[part]).to(self.device)[:, None].float() / 255) for part in parts)
        with self._autocast():
            update_bn(batches, self._judged())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._half, enabled=self._half is not None)

    def _steer(self, line: Epoch, phase: Phase, state: dict[str, Any]) -> None:
        """Count epochs that were no better; lower the rate or end the phase as the recipe says. Keeps the best."""
        stopping = self.recipe.early_stopping
        if not self.recipe.films.watched:
            return
        value = line.mean_auc if stopping.watch == "auc" else -line.seen_loss
        if state["best"] is None or value > state["best"]["value"]:
            weights = copy.deepcopy(self._weights()) if stopping.patience else None
            state["best"], state["stale"] = {"value": value, "weights": weights}, 0
            return
        state["stale"] += 1
        if phase.schedule == "plateau" and state["stale"] % phase.patience == 0:
            state["scale"] *= phase.factor
        state["over"] = bool(stopping.patience) and state["stale"] >= stopping.patience

    def _shown(self, lesson: Lesson) -> npt.NDArray[np.intp]:
        """Which of the seen films are scored after each epoch: all where they steer the run, else some."""
        count = len(lesson.seen) if self.recipe.films.watched else min(SHOWN, len(lesson.seen))
        return np.linspace(0, len(lesson.seen) - 1, count).astype(np.intp)

    def _input(self, grey: Tensor) -> Tensor:
        films = ((grey - self.norm[0]) / self.norm[1]).expand(-1, self.shape.channels, -1, -1)
        return films.contiguous(memory_format=torch.channels_last)

    def _judged(self) -> Student:
        if self.mean is None:
            return self.student
        assert isinstance(self.mean.module, Student)
        return self.mean.module

    def _frozen(self, phase: Phase) -> tuple[str, ...]:
        """Random weights are not worth keeping as they are: without start weights nothing is frozen."""
        return phase.frozen if self._started else ()

    def _weights(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
        }

    def _restore(self, weights: dict[str, Any]) -> None:
        self.student.load_state_dict(weights["student"])
        if self.mean is not None:
            self.mean.load_state_dict(weights["mean"])

    def _identity(self) -> str:
        """What a run must agree in to be gone on with: the recipe and the films."""
        rows = [[row.image for row in lesson.rows] for lesson in self.course.lessons]
        said = json.dumps([format_recipe(self.recipe), rows, self.norm, self._started])
        return hashlib.sha256(said.encode()).hexdigest()

    def _save(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        kept = {
            **{key: value for key, value in state.items()},
            **self._weights(),
            "optimiser": optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "log": [dataclasses.asdict(line) for line in self.log],
            "identity": self._identity(),
        }
        part = self.checkpoint.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(kept, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.checkpoint)

    def _resume(self) -> dict[str, Any]:
        fresh = {"phase": 0, "epoch": 0, "over": False, "best": None, "stale": 0, "scale": 1.0}
        if not self.checkpoint.exists():
            return fresh
        kept: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if kept.pop("identity") != self._identity():
            raise RunError(f"{self.folder}: holds a run of another recipe, seed, start or films; name another --out")
        self._restore({"student": kept.pop("student"), "mean": kept.pop("mean")})
        self._scaler.load_state_dict(kept.pop("scaler"))
        self.log = [Epoch(**line) for line in kept.pop("log")]
        return kept
