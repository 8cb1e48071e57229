import torch

from thalweg.claims.engine.recall_model import (
    CONTEXT,
    KEYS,
    VOCAB,
    accuracy,
    documents,
    markov_chains,
    predict,
    pretrain,
    recall_tasks,
)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_documents_hold_pairs_and_walks():
    chains = markov_chains(draws())
    tokens = documents(80, chains, draws(1))
    assert tokens.shape == (80, CONTEXT) and int(tokens.min()) >= 0 and int(tokens.max()) < VOCAB
    pairs, walks = tokens[:40].unflatten(1, (-1, 2)), tokens[40:]
    counts = set()
    for document in pairs.tolist():
        known: dict[int, int] = {}
        assert all(known.setdefault(key, value) == value for key, value in document)
        assert all(key < KEYS <= value for key, value in document)
        assert [key for key, _ in document[: len(known)]] == list(known)  # each pair once, then again
        counts.add(len(known))
    assert counts == set(range(1, 9))
    fits = (chains[:, walks[:, :-1]] == walks[:, 1:, None]).any(-1).all(-1)  # (chain, walk)
    assert fits.any(0).all()


def test_tasks_ask_for_what_they_show():
    easy, hard = (recall_tasks(kind, 5, draws(2)) for kind in ("retrieval", "conflict"))
    assert easy.prompts().shape == (5, 8, 17) and hard.prompts().shape == (5, 4, 17)
    for tasks in (easy, hard):
        for pairs, queries, answers in zip(
            tasks.pairs.tolist(), tasks.queries.tolist(), tasks.answers.tolist(), strict=True
        ):
            assert [dict(map(tuple, pairs))[key] for key in queries] == answers  # a dict keeps the later value
            assert len({value for _, value in pairs}) == 8
    order = torch.arange(7, -1, -1)
    assert torch.equal(hard.prompts(order)[:, 0, :16].unflatten(1, (8, 2)), hard.pairs.flip(1))
    assert torch.equal(hard.questions()[..., 0], hard.prompts()[..., -1])


def test_training_is_a_function_of_the_seed():
    first, again = (pretrain(3, 4, every=2, batch=4) for _ in range(2))
    assert first.steps == (2.0, 4.0) and first.losses == again.losses and first.recall == again.recall
    assert pretrain(4, 4, every=2, batch=4).losses != first.losses
    tasks = recall_tasks("retrieval", 2, draws())
    found = predict(first.model, tasks.prompts())
    assert found.shape == (2, 8, VOCAB) and torch.allclose(found.sum(-1), torch.ones(2, 8))
    assert accuracy(torch.eye(VOCAB)[tasks.answers], tasks.answers) == 1


def test_earlier_checkpoint_and_start():
    found = pretrain(3, 4, every=2, batch=4)
    assert found.early is found.model and found.early_recall == found.recall[-1]  # half was never recalled
    assert not torch.equal(found.start.head.weight, found.model.head.weight)
    assert torch.equal(found.start.head.weight, pretrain(3, 2, every=2, batch=4).start.head.weight)


def test_it_stops_when_it_recalls():
    assert pretrain(0, 10, enough=0.0, every=2, batch=4).steps == (2.0,)
