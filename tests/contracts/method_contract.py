"""What every method must do, whatever it minimises.

Subclass :class:`MethodContract` and say which configuration builds the method.
"""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from wsi_models.methods import Batch, Losses, Method, MethodConfig, build_method
from wsi_models.samplers import BalancedBatches, Drawing
from wsi_models.views import Normalisation

from tests.tiny_patches import tiny_batch, without_labels

if TYPE_CHECKING:
    from torch.optim import Optimizer

CLASSES = 3
NORMALISATION = Normalisation(mean=(0.2, 0.2), std=(0.15, 0.15))
PER_CLASS = 2


class MethodContract:
    """Tests of one method, in a configuration small enough to train in a moment.

    The configuration takes 6 labelled and, if any, 4 unlabelled patches of 46 px, learns from
    crops of 32 px at a rate that shows within a few steps, and averages fast.
    """

    config: ClassVar[MethodConfig]

    def build(self, seed: int = 0) -> Method:
        """Build the method; the seed decides its starting weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_method(self.config, CLASSES, NORMALISATION)

    def labelled(self, method: Method) -> Batch:
        """Make the labelled batch that a method asks for, which may be empty."""
        batch = tiny_batch(CLASSES, PER_CLASS)
        count = method.labelled_per_step
        return Batch(batch.rgb[:count], batch.unmix[:count], batch.label[:count])

    def unlabelled(self, method: Method) -> Batch | None:
        """Make the unlabelled batch that a method asks for."""
        count = method.unlabelled_per_step
        if count == 0:
            return None
        batch = without_labels(tiny_batch(CLASSES, PER_CLASS, seed=9))
        return Batch(batch.rgb[:count], batch.unmix[:count], batch.label[:count])

    def step(self, method: Method, optimizer: Optimizer, generator: torch.Generator) -> Losses:
        """Take one step of training."""
        losses = method(self.labelled(method), self.unlabelled(method), 16.0, generator)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        method.after_step()
        assert isinstance(losses, Losses)
        return losses

    def test_learns(self) -> None:
        """Cross-entropy of what is evaluated falls clearly within a few steps."""
        method, batch = self.build(), tiny_batch(CLASSES, PER_CLASS)
        optimizer, generator = method.optimizer(), _generator(0)
        before = functional.cross_entropy(method.predict(batch), batch.label)
        for _ in range(20):
            self.step(method, optimizer, generator)
        after = functional.cross_entropy(method.predict(batch), batch.label)
        assert after < 0.8 * before

    def test_gradient_reaches_the_network_and_nothing_else(self) -> None:
        """Every parameter that is optimised gets a gradient; the average and the views get none."""
        method = self.build()
        optimizer = method.optimizer()
        optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
        losses = method(self.labelled(method), self.unlabelled(method), 16.0, _generator(0))
        losses.total.backward()
        for name, parameter in method.named_parameters():
            if id(parameter) in optimised:
                assert parameter.grad is not None, name
                assert bool(torch.isfinite(parameter.grad).all()), name
            else:
                assert parameter.grad is None, name
                assert not parameter.requires_grad, name
        assert any(bool(p.grad.any()) for p in method.parameters() if p.grad is not None)

    def test_average_moves(self) -> None:
        """A step changes the evaluated network, but less than the trained one."""
        method = self.build()
        before = _weights(method.export_network())
        start = [p.detach().clone() for p in _optimised(method)]
        self.step(method, method.optimizer(), _generator(0))
        after = _weights(method.export_network())
        assert any(not torch.equal(before[name], after[name]) for name in before)
        moved = _distance(_optimised(method), start)
        names = [name for name, _ in method.export_network().named_parameters()]
        followed = _distance([after[name] for name in names], [before[name] for name in names])
        assert 0 < followed < moved

    def test_resumes_bit_exactly(self) -> None:
        """Another method that loads the state goes on just as the first one does."""
        first, generator = self.build(), _generator(0)
        optimizer = first.optimizer()
        for _ in range(2):
            self.step(first, optimizer, generator)
        state = copy.deepcopy((first.state_dict(), optimizer.state_dict(), generator.get_state()))
        losses = [self.step(first, optimizer, generator).parts["total"] for _ in range(2)]

        second, other = self.build(seed=1), _generator(5)
        optimizer = second.optimizer()
        second.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        other.set_state(state[2])
        assert losses == [self.step(second, optimizer, other).parts["total"] for _ in range(2)]
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name

    def test_prediction_is_deterministic_and_leaves_no_trace(self) -> None:
        """Predictions do not depend on repetition, company or labels, and change no state."""
        method, batch = self.build(), tiny_batch(CLASSES, PER_CLASS, seed=3)
        self.step(method, method.optimizer(), _generator(0))
        before = _weights(method)
        whole, features = method.predict(batch), method.embed(batch)
        assert whole.shape == (len(batch), method.classes)
        assert not whole.requires_grad
        assert torch.equal(whole, method.predict(without_labels(batch)))
        one = Batch(batch.rgb[:1], batch.unmix[:1], batch.label[:1])
        torch.testing.assert_close(method.predict(one), whole[:1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(method.embed(one), features[:1], rtol=1e-4, atol=1e-5)
        assert not features.requires_grad
        none = Batch(batch.rgb[:0], batch.unmix[:0], batch.label[:0])
        assert method.predict(none).shape == (0, method.classes)
        after = _weights(method)
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_labels_of_the_unlabelled_are_not_read(self) -> None:
        """Whatever they are, losses and gradients are the same."""
        method = self.build()
        unlabelled = self.unlabelled(method)
        if unlabelled is None:
            return
        results = []
        for label in (-1, 0, 99):
            twin = copy.deepcopy(method)
            given = without_labels(unlabelled, label)
            losses = twin(self.labelled(method), given, 16.0, _generator(0))
            losses.total.backward()
            results.append([losses.total, *(p.grad for p in _optimised(twin))])
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))

    def test_draws_from_its_generator_only(self) -> None:
        """The same seed gives the same step, another seed another; global generators rest."""
        before = _global_generators()
        totals = []
        for seed in (0, 0, 1):
            method = self.build()
            losses = method(self.labelled(method), self.unlabelled(method), 16.0, _generator(seed))
            totals.append(float(losses.total.detach()))
        assert totals[0] == totals[1] != totals[2]
        assert before == _global_generators()

    def test_says_what_it_did(self) -> None:
        """Parts are plain numbers, pseudo-labels are classes or -1, one per unlabelled patch."""
        method = self.build()
        losses = self.step(method, method.optimizer(), _generator(0))
        assert all(isinstance(value, float) for value in losses.parts.values())
        assert losses.parts["total"] == pytest.approx(float(losses.total.detach()))
        if losses.pseudo is not None:
            assert losses.pseudo.shape == (method.unlabelled_per_step,)
            assert losses.pseudo.dtype == torch.int64
            assert -1 <= int(losses.pseudo.min()) <= int(losses.pseudo.max()) < CLASSES
            assert 1 / CLASSES <= losses.parts["pseudo_confidence"] <= 1

    def test_no_pass_sees_classes_apart(self) -> None:
        """Where the labelled patches of a step are split, the parts are as mixed as by chance.

        Batch normalisation sees the parts apart, and a part of a single class tells it the class.
        """
        passes = [found for seed in range(2) for found in self.composition(seed)]
        if not passes:
            return
        passes += [found for seed in range(2, 16) for found in self.composition(seed)]
        rng = np.random.default_rng(0)
        purity = [counts.max() / counts.sum() for counts in passes]
        by_chance = [_purity_by_chance(int(counts.sum()), rng) for counts in passes]
        assert np.mean(purity) < np.mean(by_chance) + 0.1

    def composition(self, seed: int) -> list[NDArray[np.int64]]:
        """Count the labelled patches of each class in every pass that has some, but not all.

        The pixels of one class at a time are inverted: what changes in a pass is of that class,
        with patches mixed so unevenly that a row is one of them.
        """
        method = self.unmixed()
        if method.labelled_per_step == 0:
            return []
        pool = tiny_batch(CLASSES, PER_CLASS * 10)
        label, every = pool.label.numpy(), np.arange(len(pool))
        sampler = BalancedBatches(label, every, method.labelled_per_step, Drawing(seed=seed))
        batch = _chosen(pool, torch.from_numpy(sampler.epoch(1, 1)[0]))
        given = [self.passes(method, batch, seed)]
        for value in range(CLASSES):
            rgb = batch.rgb.clone()
            rgb[batch.label == value] = 255 - rgb[batch.label == value]
            given.append(self.passes(method, Batch(rgb, batch.unmix, batch.label), seed))
        counts = [
            np.array([int((rows != as_is).flatten(1).any(dim=1).sum()) for rows in changed])
            for as_is, *changed in zip(*given, strict=True)
        ]
        return [found for found in counts if 1 < found.sum() < len(batch)]

    @torch.no_grad()
    def passes(self, method: Method, labelled: Batch, seed: int) -> list[Tensor]:
        """Take a step and return the patches of each forward pass of the trained network."""
        seen: list[Tensor] = []
        network = method.get_submodule("network")
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        method(labelled, self.unlabelled(method), 16.0, _generator(seed))
        hook.remove()
        return seen

    def unmixed(self) -> Method:
        """Build the method so that mixing, where it does, hardly mixes."""
        values = self.config.model_dump()
        if "mixing" in values:
            values["mixing"]["alpha"] = 1e-3
        with torch.random.fork_rng():
            return build_method(type(self.config)(**values), CLASSES, NORMALISATION)

    def test_refuses_batches_of_another_size(self) -> None:
        """A missing or short batch is an error that names the sizes."""
        method, batch = self.build(), tiny_batch(CLASSES, 1)
        sizes = f"a step takes {method.labelled_per_step} labelled"
        with pytest.raises(ValueError, match=sizes):
            method(batch, self.unlabelled(method), 1.0, _generator(0))
        other = None if method.unlabelled_per_step else tiny_batch(CLASSES, 1)
        with pytest.raises(ValueError, match=sizes):
            method(self.labelled(method), other, 1.0, _generator(0))

    def test_refuses_labelled_patches_without_label(self) -> None:
        """A labelled patch has a class."""
        method = self.build()
        if method.labelled_per_step == 0:
            return
        batch = without_labels(tiny_batch(CLASSES, PER_CLASS))
        with pytest.raises(ValueError, match="labels of labelled patches go from -1"):
            method(batch, self.unlabelled(method), 1.0, _generator(0))

    def test_configuration_survives_json(self) -> None:
        """A recipe can be stored and read back."""
        config = self.config
        assert type(config).model_validate_json(config.model_dump_json()) == config


def _chosen(batch: Batch, where: Tensor) -> Batch:
    return Batch(batch.rgb[where], batch.unmix[where], batch.label[where])


def _purity_by_chance(count: int, rng: np.random.Generator) -> float:
    """Draw patches of a balanced step blindly; the largest share of a class among them."""
    drawn = rng.permutation(np.arange(CLASSES * PER_CLASS) % CLASSES)[:count]
    return float(np.bincount(drawn).max() / count)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _global_generators() -> tuple[object, ...]:
    """Describe the state of all generators that nobody passes; numpy's position moves at a draw."""
    numpy_state = str(np.random.get_state(legacy=False))  # noqa: NPY002 - the global one is meant
    return torch.get_rng_state().tolist(), numpy_state, random.getstate()


def _weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _optimised(method: Method) -> list[Tensor]:
    return [p for p in method.parameters() if p.requires_grad]


@torch.no_grad()
def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x - y).abs().sum()) for x, y in zip(a, b, strict=True))
