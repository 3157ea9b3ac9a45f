from types import SimpleNamespace

import pytest
import torch

from likeness.callbacks.ema import EMA, ema_decay


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.trained = torch.nn.Parameter(torch.zeros(2))
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)

    def trained_parameters(self):
        return {"trained": self.trained}


def run(ema: EMA, module: Module, values, trainer=None):
    trainer = trainer or SimpleNamespace(global_step=0)
    ema.on_fit_start(trainer, module)
    for value in values:
        module.trained.data.fill_(value)
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, module, None, None, 0)
    return trainer


def test_decay_rises_to_its_limit():
    assert [ema_decay(k, 0.9999) for k in (1, 2)] == [2 / 11, 3 / 12]
    assert ema_decay(10**9, 0.9999) == 0.9999


def test_average_follows_the_published_rule():
    ema, module = EMA(decay=0.9999), Module()
    run(ema, module, [1.0, 2.0, 3.0])
    expected = 0.0
    for k, value in enumerate([1.0, 2.0, 3.0], 1):
        decay = (1 + k) / (10 + k)
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.average["trained"], torch.full((2,), expected))


def test_accumulated_batches_do_not_count_as_updates():
    ema, module = EMA(), Module()
    trainer = run(ema, module, [1.0])
    before = ema.average["trained"].clone()
    ema.on_train_batch_end(trainer, module, None, None, 1)
    assert torch.equal(ema.average["trained"], before)


def test_validation_sees_the_average_and_training_its_own_weights():
    ema, module = EMA(), Module()
    trainer = run(ema, module, [1.0])
    average = ema.average["trained"].clone()
    ema.on_validation_start(trainer, module)
    assert torch.equal(module.trained.data, average)
    ema.on_validation_end(trainer, module)
    assert module.trained.tolist() == [1.0, 1.0]
    assert torch.equal(ema.average["trained"], average)


def test_failure_during_validation_gives_the_weights_back():
    ema, module = EMA(), Module()
    trainer = run(ema, module, [1.0])
    ema.on_validation_start(trainer, module)
    ema.on_exception(trainer, module, RuntimeError())
    assert module.trained.tolist() == [1.0, 1.0]


def test_state_survives_a_checkpoint():
    ema, module = EMA(), Module()
    run(ema, module, [1.0, 5.0])
    checkpoint: dict = {}
    ema.on_save_checkpoint(None, module, checkpoint)
    other = EMA()
    other.on_load_checkpoint(None, module, checkpoint)
    assert (other.num_updates, other.average["trained"].tolist()) == (2, ema.average["trained"].tolist())


def test_checkpoint_without_an_average_is_refused():
    with pytest.raises(ValueError, match="~callbacks.ema"):
        EMA().on_load_checkpoint(None, Module(), {})


def test_impossible_decay_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.ema\.decay"):
        EMA(decay=1.0)
