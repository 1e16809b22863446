"""Image-text classifiers of several tasks on one model: logits side by side, both losses, one name a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.models.image_text import ImageTextClassifier
from dtheta.models.multitask_images import MultiTaskImages


class Towers(nn.Module):
    """A dual encoder of two linear maps: images of 2 x 2 pixels, texts of 7 tokens' ids."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.tokens = nn.Linear(12, 5), nn.Embedding(7, 5)
        draws = generator(0, "towers")
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=draws)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    class text_config:
        model_type, max_position_embeddings = "stand-in", 8

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return self.visual(pixel_values.flatten(1))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.tokens(input_ids) * attention_mask[..., None]).sum(1)


def classifier(model: nn.Module, ids: list[list[int]]) -> ImageTextClassifier:
    tokens = torch.tensor(ids)
    return ImageTextClassifier(model, [f"class {row}" for row in ids], ["{}"], tokens, torch.ones_like(tokens))


def two_tasks(loss: str = "union") -> MultiTaskImages:
    model = Towers()
    tasks = {"first": classifier(model, [[1], [2]]), "second": classifier(model, [[3, 4], [5, 6], [1, 1]])}
    return MultiTaskImages(tasks, loss)  # type: ignore[arg-type]


PIXELS = torch.randn(6, 3, 2, 2, generator=generator(1, "pixels"))
LABELS = torch.tensor([0, 1, 2, 3, 4, 2])


def test_logits_are_those_of_the_classifiers_side_by_side() -> None:
    net = two_tasks()
    wanted = torch.cat([one(PIXELS).logits for one in net.tasks.values()], 1)
    features = net.model.get_image_features(PIXELS)
    for given in ({"pixel_values": PIXELS}, {"image_features": features}):
        assert torch.equal(net(**given).logits, wanted)
    with net.frozen_text():
        assert torch.equal(net(PIXELS).logits, wanted) and net(PIXELS).logits.grad_fn is not None
    assert net(PIXELS).loss is None


def test_the_union_loss_is_one_softmax_and_the_per_task_loss_that_of_each_task_alone() -> None:
    net, alone = two_tasks("union"), two_tasks("per-task")
    logits = net(PIXELS).logits
    assert torch.allclose(net(PIXELS, LABELS).loss, F.cross_entropy(logits, LABELS))
    starts, each = {"first": 0, "second": 2}, []
    for pixels, label in zip(PIXELS, LABELS.tolist(), strict=True):
        task = "first" if label < 2 else "second"
        each.append(alone.tasks[task](pixels[None], torch.tensor([label - starts[task]])).loss)
    assert torch.allclose(alone(PIXELS, LABELS).loss, torch.stack(each).mean())
    assert torch.equal(alone(PIXELS).logits, logits)  # only the loss is masked


def test_foreign_classes_get_no_gradient_from_the_per_task_loss() -> None:
    for loss, reached in (("union", True), ("per-task", False)):
        net = two_tasks(loss)
        net(PIXELS[:2], LABELS[:2]).loss.backward()
        gradient = net.model.tokens.weight.grad
        assert bool(torch.isfinite(gradient).all()) and bool(gradient[1:3].any())
        assert bool(gradient[3:].any()) is reached


def test_every_parameter_has_one_name_and_buffers_move() -> None:
    net = two_tasks()
    assert all(name.startswith("model.") for name in net.state_dict())
    assert sum(1 for _ in net.parameters()) == len(net.state_dict()) == 4
    net.to("meta")
    assert all(one.input_ids.is_meta and one.attention_mask.is_meta for one in net.tasks.values())


def test_the_metric_is_of_all_tasks_or_of_one() -> None:
    net = two_tasks()
    assert net.accuracy().sizes == (2, 3) and net.accuracy().task is None
    assert net.accuracy("second").task == 1
    with pytest.raises(ConfigError, match=r"no task 'secnd'.*second"):
        net.accuracy("secnd")


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="one model object"):
        MultiTaskImages({"a": classifier(Towers(), [[1]]), "b": classifier(Towers(), [[2]])})
    with pytest.raises(ConfigError, match="one model object"):
        MultiTaskImages({})
    with pytest.raises(ConfigError, match="loss must be one of union, per-task"):
        two_tasks("masked")
    with pytest.raises(ConfigError, match="either pixel_values or image_features"):
        two_tasks()()
    with pytest.raises(ConfigError, match="one class id an image"):
        two_tasks()(PIXELS, torch.ones(6, 5))
    for loss in ("union", "per-task"):
        with pytest.raises(ConfigError, match="labels go from 5 to 5, and there are 5 classes"):
            two_tasks(loss)(PIXELS, torch.full((6,), 5))
