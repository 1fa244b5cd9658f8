"""Neurons at the last token are those that were asked for, wherever their layers run."""

import torch

import mechicl as mi
from mechicl.corpora import TokenCorpus
from mechicl.probes.last_position import LastNeurons
from tests import tiny
from tests.contract import catalogue


def read(model, neurons, *patches):
    reading = mi.run(model, catalogue.text(), [probe := LastNeurons(neurons)], list(patches), progress=None)[probe]
    return reading.values


def test_layers_are_counted_from_the_end_too():
    model = tiny.model("gpt2")
    assert isinstance(catalogue.text(), TokenCorpus)
    last = model.cfg.n_layers - 1
    torch.testing.assert_close(read(model, ((-1, 5), (0, 3))), read(model, ((last, 5), (0, 3))))
    assert not torch.equal(read(model, ((-1, 5), (0, 3)))[:, 0], read(model, ((-1, 5), (0, 3)))[:, 1])


def test_a_column_is_its_block_wherever_that_runs():
    model = tiny.model("gpt2")
    both = read(model, ((0, 3), (1, 5)), mi.patches.Swap(0))
    torch.testing.assert_close(both[:, :1], read(model, ((0, 3),), mi.patches.Swap(0)))
    torch.testing.assert_close(both[:, 1:], read(model, ((1, 5),), mi.patches.Swap(0)))
