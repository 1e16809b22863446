"""Prompts on image tasks of one image-text model, source prompts of several tasks, and how accuracy is measured.

    learn     images a class from which supports are drawn and source prompts learn
    validate  others of the training split, that choose rates and checkpoints of source prompts; never the test split
    test      the first images of the test split

Where a prompt moves the text side only (CoOp), the image features are computed once and kept in the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.mvlpt.learning import learn_prompt
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import fingerprint
from dtheta.core.logistic import logistic_regression
from dtheta.data.image_tasks import load_image_task
from dtheta.data.images import Images, ImageTask
from dtheta.data.mixture import Mixture, TensorItems, mixture_loader
from dtheta.data.pixels import Pixels
from dtheta.data.shots import few_shot
from dtheta.models.image_text import ImageTextClassifier, image_text_classifier
from dtheta.models.load import load_model, load_tokenizer
from dtheta.models.multitask_images import MultiTaskImages
from dtheta.models.pixels import load_pixels

METHODS: dict[str, Method] = {"CoOp": CoOp(length=4), "VPT": VPT(length=4), "UPT": UPT(length=4)}
NAME_ONLY = "{}."  # the context takes the place of the words around the name
RAW = Pixels(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # what the raw-pixel row sees


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    learn: int = 60
    validate: int = 10
    test: int = 300
    steps: int = 40
    source_steps: int = 100
    source_seeds: int = 3
    batch: int = 32


@dataclass(frozen=True)
class Parts:
    """A task's images: class by class what supports come from, then what validates, and what tests."""

    task: ImageTask
    learn: Images
    validate: Images
    test: Images


class ImagePrompts:
    """One image-text model, the tasks on it, and a folder for features and source prompts."""

    def __init__(self, name: str, size: Size, folder: Path) -> None:
        """Load a model by name or folder; the other folder is made."""
        self.name, self.size, self.folder = Path(name).name, size, folder
        self.model, self.tokenizer, self.pixels = load_model(name), load_tokenizer(name), load_pixels(name)
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def digest(self) -> str:
        """Beginning of the model's fingerprint: what is kept of another model is not taken for this one's."""
        return fingerprint(self.model).digest[:8]

    @cache  # noqa: B019  # one of a model in a process
    def parts(self, name: str) -> Parts:
        """Return a task's images."""
        task, each = load_image_task(name), self.size.learn + self.size.validate
        drawn = few_shot(task.train, each, seed=0)
        grid_CK = torch.arange(len(drawn)).reshape(-1, each)
        learn, validate = (part.flatten() for part in (grid_CK[:, : self.size.learn], grid_CK[:, self.size.learn :]))
        test = task.test.take(torch.arange(min(self.size.test, len(task.test))))
        return Parts(task, drawn.take(learn), drawn.take(validate), test)

    @cache  # noqa: B019
    def classifier(self, name: str, own_template: bool = False) -> ImageTextClassifier:
        """Return the classifier of a task: of its own template for zero-shot, of the name alone for prompts."""
        task = self.parts(name).task
        template = task.template if own_template else NAME_ONLY
        return image_text_classifier(self.model, self.tokenizer, task.classes, template)

    @cache  # noqa: B019
    def features(self, name: str, part: str) -> Tensor:
        """Return the image features (N, E) of a part of a task."""
        images: Images = getattr(self.parts(name), part)
        path = self.folder / f"{self.name}-{self.digest}-{name}-{part}-{len(images)}.safetensors"
        if not path.exists():
            net = self.classifier(name)
            with torch.no_grad():
                rows = [net.image_features(self.pixels(batch)) for batch in images.images.split(32)]
            save_file({"features": torch.cat(rows).contiguous()}, path)
        return load_file(path)["features"]

    @cache  # noqa: B019
    def inputs(self, name: str, part: str, method: str) -> TensorItems:
        """Return a part of a task as what the classifier takes: features where the method leaves images alone."""
        images: Images = getattr(self.parts(name), part)
        if method == "CoOp":
            return TensorItems(image_features=self.features(name, part), labels=images.labels)
        return TensorItems(pixel_values=self.pixels(images.images), labels=images.labels)

    def support(self, name: str, shots: int, draw: int) -> Tensor:
        """Return the indices of the images of a support among those to learn from."""
        labels = self.parts(name).learn.labels
        return few_shot(Images(torch.arange(len(labels)), labels), shots, draw).images

    def target(self, method: str, start: Method | Delta, name: str, shots: int, draw: int, lr: float) -> Delta:
        """Return a prompt trained on a support."""
        chosen = self.support(name, shots, draw)
        data = {key: tensor[chosen] for key, tensor in self.inputs(name, "learn", method).tensors.items()}
        options: dict[str, Any] = {"steps": self.size.steps, "batch_size": self.size.batch, "quiet": True}
        return learn_prompt(self.classifier(name), start, TensorItems(**data), lr=lr, seed=draw, **options)[0]

    def source(self, method: str, names: tuple[str, ...], seed: int, lr: float) -> Delta:
        """Return one prompt of several tasks, the checkpoint chosen by the mean of their validation accuracies."""
        path = self.folder / f"{self.name}-{self.digest}-{method}-{'+'.join(names)}-{seed}-{lr:g}-{self._sizes}.delta"
        if not path.exists():
            net = MultiTaskImages({name: self.classifier(name) for name in names})
            learn, val = (Mixture([self.inputs(n, p, method) for n in names], net.sizes) for p in ("learn", "validate"))
            prompt, _ = learn_prompt(
                net, METHODS[method], mixture_loader(learn, self.size.batch, seed), lr=lr, seed=seed,
                steps=self.size.source_steps, quiet=True, eval=mixture_loader(val, 64, shuffle=False),
                eval_every=max(1, self.size.source_steps // 4),
            )  # fmt: skip
            prompt.save(path)
        return load(path)

    @property
    def _sizes(self) -> str:
        return f"{self.size.learn}x{self.size.source_steps}"

    def averaged(self, method: str, names: tuple[str, ...], lr: float) -> Delta:
        """Return the mean of the source prompts of all seeds, in parameter space."""
        found = [self.source(method, names, seed, lr) for seed in range(self.size.source_seeds)]
        return sum(found[1:], found[0]) / len(found)

    def accuracy(self, name: str, prompt: Delta | None, part: str = "test", method: str = "CoOp") -> float:
        """Return the accuracy on a part of a task, of a prompt or of the zero-shot model."""
        net, data = self.classifier(name, own_template=prompt is None), self.inputs(name, part, method)
        adapter = None if prompt is None else attach(net, prompt)
        try:
            with torch.no_grad(), net.frozen_text():
                batches = zip(*(tensor.split(64) for tensor in data.tensors.values()), strict=True)
                named = (dict(zip(data.tensors, batch, strict=True)) for batch in batches)
                right = [net(**batch).logits.argmax(1) == batch["labels"] for batch in named]
            return float(torch.cat(right).double().mean())
        finally:
            if adapter is not None:
                adapter.detach()

    def raw(self, name: str, shots: int, draw: int) -> float:
        """Return the test accuracy of logistic regression on the pixels of a support, which needs no model."""
        parts = self.parts(name)
        support = parts.learn.take(self.support(name, shots, draw))
        found = logistic_regression(RAW(support.images).flatten(1), support.labels, len(parts.task.classes))
        guessed = found.logits(RAW(parts.test.images).flatten(1)).argmax(1)
        return float((guessed == parts.test.labels).double().mean())
