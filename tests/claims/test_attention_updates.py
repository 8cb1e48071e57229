import pytest
import torch
from torch.nn import functional as F

from thalweg.claims.engine import recall_model as recall
from thalweg.claims.engine.attention_updates import _keys_and_values, _outputs, compare, sim_aou
from thalweg.tasks.decoder import Decoder


def model():
    torch.manual_seed(0)
    return Decoder(recall.VOCAB, recall.CONTEXT, embed_dim=16, num_heads=2, num_layers=2).requires_grad_(False)


def test_sim_aou_by_hand():
    """Changes of unit vectors: (-1, 1) and (-1, 0.5) after scaling, whatever the lengths of what is given."""
    alone, context, tuned = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0]), torch.tensor([0.6, 0.8]) * 3
    first, second = torch.tensor([-1.0, 1.0]), torch.tensor([-0.4, 0.8])
    wanted = F.cosine_similarity(first, second, dim=0).item()
    found = sim_aou(*(outputs.view(1, 1, 2) for outputs in (context, tuned, alone)))
    assert found.item() == pytest.approx(wanted)
    assert sim_aou(alone.view(1, 1, 2), tuned.view(1, 1, 2), alone.view(1, 1, 2)).item() == 0  # context changed nothing


def test_outputs_are_those_of_attention():
    net, prompts = model(), torch.tensor([[1, 40, 2], [3, 50, 4]])
    logits, found = _outputs(net, {}, prompts)
    assert torch.allclose(logits, net(prompts)[:, -1])
    x = net.embed(prompts) + net.position_embed(torch.arange(3))
    for layer, block in enumerate(net.blocks):
        assert torch.allclose(found[:, layer], block.attention(block.attention_norm(x))[:, -1], atol=1e-6)
        x = block(x)
    assert not net.blocks[0].attention._forward_hooks  # nothing is left behind


def test_only_keys_and_values_are_tuned():
    net = model()
    masks = _keys_and_values(net)
    assert set(masks) == {f"blocks.{k}.attention.qkv.weight" for k in (0, 1)}
    assert all(mask[:16].eq(0).all() and mask[16:].eq(1).all() and len(mask) == 48 for mask in masks.values())


def test_compare_leaves_the_model_and_takes_the_best_step_size():
    net = model()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    tasks = recall.recall_tasks("retrieval", 3, torch.Generator().manual_seed(0))
    few, many = compare(net, tasks, (0.1,)), compare(net, tasks, (0.1, 1.0))
    assert -1 <= few.sim_aou <= many.sim_aou <= 1
    assert 0 <= many.by_both <= many.corrected <= 24
    assert compare(net, tasks, (0.0,)).sim_aou == 0 and compare(net, tasks, (0.0,)).corrected == 0
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
